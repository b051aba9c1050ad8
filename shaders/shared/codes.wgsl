// Four values as 8-bit codes in one word, the first lowest. A twin's range flag is the top bit of its lane, whatever the
// bit width; q = 2^(bits - 1). The inverse scales are computed once on the host: multiplying by them is rounded alike
// everywhere, which division is not. The formats are in formats/; src/format/mod.rs adds what chooses between them.

override FORMAT: u32 = 0u;

// 1.5 * 2^23: added to a float of magnitude below 2^22, it rounds half-to-even to an integer, which is then in the low
// bits of the sum. Some software drivers take several times as long for round(). No product is added to it without a
// min between, so that none can become a fused multiply-add, which rounds only once.
const ROUNDER: f32 = 12582912.0;

// A format gives lanes in the low bits of floats that ROUNDER was added to. Clamping to integers before rounding gives what
// clamping after it gives.
fn quantize(x: vec4<f32>, inverse: vec2<f32>, q: f32) -> u32 {
    let rounded = lanes_of(x, inverse, q);
    let lanes = bitcast<vec4<u32>>(rounded) & vec4(0xffu);
    return lanes.x | (lanes.y << 8u) | (lanes.z << 16u) | (lanes.w << 24u);
}

// Keeps the first `count` lanes of a word, of which there are at most four.
fn first_lanes(word: u32, count: u32) -> u32 {
    return word & (0xffffffffu >> (32u - 8u * min(count, 4u)));
}
