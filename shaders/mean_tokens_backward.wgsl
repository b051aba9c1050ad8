// The gradient of mean_tokens' tokens: each token of an image gets its share of grad [batch, dim].
//
// One invocation computes one element of the result [batch, tokens, dim].

struct Parameters {
    batch: u32,
    tokens: u32,
    dim: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= p.batch * p.tokens * p.dim {
        return;
    }
    let image = index / (p.tokens * p.dim);
    out[index] = grad[image * p.dim + index % p.dim] / f32(p.tokens);
}
