// out = (x - mean) / sqrt(variance + eps) * weight + bias, for each row of x on its own; the variance is the biased one.
//
// CODES: out has the codes of these values, as quantize.wgsl lays them out; otherwise the floats, by their bits. Row (image,
// token) of the codes is made of row (image, order[token]) of x, or of zeros where order names no token.
//
// A row's lanes (shared/rows.wgsl) compute it in three passes: the mean, then the variance about it, then the result.

struct Parameters {
    rows: u32,
    width: u32,
    // Where the first row of x starts, and elements from the start of one row to the start of the next; the rows of out
    // are contiguous.
    input_offset: u32,
    input_stride: u32,
    eps: f32,
    // Tokens of an image in out, and in x, where order moves them about; 0 leaves them where they are.
    tokens: u32,
    input_tokens: u32,
    // Codes: consecutive rows that make a matrix; the encoder of a matrix is number matrix % groups.
    matrix_rows: u32,
    groups: u32,
    q: f32,
}

override CODES: bool = false;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
// [groups]
@group(0) @binding(5) var<storage, read> encoders: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

fn encoder_word(at: u32) -> u32 {
    return encoders[at];
}

// The row of x that a row of out is made of: where it starts. Padding is made of zeros, whatever lies there.
struct Source {
    start: u32,
    is_padding: bool,
}

fn source_of(row: u32) -> Source {
    let p = parameters;
    var input_row = row;
    var is_padding = false;
    if p.tokens > 0u {
        let token = order[row % p.tokens];
        is_padding = token >= p.input_tokens;
        input_row = row / p.tokens * p.input_tokens + select(token, 0u, is_padding);
    }
    return Source(p.input_offset + input_row * p.input_stride, is_padding);
}

// Element i of the result, of the row of x that starts at `start`.
fn element(start: u32, i: u32, mean: f32, inverse_deviation: f32) -> f32 {
    let normalised = (input[start + i] - mean) * inverse_deviation;
    return normalised * weight[i] + bias[i];
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let first_row = (workgroup.y * workgroups.x + workgroup.x) * ROWS;
    let row = first_row + invocation / LANES;
    let lane = invocation % LANES;
    let width = select(0u, p.width, row < p.rows);
    let start = source_of(row).start;
    var sum = 0.0;
    for (var i = lane; i < width; i += LANES) {
        sum += input[start + i];
    }
    let mean = sum_of_lanes(sum, invocation) / f32(p.width);
    var squares = 0.0;
    for (var i = lane; i < width; i += LANES) {
        let centred = input[start + i] - mean;
        squares += centred * centred;
    }
    let variance = sum_of_lanes(squares, invocation) / f32(p.width);
    let inverse_deviation = inverseSqrt(variance + p.eps);
    if CODES {
        let row = first_row + coded_row(invocation);
        let mean = of_coded_row(mean, invocation);
        let inverse_deviation = of_coded_row(inverse_deviation, invocation);
        if row >= p.rows {
            return;
        }
        let source = source_of(row);
        let matrix = row / p.matrix_rows;
        let encoder = encoder_of(matrix % p.groups);
        let padded_rows = (p.matrix_rows + 3u) / 4u * 4u;
        let words = (p.width + 3u) / 4u;
        let codes_at = matrix * words * padded_rows + row % p.matrix_rows;
        for (var word = first_coded_word(invocation); word < words; word += LANES) {
            let i = 4u * word;
            var values = vec4(
                element(source.start, i, mean, inverse_deviation),
                element(source.start, i + 1u, mean, inverse_deviation),
                element(source.start, i + 2u, mean, inverse_deviation),
                element(source.start, i + 3u, mean, inverse_deviation),
            );
            if source.is_padding {
                values = vec4(0.0);
            }
            // What was computed beyond the row counts as nothing.
            out[codes_at + word * padded_rows] = first_lanes(quantize(values, encoder, p.q), p.width - i);
        }
    } else {
        for (var i = lane; i < width; i += LANES) {
            out[row * p.width + i] = bitcast<u32>(element(start, i, mean, inverse_deviation));
        }
    }
}
