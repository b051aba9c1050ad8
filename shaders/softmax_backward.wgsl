// The gradient of softmax's scores, row by row: out = factor * p * (grad - sum(p * grad)), p the probabilities.
//
// A row's lanes (shared/rows.wgsl) compute it in two passes: the sum, then the result.

struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> probabilities: array<f32>;
@group(0) @binding(2) var<storage, read> grad: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS + invocation / LANES;
    let lane = invocation % LANES;
    let width = select(0u, p.width, row < p.rows);
    let start = row * p.width;
    var own_sum = 0.0;
    for (var i = lane; i < width; i += LANES) {
        own_sum += probabilities[start + i] * grad[start + i];
    }
    let sum = sum_of_lanes(own_sum, invocation);
    for (var i = lane; i < width; i += LANES) {
        out[start + i] = p.factor * probabilities[start + i] * (grad[start + i] - sum);
    }
}
