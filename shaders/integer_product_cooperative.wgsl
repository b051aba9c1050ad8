// out = scale * (a * b) + bias, the same as integer_product's, from cooperative matrices.
//
// Codes are exact in f16, their products in f32, and so are sums of up to FLUSH of those, 2^24 at most; these are added up
// as integers. A twin's R1 and R2 are two products, one after the other.
//
// A workgroup computes 64 rows by 64 columns. It stages STEP codes of each as f16 in workgroup memory, and each subgroup
// multiplies blocks of two by two matrices. How many subgroups a workgroup has is known only here: where there are fewer
// than blocks, they take turns.

enable f16;
enable wgpu_cooperative_matrix;

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

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
// Rows and columns of a matrix. The Rust side makes 16 of it, and of the names above, where the adapter's are larger.
const SIDE: u32 = 8u;

const TILE: u32 = 64u;
const LANES: u32 = 128u;
// Codes that are staged at once.
const STEP: u32 = 32u;
// Codes whose sum of products, 2^14 each at most, is exact in f32.
const FLUSH: u32 = 1024u;

// Pitches keep rows out of each other's memory banks.
const A_PITCH: u32 = STEP + 8u;
const B_PITCH: u32 = TILE + 8u;
const BLOCKS_ACROSS: u32 = TILE / (2u * SIDE);
const BLOCKS: u32 = BLOCKS_ACROSS * BLOCKS_ACROSS;
// Vectors of four sums that an invocation holds: of a tile, and of one matrix of each block.
const VECTORS: u32 = TILE * TILE / 4u / LANES;
const PER_MATRIX: u32 = VECTORS / 4u;

// [row][k]
var<workgroup> a_tile: array<f16, TILE * A_PITCH>;
// [k][column]
var<workgroup> b_tile: array<f16, STEP * B_PITCH>;
// [block][row][column], of one matrix of each block; and room for what nobody wants.
var<workgroup> sums: array<f32, (BLOCKS + 1u) * SIDE * SIDE>;

// Adds to an invocation's vectors, from `first` on, what the subgroups have stored of the blocks that were taken.
fn add_sums(sum: ptr<function, array<vec4<i32>, 2u * VECTORS>>, first: u32, lane: u32, taken: vec2<u32>) {
    workgroupBarrier();
    for (var v = 0u; v < PER_MATRIX; v++) {
        let at = 4u * (v * LANES + lane);
        let block = at / (SIDE * SIDE);
        if block >= taken.x && block < taken.y {
            (*sum)[first + v] += vec4<i32>(vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]));
        }
    }
    workgroupBarrier();
}

// The codes of a word, of both ranges, or of R1 or R2 alone.
fn codes_of(word: u32, part: u32) -> vec4<f16> {
    if !TWIN {
        return vec4<f16>(unpack4xI8(word));
    }
    let in_r2 = ((word >> 7u) & 0x01010101u) * 0xffu;
    return vec4<f16>(unpack4xU8(word & 0x7f7f7f7fu & select(~in_r2, in_r2, part == 1u)));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let p = parameters;
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let vectors = (p.n + 3u) / 4u;
    let tiles_across = (p.n + TILE - 1u) / TILE;
    let tiles_down = (p.m + TILE - 1u) / TILE;
    let problems = p.outer * p.inner;
    let matrix = tile / (tiles_across * tiles_down);
    if matrix >= p.jobs * problems {
        return;
    }
    let job = matrix / problems;
    let problem = matrix % problems;
    let first_row = tile / tiles_across % tiles_down * TILE;
    let first_vector = tile % tiles_across * (TILE / 4u);
    let a_matrix = (job * p.a_per_job * problems + problem) * p.m;
    let b_matrix = (job * p.b_per_job * problems + problem) * p.words;

    // [part][vector]
    var sum: array<vec4<i32>, 2u * VECTORS>;
    let parts = select(1u, 2u, TWIN);
    for (var first_block = 0u; first_block < BLOCKS; first_block += subgroups) {
        // Naga wants uniform control flow here, so subgroups without a block repeat the last one for nobody.
        let block = min(first_block + subgroup, BLOCKS - 1u);
        let block_row = block / BLOCKS_ACROSS * 2u * SIDE;
        let block_column = block % BLOCKS_ACROSS * 2u * SIDE;
        for (var part = 0u; part < parts; part++) {
            for (var stretch = 0u; stretch < p.words; stretch += FLUSH / 4u) {
                var sum_00 = Sum();
                var sum_01 = Sum();
                var sum_10 = Sum();
                var sum_11 = Sum();
                let end = min(stretch + FLUSH / 4u, p.words);
                for (var first = stretch; first < end; first += STEP / 4u) {
                    for (var at = lane; at < TILE * STEP / 4u; at += LANES) {
                        // Rows past the edge are copies of the last one and not stored; words past the end are zeros.
                        let word = at % (STEP / 4u);
                        let row = at / (STEP / 4u);
                        let from_row = (a_matrix + min(first_row + row, p.m - 1u)) * p.words;
                        var codes = vec4<f16>();
                        if first + word < p.words {
                            codes = codes_of(a[from_row + first + word], part);
                        }
                        let to = row * A_PITCH + 4u * word;
                        a_tile[to] = codes.x;
                        a_tile[to + 1u] = codes.y;
                        a_tile[to + 2u] = codes.z;
                        a_tile[to + 3u] = codes.w;
                    }
                    for (var at = lane; at < STEP / 4u * TILE / 4u; at += LANES) {
                        let word = at / (TILE / 4u);
                        let vector = at % (TILE / 4u);
                        var words = vec4(0u);
                        if first + word < p.words && first_vector + vector < vectors {
                            words = b[(b_matrix + first + word) * vectors + first_vector + vector];
                        }
                        for (var c = 0u; c < 4u; c++) {
                            let codes = vec4<f16>(unpack4xI8(words[c]));
                            let to = 4u * word * B_PITCH + 4u * vector + c;
                            b_tile[to] = codes.x;
                            b_tile[to + B_PITCH] = codes.y;
                            b_tile[to + 2u * B_PITCH] = codes.z;
                            b_tile[to + 3u * B_PITCH] = codes.w;
                        }
                    }
                    workgroupBarrier();
                    for (var k = 0u; k < STEP; k += SIDE) {
                        let a_0 = coopLoadT<Left>(&a_tile[block_row * A_PITCH + k], A_PITCH);
                        let a_1 = coopLoadT<Left>(&a_tile[(block_row + SIDE) * A_PITCH + k], A_PITCH);
                        let b_0 = coopLoadT<Right>(&b_tile[k * B_PITCH + block_column], B_PITCH);
                        let b_1 = coopLoadT<Right>(&b_tile[k * B_PITCH + block_column + SIDE], B_PITCH);
                        sum_00 = coopMultiplyAdd(a_0, b_0, sum_00);
                        sum_01 = coopMultiplyAdd(a_0, b_1, sum_01);
                        sum_10 = coopMultiplyAdd(a_1, b_0, sum_10);
                        sum_11 = coopMultiplyAdd(a_1, b_1, sum_11);
                    }
                    // Nobody may overwrite the tiles before all have read them.
                    workgroupBarrier();
                }
                // One matrix of each block after the other, through workgroup memory to whoever stores it.
                let place = min(first_block + subgroup, BLOCKS) * SIDE * SIDE;
                let taken = vec2(first_block, first_block + subgroups);
                coopStoreT(sum_00, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS, lane, taken);
                coopStoreT(sum_01, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS + PER_MATRIX, lane, taken);
                coopStoreT(sum_10, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS + 2u * PER_MATRIX, lane, taken);
                coopStoreT(sum_11, &sums[place], SIDE);
                add_sums(&sum, part * VECTORS + 3u * PER_MATRIX, lane, taken);
            }
        }
    }
    for (var v = 0u; v < VECTORS; v++) {
        let at = v % PER_MATRIX * LANES + lane;
        let block = at / (SIDE * SIDE / 4u);
        let matrix = v / PER_MATRIX;
        let row = (block / BLOCKS_ACROSS * 2u + matrix / 2u) * SIDE + at % (SIDE * SIDE / 4u) / (SIDE / 4u);
        let vector = (block % BLOCKS_ACROSS * 2u + matrix % 2u) * (SIDE / 4u) + at % (SIDE / 4u);
        store(job, problem, first_row + row, first_vector + vector, sum[v], sum[VECTORS + v]);
    }
}
