// The gradient of gelu's input x: out = grad * (Phi(x) + x * phi(x)), phi the normal distribution's density; of the forms
// x * logistic(u), whose derivative is logistic * (1 - logistic), grad * (logistic(u) + x * u' * logistic'(u)).
//
// Phi and the logistic function are those of shared/gelu.wgsl.
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

fn gelu_slope(x: vec4<f32>) -> vec4<f32> {
    if GELU_FORM != EXACT_FORM {
        let share = logistic_share(x);
        // Where x is beyond 64, the tail is zero.
        return share.whole + x * (share.slope * (share.tail * (1.0 - share.tail)));
    }
    // From 16 on, the tail is zero in f32.
    let y = min(abs(x), vec4(16.0));
    let exponential = exp(-0.5 * y * y);
    let tail = exponential * scaled_tail(y);
    return select(1.0 - tail, tail, x < vec4(0.0)) + x * (exponential * DENSITY);
}
