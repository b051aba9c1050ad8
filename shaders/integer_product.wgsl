// out = scale * (a * b) + bias, where a and b are packed 8-bit codes and the product is an exact integer.
//
// a is [job or 1][problem][m][words], b is [job or 1][problem][words][n / 4] in vectors of four columns; a word holds
// four codes along k (quantize.wgsl). TWIN: a holds range-flag codes, and the integer is
//     sum over R1 lanes of sign * a * b  +  (sum over R2 lanes of a * b) << m
// kept as two i32 accumulators and combined without wrapping, see `combine`.
//
// Each invocation computes eight rows by four columns. Two entry points give the same integers:
// main   reads global memory only; neighbours take neighbouring columns. Without workgroup memory and barriers it suits
//        software drivers, and few rows.
// tiled  stages STEP words of the rows and columns of a workgroup, LANES_DOWN by LANES_ACROSS invocations, in workgroup
//        memory, from where each is read many times. This is for GPUs.

struct View {
    offset: u32,
    outer: u32,
    inner: u32,
    row: u32,
    column: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

struct Parameters {
    out: View,
    outer: u32,
    inner: u32,
    m: u32,
    n: u32,
    words: u32,
    jobs: u32,
    // 1 where the operand has matrices of its own for each job, 0 where all jobs share them.
    a_per_job: u32,
    b_per_job: u32,
    // Elements from one job's output to the next.
    job_stride: u32,
    // The output scale of a column: group = inner * inner_groups + column / group_columns, of `groups` in all.
    groups: u32,
    inner_groups: u32,
    group_columns: u32,
    has_bias: u32,
    // -1 where R1 holds negatives (GELU), else 1.
    r1_sign: i32,
    unused_0: u32,
    unused_1: u32,
}

override TWIN: bool = false;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
// [job][group]: the scale of one unit of the integer.
@group(0) @binding(3) var<storage, read> scales: array<f32>;
// [job]: the left shift m of a twin's R2; not read otherwise.
@group(0) @binding(4) var<storage, read> shifts: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn dot_columns(codes: u32, columns: vec4<u32>) -> vec4<i32> {
    return vec4(
        dot4I8Packed(codes, columns.x),
        dot4I8Packed(codes, columns.y),
        dot4I8Packed(codes, columns.z),
        dot4I8Packed(codes, columns.w),
    );
}

// Adds one word of k: of eight rows, in two vectors, by four columns. An array that is indexed by anything but constants
// would not stay in registers.
fn accumulate(sum: ptr<function, array<vec4<i32>, 8>>, upper: vec4<u32>, lower: vec4<u32>, columns: vec4<u32>) {
    (*sum)[0] += dot_columns(upper.x, columns);
    (*sum)[1] += dot_columns(upper.y, columns);
    (*sum)[2] += dot_columns(upper.z, columns);
    (*sum)[3] += dot_columns(upper.w, columns);
    (*sum)[4] += dot_columns(lower.x, columns);
    (*sum)[5] += dot_columns(lower.y, columns);
    (*sum)[6] += dot_columns(lower.z, columns);
    (*sum)[7] += dot_columns(lower.w, columns);
}

// The lanes of each word that hold R2 codes.
fn in_r2(codes: vec4<u32>) -> vec4<u32> {
    return ((codes >> vec4(7u)) & vec4(0x01010101u)) * 0xffu;
}

// The same for codes of both ranges.
fn accumulate_ranges(
    sum: ptr<function, array<vec4<i32>, 8>>,
    sum_r2: ptr<function, array<vec4<i32>, 8>>,
    upper: vec4<u32>,
    lower: vec4<u32>,
    columns: vec4<u32>,
) {
    // Codes of R1 are their own magnitudes, so words without R2 cost what uniform ones do.
    if TWIN && any(((upper | lower) & vec4(0x80808080u)) != vec4(0u)) {
        let upper_r2 = in_r2(upper);
        let lower_r2 = in_r2(lower);
        accumulate(sum, upper & ~upper_r2, lower & ~lower_r2, columns);
        let magnitude = vec4(0x7f7f7f7fu);
        accumulate(sum_r2, upper & upper_r2 & magnitude, lower & lower_r2 & magnitude, columns);
    } else {
        accumulate(sum, upper, lower, columns);
    }
}

// r1 + (r2 << shift) as a float, without an integer that can wrap: r1 is split at the shift, its upper part joins r2.
fn combine(r1: i32, r2: i32, shift: u32) -> f32 {
    let upper = r2 + (r1 >> shift);
    let lower = r1 & ((1i << shift) - 1i);
    return f32(upper) * f32(1u << shift) + f32(lower);
}

// Writes the sums of four columns of one row, those of `vector`, where row and columns exist.
fn store(job: u32, problem: u32, row: u32, vector: u32, sum: vec4<i32>, sum_r2: vec4<i32>) {
    let p = parameters;
    if row >= p.m {
        return;
    }
    let inner = problem % p.inner;
    let at = job * p.job_stride + p.out.offset + problem / p.inner * p.out.outer + inner * p.out.inner + row * p.out.row;
    for (var c = 0u; c < 4u; c++) {
        let column = vector * 4u + c;
        if column < p.n {
            let group = inner * p.inner_groups + column / p.group_columns;
            var integer = f32(sum[c]);
            if TWIN {
                integer = combine(p.r1_sign * sum[c], sum_r2[c], shifts[job]);
            }
            var value = integer * scales[job * p.groups + group];
            if p.has_bias != 0u {
                value += bias[column];
            }
            out[at + column * p.out.column] = value;
        }
    }
}

// Stores what an invocation computed: eight rows by four columns.
fn store_rows(
    job: u32,
    problem: u32,
    row: u32,
    vector: u32,
    sum: ptr<function, array<vec4<i32>, 8>>,
    sum_r2: ptr<function, array<vec4<i32>, 8>>,
) {
    // Copies may lie in memory, where a loop can index them.
    var sums = *sum;
    var sums_r2 = *sum_r2;
    for (var r = 0u; r < 8u; r++) {
        store(job, problem, row + r, vector, sums[r], sums_r2[r]);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let vectors = (p.n + 3u) / 4u;
    let tiles_down = (p.m + 7u) / 8u;
    let problems = p.outer * p.inner;
    let matrix = tile / (vectors * tiles_down);
    if matrix >= p.jobs * problems {
        return;
    }
    let job = matrix / problems;
    let problem = matrix % problems;
    let vector = tile % vectors;
    let row = tile / vectors % tiles_down * 8u;

    // Rows past the edge are copies of the last one and not stored; columns past it are zeros in b.
    let a_matrix = (job * p.a_per_job * problems + problem) * p.m;
    let rows = vec4(row) + vec4(0u, 1u, 2u, 3u);
    let upper_at = (a_matrix + min(rows, vec4(p.m - 1u))) * p.words;
    let lower_at = (a_matrix + min(rows + 4u, vec4(p.m - 1u))) * p.words;
    var b_at = (job * p.b_per_job * problems + problem) * p.words * vectors + vector;
    var sum: array<vec4<i32>, 8>;
    var sum_r2: array<vec4<i32>, 8>;
    for (var word = 0u; word < p.words; word++) {
        let upper = vec4(a[upper_at.x + word], a[upper_at.y + word], a[upper_at.z + word], a[upper_at.w + word]);
        let lower = vec4(a[lower_at.x + word], a[lower_at.y + word], a[lower_at.z + word], a[lower_at.w + word]);
        accumulate_ranges(&sum, &sum_r2, upper, lower, b[b_at]);
        b_at += vectors;
    }
    store_rows(job, problem, row, vector, &sum, &sum_r2);
}

override LANES_DOWN: u32 = 8u;
override LANES_ACROSS: u32 = 16u;
// Words of k that are staged at once.
override STEP: u32 = 8u;
override LANES: u32 = LANES_DOWN * LANES_ACROSS;
// Rows are staged in vectors of four. The odd pitch keeps invocations that write neighbouring words of k out of each
// other's memory banks.
override QUADS: u32 = 2u * LANES_DOWN;
override PITCH: u32 = QUADS + 1u;
override A_LEN: u32 = PITCH * STEP;
override B_LEN: u32 = LANES_ACROSS * STEP;

// [word][four rows]
var<workgroup> a_tile: array<vec4<u32>, A_LEN>;
// [word][four columns]
var<workgroup> b_tile: array<vec4<u32>, B_LEN>;

@compute @workgroup_size(LANES)
fn tiled(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let vectors = (p.n + 3u) / 4u;
    let tiles_across = (vectors + LANES_ACROSS - 1u) / LANES_ACROSS;
    let tiles_down = (p.m + 8u * LANES_DOWN - 1u) / (8u * LANES_DOWN);
    let problems = p.outer * p.inner;
    let matrix = tile / (tiles_across * tiles_down);
    if matrix >= p.jobs * problems {
        return;
    }
    let job = matrix / problems;
    let problem = matrix % problems;
    let first_vector = tile % tiles_across * LANES_ACROSS;
    let first_row = tile / tiles_across % tiles_down * 8u * LANES_DOWN;
    let a_matrix = (job * p.a_per_job * problems + problem) * p.m;
    let b_matrix = (job * p.b_per_job * problems + problem) * p.words;
    let lane_down = lane / LANES_ACROSS;
    let lane_across = lane % LANES_ACROSS;

    var sum: array<vec4<i32>, 8>;
    var sum_r2: array<vec4<i32>, 8>;
    for (var first = 0u; first < p.words; first += STEP) {
        // Neighbours take neighbouring words of a row of a, and neighbouring columns of b.
        for (var at = lane; at < QUADS * STEP; at += LANES) {
            let word = first + at % STEP;
            let quad = at / STEP;
            // Rows past the edge are copies of the last one and not stored; words past the end count as zeros.
            var rows = vec4(0u);
            if word < p.words {
                let row = vec4(first_row + 4u * quad) + vec4(0u, 1u, 2u, 3u);
                let from_word = (a_matrix + min(row, vec4(p.m - 1u))) * p.words + word;
                rows = vec4(a[from_word.x], a[from_word.y], a[from_word.z], a[from_word.w]);
            }
            a_tile[at % STEP * PITCH + quad] = rows;
        }
        for (var at = lane; at < B_LEN; at += LANES) {
            let word = first + at / LANES_ACROSS;
            let vector = first_vector + at % LANES_ACROSS;
            var columns = vec4(0u);
            if word < p.words && vector < vectors {
                columns = b[(b_matrix + word) * vectors + vector];
            }
            b_tile[at] = columns;
        }
        workgroupBarrier();
        for (var word = 0u; word < STEP; word++) {
            let upper = a_tile[word * PITCH + 2u * lane_down];
            let lower = a_tile[word * PITCH + 2u * lane_down + 1u];
            let columns = b_tile[word * LANES_ACROSS + lane_across];
            accumulate_ranges(&sum, &sum_r2, upper, lower, columns);
        }
        // Nobody may overwrite the tiles before all have read them.
        workgroupBarrier();
    }
    store_rows(job, problem, first_row + 8u * lane_down, first_vector + lane_across, &sum, &sum_r2);
}
