//! How a weight becomes codes once its scales are chosen.
//!
//! Codes are kept from here on, in the journal and in the file: nothing takes them to follow from the scales.

mod nearest;

pub use nearest::nearest_codes;
