// Four values as 8-bit codes in one word, the first lowest. A twin's range flag is the top bit of its lane, whatever the
// bit width; q = 2^(bits - 1). The inverse scales are computed once on the host: multiplying by them is rounded alike
// everywhere, which division is not.
//
//   FORMAT 0, uniform:       clamp(round(x / scale), -q, q - 1), two's complement
//   FORMAT 1, softmax twin:  round(x / scale_1) while that is at most q - 1 (R1), else 0x80 | clamp(round(x / scale_2))
//   FORMAT 2, GELU twin:     x < 0: clamp(round(-x / scale_1)) (R1), else 0x80 | clamp(round(x / scale_2))

override FORMAT: u32 = 0u;

// 1.5 * 2^23: added to a float of magnitude below 2^22, it rounds half-to-even to an integer, which is then in the low
// bits of the sum. Some software drivers take several times as long for round(). No product is added to it without a
// min between, so that none can become a fused multiply-add, which rounds only once.
const ROUNDER: f32 = 12582912.0;

// Clamping to integers before rounding gives what clamping after it gives.
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

// Keeps the first `count` lanes of a word, of which there are at most four.
fn first_lanes(word: u32, count: u32) -> u32 {
    return word & (0xffffffffu >> (32u - 8u * min(count, 4u)));
}
