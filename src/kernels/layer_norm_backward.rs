//! The gradient of layer normalisation's input.

use super::WORKGROUP;
use super::layer_norm::{LayerNorm, statistics};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "layer_norm_backward",
    source: include_str!("../../shaders/layer_norm_backward.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    input_offset: u32,
    input_stride: u32,
    eps: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    input_offset,
    input_stride,
    eps
});

/// The gradient of `input`, given that of the output (`grad`, `[rows, width]`). Laid out as `input` is; zero wherever no
/// row was normalised.
pub fn layer_norm_backward(
    commands: &mut Commands,
    norm: &LayerNorm,
    input: &Buffer<f32>,
    weight: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.device().zeros(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            norm,
            &input.host_slice(),
            &weight.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: norm.rows as u32,
                width: norm.width as u32,
                input_offset: norm.input_offset as u32,
                input_stride: norm.input_stride as u32,
                eps: norm.eps,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(input),
                    Binding::F32(weight),
                    Binding::F32(grad),
                    Binding::F32(&out),
                ],
                norm.rows.div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(norm: &LayerNorm, input: &[f32], weight: &[f32], grad: &[f32], out: &mut [f32]) {
    let width = norm.width as f32;
    out.par_chunks_mut(norm.input_stride)
        .take(norm.rows)
        .enumerate()
        .for_each(|(row, out)| {
            let x = &input[norm.input_offset + row * norm.input_stride..][..norm.width];
            let grad = &grad[row * norm.width..][..norm.width];
            let (mean, inverse_deviation) = statistics(x, norm.eps);
            let normalised = |i: usize| (x[i] - mean) * inverse_deviation;
            let (mut sum_h, mut sum_hn) = (0.0, 0.0);
            for i in 0..norm.width {
                let h = grad[i] * weight[i];
                sum_h += h;
                sum_hn += h * normalised(i);
            }
            let (mean_h, mean_hn) = (sum_h / width, sum_hn / width);
            for (i, out) in out[norm.input_offset..][..norm.width]
                .iter_mut()
                .enumerate()
            {
                let h = grad[i] * weight[i];
                *out = inverse_deviation * (h - mean_h - normalised(i) * mean_hn);
            }
        });
}
