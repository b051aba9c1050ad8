// How fast the device can read and write at most: out = input.
//
// A workgroup copies a stretch of 64 * STRIP vectors, neighbouring invocations neighbouring vectors.

struct Parameters {
    // Vectors of four words.
    count: u32,
}

const STRIP: u32 = 16u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let start = (workgroup.y * workgroups.x + workgroup.x) * 64u * STRIP + lane;
    for (var i = 0u; i < STRIP; i++) {
        let at = start + i * 64u;
        if at < parameters.count {
            out[at] = input[at];
        }
    }
}
