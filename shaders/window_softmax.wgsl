// out = softmax(factor * scores + bias + mask) along each row, Swin's attention: bias [heads, tokens, tokens] is that of
// the tokens' relative positions, mask [windows, tokens, tokens] keeps apart what a shifted window brought together. The
// rows of scores [images, windows, heads, tokens, tokens] count tokens, then heads, then windows.
//
// CODES: out has the codes of these values, [row][word], as quantize.wgsl packs them; otherwise the floats, by their
// bits.
//
// One invocation computes one row in three passes: the maximum of the biased scores, then the sum of their exponentials,
// then the result, for which they are computed once more: that takes less than writing and reading them.

struct Parameters {
    rows: u32,
    tokens: u32,
    heads: u32,
    windows: u32,
    factor: f32,
    // The scale of a row: row / group_rows % groups.
    groups: u32,
    group_rows: u32,
    q: f32,
}

override CODES: bool = false;
override FORMAT: u32 = 0u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
// [groups][2]: 1 / scale_1 and 1 / scale_2.
@group(0) @binding(4) var<storage, read> inverse_scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;

// From here to the end of quantize() as in quantize.wgsl.
const ROUNDER: f32 = 12582912.0;

fn quantize(x: vec4<f32>, inverse: vec2<f32>, q: f32) -> u32 {
    var rounded: vec4<f32>;
    if FORMAT == 0u {
        rounded = clamp(x * inverse.x, vec4(-q), vec4(q - 1.0)) + ROUNDER;
    } else {
        let in_r2 = min(x * inverse.y, vec4(q - 1.0)) + (ROUNDER + 128.0);
        if FORMAT == 1u {
            let in_r1 = min(x * inverse.x, vec4(q)) + ROUNDER;
            rounded = select(in_r2, in_r1, in_r1 < vec4(ROUNDER + q));
        } else {
            let in_r1 = min(-x * inverse.x, vec4(q - 1.0)) + ROUNDER;
            rounded = select(in_r2, in_r1, x < vec4(0.0));
        }
    }
    let lanes = bitcast<vec4<u32>>(rounded) & vec4(0xffu);
    return lanes.x | (lanes.y << 8u) | (lanes.z << 16u) | (lanes.w << 24u);
}

// Where a row starts: its scores, its head's bias, its window's mask.
struct Row {
    scores: u32,
    bias: u32,
    mask: u32,
}

fn biased(row: Row, i: u32) -> f32 {
    return parameters.factor * scores[row.scores + i] + (bias[row.bias + i] + mask[row.mask + i]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if index >= p.rows {
        return;
    }
    let head_rows = p.heads * p.tokens;
    let row = Row(
        index * p.tokens,
        index % head_rows * p.tokens,
        (index / head_rows % p.windows * p.tokens + index % p.tokens) * p.tokens,
    );
    var largest = biased(row, 0u);
    for (var i = 1u; i < p.tokens; i++) {
        largest = max(largest, biased(row, i));
    }
    var sum = 0.0;
    for (var i = 0u; i < p.tokens; i++) {
        sum += exp(biased(row, i) - largest);
    }
    let inverse = 1.0 / sum;
    if CODES {
        let group = index / p.group_rows % p.groups;
        let inverse_scale = vec2(inverse_scales[2u * group], inverse_scales[2u * group + 1u]);
        let out_start = index * ((p.tokens + 3u) / 4u);
        for (var i = 0u; i < p.tokens; i += 4u) {
            let x = vec4(biased(row, i), biased(row, i + 1u), biased(row, i + 2u), biased(row, i + 3u));
            let values = exp(x - largest) * inverse;
            // What was computed beyond the row counts as nothing.
            let inside = 0xffffffffu >> (32u - 8u * min(p.tokens - i, 4u));
            out[out_start + i / 4u] = inside & quantize(values, inverse_scale, p.q);
        }
    } else {
        for (var i = 0u; i < p.tokens; i++) {
            out[row.scores + i] = bitcast<u32>(exp(biased(row, i) - largest) * inverse);
        }
    }
}
