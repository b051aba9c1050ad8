//! Tokens that are normalised before a product, to floats and to its codes.

use super::{LayerNorm, layer_norm, layer_norm_codes};
use crate::kernels::Format;
use crate::kernels::catalogue::{Exercise, NetworkProduct, Role, Timed, encoders, row_codes};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "LayerNorm, to floats and to codes",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let formats: &[Option<Format>] = match at.role {
        Role::Alone => &[None, Some(Format::Uniform), Some(Format::Table)],
        Role::Linear { after_norm: true } => &[None, Some(Format::Uniform)],
        _ => &[],
    };
    let [rows, width] = at.rows();
    let norm = LayerNorm {
        rows,
        width,
        input_offset: 0,
        input_stride: width,
        eps: 1e-6,
    };
    let in_format = |&format: &Option<Format>| {
        Exercise::of_rows(&at, format, move |device| {
            let a = at.operands(device, None).a;
            let (weight, bias) = (device.upload(&vec![1.0; width]), device.zeros(width));
            let encoders = device.upload(&encoders(format.unwrap_or(Format::Uniform), 2.0, 1));
            Box::new(move |commands| match row_codes(format, rows, &encoders) {
                None => drop(layer_norm(commands, &norm, &a, &weight, &bias)),
                Some(codes) => drop(layer_norm_codes(
                    commands, &norm, None, &a, &weight, &bias, &codes,
                )),
            })
        })
    };
    formats.iter().map(in_format).collect()
}
