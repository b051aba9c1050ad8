//! Figures for people and programs: accuracy, the agreement of a quantized network with its FP one,
//! and what an image may show.

mod accuracy;
mod charts;
mod exact_sum;
mod guess;
mod inspection;
mod page;

pub use accuracy::{Accuracy, Tally};
pub use exact_sum::ExactSum;
pub use guess::{Guess, guesses};
pub use inspection::{Inspection, SiteInspection};
pub use page::Page;
