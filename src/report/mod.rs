//! Figures for people and programs: accuracy, and the agreement of a quantized network with its FP one.

mod accuracy;

pub use accuracy::{Accuracy, Tally};
