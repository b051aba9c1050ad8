// The gradient of gate's input [rows, 2 width], whose halves are x and y: in each row grad * y * gelu'(x)
// (shared/gelu_slope.wgsl), then grad * gelu(x).
//
// One invocation computes STRIP pairs of elements, 64 apart.

struct Parameters {
    // Elements of grad.
    count: u32,
    width: u32,
}

const STRIP: u32 = 4u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> grad: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let start = (workgroup.y * workgroups.x + workgroup.x) * 64u * STRIP + lane;
    for (var step = 0u; step < STRIP; step++) {
        let at = start + step * 64u;
        if at < p.count {
            // A row of input is two rows of grad long.
            let first = at + at / p.width * p.width;
            let second = first + p.width;
            let x = vec4(input[first]);
            out[first] = grad[at] * input[second] * gelu_slope(x).x;
            out[second] = grad[at] * gelu(x).x;
        }
    }
}
