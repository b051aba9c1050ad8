// GELU in one of its forms (src/format/gelu.rs): x * Phi(x), the exact one, x * logistic(u) with u by tanh's form, the
// quick one or SiLU's, or ReLU. Phi is the normal distribution's cumulative function, (1 + erf(x / sqrt(2))) / 2.
//
// WGSL has no erf. With y = |x|, the tail Phi(-y) is exp(-y * y / 2) * t * P(t), t = 1 / (1 + 0.3 y) (the form of
// Abramowitz and Stegun 7.1.26), P of degree nine fitted by Remez's algorithm so that the greatest relative error over
// 0 <= y <= 14 is least: 3.5e-9, below what an f32 shows.

override GELU_FORM: u32 = 0u;
const EXACT_FORM: u32 = 0u;
const TANH_FORM: u32 = 1u;
const SILU_FORM: u32 = 3u;
const RELU_FORM: u32 = 4u;

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

// The share of x that the forms of the logistic function take.
struct Share {
    // logistic(u), the same of -abs(u), and the derivative of u by x.
    whole: vec4<f32>,
    tail: vec4<f32>,
    slope: vec4<f32>,
}

// tanh's form: (1 + tanh(z)) / 2 = logistic(2 z), z = sqrt(2 / pi) * (x + 0.044715 * x^3).
fn logistic_share(x: vec4<f32>) -> Share {
    // From 128 on, the tail is zero in f32.
    let y = clamp(x, vec4(-128.0), vec4(128.0));
    let factor = select(1.702, 1.0, GELU_FORM == SILU_FORM);
    var u = factor * y;
    var slope = vec4(factor);
    if GELU_FORM == TANH_FORM {
        let cubic = 0.044715 * y * y;
        u = 1.59576912161 * y * (1.0 + cubic);
        slope = 1.59576912161 * (1.0 + 3.0 * cubic);
    }
    let exponential = exp(-abs(u));
    let whole = 1.0 / (1.0 + exponential);
    let tail = exponential * whole;
    return Share(select(whole, tail, x < vec4(0.0)), tail, slope);
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    if GELU_FORM == RELU_FORM {
        return max(x, vec4(0.0));
    }
    if GELU_FORM != EXACT_FORM {
        return x * logistic_share(x).whole;
    }
    // From 16 on, the tail is zero in f32.
    let y = min(abs(x), vec4(16.0));
    let tail = exp(-0.5 * y * y) * scaled_tail(y);
    return x * select(1.0 - tail, tail, x < vec4(0.0));
}
