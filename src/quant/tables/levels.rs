//! The levels that stand best for a distribution: Lloyd-Max's, exact on a histogram.

use super::histogram::Histogram;

/// Limits the bins that levels are found on.
pub(super) const MOST_BINS: usize = 512;

/// Finds the `count` levels with the least weighted squared error, by rising values; fewer where there are fewer bins.
///
/// Each level is the mean of consecutive bins. The best ends of the first l stretches follow from those of the first
/// l - 1, and never move left as more bins are covered; so each of the `count` rounds looks at few ends.
pub(super) fn optimal_levels(histogram: &Histogram, count: usize) -> Vec<f64> {
    let histogram = &histogram.merged(MOST_BINS);
    let bins = histogram.centres.len();
    if bins <= count {
        return histogram.centres.clone();
    }
    let sums = Sums::of(histogram);
    let mut best: Vec<f64> = (0..=bins).map(|end| sums.error(0, end)).collect();
    let mut starts: Vec<Vec<usize>> = Vec::new();
    for _ in 1..count {
        let mut round = Round {
            sums: &sums,
            before: &best,
            best: vec![0.0; bins + 1],
            starts: vec![0; bins + 1],
        };
        round.solve(0, bins, 0, bins);
        starts.push(round.starts);
        best = round.best;
    }
    let mut ends = vec![bins];
    for starts in starts.iter().rev() {
        ends.push(starts[ends[ends.len() - 1]]);
    }
    ends.push(0);
    ends.reverse();
    ends.windows(2)
        .filter(|ends| ends[0] < ends[1])
        .map(|ends| sums.mean(ends[0], ends[1]))
        .collect()
}

/// Holds sums over the first bins: of weights, of weights times values, and times their squares.
struct Sums(Vec<[f64; 3]>);

impl Sums {
    fn of(histogram: &Histogram) -> Self {
        let mut sum = [0.0; 3];
        let mut sums = vec![sum];
        for (x, weight) in histogram.centres.iter().zip(&histogram.weights) {
            for (sum, term) in sum.iter_mut().zip([*weight, weight * x, weight * x * x]) {
                *sum += term;
            }
            sums.push(sum);
        }
        Self(sums)
    }

    fn between(&self, start: usize, end: usize) -> [f64; 3] {
        [0, 1, 2].map(|sum| self.0[end][sum] - self.0[start][sum])
    }

    fn mean(&self, start: usize, end: usize) -> f64 {
        let [weight, moment, _] = self.between(start, end);
        moment / weight
    }

    /// Computes the error of bins `start..end` if their mean stands for all of them.
    fn error(&self, start: usize, end: usize) -> f64 {
        let [weight, moment, square] = self.between(start, end);
        match weight > 0.0 {
            true => (square - moment * moment / weight).max(0.0),
            false => 0.0,
        }
    }
}

/// Adds one stretch to the best ones so far.
struct Round<'a> {
    sums: &'a Sums,
    /// The least error of the first bins without the new stretch, for each number of them.
    before: &'a [f64],
    /// The same with it.
    best: Vec<f64>,
    /// Where the new stretch starts then.
    starts: Vec<usize>,
}

impl Round<'_> {
    /// Fills in the numbers of bins `low..=high`, whose new stretches start within `first..=last`.
    fn solve(&mut self, low: usize, high: usize, first: usize, last: usize) {
        let end = low.midpoint(high);
        let (start, error) = (first..=last.min(end))
            .map(|start| (start, self.before[start] + self.sums.error(start, end)))
            .fold((first, f64::INFINITY), |best, other| {
                if other.1 < best.1 { other } else { best }
            });
        (self.starts[end], self.best[end]) = (start, error);
        if low < end {
            self.solve(low, end - 1, first, start);
        }
        if end < high {
            self.solve(end + 1, high, start, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::weights::Weights;

    fn histogram(bins: usize) -> Histogram {
        let bins = 0..bins;
        Histogram {
            centres: bins
                .clone()
                .map(|at| at as f64 + (at as f64).sin() * 0.4)
                .collect(),
            weights: bins.map(|at| 1.0 + (at * at % 7) as f64).collect(),
        }
    }

    /// The least error of all ways to cut the bins.
    fn exhaustive(histogram: &Histogram, count: usize) -> f64 {
        fn cut(sums: &Sums, start: usize, bins: usize, count: usize) -> f64 {
            if count == 1 {
                return sums.error(start, bins);
            }
            (start + 1..bins)
                .map(|end| sums.error(start, end) + cut(sums, end, bins, count - 1))
                .fold(f64::INFINITY, f64::min)
        }
        cut(&Sums::of(histogram), 0, histogram.centres.len(), count)
    }

    #[test]
    fn levels_are_the_best_there_are() {
        for bins in [5, 9, 14] {
            let histogram = histogram(bins);
            for count in 1..=4 {
                let levels = optimal_levels(&histogram, count);
                assert_eq!(levels.len(), count);
                let (found, least) = (histogram.error(&levels), exhaustive(&histogram, count));
                assert!(
                    (found - least).abs() < 1e-9,
                    "{bins} bins, {count}: {found} for {least}"
                );
            }
        }
    }

    /// `tests/golden/best.py` looks at every stretch of bins.
    #[test]
    fn levels_are_the_oracles() {
        let file = include_bytes!("../../../tests/data/best/levels.safetensors");
        let file = Weights::from_bytes("levels.safetensors", file).unwrap();
        let float = |name: &str| -> Vec<f64> {
            let values = file.float(name).unwrap();
            values.into_iter().map(f64::from).collect()
        };
        for operand in ["gelu", "softmax"] {
            let [centres, weights] =
                ["centres", "weights"].map(|part| float(&format!("{operand}.{part}")));
            let histogram = Histogram { centres, weights };
            for count in [4, 16, 64] {
                let levels = optimal_levels(&histogram, count);
                assert_eq!(levels.len(), count);
                let found = levels.iter().copied().chain([histogram.error(&levels)]);
                let [levels, error] =
                    ["levels", "error"].map(|part| float(&format!("{operand}.{count}.{part}")));
                for (found, expected) in found.zip(levels.into_iter().chain(error)) {
                    // Both are f64, but the file has f32.
                    let is_near = (found - expected).abs() <= 1e-7 * expected.abs();
                    assert!(is_near, "{operand}, {count}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn few_bins_are_their_own_levels() {
        let histogram = histogram(3);
        assert_eq!(optimal_levels(&histogram, 16), histogram.centres);
    }
}
