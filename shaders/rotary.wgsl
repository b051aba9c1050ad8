// qkv [images, tokens, 3, heads, head_dim] with queries and keys of patches turned: feature d and feature d + apart are a
// pair, (a, b), and become (a cos - b sin, b cos + a sin). Values stay as they are, and so do the tokens before the
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
    // Places between the two features of a pair: head_dim / 2, or 1 where they are neighbours.
    apart: u32,
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
    let feature = at % p.head_dim;
    // As many first features of pairs follow each other as lie between the two of a pair.
    let pair = feature / (2u * p.apart) * p.apart + feature % p.apart;
    let turn = turns[(token - p.prefix) * (p.head_dim / 2u) + pair];
    if feature / p.apart % 2u == 0u {
        out[at] = qkv[at] * turn.x - qkv[at + p.apart] * (turn.y * p.direction);
    } else {
        out[at] = qkv[at] * turn.x + qkv[at - p.apart] * (turn.y * p.direction);
    }
}
