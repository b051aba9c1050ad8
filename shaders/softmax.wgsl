// out = softmax(factor * scores) along each row: exp(factor * (x - max)) over the row's sum of these; factor > 0.
//
// CODES: out has the codes of these values, [row][word], as quantize.wgsl packs them; otherwise the floats, by their
// bits.
//
// One invocation computes one row in three passes: the maximum, then the sum of the exponentials, then the result, for
// which they are computed once more: that takes less than writing and reading them.

struct Parameters {
    rows: u32,
    width: u32,
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
// [groups][2]: 1 / scale_1 and 1 / scale_2.
@group(0) @binding(2) var<storage, read> inverse_scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = parameters;
    let row = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    if row >= p.rows {
        return;
    }
    let start = row * p.width;
    var largest = scores[start];
    for (var i = 1u; i < p.width; i++) {
        largest = max(largest, scores[start + i]);
    }
    var sum = 0.0;
    for (var i = 0u; i < p.width; i++) {
        sum += exp(p.factor * (scores[start + i] - largest));
    }
    let inverse = 1.0 / sum;
    if CODES {
        let group = row / p.group_rows % p.groups;
        let inverse_scale = vec2(inverse_scales[2u * group], inverse_scales[2u * group + 1u]);
        let out_start = row * ((p.width + 3u) / 4u);
        for (var i = 0u; i < p.width; i += 4u) {
            let at = start + i;
            let x = vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            let values = exp(p.factor * (x - largest)) * inverse;
            // What was computed beyond the row counts as nothing.
            let inside = 0xffffffffu >> (32u - 8u * min(p.width - i, 4u));
            out[out_start + i / 4u] = inside & quantize(values, inverse_scale, p.q);
        }
    } else {
        for (var i = 0u; i < p.width; i++) {
            out[start + i] = bitcast<u32>(exp(p.factor * (scores[start + i] - largest)) * inverse);
        }
    }
}
