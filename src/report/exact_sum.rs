//! Sums of floats without any rounding but the last.

use serde::{Deserialize, Serialize};

/// Holds a sum of f64s that keeps every bit. Neither the order of its terms nor how they were shared out over several
/// sums changes its value: that is the exact sum, rounded once, to the nearest f64.
///
/// The method is Shewchuk's ("Adaptive Precision Floating-Point Arithmetic", 1997), as Python's `math.fsum` has it. Terms
/// must be finite, and sums within f64's range. As JSON it is the list of its parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct ExactSum {
    /// Floats whose bits don't overlap, from the smallest to the largest; together they are the sum.
    parts: Vec<f64>,
}

impl ExactSum {
    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        let mut sum = term;
        let mut kept = 0;
        for index in 0..self.parts.len() {
            let (large, small) = if sum.abs() < self.parts[index].abs() {
                (self.parts[index], sum)
            } else {
                (sum, self.parts[index])
            };
            sum = large + small;
            let lost = small - (sum - large);
            if lost != 0.0 {
                self.parts[kept] = lost;
                kept += 1;
            }
        }
        self.parts.truncate(kept);
        self.parts.push(sum);
    }

    /// Adds all terms of another sum.
    pub fn merge(&mut self, other: &Self) {
        for &part in &other.parts {
            self.add(part);
        }
    }

    /// Returns the sum, rounded to the nearest f64, to the even one of two.
    pub fn value(&self) -> f64 {
        let mut parts = self.parts.iter().rev().copied();
        let mut sum = parts.next().unwrap_or(0.0);
        let mut lost = 0.0;
        for part in parts.by_ref() {
            let large = sum;
            sum = large + part;
            lost = part - (sum - large);
            if lost != 0.0 {
                break;
            }
        }
        // Where `lost` lies halfway between two floats, the next part says on which side the exact sum is.
        if let Some(next) = parts.next()
            && lost.is_sign_negative() == next.is_sign_negative()
        {
            let step = 2.0 * lost;
            let other = sum + step;
            if other - sum == step {
                sum = other;
            }
        }
        sum
    }
}

impl TryFrom<Vec<f64>> for ExactSum {
    type Error = String;

    /// Sums `terms`: parts that someone else wrote down need not be free of overlap, nor their sum within range.
    fn try_from(terms: Vec<f64>) -> Result<Self, String> {
        let mut sum = Self::default();
        for term in terms {
            sum.add(term);
            // Beyond it nothing is lost, and so every further term would be kept.
            if sum.parts.iter().any(|part| !part.is_finite()) {
                return Err("expected finite sums, found one that leaves f64's range".into());
            }
        }
        Ok(sum)
    }
}

impl From<ExactSum> for Vec<f64> {
    fn from(sum: ExactSum) -> Self {
        sum.parts
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn sum(terms: &[f64]) -> f64 {
        ExactSum::try_from(terms.to_vec()).unwrap().value()
    }

    #[test]
    fn what_plain_addition_loses_is_kept() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[1.0, -1.0]), 0.0);
        assert_eq!(sum(&[1e300, 1.0, -1e300, 1e-300]), 1.0);
        assert_eq!(sum(&[1e-300, 1e300, 1.0, -1.0, -1e300]), 1e-300);
        assert_eq!(sum(&[f64::MIN_POSITIVE / 8.0; 8]), f64::MIN_POSITIVE);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        let halves: Vec<f64> = (0..1000).map(|power| 0.5f64.powi(power)).collect();
        assert_eq!(sum(&halves), 2.0);
    }

    #[test]
    fn a_sum_beyond_range_is_refused() {
        let terms = vec![f64::MAX; 100_000];
        assert!(ExactSum::try_from(terms).unwrap_err().contains("range"));
        assert!(ExactSum::try_from(vec![1.0, f64::NAN]).is_err());
    }

    #[test]
    fn the_last_rounding_is_to_the_nearest() {
        let half = f64::EPSILON / 2.0;
        let least = f64::from_bits(1);
        let next = 1.0 + f64::EPSILON;
        for (terms, expected) in [
            (&[1.0, half][..], 1.0),
            (&[1.0, half, least], next),
            (&[1.0, half, -least], 1.0),
            (&[next, half], next + f64::EPSILON),
            (&[next, half, -least], next),
            (&[next, -half, least], next),
            (&[next, -half, -least], 1.0),
        ] {
            assert_eq!(sum(terms), expected, "{terms:?}");
            let negative: Vec<f64> = terms.iter().map(|term| -term).collect();
            assert_eq!(sum(&negative), -expected, "{negative:?}");
        }
    }

    #[test]
    fn order_and_shares_do_not_matter() {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..200 {
            // Whole numbers up to 2^113 of either sign, half of them taken back, so that small ones decide.
            let mut terms: Vec<i128> = (0..200)
                .map(|_| {
                    let digits: i64 = random.random_range(-(1 << 53)..=1 << 53);
                    i128::from(digits) << random.random_range(0..60)
                })
                .collect();
            terms.extend(terms[..100].to_vec().iter().map(|term| -term));
            // A whole number becomes a float by one rounding to the nearest; a power of two then changes no digit.
            let unit = 0.5f64.powi(80);
            let expected = terms.iter().sum::<i128>() as f64 * unit;
            terms.shuffle(&mut random);
            let floats: Vec<f64> = terms.iter().map(|&term| term as f64 * unit).collect();
            assert_eq!(sum(&floats).to_bits(), expected.to_bits());

            let mut merged = ExactSum::default();
            for share in floats.chunks(random.random_range(1..150)) {
                let share = ExactSum::try_from(share.to_vec()).unwrap();
                let written = serde_json::to_string(&share).unwrap();
                merged.merge(&serde_json::from_str(&written).unwrap());
            }
            assert_eq!(merged.value().to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn json_keeps_every_bit() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20_000 {
            let value = f64::from_bits(random.random());
            if value.is_finite() {
                let text = serde_json::to_string(&value).unwrap();
                let read: f64 = serde_json::from_str(&text).unwrap();
                assert_eq!(read.to_bits(), value.to_bits(), "{text}");
            }
        }
    }
}
