//! Rounds the weights of a row one after the other, each so that it makes up for the errors of those before it: GPTQ
//! (Frantar et al., ICLR 2023), as the nearest plane of a lattice (Babai).
//!
//! With the inputs' covariance C = L Lᵀ, the output's error has the variance |e L|² of the row's errors e. Its last
//! component is e_K L_KK alone; the one before has a term of e_K, and so on. So the weights are rounded from the last to
//! the first, each so that its own component is least. Those whose inputs vary most are last, because what they leave
//! is made up for by most others.

use ndarray::Array2;

/// Holds L of the inputs' covariance, with the inputs in the order of rising variances.
pub(in crate::quant) struct CovarianceFactor {
    /// The input at each place.
    order: Vec<usize>,
    /// The lower triangle, row by row; what is above it is zero.
    rows: Vec<f32>,
}

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
        let mut rows = vec![0.0; count * count];
        for row in 0..count {
            for column in 0..=row {
                rows[row * count + column] = lower[(row, column)] as f32;
            }
        }
        Some(Self { order, rows })
    }

    /// Counts the inputs.
    pub fn inputs(&self) -> usize {
        self.order.len()
    }

    /// Rounds a row of weights: `nearest` gives the integer that is nearest to a multiple of `scale`. Returns the
    /// integers and the variance of the output's error.
    pub fn round(&self, row: &[f32], scale: f32, nearest: impl Fn(f32) -> i8) -> (Vec<i8>, f64) {
        let count = self.order.len();
        let mut integers = vec![0; count];
        // What the errors so far have put into each component.
        let mut carried = vec![0.0f32; count];
        let mut variance = 0.0;
        for place in (0..count).rev() {
            let factor = &self.rows[place * count..][..=place];
            let own = factor[place];
            let input = self.order[place];
            let integer = nearest((row[input] - carried[place] / own) / scale);
            let error = f32::from(integer) * scale - row[input];
            variance += f64::from(error * own + carried[place]).powi(2);
            integers[input] = integer;
            for (carried, factor) in carried.iter_mut().zip(&factor[..place]) {
                *carried += error * factor;
            }
        }
        (integers, variance)
    }

    /// Computes the variance of the output's error where a row's weights are off by `errors`.
    pub fn variance(&self, errors: &[f32]) -> f64 {
        let count = self.order.len();
        let mut components = vec![0.0f32; count];
        for (place, &input) in self.order.iter().enumerate() {
            let error = errors[input];
            let factor = &self.rows[place * count..][..=place];
            for (component, factor) in components.iter_mut().zip(factor) {
                *component += error * factor;
            }
        }
        components.iter().map(|&x| f64::from(x).powi(2)).sum()
    }
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
        let (integers, found) = factor.round(&row, scale, nearest);
        let successive = variance(&covariance, &errors(&integers));
        assert!(
            (found / successive - 1.0).abs() < 1e-3,
            "{found} for {successive}"
        );
        let each: Vec<i8> = row.iter().map(|w| nearest(w / scale)).collect();
        let apart = variance(&covariance, &errors(&each));
        assert!((factor.variance(&errors(&each)) / apart - 1.0).abs() < 1e-3);
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
                let (integers, variance) = factor.round(weight, scales[row], nearest);
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
        let (integers, _) = factor.round(&row, 0.3, nearest);
        let expected: Vec<i8> = row.iter().map(|w| nearest(w / 0.3)).collect();
        assert_eq!(integers, expected);
    }

    #[test]
    fn constant_inputs_have_no_factor() {
        assert!(CovarianceFactor::of(&Array2::zeros((4, 4)), 0.01).is_none());
    }
}
