//! Softmax along rows. Its result is floats, or their codes.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::exponential::{Exponentials, STRETCH};
use super::quantize::RowCodes;
use super::row_sums::{SIDE_BY_SIDE, row_sums, side_by_side};
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
                .par_chunks_mut(SIDE_BY_SIDE * width)
                .zip(scores.par_chunks(SIDE_BY_SIDE * width))
                .for_each(|(out, scores)| probabilities(width, factor, scores, out));
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
            codes.fill(width, &mut out.host_slice_mut(), |first, values| {
                let scores = &scores[first * width..][..values.len()];
                probabilities(width, factor, scores, values);
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

/// Computes rows of the result.
fn probabilities(width: usize, factor: f32, scores: &[f32], out: &mut [f32]) {
    let rows = out.chunks_exact_mut(width).zip(scores.chunks_exact(width));
    for (out, scores) in rows {
        let largest = largest(scores);
        for (out, score) in out.iter_mut().zip(scores) {
            *out = factor * (score - largest);
        }
    }
    normalise(width, out);
}

/// Finds the largest of a row's values; compiled for each instruction set.
#[multiversion(targets = "simd")]
pub(super) fn largest(row: &[f32]) -> f32 {
    let (vectors, rest) = row.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for vector in vectors {
        for (lane, &x) in lanes.iter_mut().zip(vector) {
            // One instruction, which `max` isn't.
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces the exponents of rows by their exponentials, divided by the sum of their row.
pub(super) fn normalise(width: usize, rows: &mut [f32]) {
    exponentials(rows);
    for rows in rows.chunks_mut(SIDE_BY_SIDE * width) {
        let row = |row: usize| &rows[row * width..][..width];
        let sums = row_sums(side_by_side(rows.len() / width, row), |_, x| x);
        for (row, sum) in rows.chunks_exact_mut(width).zip(sums) {
            let inverse = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= inverse);
        }
    }
}

/// Replaces exponents by their exponentials; compiled for each instruction set.
#[multiversion(targets = "simd")]
fn exponentials(exponents: &mut [f32]) {
    let mut exponentials = Exponentials::new();
    for exponents in exponents.chunks_mut(STRETCH) {
        exponentials.replace(exponents);
    }
}
