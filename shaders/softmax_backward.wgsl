// The gradient of softmax's scores, row by row: out = factor * p * (grad - sum(p * grad)), p the probabilities.
//
// One invocation computes one row in two passes: the sum, then the result.

struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> probabilities: array<f32>;
@group(0) @binding(2) var<storage, read> grad: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    var sum = 0.0;
    for (var i = 0u; i < p.width; i++) {
        sum += probabilities[start + i] * grad[start + i];
    }
    for (var i = 0u; i < p.width; i++) {
        out[start + i] = p.factor * probabilities[start + i] * (grad[start + i] - sum);
    }
}
