// out = (x - mean) / sqrt(variance + eps) * weight + bias, for each row of x on its own; the variance is the biased one.
//
// CODES: out has the codes of these values, [row][word], as quantize.wgsl packs them; otherwise the floats, by their
// bits. Row (image, token) of out is made of row (image, order[token]) of x.
//
// One invocation computes one row in three passes: the mean, then the variance about it, then the result.

struct Parameters {
    rows: u32,
    width: u32,
    // Where the first row of x starts, and elements from the start of one row to the start of the next; the rows of out
    // are contiguous.
    input_offset: u32,
    input_stride: u32,
    eps: f32,
    // Tokens of an image that order moves about; 0 leaves them where they are.
    tokens: u32,
    // The scale of a row: row / group_rows % groups.
    groups: u32,
    group_rows: u32,
    q: f32,
}

override CODES: bool = false;
override FORMAT: u32 = 0u;

@group(0) @binding(0) var<uniform> parameters: Parameters;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
// [groups][2]: 1 / scale_1 and 1 / scale_2.
@group(0) @binding(5) var<storage, read> inverse_scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

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

// Element i of the result, of the row of x that starts at `start`.
fn element(start: u32, i: u32, mean: f32, inverse_deviation: f32) -> f32 {
    let normalised = (input[start + i] - mean) * inverse_deviation;
    return normalised * weight[i] + bias[i];
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
    var input_row = row;
    if p.tokens > 0u {
        let token = row % p.tokens;
        input_row = row - token + order[token];
    }
    let start = p.input_offset + input_row * p.input_stride;
    var sum = 0.0;
    for (var i = 0u; i < p.width; i++) {
        sum += input[start + i];
    }
    let mean = sum / f32(p.width);
    var squares = 0.0;
    for (var i = 0u; i < p.width; i++) {
        let centred = input[start + i] - mean;
        squares += centred * centred;
    }
    let inverse_deviation = inverseSqrt(squares / f32(p.width) + p.eps);
    if CODES {
        let group = row / p.group_rows % p.groups;
        let inverse = vec2(inverse_scales[2u * group], inverse_scales[2u * group + 1u]);
        let out_start = row * ((p.width + 3u) / 4u);
        for (var i = 0u; i < p.width; i += 4u) {
            let values = vec4(
                element(start, i, mean, inverse_deviation),
                element(start, i + 1u, mean, inverse_deviation),
                element(start, i + 2u, mean, inverse_deviation),
                element(start, i + 3u, mean, inverse_deviation),
            );
            // What was computed beyond the row counts as nothing.
            let inside = 0xffffffffu >> (32u - 8u * min(p.width - i, 4u));
            out[out_start + i / 4u] = inside & quantize(values, inverse, p.q);
        }
    } else {
        for (var i = 0u; i < p.width; i++) {
            out[row * p.width + i] = bitcast<u32>(element(start, i, mean, inverse_deviation));
        }
    }
}
