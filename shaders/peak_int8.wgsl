// What the device can compute at most in packed 8-bit integers: dot4I8Packed on registers, and nothing else.
//
// One invocation runs eight chains of x = x + dot4I8Packed(x, operand), independent of each other, so that none waits for
// another's result, and writes their sum. A step's operand is the last step's result: no compiler can take it out of the
// loop. Sums wrap.

struct Parameters {
    count: u32,
    rounds: u32,
    operand: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

fn step(x: vec4<i32>, operand: u32) -> vec4<i32> {
    let codes = bitcast<vec4<u32>>(x);
    return x + vec4(
        dot4I8Packed(codes.x, operand),
        dot4I8Packed(codes.y, operand),
        dot4I8Packed(codes.z, operand),
        dot4I8Packed(codes.w, operand),
    );
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
    let operand = parameters.operand;
    var x = vec4(i32(index)) + vec4(0i, 1i, 2i, 3i);
    var y = x + 4i;
    for (var round = 0u; round < parameters.rounds; round++) {
        x = step(x, operand);
        y = step(y, operand);
        x = step(x, operand);
        y = step(y, operand);
        x = step(x, operand);
        y = step(y, operand);
        x = step(x, operand);
        y = step(y, operand);
    }
    let sum = x + y;
    out[index] = bitcast<u32>(sum.x + sum.y + sum.z + sum.w);
}
