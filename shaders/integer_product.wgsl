// value = scale * (a * b) + bias, where a and b are packed 8-bit codes and the product is an exact integer; and what
// becomes of the value (EPILOGUE):
//
//   VALUES      out = value, or value + residual, rows in another order where there is one
//   CODES       out = codes of value, four neighbouring columns in a word: the left operand of the next product
//   GELU_CODES  out = codes of gelu(value), likewise
//   ERROR       out = partial sums of (weight * (value - reference))^2: the score of a candidate
//
// a is [job or 1][problem][m][words], b is [job or 1][problem][words][n / 4] in vectors of four columns; a word holds
// four codes along k (shared/codes.wgsl). TWIN: a holds range-flag codes, and the integer is
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
    // Where the values lie, in elements; where the codes lie, in words (a step of `column` is four columns).
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
    has_residual: u32,
    // Rows that `order` reorders among themselves; 0 where rows stay.
    order_rows: u32,
    has_weight: u32,
    // Codes: 1 / scale_1, 1 / scale_2, and 2^(bits - 1).
    inverse_1: f32,
    inverse_2: f32,
    q: f32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
    unused_3: u32,
}

override TWIN: bool = false;

override EPILOGUE: u32 = 0u;
const VALUES: u32 = 0u;
const CODES: u32 = 1u;
const GELU_CODES: u32 = 2u;
const ERROR: u32 = 3u;

override ROWS: u32 = 8u;
// The most rows: an array's size can't be an override.
const MOST_ROWS: u32 = 8u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
// [job][group]: what one unit of the integer is worth, and the left shift m of a twin's R2.
@group(0) @binding(3) var<storage, read> scales: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
// The residual, or the reference of an error; both lie as the values do.
@group(0) @binding(5) var<storage, read> operand: array<f32>;
@group(0) @binding(6) var<storage, read> order: array<u32>;
@group(0) @binding(7) var<storage, read> weight: array<f32>;
// Floats by their bits, or codes.
@group(0) @binding(8) var<storage, read_write> out: array<u32>;

// A matrix of the batch.
struct Matrix {
    job: u32,
    outer: u32,
    inner: u32,
    // Where its output begins, without the job's stride.
    out: u32,
}

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

// The value of one element.
fn value_of(matrix: Matrix, column: u32, sum: i32, sum_r2: i32) -> f32 {
    let group = matrix.inner * parameters.inner_groups + column / parameters.group_columns;
    let scale = scales[matrix.job * parameters.groups + group];
    var integer = f32(sum);
    if TWIN {
        integer = combine(parameters.r1_sign * sum, sum_r2, u32(scale.y));
    }
    var value = integer * scale.x;
    if parameters.has_bias != 0u {
        value += bias[column];
    }
    return value;
}

// Finishes four neighbouring columns of one row. Returns their error, zero but for ERROR.
fn store(matrix: Matrix, row: u32, column: u32, sum: vec4<i32>, sum_r2: vec4<i32>) -> f32 {
    let p = parameters;
    var out_row = row;
    if EPILOGUE == VALUES && p.order_rows != 0u {
        out_row = row / p.order_rows * p.order_rows + order[row % p.order_rows];
    }
    let row_at = matrix.out + out_row * p.out.row;
    var word = 0u;
    var error = 0.0;
    for (var c = 0u; c < 4u; c++) {
        if column + c < p.n {
            var value = value_of(matrix, column + c, sum[c], sum_r2[c]);
            let at = row_at + (column + c) * p.out.column;
            if EPILOGUE == VALUES {
                if p.has_residual != 0u {
                    value += operand[at];
                }
                out[matrix.job * p.job_stride + at] = bitcast<u32>(value);
            } else if EPILOGUE == ERROR {
                var difference = value - operand[at];
                if p.has_weight != 0u {
                    difference *= weight[at];
                }
                error += difference * difference;
            } else {
                if EPILOGUE == GELU_CODES {
                    value = gelu(value);
                }
                word |= quantize(value, vec2(p.inverse_1, p.inverse_2), p.q) << (8u * c);
            }
        }
    }
    if EPILOGUE == CODES || EPILOGUE == GELU_CODES {
        out[row_at + column / 4u * p.out.column] = word;
    }
    return error;
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
    let index = tile / (tiles_across * tiles_down);
    if index >= p.jobs * problems {
        return;
    }
    let job = index / problems;
    let problem = index % problems;
    let outer = problem / p.inner;
    let inner = problem % p.inner;
    let tile_column = tile % tiles_across;
    let tile_row = tile / tiles_across % tiles_down;
    let row = tile_row * ROWS;

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

    let matrix = Matrix(job, outer, inner, p.out.offset + outer * p.out.outer + inner * p.out.inner);
    var error = 0.0;
    for (var r = 0u; r < ROWS; r++) {
        if row + r < p.m {
            error += store(matrix, row + r, tile_column * 4u, sum[r], sum_r2[r]);
        }
    }
    if EPILOGUE == ERROR {
        // [job][group][outer][tile_row][tile of the group's columns]
        let across = (p.group_columns + 3u) / 4u;
        let group = inner * p.inner_groups + tile_column / across;
        let part = (outer * tiles_down + tile_row) * across + tile_column % across;
        out[(job * p.groups + group) * p.outer * tiles_down * across + part] = bitcast<u32>(error);
    }
}
