//! The gradient at the logits of the loss that weighs errors: cross-entropy against the network's own answer.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "cross_entropy_backward",
    source: include_str!("../../shaders/cross_entropy_backward.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    classes: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { rows, classes });

/// The gradient of `Σ cross_entropy(row, argmax(row))` over the rows of `logits`, `[rows, classes]`: the probabilities,
/// less one at the first of the largest logits, where minus the sum of the other probabilities is kept exact.
pub fn cross_entropy_backward(
    commands: &mut Commands,
    rows: usize,
    classes: usize,
    logits: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(rows * classes);
    match commands.device() {
        Device::Cpu(_) => cpu(classes, &logits.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: rows as u32,
                classes: classes as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(logits), Binding::F32(&out)],
                rows.div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(classes: usize, logits: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(classes)
        .zip(logits.par_chunks(classes))
        .for_each(|(out, logits)| {
            let winner = (0..classes).fold(0, |winner, i| {
                if logits[i] > logits[winner] {
                    i
                } else {
                    winner
                }
            });
            let mut others = 0.0;
            for (i, out) in out.iter_mut().enumerate().filter(|&(i, _)| i != winner) {
                *out = (logits[i] - logits[winner]).exp();
                others += *out;
            }
            // The winner's own exponential is 1.
            let inverse = 1.0 / (1.0 + others);
            out[winner] = -others;
            for out in out {
                *out *= inverse;
            }
        });
}
