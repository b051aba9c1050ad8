// out [rows, width] of input [rows, 2 width]: in each row the first half's GELU (shared/gelu.wgsl) times the second half.
//
// One invocation computes STRIP vectors of four neighbouring elements, 64 vectors apart. Buffers are whole vectors long, so
// the last may hold more than there is.

struct Parameters {
    // Elements of out.
    count: u32,
    width: u32,
}

const STRIP: u32 = 4u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let start = (workgroup.y * workgroups.x + workgroup.x) * 64u * STRIP + lane;
    for (var step = 0u; step < STRIP; step++) {
        let at = start + step * 64u;
        if at * 4u < p.count {
            let element = min(at * 4u + vec4(0u, 1u, 2u, 3u), vec4(p.count - 1u));
            // A row of input is two rows of out long.
            let first = element + element / p.width * p.width;
            out[at] = gelu(elements(first)) * elements(first + p.width);
        }
    }
}

fn elements(at: vec4<u32>) -> vec4<f32> {
    return vec4(input[at.x], input[at.y], input[at.z], input[at.w]);
}
