// out = softmax(factor * scores) along each row: exp(factor * (x - max)) over the row's sum of these; factor > 0.
//
// CODES: out has the codes of these values, as quantize.wgsl lays them out; otherwise the floats, by their bits.
//
// A row's lanes (shared/rows.wgsl) compute it in three passes: the maximum, then the sum of the exponentials, then the
// result, for which they are computed once more: that takes less than writing and reading them.

struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
    // Codes: consecutive rows that make a matrix; the encoder of a matrix is number matrix % groups.
    matrix_rows: u32,
    groups: u32,
    q: f32,
}

override CODES: bool = false;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
// [groups]
@group(0) @binding(2) var<storage, read> encoders: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

fn encoder_word(at: u32) -> u32 {
    return encoders[at];
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
    let start = row * p.width;
    // A lane may have no element of its own.
    var own_largest = scores[start];
    for (var i = lane; i < width; i += LANES) {
        own_largest = max(own_largest, scores[start + i]);
    }
    let largest = max_of_lanes(own_largest, invocation);
    var sum = 0.0;
    for (var i = lane; i < width; i += LANES) {
        sum += exp(p.factor * (scores[start + i] - largest));
    }
    let inverse = 1.0 / sum_of_lanes(sum, invocation);
    if CODES {
        let row = first_row + coded_row(invocation);
        let largest = of_coded_row(largest, invocation);
        let inverse = of_coded_row(inverse, invocation);
        if row >= p.rows {
            return;
        }
        let start = row * p.width;
        let matrix = row / p.matrix_rows;
        let encoder = encoder_of(matrix % p.groups);
        let padded_rows = (p.matrix_rows + 3u) / 4u * 4u;
        let words = (p.width + 3u) / 4u;
        let codes_at = matrix * words * padded_rows + row % p.matrix_rows;
        for (var word = first_coded_word(invocation); word < words; word += LANES) {
            let i = 4u * word;
            let at = start + i;
            let x = vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            let values = exp(p.factor * (x - largest)) * inverse;
            // What was computed beyond the row counts as nothing.
            out[codes_at + word * padded_rows] = first_lanes(quantize(values, encoder, p.q), p.width - i);
        }
    } else {
        for (var i = lane; i < width; i += LANES) {
            out[start + i] = bitcast<u32>(exp(p.factor * (scores[start + i] - largest)) * inverse);
        }
    }
}
