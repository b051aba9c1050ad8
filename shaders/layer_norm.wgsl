// out = (x - mean) / sqrt(variance + eps) * weight + bias, for each row of x on its own; the variance is the biased one.
//
// One invocation computes one row in three passes: the mean, then the variance about it, then the result.

struct Parameters {
    rows: u32,
    width: u32,
    // Where the first row of x starts, and elements from the start of one row to the start of the next; the rows of out
    // are contiguous.
    input_offset: u32,
    input_stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
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
    let start = p.input_offset + row * p.input_stride;
    var sum = 0.0;
    for (var i = 0u; i < p.width; i++) {
        sum += input[start + i];
    }
    let mean = sum / f32(p.width);
    var squares = 0.0;
    for (var i = 0u; i < p.width; i++) {
        let centred = input[start + i] - mean;
        squares += centred * centred;
    }
    let inverse_deviation = inverseSqrt(squares / f32(p.width) + p.eps);
    for (var i = 0u; i < p.width; i++) {
        let normalised = (input[start + i] - mean) * inverse_deviation;
        out[row * p.width + i] = normalised * weight[i] + bias[i];
    }
}
