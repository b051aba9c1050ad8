// What the kernels of integer products share: where operands lie, and what becomes of a product.
//
// value = factor * scale * (a * b) + bias, where a and b are packed 8-bit codes and the product is an exact integer; and of
// the value (EPILOGUE):
//
//   VALUES      out = value, or value + residual, rows in another order where there is one
//   CODES       out = codes of value, four neighbouring columns in a word: the left operand of the next product
//   GELU_CODES  out = codes of gelu(value), likewise
//   ERROR       out = partial sums of (weight * (value - reference))^2: the score of a candidate
//   COLUMN_ERRORS  the same, of each column by itself
//
// Both operands lie as quantize.wgsl has them: [job or 1][problem][word][row of a, or column of b], in vectors of four
// rows or columns; a word holds four codes along k (shared/codes.wgsl). TWIN: a holds range-flag codes, and the integer is
//     sum over R1 lanes of sign * a * b  +  (sum over R2 lanes of a * b) << m
// which no accumulator holds whole: it is kept as `upper` and `lower`, the integer being upper * 2^m + lower with
// 0 <= lower < 2^m.
//
// Codes of b that have less than 8 bits can be stored in less (BITS 6 or 4). GROUP words of lanes then take GROUP - 1: a
// lane holds its code in its upper BITS bits, times 2^SPARE, and below it, in all words but the missing one, SPARE bits of
// a lane of that one, from the first word the uppermost. No step of unpacking carries from lane to lane, and no code's
// sign needs extending: the sums are 2^SPARE times too large, no larger than those of 8-bit codes, and are shifted back.

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
    has_affine: u32,
    // -1 where R1 holds negatives (GELU), else 1.
    r1_sign: i32,
    has_residual: u32,
    // Rows that the order puts in the order of an image's tokens, and how many those are; 0 where rows stay. A row that it puts
    // beyond them is padding, and dropped.
    order_rows: u32,
    image_rows: u32,
    has_weight: u32,
    // Codes: 2^(bits - 1).
    q: f32,
    unused: u32,
}

override TWIN: bool = false;

override EPILOGUE: u32 = 0u;
const VALUES: u32 = 0u;
const CODES: u32 = 1u;
const GELU_CODES: u32 = 2u;
const ERROR: u32 = 3u;
const COLUMN_ERRORS: u32 = 4u;

override BITS: u32 = 8u;
override SPARE: u32 = 8u - BITS;
// With BITS 8 every word is one of its own.
override GROUP: u32 = 8u / max(SPARE, 1u);

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
// [job][group]: what one unit of the integer is worth, and the left shift m of a twin's R2.
@group(0) @binding(3) var<storage, read> scales: array<vec2<f32>>;
// [column]: what its scale is multiplied by, and its bias.
@group(0) @binding(4) var<storage, read> affine: array<vec2<f32>>;
// The residual, or the reference of an error; both lie as the values do.
@group(0) @binding(5) var<storage, read> operand: array<f32>;
// VALUES: the order of rows. CODES: the encoder of the codes.
@group(0) @binding(6) var<storage, read> order_or_encoder: array<u32>;
@group(0) @binding(7) var<storage, read> weight: array<f32>;
// Floats by their bits, or codes.
@group(0) @binding(8) var<storage, read_write> out: array<u32>;

// A matrix of the batch.
struct Matrix {
    job: u32,
    outer: u32,
    inner: u32,
    // Where its operands begin, in vectors, and its output, without the job's stride.
    a: u32,
    b: u32,
    out: u32,
}

fn matrix_of(index: u32) -> Matrix {
    let p = parameters;
    let problems = p.outer * p.inner;
    let job = index / problems;
    let problem = index % problems;
    let outer = problem / p.inner;
    let inner = problem % p.inner;
    let b_words = select((p.words + GROUP - 1u) / GROUP * (GROUP - 1u), p.words, SPARE == 0u);
    return Matrix(
        job,
        outer,
        inner,
        (job * p.a_per_job * problems + problem) * p.words * ((p.m + 3u) / 4u),
        (job * p.b_per_job * problems + problem) * b_words * ((p.n + 3u) / 4u),
        p.out.offset + outer * p.out.outer + inner * p.out.inner,
    );
}

// What is stored of a word, without the pieces of another.
fn stored_lanes(stored: vec4<u32>) -> vec4<u32> {
    return stored & vec4(((0xffu << SPARE) & 0xffu) * 0x01010101u);
}

// The piece of the missing word that is stored in part `part` of its group, in its place.
fn missing_piece(stored: vec4<u32>, part: u32) -> vec4<u32> {
    let upper_bits = ((0xffu << BITS) & 0xffu) * 0x01010101u;
    let piece = SPARE * part;
    return (stored << vec4(BITS - piece)) & vec4(upper_bits >> piece);
}

// One word of four columns of b, each code times 2^SPARE.
fn columns_at(matrix_b: u32, word: u32, vector: u32) -> vec4<u32> {
    let vectors = (parameters.n + 3u) / 4u;
    if SPARE == 0u {
        return b[matrix_b + word * vectors + vector];
    }
    let part = word % GROUP;
    let group_at = matrix_b + word / GROUP * (GROUP - 1u) * vectors + vector;
    if part < GROUP - 1u {
        return stored_lanes(b[group_at + part * vectors]);
    }
    var missing = vec4(0u);
    for (var other = 0u; other < GROUP - 1u; other++) {
        missing |= missing_piece(b[group_at + other * vectors], other);
    }
    return missing;
}

// The shift m of a matrix of twins.
fn shift_of(matrix: Matrix) -> u32 {
    return u32(scales[matrix.job * parameters.groups + matrix.inner * parameters.inner_groups].y);
}

// What turns the integers of four neighbouring columns into values.
struct Columns {
    first: u32,
    scale: vec4<f32>,
    bias: vec4<f32>,
    // A twin's m.
    shift: u32,
    // What makes codes of the values, where they become codes.
    encoder: Encoder,
}

fn columns_of(matrix: Matrix, first: u32) -> Columns {
    let p = parameters;
    var columns = Columns(first, vec4(0.0), vec4(0.0), shift_of(matrix), Encoder());
    if EPILOGUE == CODES || EPILOGUE == GELU_CODES {
        columns.encoder = encoder_of(0u);
    }
    for (var c = 0u; c < 4u; c++) {
        let column = min(first + c, p.n - 1u);
        let group = matrix.inner * p.inner_groups + column / p.group_columns;
        columns.scale[c] = scales[matrix.job * p.groups + group].x;
        if p.has_affine != 0u {
            columns.scale[c] *= affine[column].x;
            columns.bias[c] = affine[column].y;
        }
    }
    return columns;
}

// A product's integers, as floats; `upper` counts for a twin only.
fn combined(shift: u32, upper: vec4<i32>, lower: vec4<i32>) -> vec4<f32> {
    if !TWIN {
        return vec4<f32>(lower);
    }
    return vec4<f32>(lower) + vec4<f32>(upper) * f32(1u << shift);
}

// The same of sums over the lanes of R1 and of R2, each 2^SPARE times too large; without TWIN, `r1` is over all lanes.
fn combined_sums(shift: u32, r1: vec4<i32>, r2: vec4<i32>) -> vec4<f32> {
    let sum = r1 >> vec4(SPARE);
    if !TWIN {
        return combined(shift, vec4(0i), sum);
    }
    // R1 is split at the shift, and its upper part joins R2: neither can wrap.
    let r1_sum = parameters.r1_sign * sum;
    let upper = (r2 >> vec4(SPARE)) + (r1_sum >> vec4(shift));
    return combined(shift, upper, r1_sum & vec4((1i << shift) - 1i));
}

// The row of the output where a row's values go; padding goes to none.
const NO_ROW: u32 = 0xffffffffu;
fn out_row(row: u32) -> u32 {
    let p = parameters;
    if p.order_rows == 0u {
        return row;
    }
    let token = order_or_encoder[row % p.order_rows];
    return select(NO_ROW, row / p.order_rows * p.image_rows + token, token < p.image_rows);
}

// Finishes four neighbouring columns of one row, where they exist. Returns their squared errors, zero but for ERROR and
// COLUMN_ERRORS.
fn store(matrix: Matrix, columns: Columns, row: u32, integers: vec4<f32>) -> vec4<f32> {
    let p = parameters;
    if row >= p.m || columns.first >= p.n {
        return vec4(0.0);
    }
    let values = integers * columns.scale + columns.bias;
    if EPILOGUE == CODES {
        store_codes(matrix, columns, row, values);
        return vec4(0.0);
    }
    if EPILOGUE == GELU_CODES {
        store_codes(matrix, columns, row, gelu(values));
        return vec4(0.0);
    }
    var to_row = row;
    if EPILOGUE == VALUES {
        to_row = out_row(row);
        if to_row == NO_ROW {
            return vec4(0.0);
        }
    }
    var errors = vec4(0.0);
    let first_at = matrix.out + to_row * p.out.row + columns.first * p.out.column;
    // All of them before anything is stored: one wait instead of four.
    var operands = vec4(0.0);
    if EPILOGUE != VALUES || p.has_residual != 0u {
        for (var c = 0u; c < 4u; c++) {
            operands[c] = operand[first_at + min(c, p.n - 1u - columns.first) * p.out.column];
        }
    }
    for (var c = 0u; c < 4u; c++) {
        if columns.first + c >= p.n {
            continue;
        }
        let at = first_at + c * p.out.column;
        if EPILOGUE == VALUES {
            var value = values[c];
            if p.has_residual != 0u {
                value += operands[c];
            }
            out[matrix.job * p.job_stride + at] = bitcast<u32>(value);
        } else {
            var error = values[c] - operands[c];
            if p.has_weight != 0u {
                error *= weight[at];
            }
            errors[c] = error * error;
        }
    }
    return errors;
}

// The errors of some rows of four columns, with those of one more row: of each column, or in the first place all of them.
fn with_row(errors: vec4<f32>, row: vec4<f32>) -> vec4<f32> {
    if EPILOGUE == COLUMN_ERRORS {
        return errors + row;
    }
    return vec4(errors.x + (row.x + row.y + row.z + row.w), 0.0, 0.0, 0.0);
}

// Where the values of a column's row go. What doesn't exist, and padding, goes nowhere.
const NOWHERE: u32 = 0xffffffffu;
fn value_at(matrix: Matrix, row: u32, column: u32) -> u32 {
    let p = parameters;
    if row >= p.m || column >= p.n {
        return NOWHERE;
    }
    let to_row = out_row(row);
    return select(matrix.out + to_row * p.out.row + column * p.out.column, NOWHERE, to_row == NO_ROW);
}

fn values_at(matrix: Matrix, first_row: u32, column: u32) -> vec4<u32> {
    return vec4(
        value_at(matrix, first_row, column),
        value_at(matrix, first_row + 1u, column),
        value_at(matrix, first_row + 2u, column),
        value_at(matrix, first_row + 3u, column),
    );
}

// What is added to the values that go there.
fn residuals(at: vec4<u32>) -> vec4<f32> {
    if parameters.has_residual == 0u {
        return vec4(0.0);
    }
    // Without branches, so that all are waited for at once.
    let read_at = select(at, vec4(0u), at == vec4(NOWHERE));
    return vec4(operand[read_at.x], operand[read_at.y], operand[read_at.z], operand[read_at.w]);
}

fn store_values(matrix: Matrix, at: vec4<u32>, values: vec4<f32>) {
    for (var r = 0u; r < 4u; r++) {
        if at[r] != NOWHERE {
            out[matrix.job * parameters.job_stride + at[r]] = bitcast<u32>(values[r]);
        }
    }
}

fn encoder_word(at: u32) -> u32 {
    return order_or_encoder[at];
}

fn store_codes(matrix: Matrix, columns: Columns, row: u32, values: vec4<f32>) {
    let p = parameters;
    let codes = quantize(values, columns.encoder, p.q);
    out[matrix.out + row * p.out.row + columns.first / 4u * p.out.column] = first_lanes(codes, p.n - columns.first);
}

// Stores the partial sums of a block of four rows by four columns, where it exists: [job][group][outer][vector of rows]
// [vector of the group]; a group that is a column has one such vector. Whatever the tiles, blocks are the same, and so are
// all sums.
fn store_errors(matrix: Matrix, row_vector: u32, vector: u32, errors: vec4<f32>) {
    if EPILOGUE == ERROR {
        store_error(matrix, row_vector, vector, 0u, errors.x);
    }
    if EPILOGUE == COLUMN_ERRORS {
        for (var c = 0u; c < 4u; c++) {
            store_error(matrix, row_vector, vector, c, errors[c]);
        }
    }
}

// Stores one of them: that of all columns, or of column `c`.
fn store_error(matrix: Matrix, row_vector: u32, vector: u32, c: u32, error: f32) {
    let p = parameters;
    let down = (p.m + 3u) / 4u;
    let column = vector * 4u + c;
    if row_vector >= down || column >= p.n {
        return;
    }
    let across = (p.group_columns + 3u) / 4u;
    let group = matrix.inner * p.inner_groups + column / p.group_columns;
    let part = (matrix.outer * down + row_vector) * across + vector % across;
    out[(matrix.job * p.groups + group) * p.outer * down * across + part] = bitcast<u32>(error);
}
