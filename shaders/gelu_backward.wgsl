// The gradient of gelu's input x: out = grad * (Phi(x) + x * phi(x)), phi the normal distribution's density.
//
// Phi by the fit of shared/gelu.wgsl. One invocation computes one element.

struct Parameters {
    count: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> grad: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// 1 / sqrt(2 pi)
const DENSITY: f32 = 0.398942280401;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= parameters.count {
        return;
    }
    let x = input[index];
    // From 16 on, the tail is zero in f32.
    let y = min(abs(x), 16.0);
    let exponential = exp(-0.5 * y * y);
    let tail = exponential * scaled_tail(y);
    let slope = select(1.0 - tail, tail, x < 0.0) + x * (exponential * DENSITY);
    out[index] = grad[index] * slope;
}
