//! How well logits fit labels, and how well a quantized network's logits fit the FP network's.

use super::ExactSum;
use serde::{Deserialize, Serialize};

/// Holds the figures that `eval` prints. Fractions are of the evaluated images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Images evaluated.
    pub images: usize,
    /// Fraction whose label has the largest logit.
    pub top1: f64,
    /// Fraction whose label is among the five largest logits.
    pub top5: f64,
    /// Fraction for which the quantized network's largest logit is the FP network's. Absent without both networks.
    pub agreement: Option<f64>,
    /// Mean of KL(softmax(FP logits) ‖ softmax(quantized logits)), in nats.
    pub kl: Option<f64>,
    /// 10 log10(Σ FP² / Σ (quantized - FP)²) over all logits, in dB. Absent too where the logits are equal.
    pub logit_sqnr_db: Option<f64>,
}

/// Counts and sums from which [`Accuracy`] follows. The sums are exact, so that the figures of many images don't depend
/// on how they were shared out over several tallies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    images: usize,
    top1: usize,
    top5: usize,
    compared: usize,
    agreeing: usize,
    kl: ExactSum,
    signal: ExactSum,
    noise: ExactSum,
}

impl Tally {
    /// Counts many images: their labels, their logits, and the FP network's logits where another network gave `logits`.
    pub fn of(labels: &[usize], logits: &[Vec<f32>], reference: Option<&[Vec<f32>]>) -> Self {
        let mut tally = Self::default();
        for (index, (&label, logits)) in labels.iter().zip(logits).enumerate() {
            tally.add(
                label,
                logits,
                reference.map(|reference| &reference[index][..]),
            );
        }
        tally
    }

    /// Counts images whose labels nobody knows, by their logits and the FP network's: its answers stand for the labels.
    pub fn unlabelled(logits: &[Vec<f32>], reference: &[Vec<f32>]) -> Self {
        let labels = reference.iter().filter_map(|reference| largest(reference));
        Self::of(&labels.collect::<Vec<_>>(), logits, Some(reference))
    }

    fn add(&mut self, label: usize, logits: &[f32], reference: Option<&[f32]>) {
        self.images += 1;
        let rank = rank(logits, label);
        self.top1 += usize::from(rank == 0);
        self.top5 += usize::from(rank < 5);
        if let Some(reference) = reference {
            self.compared += 1;
            self.agreeing += usize::from(largest(logits) == largest(reference));
            self.kl.add(divergence(reference, logits));
            for (&logit, &reference) in logits.iter().zip(reference) {
                self.signal.add(f64::from(reference).powi(2));
                self.noise
                    .add((f64::from(logit) - f64::from(reference)).powi(2));
            }
        }
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.images += other.images;
        self.top1 += other.top1;
        self.top5 += other.top5;
        self.compared += other.compared;
        self.agreeing += other.agreeing;
        self.kl.merge(&other.kl);
        self.signal.merge(&other.signal);
        self.noise.merge(&other.noise);
    }

    /// Counts the images so far.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Checks whether a tally from a file could have been counted, of images that were all `compared` with an FP
    /// network or of which none was.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn validate(&self, compared: bool) -> Result<(), String> {
        let &Self {
            images,
            top1,
            top5,
            agreeing,
            ..
        } = self;
        let expected = if compared { images } else { 0 };
        if top1 > top5 || top5 > images || agreeing > expected || self.compared != expected {
            return Err(format!(
                "the counts contradict each other: images {images}, top1 {top1}, top5 {top5}, compared {}, agreeing \
                 {agreeing}",
                self.compared
            ));
        }
        let [kl, signal, noise] = [&self.kl, &self.signal, &self.noise].map(ExactSum::value);
        // Rounding may put the divergence of equal logits a little below zero.
        if !kl.is_finite()
            || ![signal, noise]
                .iter()
                .all(|sum| (0.0..f64::INFINITY).contains(sum))
        {
            return Err(format!(
                "expected finite sums, of squares at least 0, found kl {kl}, signal {signal}, noise {noise}"
            ));
        }
        Ok(())
    }

    /// Returns the figures of all images counted so far; `None` if there are none.
    pub fn accuracy(&self) -> Option<Accuracy> {
        if self.images == 0 {
            return None;
        }
        let compared = |sum: f64| (self.compared > 0).then(|| sum / self.compared as f64);
        let noise = self.noise.value();
        Some(Accuracy {
            images: self.images,
            top1: self.top1 as f64 / self.images as f64,
            top5: self.top5 as f64 / self.images as f64,
            agreement: compared(self.agreeing as f64),
            kl: compared(self.kl.value()),
            logit_sqnr_db: (noise > 0.0).then(|| 10.0 * (self.signal.value() / noise).log10()),
        })
    }
}

/// Counts the classes that come before `label`: larger logits, and equal ones of smaller index.
fn rank(logits: &[f32], label: usize) -> usize {
    logits
        .iter()
        .enumerate()
        .filter(|&(class, &logit)| {
            logit > logits[label] || (logit == logits[label] && class < label)
        })
        .count()
}

/// Returns the class of the largest logit, the smallest of equals.
fn largest(logits: &[f32]) -> Option<usize> {
    (0..logits.len())
        .rev()
        .max_by(|&left, &right| logits[left].total_cmp(&logits[right]))
}

/// Computes KL(softmax(reference) ‖ softmax(logits)).
fn divergence(reference: &[f32], logits: &[f32]) -> f64 {
    log_softmax(reference)
        .zip(log_softmax(logits))
        .map(|(p, q)| p.exp() * (p - q))
        .sum()
}

/// Computes the logarithm of each class's softmax.
pub(super) fn log_softmax(logits: &[f32]) -> impl Iterator<Item = f64> {
    // In f64, where the difference of no two f32s overflows: an infinity here would make the sum a NaN.
    let logits = logits.iter().copied().map(f64::from);
    let max = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    let shifted: Vec<f64> = logits.map(|x| x - max).collect();
    let log_sum = shifted.iter().map(|x| x.exp()).sum::<f64>().ln();
    shifted.into_iter().map(move |x| x - log_sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sums() {
        let mut tally = Tally::default();
        tally.add(0, &[3.0, 1.0, 0.0], Some(&[3.0, 1.0, 0.0]));
        tally.add(2, &[1.0, 2.0, 1.5], Some(&[2.0, 1.0, 1.5]));
        let accuracy = tally.accuracy().unwrap();
        assert_eq!(accuracy.images, 2);
        assert_eq!(accuracy.top1, 0.5);
        assert_eq!(accuracy.top5, 1.0);
        assert_eq!(accuracy.agreement, Some(0.5));
        // Signal 10 + 7.25, noise 2.
        let expected = 10.0 * (17.25f64 / 2.0).log10();
        assert!((accuracy.logit_sqnr_db.unwrap() - expected).abs() < 1e-12);
        // softmax of the reference (2, 1, 1.5) against (1, 2, 1.5): (p_0 - p_1) · 1.
        let sum = 1f64.exp() + 1.0 + 0.5f64.exp();
        let kl = (1f64.exp() - 1.0) / sum / 2.0;
        assert!((accuracy.kl.unwrap() - kl).abs() < 1e-9);
    }

    #[test]
    fn equal_logits_count_for_the_smaller_index() {
        let mut tally = Tally::default();
        tally.add(0, &[1.0, 1.0], None);
        tally.add(1, &[1.0, 1.0], None);
        let accuracy = tally.accuracy().unwrap();
        assert_eq!(accuracy.top1, 0.5);
        assert_eq!(accuracy.agreement, None);
        assert_eq!(accuracy.logit_sqnr_db, None);
    }
}
