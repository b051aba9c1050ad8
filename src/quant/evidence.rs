//! What a calibration knows of a site once its scales are chosen: how far the integers' Ô is from O, how well the codes
//! are used, and how the values lie that a twin is for.
//!
//! Everything is taken from all calibration images while their records are still there. The device adds up each image by
//! itself, the host the images in their order, in f64; what is counted is whole. So no figure depends on how the images
//! were divided.

use super::estimate::Estimator;
use super::plan::{Side, SitePlan, SiteScales};
use super::quantized_site::QuantizedSite;
use super::search::{Batch, not_finite};
use super::settings::Metric;
use crate::device::Commands;
use crate::error::Result;
use crate::format::{CodeFormat, Encoder, Place, by_format, half_range};
use crate::graph::{LinearWeights, SiteKind};
use crate::kernels::{Quantize, similarity};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Sets how many elements one task adds up.
const BLOCK: usize = 1 << 14;

/// Counts the bars of a histogram.
const BARS: usize = 96;

/// Says how well a site's chosen scales do on the calibration images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteEvidence {
    /// 10 log10(Σ O² / Σ (Ô - O)²), in dB. Absent where either sum is zero.
    pub sqnr_db: Option<f64>,
    /// Σ O Ô / √(Σ O² Σ Ô²). Absent where O or Ô is zero throughout.
    pub cosine: Option<f64>,
    /// Σ G² (Ô - O)², with G the gradient of the loss at O. Absent where the metric needs no gradients.
    pub hessian_error: Option<f64>,
    /// The share of A's codes that are in R2, where A is a twin.
    pub a_in_r2: Option<f64>,
    /// The share of A's values that lie beyond the largest or smallest code.
    pub a_clipped: f64,
    /// The share of B's values that lie beyond its largest or smallest code, B being a weight or an activation.
    pub b_clipped: f64,
}

impl SiteEvidence {
    /// Stands for evidence whose text is as long as any: seventeen digits and the longest exponents.
    pub(super) const LONGEST: Self = {
        let longest = -1.234_567_890_123_456_7e-300;
        Self {
            sqnr_db: Some(longest),
            cosine: Some(longest),
            hessian_error: Some(longest),
            a_in_r2: Some(longest),
            a_clipped: longest,
            b_clipped: longest,
        }
    };

    /// Checks that figures from a file can be those of the site of `plan`, whose scales were compared by `metric`.
    ///
    /// # Errors
    /// What can't be.
    pub(super) fn validate(
        &self,
        plan: &SitePlan,
        metric: Metric,
    ) -> std::result::Result<(), String> {
        let any = f64::NEG_INFINITY..=f64::INFINITY;
        for (name, value, range) in [
            ("sqnr_db", self.sqnr_db, any),
            ("cosine", self.cosine, -1.0..=1.0),
            ("hessian_error", self.hessian_error, 0.0..=f64::INFINITY),
            ("a_in_r2", self.a_in_r2, 0.0..=1.0),
            ("a_clipped", Some(self.a_clipped), 0.0..=1.0),
            ("b_clipped", Some(self.b_clipped), 0.0..=1.0),
        ] {
            if let Some(value) = value
                && !(value.is_finite() && range.contains(&value))
            {
                return Err(format!(
                    "{name}: expected a finite number from {} to {}, found {value}",
                    range.start(),
                    range.end()
                ));
            }
        }
        for (name, found, expected) in [
            (
                "hessian_error",
                self.hessian_error.is_some(),
                metric.needs_gradient(),
            ),
            ("a_in_r2", self.a_in_r2.is_some(), plan.a.format.is_twin()),
        ] {
            if found != expected {
                let is = if found { "there" } else { "missing" };
                return Err(format!("{name} is {is}, which doesn't fit the settings"));
            }
        }
        Ok(())
    }
}

/// Shows how A's values are distributed, where they are a softmax's or a GELU's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    /// All values: from the smallest that is possible to the largest that there is, or for a softmax that is possible.
    pub whole: Histogram,
    /// The values near zero: where R1 or half of a table's levels lie, and as much again.
    pub near_zero: Histogram,
}

/// Counts of values between two ends, in bars of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Where the first bar begins.
    pub low: f64,
    /// Where the last bar ends; what lies there belongs to it.
    pub high: f64,
    /// The values in each bar.
    pub counts: Vec<u64>,
}

impl Histogram {
    fn new(low: f64, high: f64) -> Self {
        let counts = vec![0; BARS];
        Self { low, high, counts }
    }

    /// Counts `value` if it lies between the ends.
    fn add(&mut self, value: f64) {
        if (self.low..=self.high).contains(&value) {
            let bar = (value - self.low) / (self.high - self.low) * BARS as f64;
            self.counts[(bar as usize).min(BARS - 1)] += 1;
        }
    }
}

impl AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }
}

impl Histograms {
    /// Returns empty histograms for the left operand of `plan`, whose values reach `max`, if that is a softmax's or a
    /// GELU's.
    fn new(plan: &SitePlan, scales: &SiteScales, max: f32) -> Option<Self> {
        let q = f64::from(1u32 << (plan.a.bits - 1));
        let fine = match (plan.a.format.lanes(), scales.a_tables.first()) {
            // Half of a table's levels.
            (Some(lanes), Some(table)) => {
                let integers = table.integers(lanes, scales.a[0].shift);
                f64::from(integers[integers.len() / 2].max(1))
            }
            _ => q,
        };
        let reach = 2.0 * fine * f64::from(scales.a[0].scale);
        match plan.site.kind {
            SiteKind::Context(_) => Some(Self {
                whole: Histogram::new(0.0, 1.0),
                near_zero: Histogram::new(0.0, reach.min(1.0)),
            }),
            SiteKind::Linear(linear) => linear.after_gelu.map(|gelu| {
                // In thousandths, below every value however it is rounded.
                let low = (gelu.minimum() * 1e3).floor() / 1e3;
                let near = if low < 0.0 { -2.0 * low } else { reach };
                Self {
                    whole: Histogram::new(low, f64::from(max).max(-low)),
                    near_zero: Histogram::new(low, near),
                }
            }),
            SiteKind::Scores(_) => None,
        }
    }

    fn add(&mut self, value: f64) {
        self.whole.add(value);
        self.near_zero.add(value);
    }
}

/// Counts how the codes of an operand are used.
#[derive(Clone, Default)]
struct Usage {
    values: u64,
    clipped: u64,
    in_r2: u64,
    histograms: Option<Histograms>,
}

impl Usage {
    fn share(&self, count: u64) -> f64 {
        count as f64 / self.values.max(1) as f64
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.values += other.values;
        self.clipped += other.clipped;
        self.in_r2 += other.in_r2;
        if let (Some(sum), Some(other)) = (&mut self.histograms, &other.histograms) {
            sum.whole += &other.whole;
            sum.near_zero += &other.near_zero;
        }
    }
}

/// Sums over elements of O.
#[derive(Clone, Copy, Default)]
struct Sums {
    out: f64,
    estimate: f64,
    error: f64,
    weighted_error: f64,
}

impl Sums {
    /// Computes the cosine by the law of cosines, which loses no digits where it is nearly 1.
    fn cosine(&self) -> Option<f64> {
        let [out, estimate] = [self.out.sqrt(), self.estimate.sqrt()];
        let norms = out * estimate;
        // Rounding might bring it slightly beyond ±1.
        let cosine = 1.0 - (self.error - (out - estimate).powi(2)) / (2.0 * norms);
        (norms > 0.0).then_some(cosine.clamp(-1.0, 1.0))
    }

    /// Adds those of some images, one after the other: `[sum][image]`, as [`similarity`] computes them.
    fn add(&mut self, of_images: &[f32]) {
        let all = [
            &mut self.out,
            &mut self.estimate,
            &mut self.error,
            &mut self.weighted_error,
        ];
        let images = of_images.len() / all.len();
        for (sum, of_images) in all.into_iter().zip(of_images.chunks_exact(images)) {
            for &value in of_images {
                *sum += f64::from(value);
            }
        }
    }
}

/// Holds a site whose scales are chosen, and what they were chosen on.
pub(super) struct Chosen<'a> {
    pub plan: &'a SitePlan,
    pub metric: Metric,
    pub linear: Option<&'a LinearWeights>,
    pub batches: &'a [Batch],
    pub quantized: &'a QuantizedSite,
    /// The largest of A's values, or of their magnitudes where A's format is signed.
    pub largest_a: f32,
    /// What a sum of squares of the gradients has to be multiplied by.
    pub score_unit: f64,
}

impl Chosen<'_> {
    /// Computes the site's figures, and histograms of A if A is a softmax's or a GELU's result.
    ///
    /// # Errors
    /// Those of the device, and sums that are not finite.
    pub async fn evidence(
        &self,
        commands: &mut Commands,
    ) -> Result<(SiteEvidence, Option<Histograms>)> {
        let (plan, scales) = (self.plan, &self.quantized.scales);
        let histograms = Histograms::new(plan, scales, self.largest_a);
        let estimator = Estimator::new(commands.device(), plan, self.quantized);
        let (mut sums, mut b) = (Sums::default(), Usage::default());
        let mut a = Usage {
            histograms: histograms.clone(),
            ..Usage::default()
        };
        for (index, batch) in self.batches.iter().enumerate() {
            let Batch { images, record } = batch;
            let estimate = estimator.estimate(commands, batch);
            let needs_gradient = self.metric.needs_gradient();
            let grad = record.grad.as_ref().filter(|_| needs_gradient);
            let of_images = similarity(commands, *images, &record.out, &estimate, grad);
            sums.add(&commands.read_async(&of_images).await?);
            let values = commands.read_async(&record.a).await?;
            a += usage(plan, Side::A, scales, &values, *images, &histograms);
            // A weight is the same for all batches, so it is counted once.
            if let Some(activation) = &record.b {
                // Q and k lie in one buffer.
                let values = match activation.allocation() == record.a.allocation() {
                    true => values,
                    false => commands.read_async(activation).await?,
                };
                b += usage(plan, Side::B, scales, &values, *images, &None);
            } else if let (0, Some(linear)) = (index, self.linear) {
                let values = commands.read_async(&linear.weight).await?;
                b += usage(plan, Side::B, scales, &values, 1, &None);
            }
        }
        let hessian_error = sums.weighted_error * self.score_unit;
        for sum in [sums.out, sums.estimate, sums.error, hessian_error] {
            if !sum.is_finite() {
                let what = "a sum of squares of the chosen product";
                return Err(not_finite(commands.device(), plan, what, sum));
            }
        }
        let positive = |value: f64| (value > 0.0).then_some(value);
        let evidence = SiteEvidence {
            sqnr_db: positive(sums.out)
                .zip(positive(sums.error))
                .map(|(out, error)| 10.0 * (out / error).log10()),
            cosine: sums.cosine(),
            hessian_error: self.metric.needs_gradient().then_some(hessian_error),
            a_in_r2: plan.a.format.is_twin().then(|| a.share(a.in_r2)),
            a_clipped: a.share(a.clipped),
            b_clipped: b.share(b.clipped),
        };
        Ok((evidence, a.histograms))
    }
}

/// Counts how the codes of an operand's `values`, those of `images` images or of a weight, are used under `scales`.
/// Values are counted in histograms like `histograms`.
fn usage(
    plan: &SitePlan,
    side: Side,
    scales: &SiteScales,
    values: &[f32],
    images: usize,
    histograms: &Option<Histograms>,
) -> Usage {
    let image = plan.quantizer(side, 1, 1);
    let (scales, tables) = scales.operand(side);
    let encoders = image.format.encoders(scales, tables);
    let len = values.len() / images;
    let matrices = image.batch[0] * image.batch[1];
    let rows = images * matrices * image.rows;
    let empty = || Usage {
        histograms: histograms.clone(),
        ..Usage::default()
    };
    let add_row = |mut usage: Usage, row: usize| {
        let (matrix, of_matrix) = (row / image.rows, row % image.rows);
        let values = &values[matrix / matrices * len..][..len];
        let matrix = matrix % matrices;
        by_format!(image.format, F => count_row::<F>(
            &mut usage, &image, &encoders, matrix, of_matrix, values,
        ));
        usage
    };
    (0..rows)
        .into_par_iter()
        .with_min_len(BLOCK.div_ceil(image.k))
        .fold(empty, add_row)
        .reduce(empty, |mut sum, other| {
            sum += other;
            sum
        })
}

/// Counts one row of a matrix of an image, whose elements are `values`.
fn count_row<F: CodeFormat>(
    usage: &mut Usage,
    image: &Quantize,
    encoders: &[u32],
    matrix: usize,
    row: usize,
    values: &[f32],
) {
    let batch = [matrix / image.batch[1], matrix % image.batch[1]];
    let group = batch[1] * image.inner_groups + row / image.group_rows;
    let words = image.format.encoder_words();
    let record = &encoders[group * words..][..words];
    let q = half_range(image.bits);
    let start = image.source.at(batch, row, 0);
    let place = F::places(Encoder::of(record), q);
    let row = values[start..].iter().step_by(image.source.column as usize);
    for &value in row.take(image.k) {
        let Place { clipped, in_r2 } = place(value);
        usage.clipped += u64::from(clipped);
        usage.in_r2 += u64::from(in_r2);
        if let Some(histograms) = &mut usage.histograms {
            histograms.add(f64::from(value));
        }
    }
    usage.values += image.k as u64;
}
