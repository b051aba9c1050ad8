
// The uniform format (src/format/uniform.rs): clamp(round(x / scale), -q, q - 1), two's complement.

const uniform_words: u32 = INVERSES;

fn uniform_lanes(x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {
    return bitcast<vec4<u32>>(clamp(x * encoder.head.x, vec4(-q), vec4(q - 1.0)) + ROUNDER);
}
