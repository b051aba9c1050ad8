//! How a weight becomes codes once its scales are chosen.
//!
//! Codes are kept from here on, in the journal and in the file: nothing takes them to follow from the scales.

mod nearest;
mod successive;

pub use nearest::{nearest_codes, nearest_codes_async};
pub(super) use successive::{AT_ONCE, CovarianceFactor};
