//! Layer normalisation, as torch's: over the last dimension, biased variance.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "layer_norm",
    source: include_str!("../../shaders/layer_norm.wgsl"),
};

/// Which rows are normalised, and how. Row r of the input starts at `input_offset + r · input_stride`, so that one token
/// of each image alone can be taken from `[images, tokens, width]`: `rows` images, a stride of `tokens · width`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Rows to normalise.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Where the first row of the input starts.
    pub input_offset: usize,
    /// Elements from the start of one row of the input to the start of the next, at least `input_offset + width`.
    pub input_stride: usize,
    /// What is added to the variance.
    pub eps: f32,
}

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

/// `(x - mean) / sqrt(variance + eps) · weight + bias` of each row: `[rows, width]`. `weight` and `bias` are `[width]`.
pub fn layer_norm(
    device: &Device,
    norm: &LayerNorm,
    input: &Buffer<f32>,
    weight: &Buffer<f32>,
    bias: &Buffer<f32>,
) -> Buffer<f32> {
    let out = device.uninitialized(norm.rows * norm.width);
    match device {
        Device::Cpu(_) => cpu(
            norm,
            &input.host_slice(),
            &weight.host_slice(),
            &bias.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                rows: norm.rows as u32,
                width: norm.width as u32,
                input_offset: norm.input_offset as u32,
                input_stride: norm.input_stride as u32,
                eps: norm.eps,
            };
            gpu.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(input),
                    Binding::F32(weight),
                    Binding::F32(bias),
                    Binding::F32(&out),
                ],
                norm.rows.div_ceil(WORKGROUP),
            );
        }
    }
    out
}

/// A row's mean and the inverse of its standard deviation.
pub(super) fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let width = x.len() as f32;
    let mean = x.iter().sum::<f32>() / width;
    let squares: f32 = x.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, 1.0 / (squares / width + eps).sqrt())
}

fn cpu(norm: &LayerNorm, input: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(norm.width)
        .enumerate()
        .for_each(|(row, out)| {
            let x = &input[norm.input_offset + row * norm.input_stride..][..norm.width];
            let (mean, inverse_deviation) = statistics(x, norm.eps);
            for (i, out) in out.iter_mut().enumerate() {
                *out = (x[i] - mean) * inverse_deviation * weight[i] + bias[i];
            }
        });
}
