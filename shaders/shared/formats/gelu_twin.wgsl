
// The GELU twin (src/format/gelu_twin.rs): x < 0: clamp(round(-x / scale_1)) (R1), else
// 0x80 | clamp(round(x / scale_2)).

const gelu_twin_words: u32 = INVERSES;

fn gelu_twin_lanes(x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {
    let in_r2 = min(x * encoder.head.y, vec4(q - 1.0)) + (ROUNDER + 128.0);
    let in_r1 = min(-x * encoder.head.x, vec4(q - 1.0)) + ROUNDER;
    return bitcast<vec4<u32>>(select(in_r2, in_r1, x < vec4(0.0)));
}
