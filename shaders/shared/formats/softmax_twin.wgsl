
// The softmax twin (src/format/softmax_twin.rs): round(x / scale_1) while that is at most q - 1 (R1), else
// 0x80 | clamp(round(x / scale_2)).

fn softmax_twin_lanes(x: vec4<f32>, inverse: vec2<f32>, q: f32) -> vec4<f32> {
    let in_r2 = min(x * inverse.y, vec4(q - 1.0)) + (ROUNDER + 128.0);
    let in_r1 = min(x * inverse.x, vec4(q)) + ROUNDER;
    return select(in_r2, in_r1, in_r1 < vec4(ROUNDER + q));
}

fn softmax_twin_value(x: f32, scale: vec4<f32>, q: f32) -> f32 {
    let low = round(abs(x) * scale.z);
    let high = clamp(round(x * scale.w), 0.0, q - 1.0) * scale.y;
    return select(high, low * scale.x, low <= q - 1.0);
}
