//! Pillow's antialiased resampling of 8-bit channels, bit for bit; its filters serve other values too.
//!
//! Written here because the libraries round otherwise: `fast_image_resize` keeps 15-bit weights and
//! runs the vertical pass first (10 to 40 of 100 values differ, by up to 49), `image` has no 8-bit
//! fixed point. Pillow (`src/libImaging/Resample.c`) has 22-bit weights, the horizontal pass first,
//! and rounds to 8 bits after each pass. (Pillow 13 runs the vertical pass first where the height
//! shrinks far more than the width; the published accuracies were measured before that.)

use std::f64::consts::PI;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Counts the fraction bits of a weight: 32 less 8 for the pixel and 2 for sums that leave 0..=255.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Says how pixels are interpolated when an image is resized, by timm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Interpolation {
    /// Linear between neighbours (Pillow's `BILINEAR`).
    Bilinear,
    /// Cubic with a = -0.5 (Pillow's `BICUBIC`).
    Bicubic,
    /// A sinc windowed to three pixels each way (Pillow's `LANCZOS`).
    Lanczos,
}

/// Holds the weights of the inputs that make one output along one axis: consecutive inputs from `first` on.
pub struct Taps<Weight> {
    /// The first input.
    pub first: usize,
    /// The weight of each input; together they are 1.
    pub weights: Vec<Weight>,
}

/// Computes the pixels `columns` x `rows` of an image resized to `width` x `height`. `values` are its pixels,
/// interleaved, and `from` its width and height.
///
/// Only the window is computed: each output pixel depends on its own taps alone, so the result is
/// the one of resizing everything and cropping, and an extreme aspect ratio costs no more than a
/// square.
pub(super) fn resize_window<const CHANNELS: usize>(
    values: &[u8],
    from: (usize, usize),
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    interpolation: Interpolation,
) -> Vec<u8> {
    let taps = |input, output, window| fixed_point(taps(input, output, window, interpolation));
    let horizontal = taps(from.0, width, columns);
    let vertical = taps(from.1, height, rows);
    let used_rows = input_range(&vertical);

    let input_stride = from.0 * CHANNELS;
    let stride = horizontal.len() * CHANNELS;
    let mut narrowed = Vec::with_capacity(used_rows.len() * stride);
    for input_row in values[used_rows.start * input_stride..used_rows.end * input_stride]
        .chunks_exact(input_stride)
    {
        for Taps { first, weights } in &horizontal {
            let mut sum = [HALF; CHANNELS];
            for (pixel, weight) in input_row[first * CHANNELS..]
                .chunks_exact(CHANNELS)
                .zip(weights)
            {
                for (sum, &value) in sum.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            narrowed.extend(sum.map(to_pixel));
        }
    }

    let mut output = Vec::with_capacity(vertical.len() * stride);
    let mut sums = vec![0; stride];
    for Taps { first, weights } in &vertical {
        sums.fill(HALF);
        let input_rows = narrowed[(first - used_rows.start) * stride..].chunks_exact(stride);
        for (input_row, weight) in input_rows.zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(input_row) {
                *sum += i32::from(value) * weight;
            }
        }
        output.extend(sums.iter().copied().map(to_pixel));
    }
    output
}

fn to_pixel(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Returns the range of input pixels that any of `taps` reads.
fn input_range(taps: &[Taps<i32>]) -> Range<usize> {
    let first = taps.iter().map(|t| t.first).min().unwrap_or(0);
    let end = taps.iter().map(|t| t.first + t.weights.len()).max();
    first..end.unwrap_or(first)
}

/// Computes where the outputs in `window` come from when `input` values become `output`: Pillow's `precompute_coeffs`,
/// which is also what torch's `interpolate` does with `antialias=True`.
pub fn taps(
    input: usize,
    output: usize,
    window: Range<usize>,
    interpolation: Interpolation,
) -> Vec<Taps<f64>> {
    let scale = input as f64 / output as f64;
    // Downscaling widens the filter (antialiasing); upscaling leaves it as it is.
    let filter_scale = scale.max(1.0);
    let support = radius(interpolation) * filter_scale;
    let inverse = 1.0 / filter_scale;
    window
        .map(|position| {
            let center = (position as f64 + 0.5) * scale;
            // The casts truncate towards zero as C's do; below zero they give 0, which Pillow
            // clamps to.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let exact: Vec<f64> = (first..end)
                .map(|x| weight(interpolation, (x as f64 - center + 0.5) * inverse))
                .collect();
            let total: f64 = exact.iter().sum();
            let weights = exact
                .iter()
                .map(|w| if total == 0.0 { *w } else { w / total })
                .collect();
            Taps { first, weights }
        })
        .collect()
}

/// Converts weights to fixed point as Pillow's `normalize_coeffs_8bpc` does.
fn fixed_point(taps: Vec<Taps<f64>>) -> Vec<Taps<i32>> {
    let fixed = |w: f64| (f64::from(1 << PRECISION_BITS) * w + 0.5f64.copysign(w)) as i32;
    taps.into_iter()
        .map(|Taps { first, weights }| Taps {
            first,
            weights: weights.into_iter().map(fixed).collect(),
        })
        .collect()
}

/// Returns half the width of the filter, in input pixels, when nothing is downscaled.
fn radius(interpolation: Interpolation) -> f64 {
    match interpolation {
        Interpolation::Bilinear => 1.0,
        Interpolation::Bicubic => 2.0,
        Interpolation::Lanczos => 3.0,
    }
}

/// Computes the filter at distance `x` from its centre. The order of operations is Pillow's, for equal rounding.
fn weight(interpolation: Interpolation, x: f64) -> f64 {
    match interpolation {
        Interpolation::Bilinear => (1.0 - x.abs()).max(0.0),
        Interpolation::Bicubic => {
            const A: f64 = -0.5;
            let x = x.abs();
            if x < 1.0 {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * A
            } else {
                0.0
            }
        }
        Interpolation::Lanczos => {
            if (-3.0..3.0).contains(&x) {
                sinc(x) * sinc(x / 3.0)
            } else {
                0.0
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}
