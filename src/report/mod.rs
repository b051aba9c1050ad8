//! Figures for people and programs: accuracy, the agreement of a quantized network with its FP one, what an image may
//! show, and what lies near it.

mod accuracy;
mod agreement;
#[cfg(feature = "page")]
mod charts;
mod classification;
mod closeness;
mod exact_sum;
mod gallery;
mod guess;
mod inspection;
#[cfg(feature = "page")]
mod page;

pub use accuracy::{Accuracy, Tally};
pub use agreement::Agreement;
pub use classification::{Class, Classified, Outcome, TOP};
pub use closeness::Closeness;
pub use exact_sum::ExactSum;
pub use gallery::{Gallery, vote};
pub use guess::{Guess, guesses};
pub use inspection::{Inspection, SiteInspection};
#[cfg(feature = "page")]
pub use page::Page;
