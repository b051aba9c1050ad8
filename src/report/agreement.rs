//! How well a quantized network agrees with its FP one, whatever both answer.

use super::{Accuracy, Closeness};

/// Holds figures of some images, by what the networks answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Agreement {
    /// Of logits.
    Logits(Accuracy),
    /// Of features, and the number of images.
    Features(Closeness, usize),
}
