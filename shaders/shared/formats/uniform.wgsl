
// The uniform format (src/format/uniform.rs): clamp(round(x / scale), -q, q - 1), two's complement.

fn uniform_lanes(x: vec4<f32>, inverse: vec2<f32>, q: f32) -> vec4<f32> {
    return clamp(x * inverse.x, vec4(-q), vec4(q - 1.0)) + ROUNDER;
}

fn uniform_value(x: f32, scale: vec4<f32>, q: f32) -> f32 {
    return clamp(round(x * scale.z), -q, q - 1.0) * scale.x;
}
