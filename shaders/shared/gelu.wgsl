// x * Phi(x), the exact GELU: Phi is the normal distribution's cumulative function, (1 + erf(x / sqrt(2))) / 2.
//
// WGSL has no erf. With y = |x|, the tail Phi(-y) is exp(-y * y / 2) * t * P(t), t = 1 / (1 + 0.3 y) (the form of
// Abramowitz and Stegun 7.1.26), P of degree nine fitted by Remez's algorithm so that the greatest relative error over
// 0 <= y <= 14 is least: 3.5e-9, below what an f32 shows.

// Phi(-y) / exp(-y * y / 2) for y >= 0.
fn scaled_tail(y: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / (1.0 + 0.3 * y);
    var p = vec4(-0.0206127308517);
    p = p * t + 0.112375267284;
    p = p * t - 0.228066367584;
    p = p * t + 0.191580239846;
    p = p * t - 0.0792461918865;
    p = p * t + 0.096057247526;
    p = p * t + 0.0784257683488;
    p = p * t + 0.110227286325;
    p = p * t + 0.119572845373;
    p = p * t + 0.119686633896;
    return p * t;
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    // From 16 on, the tail is zero in f32.
    let y = min(abs(x), vec4(16.0));
    let tail = exp(-0.5 * y * y) * scaled_tail(y);
    return x * select(1.0 - tail, tail, x < vec4(0.0));
}
