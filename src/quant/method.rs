//! How a network is quantized: its plan, and how scales are chosen.

use super::plan::{Granularity, Plan, Policy, SitePlan};
use super::settings::{Preset, Settings};
use crate::error::{Error, Result, Setting};
use crate::graph::Site;

/// Holds everything that decides what a calibration makes of a model, given the images.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// What becomes of each product.
    pub plan: Plan,
    /// How the scales of those in integers are chosen.
    pub settings: Settings,
}

impl Method {
    /// Returns what `preset` stands for, for a network with these `sites`, with codes of these widths everywhere.
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

    /// Checks that the scales of the network's `sites` can be searched: none has a table, for which there are no
    /// candidates, and the metric can compare the outputs of each; a direction takes more than one output.
    ///
    /// # Errors
    /// A site whose scales it can't find.
    pub(super) fn check_searchable<'a>(&self, sites: impl Iterator<Item = &'a Site>) -> Result<()> {
        let metric = self.settings.metric;
        let plans: Vec<SitePlan> = self.plan.integer(sites).collect();
        let operands = plans
            .iter()
            .flat_map(|plan| [(plan, "a", &plan.a), (plan, "b", &plan.b)]);
        let mut tables = operands.filter(|(_, _, operand)| operand.format.lanes().is_some());
        if let Some((plan, name, operand)) = tables.next() {
            let problem = format!(
                "site `{}`: {name}.format: expected one whose scales can be searched, found {}",
                plan.site.name,
                operand.format.name()
            );
            return Err(Error::setting(Setting::Plan, problem));
        }
        let by_channel = |plan: &&SitePlan| plan.b.granularity == Granularity::Channel;
        match plans.iter().find(by_channel) {
            Some(plan) if !metric.sums_squares() => Err(Error::setting(
                Setting::Metric,
                format!(
                    "expected hessian or mse, because each output channel of {} has a scale to itself, found {}",
                    plan.site.name,
                    metric.name()
                ),
            )),
            _ => Ok(()),
        }
    }
}
