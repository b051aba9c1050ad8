// out = scale * (a * b) + bias, where a and b are packed 8-bit codes and the product is an exact integer.
//
// a is [job or 1][problem][m][words], b is [job or 1][problem][words][n / 4] in vectors of four columns; a word holds
// four codes along k (quantize.wgsl). TWIN: a holds range-flag codes, and the integer is
//     sum over R1 lanes of sign * a * b  +  (sum over R2 lanes of a * b) << m
// kept as two i32 accumulators and combined without wrapping, see `combine`.
//
// One invocation computes ROWS rows by four columns in registers; neighbours take neighbouring columns. A twin has two
// accumulators for each element, so half the rows fill the same registers.

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

override ROWS: u32 = 8u;
// The most rows: an array's size can't be an override.
const MOST_ROWS: u32 = 8u;

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

// r1 + (r2 << shift) as a float, without an integer that can wrap: r1 is split at the shift, its upper part joins r2.
fn combine(r1: i32, r2: i32, shift: u32) -> f32 {
    let upper = r2 + (r1 >> shift);
    let lower = r1 & ((1i << shift) - 1i);
    return f32(upper) * f32(1u << shift) + f32(lower);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let tile = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let tiles_across = (p.n + 3u) / 4u;
    let tiles_down = (p.m + ROWS - 1u) / ROWS;
    let problems = p.outer * p.inner;
    let matrix = tile / (tiles_across * tiles_down);
    if matrix >= p.jobs * problems {
        return;
    }
    let job = matrix / problems;
    let problem = matrix % problems;
    let tile_column = tile % tiles_across;
    let row = tile / tiles_across % tiles_down * ROWS;

    // Rows past the edge are computed from the last valid one and not stored; columns past it are zeros in b.
    let a_matrix = (job * p.a_per_job * problems + problem) * p.m;
    var a_at: array<u32, MOST_ROWS>;
    var sum: array<vec4<i32>, MOST_ROWS>;
    var sum_r2: array<vec4<i32>, MOST_ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        a_at[r] = (a_matrix + min(row + r, p.m - 1u)) * p.words;
        sum[r] = vec4(0i);
        sum_r2[r] = vec4(0i);
    }
    var b_at = (job * p.b_per_job * problems + problem) * p.words * tiles_across + tile_column;
    for (var word = 0u; word < p.words; word++) {
        let columns = b[b_at];
        b_at += tiles_across;
        for (var r = 0u; r < ROWS; r++) {
            let codes = a[a_at[r] + word];
            if TWIN {
                let magnitudes = codes & 0x7f7f7f7fu;
                let in_r2 = ((codes >> 7u) & 0x01010101u) * 0xffu;
                sum[r] += dot_columns(magnitudes & ~in_r2, columns);
                sum_r2[r] += dot_columns(magnitudes & in_r2, columns);
            } else {
                sum[r] += dot_columns(codes, columns);
            }
        }
    }

    let inner = problem % p.inner;
    let out_matrix = job * p.job_stride + p.out.offset + problem / p.inner * p.out.outer + inner * p.out.inner;
    for (var c = 0u; c < 4u; c++) {
        let column = tile_column * 4u + c;
        if column < p.n {
            let group = inner * p.inner_groups + column / p.group_columns;
            let scale = scales[job * p.groups + group];
            var column_bias = 0.0;
            if p.has_bias != 0u {
                column_bias = bias[column];
            }
            for (var r = 0u; r < ROWS; r++) {
                if row + r < p.m {
                    var integer = f32(sum[r][c]);
                    if TWIN {
                        integer = combine(p.r1_sign * sum[r][c], sum_r2[r][c], shifts[job]);
                    }
                    out[out_matrix + (row + r) * p.out.row + column * p.out.column] = integer * scale + column_bias;
                }
            }
        }
    }
}
