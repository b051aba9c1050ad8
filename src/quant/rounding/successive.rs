//! Rounds the weights of a row one after the other, each so that it makes up for the errors of those before it: GPTQ
//! (Frantar et al., ICLR 2023), as the nearest plane of a lattice (Babai).
//!
//! With the inputs' covariance C = L Lᵀ, the output's error has the variance |e L|² of the row's errors e. Its last
//! component is e_K L_KK alone; the one before has a term of e_K, and so on. So the weights are rounded from the last to
//! the first, each so that its own component is least. Those whose inputs vary most are last, because what they leave
//! is made up for by most others.

use multiversion::multiversion;
use ndarray::Array2;
use std::array;

/// Counts the vectors of errors that go through the factor at once.
pub(in crate::quant) const AT_ONCE: usize = 5;
/// Counts the components that are summed at once: few enough for the registers of a CPU, with so many vectors.
const TILE: usize = 16;

/// Holds L of the inputs' covariance, with the inputs in the order of rising variances.
pub(in crate::quant) struct CovarianceFactor {
    /// The input at each place.
    order: Vec<usize>,
    /// The lower triangle, row by row; what is beyond it is zero.
    rows: Vec<f32>,
    /// The elements of a row: whole tiles.
    stride: usize,
}

/// Holds what errors have put into the components of a tile, for each vector.
type Sums = [[f32; TILE]; AT_ONCE];

impl CovarianceFactor {
    /// Factors `covariance` `[inputs, inputs]` with `damping` times its mean diagonal added to the diagonal: of few rows
    /// it tells little about rare combinations. `None` where all inputs are constant.
    pub fn of(covariance: &Array2<f32>, damping: f64) -> Option<Self> {
        let count = covariance.nrows();
        let diagonal: Vec<f64> = covariance.diag().iter().map(|&x| f64::from(x)).collect();
        let added = damping * diagonal.iter().sum::<f64>() / count as f64;
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&one, &other| diagonal[one].total_cmp(&diagonal[other]));
        let damped = faer::Mat::from_fn(count, count, |row, column| {
            let value = f64::from(covariance[[order[row], order[column]]]);
            if row == column { value + added } else { value }
        });
        let factor = damped.llt(faer::Side::Lower).ok()?;
        let lower = factor.L();
        let stride = count.next_multiple_of(TILE);
        let mut rows = vec![0.0; count * stride];
        for row in 0..count {
            for column in 0..=row {
                rows[row * stride + column] = lower[(row, column)] as f32;
            }
        }
        Some(Self {
            order,
            rows,
            stride,
        })
    }

    /// Counts the inputs.
    pub fn inputs(&self) -> usize {
        self.order.len()
    }

    /// Rounds at most [`AT_ONCE`] rows of weights, each of which has one of the `scales`: `nearest` gives the integer that
    /// is nearest to a multiple of a scale. Returns for each row the integers and the variance of the output's error.
    pub fn round(
        &self,
        rows: &[&[f32]],
        scales: &[f32],
        nearest: impl Fn(f32) -> i8,
    ) -> Vec<(Vec<i8>, f64)> {
        let count = self.order.len();
        let mut rounded = vec![(vec![0; count], 0.0); rows.len()];
        let mut errors = vec![[0.0; AT_ONCE]; count];
        for start in (0..count).step_by(TILE).rev() {
            let end = (start + TILE).min(count);
            // What the errors so far have put into each component.
            let mut carried = self.sums(start, end, &errors[end..], Order::Falling);
            for place in (start..end).rev() {
                let factor = self.tile(place, start);
                let own = factor[place - start];
                let input = self.order[place];
                let all = rows.iter().zip(scales).zip(&mut rounded).zip(&mut carried);
                for (number, (((row, scale), (integers, variance)), carried)) in all.enumerate() {
                    let before = carried[place - start];
                    let integer = nearest((row[input] - before / own) / scale);
                    let error = f32::from(integer) * scale - row[input];
                    *variance += f64::from(error * own + before).powi(2);
                    integers[input] = integer;
                    errors[place][number] = error;
                    for (carried, factor) in carried.iter_mut().zip(factor) {
                        *carried += error * factor;
                    }
                }
            }
        }
        rounded
    }

    /// Computes the variance of the output's error where a row's weights are off by each of at most [`AT_ONCE`] vectors
    /// of `errors`.
    pub fn variances(&self, errors: &[Vec<f32>]) -> Vec<f64> {
        let count = self.order.len();
        let mut variances = vec![0.0; errors.len()];
        let at_input = |&input: &usize| {
            array::from_fn(|at| errors.get(at).map_or(0.0, |errors| errors[input]))
        };
        let errors: Vec<[f32; AT_ONCE]> = self.order.iter().map(at_input).collect();
        for start in (0..count).step_by(TILE) {
            let components = self.sums(start, start, &errors[start..], Order::Rising);
            let within = TILE.min(count - start);
            for (variance, components) in variances.iter_mut().zip(components) {
                for &x in &components[..within] {
                    *variance += f64::from(x).powi(2);
                }
            }
        }
        variances
    }

    /// Adds up what `errors`, which are at the places from `first` on, put into the components from `start` on.
    fn sums(&self, start: usize, first: usize, errors: &[[f32; AT_ONCE]], order: Order) -> Sums {
        match errors.is_empty() {
            true => Sums::default(),
            false => tile_sums(
                &self.rows[first * self.stride + start..],
                self.stride,
                errors,
                order,
            ),
        }
    }

    /// Returns the row of a place, from `start` on.
    fn tile(&self, place: usize, start: usize) -> &[f32; TILE] {
        let row = self.rows[place * self.stride + start..].first_chunk();
        row.expect("rows are whole tiles")
    }
}

/// Says in which order the places are summed over.
#[derive(Clone, Copy)]
enum Order {
    Rising,
    Falling,
}

/// Adds up the products of each vector's error at each place and the first elements of that place's row, `stride` apart.
/// Compiled for each instruction set, without a difference in what is rounded.
#[multiversion(targets = "simd")]
fn tile_sums(rows: &[f32], stride: usize, errors: &[[f32; AT_ONCE]], order: Order) -> Sums {
    let mut sums = Sums::default();
    for step in 0..errors.len() {
        let place = match order {
            Order::Rising => step,
            Order::Falling => errors.len() - 1 - step,
        };
        let row = &rows[place * stride..][..TILE];
        for (sums, error) in sums.iter_mut().zip(errors[place]) {
            for (sum, factor) in sums.iter_mut().zip(row) {
                *sum += error * factor;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::weights::Weights;

    /// Inputs of which neighbours vary together.
    fn covariance(count: usize) -> Array2<f32> {
        Array2::from_shape_fn((count, count), |(row, column)| {
            let size = |at: usize| 1.0 + (at * 7 % count) as f32 / count as f32;
            size(row) * size(column) * 0.8f32.powi(row.abs_diff(column) as i32)
        })
    }

    fn row(count: usize) -> Vec<f32> {
        (0..count)
            .map(|at| ((at * at * 31 + 7 * at) % 101) as f32 / 25.0 - 2.0)
            .collect()
    }

    fn nearest(x: f32) -> i8 {
        x.round_ties_even().clamp(-8.0, 7.0) as i8
    }

    /// The variance eᵀ C e by its definition.
    fn variance(covariance: &Array2<f32>, errors: &[f32]) -> f64 {
        let mut sum = 0.0;
        for (row, one) in errors.iter().enumerate() {
            for (column, other) in errors.iter().enumerate() {
                sum += f64::from(*one) * f64::from(*other) * f64::from(covariance[[row, column]]);
            }
        }
        sum
    }

    #[test]
    fn later_weights_make_up_for_earlier_ones() {
        let (count, scale) = (40, 0.5);
        let (covariance, row) = (covariance(count), row(count));
        let factor = CovarianceFactor::of(&covariance, 0.0).unwrap();
        let errors = |integers: &[i8]| -> Vec<f32> {
            let pairs = integers.iter().zip(&row);
            pairs
                .map(|(&integer, w)| f32::from(integer) * scale - w)
                .collect()
        };
        let (integers, found) = factor.round(&[&row], &[scale], nearest).remove(0);
        let successive = variance(&covariance, &errors(&integers));
        assert!(
            (found / successive - 1.0).abs() < 1e-3,
            "{found} for {successive}"
        );
        let each: Vec<i8> = row.iter().map(|w| nearest(w / scale)).collect();
        let apart = variance(&covariance, &errors(&each));
        assert!((factor.variances(&[errors(&each)])[0] / apart - 1.0).abs() < 1e-3);
        assert!(successive < 0.5 * apart, "{successive} for {apart}");
    }

    /// `tests/golden/best.py` takes columns by falling variance, puts each one's error on those that are left, and inverts
    /// the Hessian of these anew every time.
    #[test]
    fn the_nearest_plane_is_gptq() {
        let file = include_bytes!("../../../tests/data/best/sites.safetensors");
        let file = Weights::from_bytes("sites.safetensors", file).unwrap();
        for site in ["vit.proj", "vit.fc2", "swin.qkv"] {
            let float = |part: &str| file.float(&format!("{site}/{part}")).unwrap();
            let lanes = |part: &str| -> Vec<i8> {
                let lanes = file.bytes(&format!("{site}/{part}")).unwrap();
                lanes.iter().map(|&lane| lane as i8).collect()
            };
            let (levels, expected) = (lanes("b.levels"), lanes("b.lanes"));
            let nearest = |x: f32| {
                let distance = |level: i8| (f32::from(level) - x).abs();
                let levels = levels.iter().copied();
                let nearer = |one: &i8, other: &i8| distance(*one).total_cmp(&distance(*other));
                levels.min_by(nearer).unwrap()
            };
            let (scales, variances) = (float("b.scale"), float("b.error"));
            let weight = float("weight");
            let inputs = weight.len() / scales.len();
            let covariance = Array2::from_shape_vec((inputs, inputs), float("covariance")).unwrap();
            let factor = CovarianceFactor::of(&covariance, 0.01).unwrap();
            let rows = weight.chunks(inputs).zip(expected.chunks(inputs));
            for (row, (weight, expected)) in rows.enumerate() {
                let (integers, variance) =
                    factor.round(&[weight], &[scales[row]], nearest).remove(0);
                assert_eq!(integers, expected, "{site}, row {row}");
                // The factor, and what it carries of up to 48 errors, is f32.
                let off = (variance / f64::from(variances[row]) - 1.0).abs();
                assert!(off < 1e-5, "{site}, row {row}: the variance is {off:e} off");
            }
        }
    }

    #[test]
    fn independent_inputs_are_rounded_to_the_nearest() {
        let row = row(12);
        let factor = CovarianceFactor::of(&Array2::eye(12), 0.0).unwrap();
        let (integers, _) = factor.round(&[&row], &[0.3], nearest).remove(0);
        let expected: Vec<i8> = row.iter().map(|w| nearest(w / 0.3)).collect();
        assert_eq!(integers, expected);
    }

    #[test]
    fn constant_inputs_have_no_factor() {
        assert!(CovarianceFactor::of(&Array2::zeros((4, 4)), 0.01).is_none());
    }
}
