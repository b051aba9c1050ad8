//! How close the features of a quantized network are to the FP network's.

use super::ExactSum;
use serde::Serialize;

/// Holds the figures that `eval` prints of features, over all images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Closeness {
    /// Mean over the images of the cosine between the quantized and the FP features.
    pub cosine: f64,
    /// The least of these cosines.
    pub cosine_min: f64,
    /// √(Σ (quantized - FP)² / Σ FP²) over all features.
    pub relative_error: f64,
    /// 10 log10(Σ FP² / Σ (quantized - FP)²), in dB. Absent where the features are equal.
    pub feature_sqnr_db: Option<f64>,
}

impl Closeness {
    /// Compares the features of each image with the FP network's; `None` without images.
    pub fn of(features: &[Vec<f32>], reference: &[Vec<f32>]) -> Option<Self> {
        let (mut cosines, mut least) = (ExactSum::default(), f64::INFINITY);
        let (mut signal, mut noise) = (ExactSum::default(), ExactSum::default());
        for (features, reference) in features.iter().zip(reference) {
            let cosine = cosine(features, reference);
            cosines.add(cosine);
            least = least.min(cosine);
            for (&feature, &reference) in features.iter().zip(reference) {
                let (feature, reference) = (f64::from(feature), f64::from(reference));
                signal.add(reference.powi(2));
                noise.add((feature - reference).powi(2));
            }
        }
        let images = features.len().min(reference.len());
        let (signal, noise) = (signal.value(), noise.value());
        (images > 0).then(|| Self {
            cosine: cosines.value() / images as f64,
            cosine_min: least,
            relative_error: match noise {
                0.0 => 0.0,
                _ => (noise / signal).sqrt(),
            },
            feature_sqnr_db: (noise > 0.0).then(|| 10.0 * (signal / noise).log10()),
        })
    }
}

/// Computes the cosine between two vectors: 0 where one of them is zero, 1 where both are.
fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |one: &[f32], other: &[f32]| {
        let products = one.iter().zip(other);
        products
            .map(|(&one, &other)| f64::from(one) * f64::from(other))
            .sum::<f64>()
    };
    let squares = [dot(one, one), dot(other, other)];
    match squares {
        [0.0, 0.0] => 1.0,
        [one, other] if one == 0.0 || other == 0.0 => 0.0,
        [ones, others] => dot(one, other) / (ones.sqrt() * others.sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_and_lengths_count() {
        let reference = [vec![3.0, 4.0], vec![0.0, 2.0]];
        let features = [vec![6.0, 8.0], vec![2.0, 2.0]];
        let found = Closeness::of(&features, &reference).unwrap();
        // The first has the direction, the second is 45° off; errors are (3, 4) and (2, 0) of 25 and 4.
        let half = 0.5f64.sqrt();
        assert!((found.cosine - (1.0 + half) / 2.0).abs() < 1e-15);
        assert!((found.cosine_min - half).abs() < 1e-15);
        assert_eq!(found.relative_error, 1.0);
        assert_eq!(found.feature_sqnr_db, Some(0.0));

        let same = Closeness::of(&reference, &reference).unwrap();
        assert_eq!((same.relative_error, same.feature_sqnr_db), (0.0, None));
        assert!(Closeness::of(&[], &[]).is_none());
    }

    #[test]
    fn zero_has_no_direction() {
        assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
        assert_eq!(cosine(&[0.0], &[0.0]), 1.0);
        // A length is rounded.
        assert!((cosine(&[1e30; 2], &[-1e30; 2]) + 1.0).abs() < 1e-15);
    }
}
