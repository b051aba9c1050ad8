// tokens [batch, prefix + patches, dim]: the prefix tokens (class token, distillation token), then an image's patch
// embeddings, with the position embeddings [prefix + patches, dim] added to all of them.
//
// One invocation computes one element.

struct Parameters {
    batch: u32,
    patches: u32,
    dim: u32,
    // Tokens before an image's patches.
    prefix: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> patch_embeddings: array<f32>;
@group(0) @binding(2) var<storage, read> prefix: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<f32>;
@group(0) @binding(4) var<storage, read_write> tokens: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let image_tokens = (p.patches + p.prefix) * p.dim;
    if index >= p.batch * image_tokens {
        return;
    }
    let within = index % image_tokens;
    let prefix_len = p.prefix * p.dim;
    var value = 0.0;
    if within < prefix_len {
        value = prefix[within];
    } else {
        value = patch_embeddings[index / image_tokens * p.patches * p.dim + within - prefix_len];
    }
    tokens[index] = value + positions[within];
}
