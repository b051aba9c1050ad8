// The mean of each image's tokens: [batch, tokens, dim] to [batch, dim].
//
// One invocation computes one element of the result.

struct Parameters {
    batch: u32,
    tokens: u32,
    dim: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= p.batch * p.dim {
        return;
    }
    let start = index / p.dim * p.tokens * p.dim + index % p.dim;
    var sum = 0.0;
    for (var t = 0u; t < p.tokens; t++) {
        sum += tokens[start + t * p.dim];
    }
    out[index] = sum / f32(p.tokens);
}
