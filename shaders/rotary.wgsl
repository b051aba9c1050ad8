// qkv [images, tokens, 3, heads, head_dim] with queries and keys of patches turned: feature d and feature d + head_dim / 2
// are a pair, (a, b), and become (a cos - b sin, b cos + a sin). Values stay as they are, and so do the tokens before the
// patches. Back the way it came a pair turns by the angle's opposite.
//
// One invocation computes one element.

struct Parameters {
    // Elements.
    count: u32,
    tokens: u32,
    // Tokens before the patches.
    prefix: u32,
    heads: u32,
    head_dim: u32,
    // 1, or -1 to turn back.
    direction: f32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
// Cosine and sine of each patch and pair: [patches, head_dim / 2].
@group(0) @binding(2) var<storage, read> turns: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let at = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if at >= p.count {
        return;
    }
    let dim = p.heads * p.head_dim;
    let token = at / (3u * dim) % p.tokens;
    if token < p.prefix || at / dim % 3u == 2u {
        out[at] = qkv[at];
        return;
    }
    let half_dim = p.head_dim / 2u;
    let feature = at % p.head_dim;
    let turn = turns[(token - p.prefix) * half_dim + feature % half_dim];
    if feature < half_dim {
        out[at] = qkv[at] * turn.x - qkv[at + half_dim] * (turn.y * p.direction);
    } else {
        out[at] = qkv[at] * turn.x + qkv[at - half_dim] * (turn.y * p.direction);
    }
}
