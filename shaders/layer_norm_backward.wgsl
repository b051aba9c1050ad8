// The gradient of layer_norm's input x, row by row. With n = (x - mean) / sqrt(variance + eps) and h = grad * weight,
//
//   out = (h - mean(h) - n * mean(h * n)) / sqrt(variance + eps)
//
// A row's lanes (shared/rows.wgsl) compute it and recompute its statistics; out is laid out as x is, the rest of it stays
// as it was.

struct Parameters {
    rows: u32,
    width: u32,
    // Where the first row of x and of out starts, and elements from the start of one row to the start of the next; the rows
    // of grad are contiguous.
    input_offset: u32,
    input_stride: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> grad: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

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
    let start = p.input_offset + row * p.input_stride;
    let grad_start = row * p.width;
    var sum = 0.0;
    for (var i = lane; i < width; i += LANES) {
        sum += input[start + i];
    }
    let mean = sum_of_lanes(sum, invocation) / f32(p.width);
    var squares = 0.0;
    for (var i = lane; i < width; i += LANES) {
        let centred = input[start + i] - mean;
        squares += centred * centred;
    }
    let variance = sum_of_lanes(squares, invocation) / f32(p.width);
    let inverse_deviation = inverseSqrt(variance + p.eps);
    var sum_h = 0.0;
    var sum_hn = 0.0;
    for (var i = lane; i < width; i += LANES) {
        let h = grad[grad_start + i] * weight[i];
        sum_h += h;
        sum_hn += h * ((input[start + i] - mean) * inverse_deviation);
    }
    let mean_h = sum_of_lanes(sum_h, invocation) / f32(p.width);
    let mean_hn = sum_of_lanes(sum_hn, invocation) / f32(p.width);
    for (var i = lane; i < width; i += LANES) {
        let h = grad[grad_start + i] * weight[i];
        let normalised = (input[start + i] - mean) * inverse_deviation;
        out[start + i] = inverse_deviation * (h - mean_h - normalised * mean_hn);
    }
}
