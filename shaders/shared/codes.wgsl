// One value as an 8-bit code. A twin's range flag is the top bit of its lane, whatever the bit width; q = 2^(bits - 1).
// The inverse scales are computed once on the host: multiplying by them is rounded alike everywhere, which division is
// not.
//
//   FORMAT 0, uniform:       clamp(round(x / scale), -q, q - 1), two's complement
//   FORMAT 1, softmax twin:  round(x / scale_1) while that is at most q - 1 (R1), else 0x80 | clamp(round(x / scale_2))
//   FORMAT 2, GELU twin:     x < 0: clamp(round(-x / scale_1)) (R1), else 0x80 | clamp(round(x / scale_2))

override FORMAT: u32 = 0u;

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
