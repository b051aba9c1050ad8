// What the device can compute at most in f32: multiply-adds on registers, and nothing else.
//
// One invocation runs eight chains of x = x * factor + term, independent of each other, so that none waits for another's
// result, and writes their sum. Eight fill the registers of a software driver and no more. Sixteen steps a round make the
// loop's own cost small.

struct Parameters {
    count: u32,
    rounds: u32,
    factor: f32,
    term: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

fn steps(start: vec4<f32>, factor: vec4<f32>, term: vec4<f32>) -> vec4<f32> {
    var x = start;
    x = fma(x, factor, term);
    x = fma(x, factor, term);
    x = fma(x, factor, term);
    x = fma(x, factor, term);
    return x;
}

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
    let factor = vec4(parameters.factor);
    let term = vec4(parameters.term);
    var x = vec4(f32(index % 16u)) + vec4(0.0, 1.0, 2.0, 3.0);
    var y = x + 4.0;
    for (var round = 0u; round < parameters.rounds; round++) {
        x = steps(x, factor, term);
        y = steps(y, factor, term);
        x = steps(x, factor, term);
        y = steps(y, factor, term);
        x = steps(x, factor, term);
        y = steps(y, factor, term);
        x = steps(x, factor, term);
        y = steps(y, factor, term);
    }
    let sum = x + y;
    out[index] = sum.x + sum.y + sum.z + sum.w;
}
