//! How an operand's values are distributed, each with the weight that an error there has.

use rayon::prelude::*;

/// Sets how many values one task counts.
const BLOCK: usize = 1 << 16;
/// Counts the bins of a histogram.
pub(super) const BINS: usize = 4096;

/// Says how bins get wider away from zero: they are equal in |x|^power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    One,
    Half,
    Third,
}

impl Power {
    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        match self {
            Self::One => x,
            Self::Half => x.abs().sqrt().copysign(x),
            Self::Third => libm::cbrtf(x),
        }
    }
}

/// Holds the bins with any weight, by rising values.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// The weighted mean of each bin's values.
    pub centres: Vec<f64>,
    /// The weight of each bin; all add up to 1.
    pub weights: Vec<f64>,
}

/// Adds up weights, and weights times values, of each bin.
struct Sums {
    weights: Vec<f64>,
    moments: Vec<f64>,
}

impl Sums {
    fn new() -> Self {
        let [weights, moments] = [(); 2].map(|()| vec![0.0; BINS]);
        Self { weights, moments }
    }
}

impl Histogram {
    /// Counts the value at each index of `values` with the weight that `weight` gives it. Sums are f64 and added block by
    /// block in the order of the values, so that they don't depend on how the work is divided.
    pub fn of(values: &[f32], power: Power, weight: impl Fn(usize) -> f64 + Sync) -> Self {
        let (low, high) = range(values);
        let (low, high) = (power.of(low), power.of(high));
        let per_unit = BINS as f32 / (high - low).max(f32::MIN_POSITIVE);
        let blocks: Vec<Sums> = values
            .par_chunks(BLOCK)
            .enumerate()
            .map(|(block, values)| {
                let mut sums = Sums::new();
                for (at, &value) in values.iter().enumerate() {
                    let bin = ((power.of(value) - low) * per_unit) as usize;
                    let bin = bin.min(BINS - 1);
                    let weight = weight(block * BLOCK + at);
                    sums.weights[bin] += weight;
                    sums.moments[bin] += weight * f64::from(value);
                }
                sums
            })
            .collect();
        let mut whole = Sums::new();
        for block in blocks {
            for bin in 0..BINS {
                whole.weights[bin] += block.weights[bin];
                whole.moments[bin] += block.moments[bin];
            }
        }
        Self::from_sums(&whole.weights, &whole.moments)
    }

    fn from_sums(weights: &[f64], moments: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let bins = weights
            .iter()
            .zip(moments)
            .filter(|(weight, _)| **weight > 0.0);
        let (centres, weights) = bins
            .map(|(weight, moment)| (moment / weight, weight / total))
            .unzip();
        Self { centres, weights }
    }

    /// Merges neighbouring bins, so that no more than about `count` are left.
    pub fn merged(&self, count: usize) -> Self {
        let size = self.centres.len().div_ceil(count).max(1);
        let bins = self.centres.chunks(size).zip(self.weights.chunks(size));
        let (centres, weights) = bins
            .map(|(centres, weights)| {
                let weight: f64 = weights.iter().sum();
                let moment: f64 = centres.iter().zip(weights).map(|(x, w)| x * w).sum();
                (moment / weight, weight)
            })
            .unzip();
        Self { centres, weights }
    }

    /// Adds one more value to `count` of them, no less than any, which counts as much as they do on average.
    pub fn with_one_more(mut self, value: f64, count: usize) -> Self {
        let share = 1.0 / (count + 1) as f64;
        for weight in &mut self.weights {
            *weight *= 1.0 - share;
        }
        self.centres.push(value);
        self.weights.push(share);
        self
    }

    /// Returns the first and the last bin's value; zeros where there is none.
    pub fn ends(&self) -> [f64; 2] {
        let [first, last] = [self.centres.first(), self.centres.last()];
        [first, last].map(|end| end.copied().unwrap_or(0.0))
    }

    /// Adds up the weighted squared distances of all bins from the nearest of rising `levels`.
    pub fn error(&self, levels: &[f64]) -> f64 {
        let mut level = 0;
        let mut sum = 0.0;
        for (x, weight) in self.centres.iter().zip(&self.weights) {
            while level + 1 < levels.len() && x + x > levels[level] + levels[level + 1] {
                level += 1;
            }
            sum += weight * (x - levels[level]).powi(2);
        }
        sum
    }
}

/// Finds the smallest and the largest value.
pub(super) fn range(values: &[f32]) -> (f32, f32) {
    let wider = |(low, high): (f32, f32), (other_low, other_high): (f32, f32)| {
        (low.min(other_low), high.max(other_high))
    };
    let none = (f32::INFINITY, f32::NEG_INFINITY);
    values
        .par_chunks(BLOCK)
        .map(|values| values.iter().fold(none, |range, &x| wider(range, (x, x))))
        .reduce(|| none, wider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_have_the_means_and_the_shares_of_what_falls_in_them() {
        let values = [-4.0, 0.0, 0.0001, 9.0];
        let weights = [1.0, 2.0, 2.0, 5.0];
        for power in [Power::One, Power::Half, Power::Third] {
            let histogram = Histogram::of(&values, power, |at| weights[at]);
            assert_eq!(histogram.ends(), [-4.0, 9.0], "{power:?}");
            let mean: f64 = histogram
                .centres
                .iter()
                .zip(&histogram.weights)
                .map(|(x, w)| x * w)
                .sum();
            assert!((mean - 4.10002).abs() < 1e-6, "{power:?}: {mean}");
        }
        // In |x|^(1/3), 0.0001 is 0.046, several bins away from 0; in x it is in its bin.
        let bins = |power| {
            Histogram::of(&values, power, |at| weights[at])
                .centres
                .len()
        };
        assert_eq!((bins(Power::One), bins(Power::Third)), (3, 4));
    }

    #[test]
    fn one_more_value_counts_as_much_as_the_others() {
        let histogram = Histogram::of(&[0.0, 0.25, 0.5], Power::Third, |_| 7.0);
        let more = histogram.with_one_more(1.0, 3);
        assert_eq!(more.ends(), [0.0, 1.0]);
        for weight in more.weights {
            assert!((weight - 0.25).abs() < 1e-12, "{weight}");
        }
    }

    #[test]
    fn errors_are_those_of_the_nearest_level() {
        let histogram = Histogram {
            centres: vec![-1.0, 0.4, 0.6, 5.0],
            weights: vec![0.25; 4],
        };
        let error = histogram.error(&[0.0, 1.0]);
        assert!((error - 0.25 * (1.0 + 0.16 + 0.16 + 16.0)).abs() < 1e-12);
    }
}
