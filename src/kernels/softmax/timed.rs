//! Scores of attention over all tokens, to probabilities and to their codes.

use super::{softmax, softmax_codes};
use crate::kernels::Format;
use crate::kernels::catalogue::{Exercise, NetworkProduct, Role, Timed, encoders, row_codes};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Softmax of attention, to floats and to codes",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let formats: &[Option<Format>] = match at.role {
        Role::Alone => &[None, Some(Format::SoftmaxTwin), Some(Format::TwinTable)],
        Role::Context { windows: None, .. } => &[None, Some(Format::SoftmaxTwin)],
        _ => &[],
    };
    let [rows, width] = at.rows();
    let in_format = |&format: &Option<Format>| {
        Exercise::of_rows(&at, format, move |device| {
            let a = at.operands(device, None).a;
            let encoders = device.upload(&encoders(format.unwrap_or(Format::Uniform), 1.0, 1));
            let matrix_rows = at.product.m;
            Box::new(
                move |commands| match row_codes(format, matrix_rows, &encoders) {
                    None => drop(softmax(commands, rows, width, 1.0, &a)),
                    Some(codes) => drop(softmax_codes(commands, rows, width, 1.0, &a, &codes)),
                },
            )
        })
    };
    formats.iter().map(in_format).collect()
}
