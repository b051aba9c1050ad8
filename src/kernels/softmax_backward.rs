//! The gradient of softmax's scores.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "softmax_backward",
    source: include_str!("../../shaders/softmax_backward.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    factor
});

/// The gradient of the scores, `[rows, width]`, given softmax's result `probabilities` and that result's gradient
/// `grad`: `factor · p · (grad - Σ p · grad)`.
pub fn softmax_backward(
    commands: &mut Commands,
    rows: usize,
    width: usize,
    factor: f32,
    probabilities: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(rows * width);
    match commands.device() {
        Device::Cpu(_) => cpu(
            width,
            factor,
            &probabilities.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: rows as u32,
                width: width as u32,
                factor,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(probabilities),
                    Binding::F32(grad),
                    Binding::F32(&out),
                ],
                rows.div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(width: usize, factor: f32, probabilities: &[f32], grad: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(width)
        .zip(probabilities.par_chunks(width))
        .zip(grad.par_chunks(width))
        .for_each(|((out, probabilities), grad)| {
            let sum: f32 = probabilities.iter().zip(grad).map(|(p, g)| p * g).sum();
            for ((out, p), g) in out.iter_mut().zip(probabilities).zip(grad) {
                *out = factor * p * (g - sum);
            }
        });
}
