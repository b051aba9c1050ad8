// out = input * factors, a factor for each column: LayerScale, and its gradient.
//
// One invocation computes one element.

struct Parameters {
    // Elements.
    count: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if at < parameters.count {
        out[at] = input[at] * factors[at % parameters.columns];
    }
}
