//! Layer normalisation, as torch's: over the last dimension, biased variance. Its result is floats, or their codes.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::permute_tokens::TokenOrder;
use super::quantize::RowCodes;
use super::row_sums::{SIDE_BY_SIDE, row_sums, side_by_side};
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "layer_norm",
    source: concat!(
        formats_wgsl!(),
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/layer_norm.wgsl"),
    ),
};

/// Says which rows are normalised, and how. Row r of the input starts at `input_offset + r · input_stride`, so that one
/// token of each image alone can be taken from `[images, tokens, width]`: `rows` images, a stride of `tokens · width`.
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
    tokens: u32,
    input_tokens: u32,
    matrix_rows: u32,
    groups: u32,
    q: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    input_offset,
    input_stride,
    eps,
    tokens,
    input_tokens,
    matrix_rows,
    groups,
    q,
});

/// Computes `(x - mean) / sqrt(variance + eps) · weight + bias` of each row: `[rows, width]`. `weight` and `bias` are
/// `[width]`.
pub fn layer_norm(
    commands: &mut Commands,
    norm: &LayerNorm,
    input: &Buffer<f32>,
    weight: &Buffer<f32>,
    bias: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(norm.rows * norm.width);
    match commands.device() {
        Device::Cpu(_) => {
            let (input, weight, bias) =
                (input.host_slice(), weight.host_slice(), bias.host_slice());
            out.host_slice_mut()
                .par_chunks_mut(SIDE_BY_SIDE * norm.width)
                .enumerate()
                .for_each(|(eight, out)| {
                    let from = |row| Some(SIDE_BY_SIDE * eight + row);
                    normalise(norm, &input, &weight, &bias, from, out);
                });
        }
        Device::Gpu(_) => rows::dispatch(
            commands,
            rows::LANES,
            &SHADER,
            &[],
            &parameters(norm, None, None),
            &[
                Binding::PartOfF32(input, norm.rows * norm.width),
                Binding::F32(weight),
                Binding::F32(bias),
                // The order and the encoders are never read here; a binding must be something.
                Binding::PartOfF32(input, 0),
                Binding::PartOfF32(input, 0),
                Binding::F32(&out),
            ],
            norm.rows,
        ),
    }
    out
}

/// Computes the codes of what [`layer_norm`] gives, laid out as [`quantize`](super::quantize) does; with `order`, of
/// what [`permute_tokens`](super::permute_tokens) makes of that.
pub fn layer_norm_codes(
    commands: &mut Commands,
    norm: &LayerNorm,
    order: Option<TokenOrder>,
    input: &Buffer<f32>,
    weight: &Buffer<f32>,
    bias: &Buffer<f32>,
    codes: &RowCodes,
) -> Buffer<u32> {
    let rows = order.map_or(norm.rows, |order| {
        norm.rows / order.tokens * order.from.len()
    });
    let out = commands.uninitialized(codes.len(rows, norm.width));
    match commands.device() {
        Device::Cpu(_) => {
            let (input, weight, bias) =
                (input.host_slice(), weight.host_slice(), bias.host_slice());
            let order = order.map(|order| (order, order.from.host_slice()));
            codes.fill(norm.width, &mut out.host_slice_mut(), |first, values| {
                let from = |row| match &order {
                    Some((order, from)) => order.input_row(from, first + row),
                    None => Some(first + row),
                };
                normalise(norm, &input, &weight, &bias, from, values);
            });
        }
        Device::Gpu(_) => rows::dispatch(
            commands,
            rows::LANES,
            &SHADER,
            &codes.constants(),
            &Parameters {
                rows: rows as u32,
                ..parameters(norm, order, Some(codes))
            },
            &[
                Binding::PartOfF32(input, norm.rows * norm.width),
                Binding::F32(weight),
                Binding::F32(bias),
                // Never read without an order; a binding must be something.
                order.map_or(Binding::PartOfF32(input, 0), |order| {
                    Binding::U32(order.from)
                }),
                Binding::U32(codes.encoders),
                Binding::U32(&out),
            ],
            rows,
        ),
    }
    out
}

fn parameters(norm: &LayerNorm, order: Option<TokenOrder>, codes: Option<&RowCodes>) -> Parameters {
    Parameters {
        rows: norm.rows as u32,
        width: norm.width as u32,
        input_offset: norm.input_offset as u32,
        input_stride: norm.input_stride as u32,
        eps: norm.eps,
        tokens: order.map_or(0, |order| order.from.len() as u32),
        input_tokens: order.map_or(0, |order| order.tokens as u32),
        matrix_rows: codes.map_or(1, |codes| codes.matrix_rows as u32),
        groups: codes.map_or(1, |codes| codes.groups as u32),
        q: codes.map_or(0.0, |codes| half_range(codes.bits)),
    }
}

/// Computes each row's mean and the inverse of its standard deviation.
pub(super) fn statistics<const ROWS: usize>(rows: [&[f32]; ROWS], eps: f32) -> [(f32, f32); ROWS] {
    let width = rows[0].len() as f32;
    let means = row_sums(rows, |_, x| x).map(|sum| sum / width);
    let squares = row_sums(rows, |row, x| (x - means[row]) * (x - means[row]));
    std::array::from_fn(|row| (means[row], 1.0 / (squares[row] / width + eps).sqrt()))
}

/// Computes rows of the result from those of the input that `from` says: zeros where it says none.
fn normalise(
    norm: &LayerNorm,
    input: &[f32],
    weight: &[f32],
    bias: &[f32],
    from: impl Fn(usize) -> Option<usize>,
    out: &mut [f32],
) {
    let input = |row: usize| &input[norm.input_offset + row * norm.input_stride..][..norm.width];
    for (eight, out) in out.chunks_mut(SIDE_BY_SIDE * norm.width).enumerate() {
        let from = |row| from(SIDE_BY_SIDE * eight + row);
        // What comes of the row that is taken where there is none is left out.
        let rows = side_by_side(out.len() / norm.width, |row| input(from(row).unwrap_or(0)));
        let statistics = statistics(rows, norm.eps);
        for (row, out) in out.chunks_exact_mut(norm.width).enumerate() {
            match from(row) {
                Some(_) => scale_and_shift(rows[row], statistics[row], weight, bias, out),
                None => out.fill(0.0),
            }
        }
    }
}

/// Computes the result of one row; compiled for each instruction set.
#[multiversion(targets = "simd")]
fn scale_and_shift(
    x: &[f32],
    (mean, inverse_deviation): (f32, f32),
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
) {
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * inverse_deviation * weight + bias;
    }
}
