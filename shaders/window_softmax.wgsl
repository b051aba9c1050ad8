// out = softmax(factor * scores + bias + mask) along each row, Swin's attention: bias [heads, tokens, tokens] is that of
// the tokens' relative positions, mask [windows, tokens, tokens] keeps apart what a shifted window brought together. The
// rows of scores [images, windows, heads, tokens, tokens] count tokens, then heads, then windows.
//
// CODES: out has the codes of these values, as quantize.wgsl lays them out; otherwise the floats, by their bits.
//
// A row's lanes (shared/rows.wgsl) compute it in three passes: the maximum of the biased scores, then the sum of their
// exponentials, then the result, for which they are computed once more: that takes less than writing and reading them.

struct Parameters {
    rows: u32,
    tokens: u32,
    heads: u32,
    windows: u32,
    factor: f32,
    // Codes: consecutive rows that make a matrix; the encoder of a matrix is number matrix % groups.
    matrix_rows: u32,
    groups: u32,
    q: f32,
}

override CODES: bool = false;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
// [groups]
@group(0) @binding(4) var<storage, read> encoders: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;

fn encoder_word(at: u32) -> u32 {
    return encoders[at];
}

// Where a row starts: its scores, its head's bias, its window's mask.
struct Row {
    scores: u32,
    bias: u32,
    mask: u32,
}

fn row_at(index: u32) -> Row {
    let p = parameters;
    let head_rows = p.heads * p.tokens;
    return Row(
        index * p.tokens,
        index % head_rows * p.tokens,
        (index / head_rows % p.windows * p.tokens + index % p.tokens) * p.tokens,
    );
}

fn biased(row: Row, i: u32) -> f32 {
    return parameters.factor * scores[row.scores + i] + (bias[row.bias + i] + mask[row.mask + i]);
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let first_index = (workgroup.y * workgroups.x + workgroup.x) * ROWS;
    let index = first_index + invocation / LANES;
    let lane = invocation % LANES;
    let tokens = select(0u, p.tokens, index < p.rows);
    let row = row_at(index);
    // A lane may have no element of its own.
    var own_largest = biased(row, 0u);
    for (var i = lane; i < tokens; i += LANES) {
        own_largest = max(own_largest, biased(row, i));
    }
    let largest = max_of_lanes(own_largest, invocation);
    var sum = 0.0;
    for (var i = lane; i < tokens; i += LANES) {
        sum += exp(biased(row, i) - largest);
    }
    let inverse = 1.0 / sum_of_lanes(sum, invocation);
    if CODES {
        let index = first_index + coded_row(invocation);
        let largest = of_coded_row(largest, invocation);
        let inverse = of_coded_row(inverse, invocation);
        if index >= p.rows {
            return;
        }
        let row = row_at(index);
        let matrix = index / p.matrix_rows;
        let encoder = encoder_of(matrix % p.groups);
        let padded_rows = (p.matrix_rows + 3u) / 4u * 4u;
        let words = (p.tokens + 3u) / 4u;
        let codes_at = matrix * words * padded_rows + index % p.matrix_rows;
        for (var word = first_coded_word(invocation); word < words; word += LANES) {
            let i = 4u * word;
            let x = vec4(biased(row, i), biased(row, i + 1u), biased(row, i + 2u), biased(row, i + 3u));
            let values = exp(x - largest) * inverse;
            // What was computed beyond the row counts as nothing.
            out[codes_at + word * padded_rows] = first_lanes(quantize(values, encoder, p.q), p.tokens - i);
        }
    } else {
        for (var i = lane; i < tokens; i += LANES) {
            out[row.scores + i] = bitcast<u32>(exp(biased(row, i) - largest) * inverse);
        }
    }
}
