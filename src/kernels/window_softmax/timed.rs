//! Scores of attention within windows, to probabilities and to their codes. There is none where there are no windows.

use super::{WindowSoftmax, window_softmax, window_softmax_codes};
use crate::kernels::Format;
use crate::kernels::catalogue::{Exercise, NetworkProduct, Role, Timed, encoders, row_codes};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Softmax of attention within windows, to floats and to codes",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let Role::Context {
        windows: Some(windows),
        ..
    } = at.role
    else {
        return Vec::new();
    };
    let [batch, heads] = at.product.batch;
    let tokens = at.product.m;
    let shape = WindowSoftmax {
        images: batch / windows,
        windows,
        heads,
        tokens,
        factor: 1.0,
    };
    // Biases and masks are read for every row, but there are few of them: they stay in a cache.
    let in_format = |format: Option<Format>| {
        Exercise::of_rows(&at, format, move |device| {
            let a = at.operands(device, None).a;
            let [bias, mask] =
                [heads, windows].map(|matrices| device.zeros(matrices * tokens * tokens));
            let encoders = device.upload(&encoders(format.unwrap_or(Format::Uniform), 1.0, 1));
            Box::new(move |commands| match row_codes(format, tokens, &encoders) {
                None => drop(window_softmax(commands, &shape, &a, &bias, &mask)),
                Some(codes) => drop(window_softmax_codes(
                    commands, &shape, &a, &bias, &mask, &codes,
                )),
            })
        })
    };
    [None, Some(Format::SoftmaxTwin)].map(in_format).into()
}
