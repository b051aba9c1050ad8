//! A calibration that goes on after a fault: what is known isn't searched again, a device that was lost is opened anew, and
//! where memory runs out, fewer images go through the network at once.
//!
//! None of this changes the result, since a site's scales depend neither on the other sites nor on how the images are
//! divided.

use super::calibrate::{Calibration, Event, SiteReport, calibrate, weight_codes};
use super::memory::{Budget, Memory};
use super::method::Method;
use super::plan::SiteScales;
use super::quantized_site::QuantizedSite;
use crate::device::{Commands, Device};
use crate::error::{Error, Result};
use crate::file::weights::Weights;
use crate::model::config::Architecture;
use crate::model::{FloatProducts, Network, Site};
use serde::{Deserialize, Serialize};

/// What was found at one site.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The site, and what the search says of it.
    pub report: SiteReport,
    /// Its scales.
    pub scales: SiteScales,
}

/// What to calibrate, and with what.
pub(super) struct Calibrator<'a> {
    /// Family and sizes of the network.
    pub architecture: &'a Architecture,
    /// Its parameters.
    pub weights: &'a Weights,
    /// What becomes of its products, and how scales are chosen.
    pub method: &'a Method,
    /// The preprocessed images, `[3, S, S]` each.
    pub images: &'a [Vec<f32>],
    /// The most bytes that the device may hold, if not as many as [`Budget`] says.
    pub budget: Option<u64>,
    /// Whether a site's scales are to be chosen, if it isn't to stay in floats.
    pub wanted: &'a dyn Fn(&Site) -> bool,
    /// Opens the device again, if that is wished for.
    pub reopen: Option<&'a dyn Fn() -> Result<Device>>,
}

impl Calibrator<'_> {
    /// Chooses the scales of every wanted site that is not among the `findings` of an earlier run, and puts both together. If
    /// `device` is lost, there is another in its place afterwards.
    ///
    /// # Errors
    /// Those of [`calibrate`]; a device that is lost twice or can't be opened again; memory that doesn't suffice for one
    /// image at a time.
    pub fn run(
        &self,
        device: &mut Device,
        mut findings: Vec<Finding>,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Calibration> {
        let mut budget = Budget {
            bytes: self.budget,
            halvings: 0,
        };
        let mut replaced = false;
        loop {
            // Should the plan for the user's budget fall short, it is as if the device had no more memory.
            if let Some(bytes) = self.budget {
                device.memory().set_limit(bytes);
            }
            let outcome = self.attempt(device, budget, &mut findings, on_event);
            if self.budget.is_some() {
                device.memory().set_limit(u64::MAX);
            }
            let error = match outcome {
                Ok(calibration) => return Ok(calibration),
                Err(error) => error,
            };
            let measure = match (&error, self.reopen) {
                (Error::DeviceLost { .. }, Some(reopen)) => {
                    replace(device, reopen, &error, &mut replaced)?;
                    "it is opened anew"
                }
                (Error::OutOfMemory { .. }, reopen) => {
                    // Some drivers lose the device with the memory.
                    if let Err(lost @ Error::DeviceLost { .. }) = device.synchronize() {
                        let Some(reopen) = reopen else {
                            return Err(lost);
                        };
                        replace(device, reopen, &lost, &mut replaced)?;
                    }
                    self.check_divisible(device, budget, &error)?;
                    budget.halvings += 1;
                    "half as many images and sites at once"
                }
                _ => return Err(error),
            };
            on_event(Event::Recovery(&format!("{error}; going on: {measure}")))?;
        }
    }

    /// One run to its end or to the first fault. What it finds is among the `findings` either way.
    fn attempt(
        &self,
        device: &Device,
        budget: Budget,
        findings: &mut Vec<Finding>,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Calibration> {
        let network = self.network(device)?;
        let known = findings.clone();
        let is_known = |site: &Site| known.iter().any(|found| found.report.site == site.name);
        let mut calibration = calibrate(
            &network,
            self.weights,
            self.method,
            self.images,
            budget,
            &|site| (self.wanted)(site) && !is_known(site),
            &mut |event| {
                if let Event::Found(report, scales) = &event {
                    findings.push(Finding {
                        report: (*report).clone(),
                        scales: (*scales).clone(),
                    });
                }
                on_event(event)
            },
        )?;
        let mut commands = Commands::new(device);
        for segment in network.segments() {
            let sites = || segment.sites().iter().filter(|site| is_known(site));
            let products = FloatProducts::load(device, self.weights, sites())?;
            for site in sites() {
                let finding = known.iter().find(|found| found.report.site == site.name);
                let Finding { report, scales } = finding.expect("it is a known one").clone();
                let weight = match site.has_weight() {
                    true => {
                        let plan = self
                            .method
                            .plan
                            .of(site)
                            .expect("what was found has a plan");
                        Some(weight_codes(
                            &mut commands,
                            &plan,
                            products.linear(site),
                            &scales.b,
                        )?)
                    }
                    false => None,
                };
                let site = QuantizedSite { scales, weight };
                calibration.sites.insert(report.site.clone(), site);
                calibration.reports.push(report);
            }
        }
        let order: Vec<&str> = network.sites().map(|site| site.name.as_str()).collect();
        let place = |site: &str| order.iter().position(|name| *name == site);
        calibration
            .reports
            .sort_by_key(|report| place(&report.site));
        Ok(calibration)
    }

    fn network(&self, device: &Device) -> Result<Network> {
        Network::new(device, self.architecture, |name| self.weights.float(name))
    }

    /// Finds out whether less than `budget` allows can be gone through at once.
    ///
    /// # Errors
    /// If not, what `error` says.
    fn check_divisible(&self, device: &Device, budget: Budget, error: &Error) -> Result<()> {
        let network = self.network(device)?;
        let images = self.images.len();
        let all = |site: &Site| (self.wanted)(site) && self.method.plan.of(site).is_some();
        let memory = Memory::new(&network, self.weights, self.method, images, budget, &all)?;
        if memory.is_divisible(&all) {
            return Ok(());
        }
        Err(Error::device(
            device.name(),
            format!("{error}, with one image and one site at a time"),
        ))
    }
}

/// Opens another device in the place of the one that was lost, once.
fn replace(
    device: &mut Device,
    reopen: &dyn Fn() -> Result<Device>,
    lost: &Error,
    replaced: &mut bool,
) -> Result<()> {
    let problem = if std::mem::replace(replaced, true) {
        format!("{lost}, for the second time")
    } else {
        let opened = reopen()?;
        let [before, now] = [&*device, &opened].map(|device| (device.name(), device.driver()));
        if before == now {
            *device = opened;
            return Ok(());
        }
        // Its floats differ in the last bits.
        format!("{lost}, and there is only {} in its place", opened.name())
    };
    Err(Error::DeviceLost {
        device: device.name().to_owned(),
        problem,
    })
}
