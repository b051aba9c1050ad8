//! A weight's levels, scales and codes, given how its inputs vary.

use super::fit::signed;
use super::histogram::{Histogram, Power};
use super::levels::optimal_levels;
use super::linear::Inputs;
use crate::format::{Format, Scale, Table};
use crate::graph::Linear;
use crate::quant::plan::{Granularity, OperandScheme};
use crate::quant::rounding::{AT_ONCE, CovarianceFactor};
use rayon::prelude::*;

/// Counts the scales that are tried for each group of rows.
const SCALES: usize = 29;
/// Sets the smallest and the largest of them, as fractions of the one that covers the group's largest weight.
const FRACTIONS: [f64; 2] = [0.35, 1.05];
/// Counts the scales on each side of the best one, as far as variances alone tell, that are compared by the covariance.
const NEIGHBOURS: usize = 2;
const _: () = assert!(2 * NEIGHBOURS < AT_ONCE, "they are compared at once");
/// Sets the damping of the inputs' covariance, as a share of its mean diagonal.
const DAMPING: f64 = 0.01;
/// Sets it where there is one row an image.
const SINGLE_DAMPING: f64 = 0.3;
/// Counts the halves from the smallest 8-bit integer to one more than the largest.
const HALVES: usize = 512;

/// Holds a weight in integers.
#[derive(Debug)]
pub(super) struct RoundedWeight {
    /// `[groups]`.
    pub scales: Vec<Scale>,
    /// The levels, where codes are looked up in a table.
    pub table: Option<Table>,
    /// What the product multiplies, `[outputs, inputs]`.
    pub lanes: Vec<i8>,
    /// Σ over outputs of the variance of the error.
    pub error: f64,
}

/// Chooses levels and scales for `weight` `[outputs, inputs]`, and rounds it so that the outputs' errors vary the least
/// for such `inputs`.
pub(super) fn round_weight(
    weight: &[f32],
    sizes: &Linear,
    scheme: &OperandScheme,
    inputs: &Inputs,
) -> RoundedWeight {
    let damping = if sizes.rows == 1 {
        SINGLE_DAMPING
    } else {
        DAMPING
    };
    let mut variances = inputs.variances();
    let mean = variances.iter().sum::<f64>() / variances.len() as f64;
    for variance in &mut variances {
        *variance += damping * mean;
    }
    let group_len = weight.len() / groups(sizes, scheme.granularity);
    let largest: Vec<f32> = weight
        .par_chunks(group_len)
        .map(|rows| rows.iter().fold(0.0f32, |largest, w| largest.max(w.abs())))
        .collect();
    let has_table = scheme.format == Format::Table;
    let (factor, table) = rayon::join(
        || CovarianceFactor::of(&inputs.covariance, damping),
        || has_table.then(|| levels(weight, scheme.bits, &variances, &largest)),
    );
    let integers: Vec<i8> = match &table {
        Some(table) => table.lanes.iter().map(|&lane| lane as i8).collect(),
        None => {
            let q = 1i32 << (scheme.bits - 1);
            (-q..q).map(|code| code as i8).collect()
        }
    };
    let rows = Rows {
        nearest: Nearest::of(&integers),
        reach: integers
            .iter()
            .map(|&level| f64::from(level).abs())
            .fold(1.0, f64::max),
        variances: &variances,
        factor: factor.as_ref(),
    };
    let scales: Vec<f32> = weight
        .par_chunks(group_len)
        .zip(&largest)
        .map(|(group, &largest)| rows.best_scale(group, largest))
        .collect();
    let group_rows = group_len / sizes.inputs;
    let scale_of_row: Vec<f32> = (0..sizes.outputs)
        .map(|row| scales[row / group_rows])
        .collect();
    let rounded: Vec<(Vec<i8>, f64)> = weight
        .par_chunks(AT_ONCE * sizes.inputs)
        .zip(scale_of_row.par_chunks(AT_ONCE))
        .flat_map_iter(|(weight, scales)| rows.round(weight, scales))
        .collect();
    let group_error = |group: &[(Vec<i8>, f64)]| group.iter().map(|row| row.1).sum::<f64>();
    RoundedWeight {
        error: rounded.chunks(group_rows).map(group_error).sum(),
        scales: scales.into_iter().map(Scale::uniform).collect(),
        lanes: rounded.into_iter().flat_map(|(lanes, _)| lanes).collect(),
        table,
    }
}

/// Holds what all rows of a weight are rounded by.
struct Rows<'a> {
    /// Finds the lane.
    nearest: Nearest,
    /// The largest magnitude of a lane, or 1.
    reach: f64,
    /// `[inputs]`.
    variances: &'a [f64],
    /// There unless all inputs are constant.
    factor: Option<&'a CovarianceFactor>,
}

impl Rows<'_> {
    /// Finds the scale of a group of rows whose largest weight is `largest`: the best by the inputs' variances, or a
    /// neighbour of it that is better by their covariance.
    fn best_scale(&self, group: &[f32], largest: f32) -> f32 {
        let covering = match largest > 0.0 {
            true => f64::from(largest) / self.reach,
            false => 1.0,
        };
        let scales: Vec<f32> = (0..SCALES)
            .map(|index| {
                let share = index as f64 / (SCALES - 1) as f64;
                (covering * (FRACTIONS[0] + share * (FRACTIONS[1] - FRACTIONS[0]))) as f32
            })
            .collect();
        let best = least(0..SCALES, |index| self.error_apart(group, scales[index]));
        let near = best.saturating_sub(NEIGHBOURS)..(best + NEIGHBOURS + 1).min(SCALES);
        let errors = self.errors(group, &scales[near.clone()]);
        scales[near.start + least(0..errors.len(), |index| errors[index])]
    }

    /// Computes the variance of the outputs' errors if the inputs were independent.
    fn error_apart(&self, group: &[f32], scale: f32) -> f64 {
        let rows = group.chunks_exact(self.variances.len());
        let errors = rows.flat_map(|row| {
            row.iter()
                .zip(self.variances)
                .map(|(w, variance)| variance * f64::from(self.rounding_error(*w, scale)).powi(2))
        });
        errors.sum()
    }

    /// Computes the variance of the outputs' errors under each of at most [`AT_ONCE`] `scales`, each weight being rounded
    /// to the nearest.
    fn errors(&self, group: &[f32], scales: &[f32]) -> Vec<f64> {
        let Some(factor) = self.factor else {
            let apart = scales.iter().map(|&scale| self.error_apart(group, scale));
            return apart.collect();
        };
        let mut sums = vec![0.0; scales.len()];
        for row in group.chunks_exact(factor.inputs()) {
            let errors = |&scale: &f32| {
                let errors = row.iter().map(|&w| self.rounding_error(w, scale));
                errors.collect()
            };
            let errors: Vec<Vec<f32>> = scales.iter().map(errors).collect();
            for (sum, variance) in sums.iter_mut().zip(factor.variances(&errors)) {
                *sum += variance;
            }
        }
        sums
    }

    fn rounding_error(&self, w: f32, scale: f32) -> f32 {
        f32::from(self.nearest.to(w / scale)) * scale - w
    }

    /// Rounds at most [`AT_ONCE`] rows of `weight`, which have one of the `scales` each. Returns for each row the lanes and
    /// the variance of the output's error.
    fn round(&self, weight: &[f32], scales: &[f32]) -> Vec<(Vec<i8>, f64)> {
        let nearest = |x| self.nearest.to(x);
        let rows: Vec<&[f32]> = weight.chunks_exact(self.variances.len()).collect();
        let Some(factor) = self.factor else {
            let apart = rows.iter().zip(scales).map(|(row, &scale)| {
                let lanes = row.iter().map(|w| nearest(w / scale)).collect();
                (lanes, self.error_apart(row, scale))
            });
            return apart.collect();
        };
        factor.round(&rows, scales, nearest)
    }
}

/// Finds the first of some numbers whose error is least.
fn least(numbers: std::ops::Range<usize>, error: impl Fn(usize) -> f64) -> usize {
    let errors = numbers.map(|number| (number, error(number)));
    let best = errors.reduce(|best, other| if other.1 < best.1 { other } else { best });
    best.expect("there are several").0
}

fn groups(sizes: &Linear, granularity: Granularity) -> usize {
    match granularity {
        Granularity::Channel => sizes.outputs,
        Granularity::Third => 3,
        Granularity::Half => 2,
        Granularity::Tensor | Granularity::Head => 1,
    }
}

/// Finds the levels of all weights, each as a fraction of the largest one of its group.
fn levels(weight: &[f32], bits: u32, variances: &[f64], largest: &[f32]) -> Table {
    let group_len = weight.len() / largest.len();
    let fractions: Vec<f32> = weight
        .iter()
        .enumerate()
        .map(|(at, w)| match largest[at / group_len] {
            0.0 => 0.0,
            largest => w / largest,
        })
        .collect();
    let importance = |at: usize| {
        let variance = variances[at % variances.len()];
        f64::from(largest[at / group_len]).powi(2) * variance + f64::from(f32::MIN_POSITIVE)
    };
    let histogram = Histogram::of(&fractions, Power::One, importance);
    let levels = optimal_levels(&histogram, 1 << bits);
    let table = signed(&histogram, &levels, false).table;
    table.expect("a fit to levels is a table")
}

/// Finds the nearest of some integers, the lower one of two that are as near. The middle between two is a multiple of a
/// half, so that all of a cell between neighbouring multiples, its upper end with it, has the same one.
struct Nearest([i8; HALVES]);

impl Nearest {
    /// Takes `integers` that rise.
    fn of(integers: &[i8]) -> Self {
        let mut level = 0;
        Self(std::array::from_fn(|cell| {
            // In halves, so that sums are twice the middles.
            let upper_end = cell as i32 - 255;
            while level + 1 < integers.len()
                && upper_end > i32::from(integers[level]) + i32::from(integers[level + 1])
            {
                level += 1;
            }
            integers[level]
        }))
    }

    #[inline]
    fn to(&self, x: f32) -> i8 {
        let halves = (2.0 * x).clamp(-255.0, 256.0);
        let truncated = halves as i32;
        let rounded_up = truncated + i32::from((truncated as f32) < halves);
        self.0[(rounded_up + 255) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    fn rounded(format: Format, granularity: Granularity) -> (Vec<f32>, RoundedWeight) {
        let sizes = Linear::new(1, 64, 6);
        let weight: Vec<f32> = (0..6 * 64)
            .map(|at| {
                let x = ((at * 7919 % 1000) as f32 / 500.0 - 1.0).powi(3);
                x * (1 + at / 64) as f32 * 0.1
            })
            .collect();
        let scheme = OperandScheme {
            bits: 4,
            format,
            granularity,
        };
        let variance = |input: usize| 1.0 + (input % 5) as f32;
        let inputs = Inputs {
            means: vec![0.0; 64],
            rounded_means: vec![0.0; 64],
            covariance: Array2::from_shape_fn((64, 64), |(row, column)| match row == column {
                true => variance(row),
                false => 0.0,
            }),
        };
        let rounded = round_weight(&weight, &sizes, &scheme, &inputs);
        (weight, rounded)
    }

    #[test]
    fn a_table_and_a_scale_for_each_row_round_better() {
        let (_, uniform) = rounded(Format::Uniform, Granularity::Tensor);
        let (_, channel) = rounded(Format::Uniform, Granularity::Channel);
        let (weight, table) = rounded(Format::Table, Granularity::Channel);
        assert!(
            channel.error < 0.8 * uniform.error,
            "{} {}",
            channel.error,
            uniform.error
        );
        assert!(
            table.error < 0.7 * channel.error,
            "{} {}",
            table.error,
            channel.error
        );
        assert!((uniform.scales.len(), channel.scales.len()) == (1, 6) && uniform.table.is_none());
        let lanes = &table.table.as_ref().unwrap().lanes;
        assert!(
            lanes.len() <= 16
                && table
                    .lanes
                    .iter()
                    .all(|&lane| lanes.contains(&(lane as u8)))
        );
        // Cubes are mostly small, where levels are close.
        let off = weight
            .iter()
            .enumerate()
            .map(|(at, w)| (f32::from(table.lanes[at]) * table.scales[at / 64].scale - w).abs());
        assert!(off.fold(0.0, f32::max) < 0.1);
    }

    #[test]
    fn the_nearest_level_is_found() {
        for integers in [
            &[-100, -3, 0, 7, 127][..],
            &[-128, -127, 2, 5, 126, 127],
            &[9],
        ] {
            let nearest = Nearest::of(integers);
            let middles = (-1100..1100).map(|quarters| quarters as f32 / 4.0);
            for x in middles.flat_map(|x| [x, x.next_up(), x.next_down(), x * 1e9]) {
                let distance = |integer: &&i8| (f64::from(**integer) - f64::from(x)).abs();
                // Of equals the first one.
                let expected = integers
                    .iter()
                    .min_by(|one, other| distance(one).total_cmp(&distance(other)));
                assert_eq!(Some(&nearest.to(x)), expected, "{x} among {integers:?}");
            }
        }
    }
}
