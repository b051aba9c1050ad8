//! What goes into a product with a weight, before and after it is rounded: its bias makes up for the means, its weight
//! is rounded with a view to how the rest varies.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

/// Sets how many rows one task adds up.
const BLOCK: usize = 64;
/// Sets how many columns of the covariance one task computes.
const PANEL: usize = 64;

/// Holds what is known of the inputs of a product with a weight. A row counts as much as an error of its outputs does.
pub(super) struct Inputs {
    /// The mean of each input before rounding.
    pub means: Vec<f64>,
    /// The mean of each input after it.
    pub rounded_means: Vec<f64>,
    /// How inputs vary together after it, `[inputs, inputs]`, symmetric.
    pub covariance: Array2<f32>,
}

impl Inputs {
    /// Takes `values` `[rows, inputs]` and what they are `rounded` to, with the weights of the rows, which add up to 1.
    pub fn of(values: &[f32], rounded: Vec<f32>, inputs: usize, rows: &[f64]) -> Self {
        let (means, rounded_means) = (means(values, inputs, rows), means(&rounded, inputs, rows));
        let mut centred = rounded;
        centred
            .par_chunks_exact_mut(inputs)
            .zip(rows)
            .for_each(|(values, weight)| {
                let root = weight.sqrt();
                for (value, mean) in values.iter_mut().zip(&rounded_means) {
                    *value = ((f64::from(*value) - mean) * root) as f32;
                }
            });
        Self {
            covariance: squared(&centred, inputs),
            means,
            rounded_means,
        }
    }

    /// Returns the variance of each input.
    pub fn variances(&self) -> Vec<f64> {
        self.covariance
            .diag()
            .iter()
            .map(|&variance| f64::from(variance))
            .collect()
    }
}

/// Computes the weighted mean of each column, in f64, block by block in the order of the rows.
pub(super) fn means(values: &[f32], columns: usize, rows: &[f64]) -> Vec<f64> {
    let blocks: Vec<Vec<f64>> = values
        .par_chunks(BLOCK * columns)
        .zip(rows.par_chunks(BLOCK))
        .map(|(values, rows)| {
            let mut sums = vec![0.0; columns];
            for (values, weight) in values.chunks_exact(columns).zip(rows) {
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum += weight * f64::from(value);
                }
            }
            sums
        })
        .collect();
    let mut means = vec![0.0; columns];
    for block in blocks {
        for (mean, sum) in means.iter_mut().zip(block) {
            *mean += sum;
        }
    }
    means
}

/// Computes XᵀX of `x` `[rows, columns]`, panel by panel, each by one task.
fn squared(x: &[f32], columns: usize) -> Array2<f32> {
    let x = ArrayView2::from_shape((x.len() / columns, columns), x).expect("whole rows");
    let starts: Vec<usize> = (0..columns).step_by(PANEL).collect();
    let panels: Vec<Array2<f32>> = starts
        .par_iter()
        .map(|&start| {
            let end = (start + PANEL).min(columns);
            let mut panel = Array2::zeros((end - start, end));
            let (left, right) = (x.slice(s![.., start..end]), x.slice(s![.., ..end]));
            general_mat_mul(1.0, &left.t(), &right, 0.0, &mut panel);
            panel
        })
        .collect();
    let mut square = Array2::zeros((columns, columns));
    for (start, panel) in starts.into_iter().zip(panels) {
        let (height, width) = panel.dim();
        square
            .slice_mut(s![start..start + height, ..width])
            .assign(&panel);
        square
            .slice_mut(s![..width, start..start + height])
            .assign(&panel.t());
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covariances_are_those_of_rounded_rows() {
        let (rows, inputs) = (150, 70);
        let values: Vec<f32> = (0..rows * inputs)
            .map(|at| ((at * at) % 97) as f32 / 30.0 + (at % inputs) as f32 * 0.1)
            .collect();
        let weights: Vec<f64> = (0..rows).map(|row| 1.0 + (row % 3) as f64).collect();
        let total: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let quarters = values.iter().map(|x| (x * 4.0).round_ties_even() / 4.0);
        let found = Inputs::of(&values, quarters.collect(), inputs, &weights);
        let value = |row: usize, input: usize| f64::from(values[row * inputs + input]);
        let rounded = |row, input| (value(row, input) * 4.0).round_ties_even() / 4.0;
        let mean = |of: &dyn Fn(usize) -> f64| -> f64 {
            (0..rows).map(|row| weights[row] * of(row)).sum()
        };
        for (one, other) in [(0, 0), (3, 69), (69, 3), (68, 67)] {
            let means = [one, other].map(|input| mean(&|row| rounded(row, input)));
            assert!((found.rounded_means[one] - means[0]).abs() < 1e-9);
            assert!((found.means[one] - mean(&|row| value(row, one))).abs() < 1e-9);
            let expected =
                mean(&|row| (rounded(row, one) - means[0]) * (rounded(row, other) - means[1]));
            let covariance = f64::from(found.covariance[[one, other]]);
            assert!(
                (covariance - expected).abs() < 1e-5,
                "{covariance} for {expected}"
            );
        }
    }
}
