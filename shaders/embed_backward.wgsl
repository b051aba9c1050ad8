// The gradient of embed's patch embeddings: grad [batch, prefix + patches, dim] without each image's
// prefix tokens.
//
// One invocation copies one element.

struct Parameters {
    batch: u32,
    patches: u32,
    dim: u32,
    // Tokens before an image's patches.
    prefix: u32,
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
    let image_patches = p.patches * p.dim;
    if index >= p.batch * image_patches {
        return;
    }
    let image = index / image_patches;
    out[index] = grad[index + (image + 1u) * p.prefix * p.dim];
}
