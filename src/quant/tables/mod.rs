//! Tables: which levels stand for a site's values, its weights among them, given what goes through it.
//!
//! Everything here is computed on the host, from values as they are before they are rounded and from the Fisher weight of
//! each (`calibrate/fisher.rs`).

mod alone;
mod fake_quantizer;
mod fit;
mod histogram;
mod levels;
mod linear;
mod operand;
mod site;
mod weight;

pub(super) use alone::{RoundedActivation, RoundedWeights};
pub(super) use site::{LinearSite, SiteValues, quantize_site};
