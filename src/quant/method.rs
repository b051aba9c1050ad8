//! How a network is quantized: its plan, and how scales are chosen.

use super::plan::{Plan, Policy};
use super::settings::{Preset, Settings};
use crate::error::{Error, Result, Setting};
use crate::model::Site;

/// Everything that decides what a calibration makes of a model, given the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// What becomes of each product.
    pub plan: Plan,
    /// How the scales of those in integers are chosen.
    pub settings: Settings,
}

impl Method {
    /// What `preset` stands for, for a network with these `sites`, with codes of these widths everywhere.
    ///
    /// # Errors
    /// A width that is not 2 to 8.
    pub fn preset(
        preset: Preset,
        weight_bits: u32,
        activation_bits: u32,
        sites: &[Site],
    ) -> Result<Self> {
        let plan = Policy::preset(preset, weight_bits, activation_bits).plan(sites);
        Ok(Self {
            plan: plan.map_err(|problem| Error::setting(Setting::Bits, problem))?,
            settings: Settings::preset(preset),
        })
    }
}
