//! Puts together a calibration from what it must be given and what it may be given.

use super::landscape::Landscape;
use super::recovery::{Calibrator, Finding, OnEvent};
use super::{Calibration, Event};
use crate::device::Device;
use crate::error::Result;
use crate::families::sites;
use crate::file::weights::Weights;
use crate::graph::Site;
use crate::model::config::Architecture;
use crate::quant::{Allotment, Method, Preset};

/// Describes a calibration that is about to [`run`](Self::run), made by [`Calibration::builder`].
#[must_use = "nothing is calibrated before it runs"]
pub struct CalibrationBuilder<'a> {
    device: Device,
    weights: &'a Weights,
    architecture: &'a Architecture,
    method: Option<&'a Method>,
    images: &'a [Vec<f32>],
    memory_budget: Option<u64>,
    wanted: &'a dyn Fn(&Site) -> bool,
    findings: Vec<Finding>,
    on_event: Option<&'a mut OnEvent<'a>>,
    reopen: Option<Reopen<'a>>,
}

/// Says how to open a device again that was lost.
struct Reopen<'a> {
    /// Takes the device that was opened in its place.
    replaced: &'a mut Device,
    open: &'a dyn Fn() -> Result<Device>,
}

impl Calibration {
    /// Prepares the calibration, on `device`, of the FP network of this `architecture` whose parameters are in
    /// `weights`.
    pub fn builder<'a>(
        device: &Device,
        weights: &'a Weights,
        architecture: &'a Architecture,
    ) -> CalibrationBuilder<'a> {
        CalibrationBuilder {
            device: device.clone(),
            weights,
            architecture,
            method: None,
            images: &[],
            memory_budget: None,
            wanted: &|_| true,
            findings: Vec::new(),
            on_event: None,
            reopen: None,
        }
    }
}

impl<'a> CalibrationBuilder<'a> {
    /// Says what becomes of each product, and how scales are chosen. By default it is PTQ4ViT with 8 bits everywhere.
    pub fn method(mut self, method: &'a Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Gives the images to calibrate on, preprocessed, `[3, S, S]` each; at least one.
    pub fn images(mut self, images: &'a [Vec<f32>]) -> Self {
        self.images = images;
        self
    }

    /// Bounds the bytes that the device holds, without changing what is found. By default it is 1 GiB, or more where
    /// that isn't enough.
    pub fn memory_budget(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.memory_budget = bytes.into();
        self
    }

    /// Restricts the calibration to the `wanted` sites. A site's scales don't depend on which others are wanted.
    pub fn only(mut self, wanted: &'a dyn Fn(&Site) -> bool) -> Self {
        self.wanted = wanted;
        self
    }

    /// Continues from what an earlier run found, instead of searching those sites again.
    pub fn going_on_from(mut self, findings: Vec<Finding>) -> Self {
        self.findings = findings;
        self
    }

    /// Calls `on_event` with what happens. Its errors end the calibration.
    pub fn on_event(mut self, on_event: &'a mut dyn FnMut(Event) -> Result<()>) -> Self {
        self.on_event = Some(on_event);
        self
    }

    /// Opens the device again, once, if it is lost, and leaves the one that took its place in `replaced`.
    pub fn reopening(
        mut self,
        replaced: &'a mut Device,
        open: &'a dyn Fn() -> Result<Device>,
    ) -> Self {
        self.reopen = Some(Reopen { replaced, open });
        self
    }

    /// Chooses the scales of every site that is wanted and doesn't stay in floats. Where the device's memory doesn't
    /// suffice, it goes on with fewer images and sites at once, as long as there are several.
    ///
    /// # Errors
    /// Settings out of range, no image, a budget that can't be kept to, weights or activations that are not finite, a
    /// loss whose gradient is zero for every image (`hessian` only), the device's errors (of one that is to be
    /// reopened: that it is lost twice, or that another would take its place), and those of `on_event`.
    pub fn run(self) -> Result<Calibration> {
        self.device.clone().wait(self.run_async())
    }

    /// Does what [`run`](Self::run) does, without waiting, as a browser needs it. On a native target it blocks the thread.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_async(mut self) -> Result<Calibration> {
        let method = self.method_or_default()?;
        let findings = std::mem::take(&mut self.findings);
        self.with_calibrator(&method, async |calibrator, device, on_event| {
            calibrator.run(device, findings, on_event).await
        })
        .await
    }

    /// Computes, instead of a calibration, the loss of the whole network beside the metrics over all candidates for the
    /// scales of A and of B of every site that is wanted and doesn't stay in floats: the other operand and all other
    /// products are in floats. It sends all images through the rest of the network once for each candidate.
    ///
    /// # Errors
    /// Those of [`run`](Self::run) with metric `hessian`, and a format of tables, for which there are no candidates.
    pub fn landscapes(self) -> Result<Vec<Landscape>> {
        self.device.clone().wait(self.landscapes_async())
    }

    /// Does what [`landscapes`](Self::landscapes) does, without waiting, as a browser needs it. On a native target it blocks
    /// the thread.
    ///
    /// # Errors
    /// Those of [`landscapes`](Self::landscapes).
    pub async fn landscapes_async(self) -> Result<Vec<Landscape>> {
        let method = self.method_or_default()?;
        self.with_calibrator(&method, async |calibrator, device, on_event| {
            calibrator.landscapes(device, on_event).await
        })
        .await
    }

    /// Measures, instead of a calibration, what each operand of `allotment` costs in each width. It takes at least two
    /// images, and no heed of the method's plan.
    ///
    /// # Errors
    /// Settings that decide no sites in sequence, too few images, and those of [`run`](Self::run).
    pub fn costs(self, allotment: &mut Allotment) -> Result<()> {
        self.device.clone().wait(self.costs_async(allotment))
    }

    /// Does what [`costs`](Self::costs) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// Those of [`costs`](Self::costs).
    pub async fn costs_async(self, allotment: &mut Allotment) -> Result<()> {
        let method = Method {
            plan: allotment.widest().clone(),
            settings: self.method_or_default()?.settings,
        };
        self.with_calibrator(&method, async |calibrator, device, on_event| {
            allotment.measure(calibrator, device, on_event).await
        })
        .await
    }

    /// Calls `work` with all that was given, and leaves the device that it ends with where that is wanted.
    async fn with_calibrator<T>(
        self,
        method: &Method,
        work: impl AsyncFnOnce(&Calibrator<'_>, &mut Device, &mut OnEvent<'_>) -> Result<T>,
    ) -> Result<T> {
        let calibrator = Calibrator {
            architecture: self.architecture,
            weights: self.weights,
            method,
            images: self.images,
            budget: self.memory_budget,
            wanted: self.wanted,
            reopen: self.reopen.as_ref().map(|reopen| reopen.open),
        };
        let mut ignored = |_: Event| Ok(());
        let on_event = self.on_event.unwrap_or(&mut ignored);
        let mut device = self.device;
        let outcome = work(&calibrator, &mut device, on_event).await;
        if let Some(reopen) = self.reopen {
            *reopen.replaced = device;
        }
        outcome
    }

    /// Returns the method that was given, or the one that holds without.
    fn method_or_default(&self) -> Result<Method> {
        match self.method {
            Some(method) => Ok(method.clone()),
            None => Method::preset(Preset::Ptq4vit, 8, 8, &sites(self.architecture)),
        }
    }
}
