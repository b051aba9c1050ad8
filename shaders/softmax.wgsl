// out = softmax(factor * scores) along each row: exp(factor * (x - max)) over the row's sum of these; factor > 0.
//
// CODES: out has the codes of these values, as quantize.wgsl lays them out; otherwise the floats, by their bits.
//
// One invocation computes one row in three passes: the maximum, then the sum of the exponentials, then the result, for
// which they are computed once more: that takes less than writing and reading them.

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
    let start = row * p.width;
    var largest = scores[start];
    for (var i = 1u; i < p.width; i++) {
        largest = max(largest, scores[start + i]);
    }
    var sum = 0.0;
    for (var i = 0u; i < p.width; i++) {
        sum += exp(p.factor * (scores[start + i] - largest));
    }
    let inverse = 1.0 / sum;
    if CODES {
        let matrix = row / p.matrix_rows;
        let encoder = encoder_of(matrix % p.groups);
        let padded_rows = (p.matrix_rows + 3u) / 4u * 4u;
        var word_at = matrix * ((p.width + 3u) / 4u) * padded_rows + row % p.matrix_rows;
        for (var i = 0u; i < p.width; i += 4u) {
            let at = start + i;
            let x = vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            let values = exp(p.factor * (x - largest)) * inverse;
            // What was computed beyond the row counts as nothing.
            out[word_at] = first_lanes(quantize(values, encoder, p.q), p.width - i);
            word_at += padded_rows;
        }
    } else {
        for (var i = 0u; i < p.width; i++) {
            out[start + i] = bitcast<u32>(exp(p.factor * (scores[start + i] - largest)) * inverse);
        }
    }
}
