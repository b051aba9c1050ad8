// The gradient of gelu's input x: out = grad * gelu'(x), element by element (shared/gelu_slope.wgsl).
//
// One invocation computes STRIP vectors of four elements, 64 apart. Buffers are whole vectors long, so the last may hold
// more than there is.

struct Parameters {
    // Vectors.
    count: u32,
}

const STRIP: u32 = 4u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let start = (workgroup.y * workgroups.x + workgroup.x) * 64u * STRIP + lane;
    for (var step = 0u; step < STRIP; step++) {
        let at = start + step * 64u;
        if at < parameters.count {
            out[at] = grad[at] * gelu_slope(input[at]);
        }
    }
}
