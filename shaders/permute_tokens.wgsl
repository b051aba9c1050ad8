// Reorders the tokens of each image: out[b, t] = tokens[b, order[t]], or zero where order names no token. Swin's windows with
// their padding, their cyclic shift, the way back, and the merging of patches are all of this kind, and so are their
// gradients.
//
// One invocation copies one element; neighbours write neighbours.

struct Parameters {
    // Elements of the result.
    count: u32,
    // Tokens of one image in the result, and in the input.
    tokens: u32,
    input_tokens: u32,
    // Elements of one token.
    dim: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= p.count {
        return;
    }
    let token = index / p.dim % p.tokens;
    let image = index / (p.dim * p.tokens);
    let input_token = order[token];
    var value = 0.0;
    if input_token < p.input_tokens {
        value = input[(image * p.input_tokens + input_token) * p.dim + index % p.dim];
    }
    out[index] = value;
}
