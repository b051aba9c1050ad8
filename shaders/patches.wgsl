// The pixels under each patch of an image as one row: [batch, channels, height, width] to
// [batch, rows * columns, channels * patch * patch]. Patches go row by row over the image, a patch's pixels in the
// order of a convolution's weight: channel, then line, then column.
//
// One invocation copies one pixel; neighbours write neighbours.

struct Parameters {
    // Elements of the result.
    count: u32,
    channels: u32,
    // Of an image, in pixels.
    height: u32,
    width: u32,
    patch_size: u32,
    // Of an image's patches.
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> images: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

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
    let pixels = p.patch_size * p.patch_size;
    let pixel = index % pixels;
    let channel = index / pixels % p.channels;
    let patch_index = index / (pixels * p.channels) % (p.rows * p.columns);
    let image = index / (pixels * p.channels * p.rows * p.columns);
    let line = patch_index / p.columns * p.patch_size + pixel / p.patch_size;
    let column = patch_index % p.columns * p.patch_size + pixel % p.patch_size;
    out[index] = images[((image * p.channels + channel) * p.height + line) * p.width + column];
}
