// out[problem][k][line] = input, an operand of a matrix product laid out so that one load brings four lines: the rows of a
// left operand or the columns of a right one, each at its own strides in the input.
//
// Lines are padded to whole tiles of the product (float_product.wgsl) with copies of the last one. One invocation packs
// four lines for STEPS steps of k: an integer division costs several times what moving an element does. Neighbours take
// neighbouring lines.

struct Parameters {
    // A row is a line, a column a step of k.
    input: View,
    problems: u32,
    inner: u32,
    lines: u32,
    quads: u32,
    k: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

const STEPS: u32 = 16u;

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
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let strips = (p.k + STEPS - 1u) / STEPS;
    let quad = index % p.quads;
    let strip = index / p.quads % strips;
    let problem = index / (p.quads * strips);
    if problem >= p.problems {
        return;
    }
    let line = min(vec4(quad * 4u) + vec4(0u, 1u, 2u, 3u), vec4(p.lines - 1u));
    let matrix = p.input.offset + problem / p.inner * p.input.outer + problem % p.inner * p.input.inner;
    let end = min((strip + 1u) * STEPS, p.k);
    for (var k = strip * STEPS; k < end; k++) {
        let at = matrix + line * p.input.row + k * p.input.column;
        out[(problem * p.k + k) * p.quads + quad] = vec4(input[at.x], input[at.y], input[at.z], input[at.w]);
    }
}
