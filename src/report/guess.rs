//! What a model's logits say of one image.

use super::accuracy::log_softmax;
use serde::Serialize;

/// Names a class that an image may be of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The class, by its index.
    #[serde(rename = "index")]
    pub class: usize,
    /// The class's softmax.
    pub probability: f64,
}

/// Returns the `count` likeliest classes, or all if there are fewer, likeliest first; of equal ones the smaller index.
pub fn guesses(logits: &[f32], count: usize) -> Vec<Guess> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    // The sort is stable, so equal ones stay in order.
    classes.sort_by(|&left, &right| logits[right].total_cmp(&logits[left]));
    classes.truncate(count);
    let log_probabilities: Vec<f64> = log_softmax(logits).collect();
    let guess = |class| Guess {
        class,
        probability: log_probabilities[class].exp(),
    };
    classes.into_iter().map(guess).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_with_their_softmax() {
        // e^2, 1, e^2 and e^-1 to each other.
        let found = guesses(&[2.0, 0.0, 2.0, -1.0], 3);
        let classes: Vec<usize> = found.iter().map(|guess| guess.class).collect();
        assert_eq!(classes, [0, 2, 1]);
        let sum = 2.0 * 2f64.exp() + 1.0 + (-1f64).exp();
        for (guess, expected) in found.iter().zip([2f64.exp(), 2f64.exp(), 1.0]) {
            assert!((guess.probability - expected / sum).abs() < 1e-15);
        }
        let all = guesses(&[f32::MAX, f32::MIN], 5);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].probability, all[1].probability), (1.0, 0.0));
    }
}
