//! Softmax along rows. Its result is floats, or their codes.

pub(super) mod cases;
pub(super) use cases::{MISTAKE, cases};

use super::exponential::exp;
use super::quantize::RowCodes;
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "softmax",
    source: concat!(
        formats_wgsl!(),
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/softmax.wgsl"),
    ),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
    matrix_rows: u32,
    groups: u32,
    q: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    factor,
    matrix_rows,
    groups,
    q,
});

/// Computes `softmax(factor · scores)` along each row of `[rows, width]`; `factor` is positive.
pub fn softmax(
    commands: &mut Commands,
    rows: usize,
    width: usize,
    factor: f32,
    scores: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(rows * width);
    match commands.device() {
        Device::Cpu(_) => {
            let scores = scores.host_slice();
            out.host_slice_mut()
                .par_chunks_mut(width)
                .zip(scores.par_chunks(width))
                .for_each(|(out, scores)| probabilities(factor, scores, out));
        }
        Device::Gpu(_) => rows::dispatch(
            commands,
            rows::LANES,
            &SHADER,
            &[],
            &parameters(rows, width, factor, None),
            &[
                Binding::F32(scores),
                // The encoders are never read here; a binding must be something.
                Binding::F32(scores),
                Binding::F32(&out),
            ],
            rows,
        ),
    }
    out
}

/// Computes the codes of what [`softmax`] gives, laid out as [`quantize`](super::quantize) does.
pub fn softmax_codes(
    commands: &mut Commands,
    rows: usize,
    width: usize,
    factor: f32,
    scores: &Buffer<f32>,
    codes: &RowCodes,
) -> Buffer<u32> {
    let out = commands.uninitialized(codes.len(rows, width));
    match commands.device() {
        Device::Cpu(_) => {
            let scores = scores.host_slice();
            codes.fill(width, &mut out.host_slice_mut(), |row, values| {
                probabilities(factor, &scores[row * width..][..width], values);
            });
        }
        Device::Gpu(_) => rows::dispatch(
            commands,
            rows::LANES,
            &SHADER,
            &codes.constants(),
            &parameters(rows, width, factor, Some(codes)),
            &[
                Binding::F32(scores),
                Binding::U32(codes.encoders),
                Binding::U32(&out),
            ],
            rows,
        ),
    }
    out
}

fn parameters(rows: usize, width: usize, factor: f32, codes: Option<&RowCodes>) -> Parameters {
    Parameters {
        rows: rows as u32,
        width: width as u32,
        factor,
        matrix_rows: codes.map_or(1, |codes| codes.matrix_rows as u32),
        groups: codes.map_or(1, |codes| codes.groups as u32),
        q: codes.map_or(0.0, |codes| half_range(codes.bits)),
    }
}

/// Computes one row of the result.
fn probabilities(factor: f32, scores: &[f32], out: &mut [f32]) {
    let largest = largest(scores);
    for (out, score) in out.iter_mut().zip(scores) {
        *out = factor * (score - largest);
    }
    normalise(out);
}

/// Finds the largest of a row's values; compiled for each instruction set.
#[multiversion(targets = "simd")]
pub(super) fn largest(row: &[f32]) -> f32 {
    let (vectors, rest) = row.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for vector in vectors {
        for (lane, &x) in lanes.iter_mut().zip(vector) {
            *lane = lane.max(x);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces a row's exponents by their exponentials, divided by the sum of these; compiled for each instruction set.
#[multiversion(targets = "simd")]
pub(super) fn normalise(row: &mut [f32]) {
    for x in row.iter_mut() {
        *x = exp(*x);
    }
    let inverse = 1.0 / row.iter().sum::<f32>();
    for x in row {
        *x *= inverse;
    }
}
