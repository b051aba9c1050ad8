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

// Whether lanes have a range flag.
override TWIN: bool = false;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
// [groups]
@group(0) @binding(2) var<storage, read> encoders: array<u32>;
// Of each group what lanes of R1 and of R2 are multiplied by, what is added, and no less than any product: the minimum
// with it keeps the sum from becoming a fused multiply-add, which rounds only once.
@group(0) @binding(3) var<storage, read> decoders: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn encoder_word(at: u32) -> u32 {
    return encoders[at];
}

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
    let code = quantize(vec4(x), encoder_of(group), p.q) & 0xffu;
    let decoder = decoders[group];
    var product = f32(i32(code << 24u) >> 24u) * decoder.x;
    if TWIN {
        product = f32(code & 0x7fu) * select(decoder.x, decoder.y, code >= 0x80u);
    }
    out[index] = min(product, decoder.w) + decoder.z;
}
