// The derivative of shared/gelu.wgsl: Phi(x) + x * phi(x), phi the normal distribution's density; of the forms
// x * logistic(u), as the logistic function's derivative is logistic * (1 - logistic), logistic(u) + x * u' * logistic'(u);
// of ReLU 1 where x is positive, else 0.

// 1 / sqrt(2 pi)
const DENSITY: f32 = 0.398942280401;

fn gelu_slope(x: vec4<f32>) -> vec4<f32> {
    if GELU_FORM == RELU_FORM {
        return select(vec4(0.0), vec4(1.0), x > vec4(0.0));
    }
    if GELU_FORM != EXACT_FORM {
        let share = logistic_share(x);
        // Where x is beyond 128, the tail is zero.
        return share.whole + x * (share.slope * (share.tail * (1.0 - share.tail)));
    }
    // From 16 on, the tail is zero in f32.
    let y = min(abs(x), vec4(16.0));
    let exponential = exp(-0.5 * y * y);
    let tail = exponential * scaled_tail(y);
    return select(1.0 - tail, tail, x < vec4(0.0)) + x * (exponential * DENSITY);
}
