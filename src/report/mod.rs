//! Figures for people and programs: accuracy, and the agreement of a quantized network with its FP one.

mod accuracy;
mod charts;
mod exact_sum;
mod inspection;
mod page;

pub use accuracy::{Accuracy, Tally};
pub use exact_sum::ExactSum;
pub use inspection::{Inspection, SiteInspection};
pub use page::Page;
