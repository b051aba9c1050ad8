//! Softmax of attention within windows, with Swin's biases and masks. Its result is floats, or their codes.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::quantize::RowCodes;
use super::row_sums::SIDE_BY_SIDE;
use super::rows;
use super::softmax::{largest, normalise};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "window_softmax",
    source: concat!(
        formats_wgsl!(),
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/window_softmax.wgsl"),
    ),
};

/// Describes the shape of attention's scores, `[images, windows, heads, tokens, tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct WindowSoftmax {
    /// Images.
    pub images: usize,
    /// Windows of one image that have a mask each; where all have the same, they may be counted as images.
    pub windows: usize,
    /// Attention heads.
    pub heads: usize,
    /// Tokens of one window.
    pub tokens: usize,
    /// What the scores are multiplied by before anything is added; positive.
    pub factor: f32,
}

impl WindowSoftmax {
    /// Counts the rows of the scores.
    pub fn rows(&self) -> usize {
        self.images * self.windows * self.heads * self.tokens
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    tokens: u32,
    heads: u32,
    windows: u32,
    factor: f32,
    matrix_rows: u32,
    groups: u32,
    q: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    tokens,
    heads,
    windows,
    factor,
    matrix_rows,
    groups,
    q,
});

/// Computes `softmax(factor · scores + bias + mask)` along each row; `bias` is `[heads, tokens, tokens]`, `mask`
/// `[windows, tokens, tokens]`.
pub fn window_softmax(
    commands: &mut Commands,
    shape: &WindowSoftmax,
    scores: &Buffer<f32>,
    bias: &Buffer<f32>,
    mask: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(scores.len());
    match commands.device() {
        Device::Cpu(_) => {
            let (scores, bias, mask) = (scores.host_slice(), bias.host_slice(), mask.host_slice());
            out.host_slice_mut()
                .par_chunks_mut(SIDE_BY_SIDE * shape.tokens)
                .enumerate()
                .for_each(|(eight, out)| {
                    probabilities(shape, SIDE_BY_SIDE * eight, &scores, &bias, &mask, out);
                });
        }
        Device::Gpu(_) => rows::dispatch(
            commands,
            rows::LANES,
            &SHADER,
            &[],
            &parameters(shape, None),
            &[
                Binding::F32(scores),
                Binding::F32(bias),
                Binding::F32(mask),
                // The encoders are never read here; a binding must be something.
                Binding::F32(scores),
                Binding::F32(&out),
            ],
            shape.rows(),
        ),
    }
    out
}

/// Computes the codes of what [`window_softmax`] gives, laid out as [`quantize`](super::quantize) does.
pub fn window_softmax_codes(
    commands: &mut Commands,
    shape: &WindowSoftmax,
    scores: &Buffer<f32>,
    bias: &Buffer<f32>,
    mask: &Buffer<f32>,
    codes: &RowCodes,
) -> Buffer<u32> {
    let width = shape.tokens;
    let out = commands.uninitialized(codes.len(shape.rows(), width));
    match commands.device() {
        Device::Cpu(_) => {
            let (scores, bias, mask) = (scores.host_slice(), bias.host_slice(), mask.host_slice());
            codes.fill(width, &mut out.host_slice_mut(), |first, values| {
                probabilities(shape, first, &scores, &bias, &mask, values);
            });
        }
        Device::Gpu(_) => rows::dispatch(
            commands,
            rows::LANES,
            &SHADER,
            &codes.constants(),
            &parameters(shape, Some(codes)),
            &[
                Binding::F32(scores),
                Binding::F32(bias),
                Binding::F32(mask),
                Binding::U32(codes.encoders),
                Binding::U32(&out),
            ],
            shape.rows(),
        ),
    }
    out
}

fn parameters(shape: &WindowSoftmax, codes: Option<&RowCodes>) -> Parameters {
    Parameters {
        rows: shape.rows() as u32,
        tokens: shape.tokens as u32,
        heads: shape.heads as u32,
        windows: shape.windows as u32,
        factor: shape.factor,
        matrix_rows: codes.map_or(1, |codes| codes.matrix_rows as u32),
        groups: codes.map_or(1, |codes| codes.groups as u32),
        q: codes.map_or(0.0, |codes| half_range(codes.bits)),
    }
}

/// Computes rows of the result, from `first` on.
fn probabilities(
    shape: &WindowSoftmax,
    first: usize,
    scores: &[f32],
    bias: &[f32],
    mask: &[f32],
    out: &mut [f32],
) {
    let tokens = shape.tokens;
    for (row, out) in (first..).zip(out.chunks_exact_mut(tokens)) {
        let scores = &scores[row * tokens..][..tokens];
        let head_rows = shape.heads * tokens;
        let bias = &bias[row % head_rows * tokens..][..tokens];
        let mask_row = row / head_rows % shape.windows * tokens + row % tokens;
        let mask = &mask[mask_row * tokens..][..tokens];
        for (((out, score), bias), mask) in out.iter_mut().zip(scores).zip(bias).zip(mask) {
            *out = shape.factor * score + (bias + mask);
        }
        let largest = largest(out);
        out.iter_mut().for_each(|out| *out -= largest);
    }
    normalise(tokens, out);
}
