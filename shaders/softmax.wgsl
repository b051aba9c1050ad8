// out = softmax(factor * scores) along each row: exp(factor * (x - max)) over the row's sum of these; factor > 0.
//
// One invocation computes one row in three passes: the maximum, then the exponentials and their sum, then the division.

struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
        let exponential = exp(p.factor * (scores[start + i] - largest));
        out[start + i] = exponential;
        sum += exponential;
    }
    let inverse = 1.0 / sum;
    for (var i = 0u; i < p.width; i++) {
        out[start + i] *= inverse;
    }
}
