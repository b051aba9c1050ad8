//! Figures for people and programs: accuracy, and the agreement of a quantized network with its FP one.

mod accuracy;
mod exact_sum;

pub use accuracy::{Accuracy, Tally};
pub use exact_sum::ExactSum;
