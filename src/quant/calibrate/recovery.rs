//! A calibration that goes on after a fault, as do the measurements around it: what is known isn't searched again, a device
//! that was lost is opened anew, and where memory runs out, fewer images go through the network at once.
//!
//! None of this changes the result, since a site's scales depend neither on the other sites nor on how the images are
//! divided.

use super::memory::{Budget, Memory};
use super::sequence::InSequence;
use super::{Calibration, Event, SiteReport, calibrate};
use crate::device::{Commands, Device};
use crate::error::{Error, Result};
use crate::families::graphs;
use crate::file::weights::Weights;
use crate::graph::{Network, Site};
use crate::model::config::Architecture;
use crate::quant::transform::prepare;
use crate::quant::{Method, QuantizedSite};
use std::sync::Arc;

/// Holds what was found at one site.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The site, and what the search found out about it.
    pub report: SiteReport,
    /// What the site is in integers.
    pub quantized: QuantizedSite,
}

/// Receives what happens; its errors end the work.
pub(super) type OnEvent<'a> = dyn FnMut(Event) -> Result<()> + 'a;

/// Describes what to calibrate, and with what.
pub(in crate::quant) struct Calibrator<'a> {
    /// The family and sizes of the network.
    pub architecture: &'a Architecture,
    /// The network's parameters.
    pub weights: &'a Weights,
    /// What becomes of the network's products, and how scales are chosen.
    pub method: &'a Method,
    /// The preprocessed images, `[3, S, S]` each.
    pub images: &'a [Vec<f32>],
    /// The most bytes that the device may hold; [`Budget`] says what holds without it.
    pub budget: Option<u64>,
    /// Whether a site's scales are to be chosen, if it isn't to stay in floats.
    pub wanted: &'a dyn Fn(&Site) -> bool,
    /// Opens the device again after it was lost, where that is wanted.
    pub reopen: Option<&'a dyn Fn() -> Result<Device>>,
}

impl Calibrator<'_> {
    /// Prepares the network, chooses the scales of every wanted site that is not among the `findings` of an earlier
    /// run, and puts both together. If `device` is lost, there is another in its place afterwards.
    ///
    /// # Errors
    /// Those of [`calibrate`]; a device that is lost twice or can't be opened again; memory that doesn't suffice for
    /// one image at a time.
    pub async fn run(
        &self,
        device: &mut Device,
        mut findings: Vec<Finding>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Calibration> {
        let mut prepared = None;
        let attempt = async |device: &Device, budget, on_event: &mut OnEvent<'_>| {
            self.attempt(device, budget, &mut prepared, &mut findings, on_event)
                .await
        };
        self.overcome_faults(device, on_event, attempt).await
    }

    /// Calls `attempt` until it succeeds or fails for good: again with another device in the place of one that was lost, and
    /// with a smaller budget where memory didn't suffice.
    ///
    /// # Errors
    /// Those of `attempt` but for these; a device that is lost twice or can't be opened again; memory that doesn't suffice
    /// for one image at a time.
    pub async fn overcome_faults<T>(
        &self,
        device: &mut Device,
        on_event: &mut OnEvent<'_>,
        mut attempt: impl AsyncFnMut(&Device, Budget, &mut OnEvent<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut budget = Budget {
            bytes: self.budget,
            halvings: 0,
        };
        let mut replaced = false;
        loop {
            // Buffers beyond the user's budget are treated as if the device had no more memory.
            if let Some(bytes) = self.budget {
                device.memory().set_limit(bytes);
            }
            let outcome = attempt(device, budget, on_event).await;
            if self.budget.is_some() {
                device.memory().set_limit(u64::MAX);
            }
            let error = match outcome {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let measure = match (&error, self.reopen) {
                (Error::DeviceLost { .. }, Some(reopen)) => {
                    replace(device, reopen, &error, &mut replaced)?;
                    "it is opened anew"
                }
                (Error::OutOfMemory { .. }, reopen) => {
                    // Some drivers lose the device with the memory.
                    let synchronized = Commands::new(device).synchronize_async().await;
                    if let Err(lost @ Error::DeviceLost { .. }) = synchronized {
                        let Some(reopen) = reopen else {
                            return Err(lost);
                        };
                        replace(device, reopen, &lost, &mut replaced)?;
                    }
                    self.check_divisible(device, budget, &error).await?;
                    budget.halvings += 1;
                    "half as many images and sites at once"
                }
                _ => return Err(error),
            };
            on_event(Event::Recovery(&format!("{error}; going on: {measure}")))?;
        }
    }

    /// Runs once, to the end or to the first fault. What it finds is among the `findings` either way.
    async fn attempt(
        &self,
        device: &Device,
        budget: Budget,
        prepared: &mut Option<Arc<Weights>>,
        findings: &mut Vec<Finding>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Calibration> {
        if prepared.is_none() {
            let (architecture, method) = (self.architecture, self.method);
            let (weights, images) = (self.weights, self.images);
            *prepared = prepare(
                device,
                architecture,
                weights,
                method,
                images,
                budget,
                on_event,
            )
            .await?
            .map(Arc::new);
        }
        let weights = prepared.as_deref().unwrap_or(self.weights);
        let network = self.network(device, weights)?;
        let known = findings.clone();
        let on_event = &mut |event: Event| {
            if let Event::Found(report, quantized) = &event {
                findings.push(Finding {
                    report: (*report).clone(),
                    quantized: (*quantized).clone(),
                });
            }
            on_event(event)
        };
        let mut calibration = match &self.method.settings.sequence {
            None => {
                let is_known =
                    |site: &Site| known.iter().any(|found| found.report.site == site.name);
                let wanted = &|site: &Site| (self.wanted)(site) && !is_known(site);
                let (method, images) = (self.method, self.images);
                let network = (&network, self.architecture.answer());
                calibrate(network, weights, method, images, budget, wanted, on_event).await?
            }
            Some(sequence) => {
                let known = known.iter();
                let known = known.map(|found| (found.report.site.clone(), found.quantized.clone()));
                let in_sequence = InSequence {
                    network: &network,
                    answer: self.architecture.answer(),
                    weights,
                    method: self.method,
                    sequence,
                    images: self.images,
                    budget,
                    wanted: self.wanted,
                    known: &known.collect(),
                };
                in_sequence.run(on_event).await?
            }
        };
        calibration.prepared.clone_from(prepared);
        for Finding { report, quantized } in known {
            calibration.sites.insert(report.site.clone(), quantized);
            calibration.reports.push(report);
        }
        let order: Vec<&str> = network.sites().map(|site| site.name.as_str()).collect();
        let place = |site: &str| order.iter().position(|name| *name == site);
        calibration
            .reports
            .sort_by_key(|report| place(&report.site));
        Ok(calibration)
    }

    fn network(&self, device: &Device, weights: &Weights) -> Result<Network> {
        Network::load(device, &graphs(self.architecture), |name| {
            weights.float(name)
        })
    }

    /// Checks that fewer images or sites could be gone through at once than `budget` allows.
    ///
    /// # Errors
    /// Where they can't: what `error` says.
    async fn check_divisible(&self, device: &Device, budget: Budget, error: &Error) -> Result<()> {
        let network = self.network(device, self.weights)?;
        let images = self.images.len();
        let all = |site: &Site| (self.wanted)(site) && self.method.plan.of(site).is_some();
        let memory = Memory::new(&network, self.weights, self.method, images, budget, &all).await?;
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
