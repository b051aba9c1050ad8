// code = quantize(x): floats at any stride to 8-bit lanes, four along k packed into one word, first k lowest.
//
//   FORMAT 0, uniform:       clamp(round(x / scale), -q, q - 1), two's complement
//   FORMAT 1, softmax twin:  round(x / scale_1) while that is at most q - 1 (R1), else 0x80 | clamp(round(x / scale_2))
//   FORMAT 2, GELU twin:     x < 0: clamp(round(-x / scale_1)) (R1), else 0x80 | clamp(round(x / scale_2))
//
// A lane's top bit is a twin's range flag, whatever the bit width; q = 2^(bits - 1). The inverse scales are computed
// once on the host: multiplying by them is rounded alike everywhere, which division is not.
//
// One invocation writes one word. PACK_ROWS: out is [job][problem][row][word], neighbours go along k. Otherwise
// [job][problem][word][row], rows padded to a multiple of four with zeros, neighbours go along the rows.

struct View {
    offset: u32,
    outer: u32,
    inner: u32,
    row: u32,
    column: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    jobs: u32,
    // The scale of a row: group = inner * inner_groups + row / group_rows, of `groups` in all.
    groups: u32,
    inner_groups: u32,
    group_rows: u32,
    q: f32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

override FORMAT: u32 = 0u;
override PACK_ROWS: bool = true;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> source: array<f32>;
// 1 / scale_1 and 1 / scale_2 of [job][group]; uniform uses the first.
@group(0) @binding(2) var<storage, read> inverse_scales: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

fn quantize(x: f32, inverse: vec2<f32>, q: f32) -> u32 {
    if FORMAT == 0u {
        return bitcast<u32>(i32(clamp(round(x * inverse.x), -q, q - 1.0))) & 0xffu;
    }
    let low = round(abs(x) * inverse.x);
    let high = 0x80u | u32(clamp(round(x * inverse.y), 0.0, q - 1.0));
    if FORMAT == 1u {
        return select(high, u32(max(low, 0.0)), low <= q - 1.0);
    }
    return select(high, u32(min(low, q - 1.0)), x < 0.0);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let words = (p.k + 3u) / 4u;
    var rows_out = p.rows;
    if !PACK_ROWS {
        rows_out = (p.rows + 3u) / 4u * 4u;
    }
    let matrix = index / (words * rows_out);
    if matrix >= p.jobs * p.outer * p.inner {
        return;
    }
    let within = index % (words * rows_out);
    var row = within / words;
    var word = within % words;
    if !PACK_ROWS {
        row = within % rows_out;
        word = within / rows_out;
    }
    if row >= p.rows {
        codes[index] = 0u;
        return;
    }
    let job = matrix / (p.outer * p.inner);
    let outer = matrix / p.inner % p.outer;
    let inner = matrix % p.inner;
    let group = inner * p.inner_groups + row / p.group_rows;
    let inverse = inverse_scales[job * p.groups + group];
    let start = p.source.offset + outer * p.source.outer + inner * p.source.inner + row * p.source.row;
    var packed = 0u;
    for (var lane_k = 0u; lane_k < 4u; lane_k++) {
        let k = word * 4u + lane_k;
        if k < p.k {
            packed |= quantize(source[start + k * p.source.column], inverse, p.q) << (8u * lane_k);
        }
    }
    codes[index] = packed;
}
