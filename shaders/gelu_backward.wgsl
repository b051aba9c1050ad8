// The gradient of gelu's input x: out = grad * (Phi(x) + x * phi(x)), phi the normal distribution's density.
//
// Phi as in gelu.wgsl, where the fit is explained.
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

// 1 / sqrt(2 pi)
const DENSITY: f32 = 0.398942280401;

// Phi(-y) / exp(-y * y / 2) for y >= 0.
fn scaled_tail(y: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / (1.0 + 0.3 * y);
    var p = vec4(-0.0206127308517);
    p = p * t + 0.112375267284;
    p = p * t - 0.228066367584;
    p = p * t + 0.191580239846;
    p = p * t - 0.0792461918865;
    p = p * t + 0.096057247526;
    p = p * t + 0.0784257683488;
    p = p * t + 0.110227286325;
    p = p * t + 0.119572845373;
    p = p * t + 0.119686633896;
    return p * t;
}

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
            let x = input[at];
            // From 16 on, the tail is zero in f32.
            let y = min(abs(x), vec4(16.0));
            let exponential = exp(-0.5 * y * y);
            let tail = exponential * scaled_tail(y);
            let slope = select(1.0 - tail, tail, x < vec4(0.0)) + x * (exponential * DENSITY);
            out[at] = grad[at] * slope;
        }
    }
}
