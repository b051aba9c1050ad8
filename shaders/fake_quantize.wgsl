// x rounded to the nearest value that its code can stand for: quantize.wgsl and back, in floats. What published code
// does in place of integers; here the other side of a comparison.
//
// One invocation takes one value; out is [problem][row][k]. Formats (shared/formats) and groups are those of quantize.wgsl.

struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    inner_groups: u32,
    group_rows: u32,
    q: f32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
// scale_1, scale_2 and their inverses, of each group; uniform uses the first.
@group(0) @binding(2) var<storage, read> scales: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= p.outer * p.inner * p.rows * p.k {
        return;
    }
    let k = index % p.k;
    let row = index / p.k % p.rows;
    let problem = index / (p.k * p.rows);
    let inner = problem % p.inner;
    let group = inner * p.inner_groups + row / p.group_rows;
    let x = source[p.source.offset
        + problem / p.inner * p.source.outer
        + inner * p.source.inner
        + row * p.source.row
        + k * p.source.column];
    out[index] = value_of_code(x, scales[group], p.q);
}
