//! Figures for people and programs: accuracy, the agreement of a quantized network with its FP one,
//! and what an image may show.

mod accuracy;
#[cfg(feature = "page")]
mod charts;
mod classification;
mod exact_sum;
mod guess;
mod inspection;
#[cfg(feature = "page")]
mod page;

pub use accuracy::{Accuracy, Tally};
pub use classification::{Class, Classified, Outcome, TOP};
pub use exact_sum::ExactSum;
pub use guess::{Guess, guesses};
pub use inspection::{Inspection, SiteInspection};
#[cfg(feature = "page")]
pub use page::Page;
