// out = softmax(factor * scores + bias + mask) along each row, Swin's attention: bias [heads, tokens, tokens] is that of
// the tokens' relative positions, mask [windows, tokens, tokens] keeps apart what a shifted window brought together. The
// rows of scores [images, windows, heads, tokens, tokens] count tokens, then heads, then windows.
//
// One invocation computes one row in three passes: the biased scores and their maximum, then the exponentials and their
// sum, then the division.

struct Parameters {
    rows: u32,
    tokens: u32,
    heads: u32,
    windows: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

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
    let start = row * p.tokens;
    let head_rows = p.heads * p.tokens;
    let bias_start = row % head_rows * p.tokens;
    let mask_start = (row / head_rows % p.windows * p.tokens + row % p.tokens) * p.tokens;
    var largest = p.factor * scores[start] + (bias[bias_start] + mask[mask_start]);
    for (var i = 0u; i < p.tokens; i++) {
        let score = p.factor * scores[start + i] + (bias[bias_start + i] + mask[mask_start + i]);
        out[start + i] = score;
        largest = max(largest, score);
    }
    var sum = 0.0;
    for (var i = 0u; i < p.tokens; i++) {
        let exponential = exp(out[start + i] - largest);
        out[start + i] = exponential;
        sum += exponential;
    }
    let inverse = 1.0 / sum;
    for (var i = 0u; i < p.tokens; i++) {
        out[start + i] *= inverse;
    }
}
