// out = (x - mean) / sqrt(variance + eps) * weight + bias, for each row of x on its own; the variance is the biased one.
//
// CODES: out has the codes of these values, as quantize.wgsl lays them out; otherwise the floats, by their bits. Row (image,
// token) of the codes is made of row (image, order[token]) of x, or of zeros where order names no token.
//
// One invocation computes one row in three passes: the mean, then the variance about it, then the result.

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

// Element i of the result, of the row of x that starts at `start`.
fn element(start: u32, i: u32, mean: f32, inverse_deviation: f32) -> f32 {
    let normalised = (input[start + i] - mean) * inverse_deviation;
    return normalised * weight[i] + bias[i];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if row >= p.rows {
        return;
    }
    var input_row = row;
    var is_padding = false;
    if p.tokens > 0u {
        let token = order[row % p.tokens];
        is_padding = token >= p.input_tokens;
        input_row = row / p.tokens * p.input_tokens + select(token, 0u, is_padding);
    }
    let start = p.input_offset + input_row * p.input_stride;
    var sum = 0.0;
    for (var i = 0u; i < p.width; i++) {
        sum += input[start + i];
    }
    let mean = sum / f32(p.width);
    var squares = 0.0;
    for (var i = 0u; i < p.width; i++) {
        let centred = input[start + i] - mean;
        squares += centred * centred;
    }
    let inverse_deviation = inverseSqrt(squares / f32(p.width) + p.eps);
    if CODES {
        let matrix = row / p.matrix_rows;
        let encoder = encoder_of(matrix % p.groups);
        let padded_rows = (p.matrix_rows + 3u) / 4u * 4u;
        var word_at = matrix * ((p.width + 3u) / 4u) * padded_rows + row % p.matrix_rows;
        for (var i = 0u; i < p.width; i += 4u) {
            var values = vec4(
                element(start, i, mean, inverse_deviation),
                element(start, i + 1u, mean, inverse_deviation),
                element(start, i + 2u, mean, inverse_deviation),
                element(start, i + 3u, mean, inverse_deviation),
            );
            if is_padding {
                values = vec4(0.0);
            }
            // What was computed beyond the row counts as nothing.
            out[word_at] = first_lanes(quantize(values, encoder, p.q), p.width - i);
            word_at += padded_rows;
        }
    } else {
        for (var i = 0u; i < p.width; i++) {
            out[row * p.width + i] = bitcast<u32>(element(start, i, mean, inverse_deviation));
        }
    }
}
