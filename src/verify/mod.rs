//! Whether devices compute what the CPU versions compute, and whether they compute the same as each other.

mod compare;
pub mod demo;
mod kernels;
mod models;
mod report;
mod rows;
mod shaders;
mod step;
mod subject;
mod trace;

pub use compare::{Difference, Level, compare};
pub use kernels::Suite;
pub use report::*;
pub use rows::{Row, Verdict};
pub use shaders::{kernel_names, text_of};
pub use subject::{Images, Subject};

use crate::device::Device;
use crate::error::Result;
use models::Reference;
use std::collections::BTreeMap;

/// Names what is being done on a device.
#[non_exhaustive]
pub enum Step<'a> {
    /// A kernel.
    Kernel(&'a str),
    /// A model.
    Model(&'a str),
}

/// Holds everything that devices are compared with, computed once on the CPU.
pub struct Verification {
    suite: Suite,
    models: Vec<Reference>,
}

impl Verification {
    /// Computes what is expected of the kernels of these names, or of all where none are named, and of `subjects`.
    ///
    /// # Errors
    /// Weights or activations of a subject that are not finite.
    pub fn new(kernels: &[&str], subjects: Vec<Subject>) -> Result<Self> {
        Ok(Self {
            suite: Suite::new(kernels)?,
            models: subjects
                .into_iter()
                .map(Reference::new)
                .collect::<Result<_>>()?,
        })
    }

    /// Records what is computed; `shaders` has the hashes of those that were replaced.
    pub fn record(&self, shaders: BTreeMap<String, String>) -> SubjectRecord {
        let models = self.models.iter();
        SubjectRecord {
            shaders,
            models: models.map(|model| model.subject.named_record()).collect(),
            ..SubjectRecord::new(self.suite.kernels())
        }
    }

    /// Counts the kernels and models.
    pub fn steps(&self) -> usize {
        self.suite.kernels().len() + self.models.len()
    }

    /// Computes everything on `device` and compares. What goes wrong there is part of the report.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, device: &Device, on_step: &mut dyn FnMut(Step)) -> DeviceReport {
        let report = device.wait(async { Ok(self.run_async(device, on_step).await) });
        report.expect("what goes wrong is part of the report")
    }

    /// Does what [`run`](Self::run) does, without waiting, as a browser needs it. On a native target it blocks the thread.
    pub async fn run_async(&self, device: &Device, on_step: &mut dyn FnMut(Step)) -> DeviceReport {
        let on_kernel = &mut |kernel: &str| on_step(Step::Kernel(kernel));
        let kernels = self.suite.run_async(device, on_kernel).await;
        let mut models = Vec::new();
        for model in &self.models {
            on_step(Step::Model(&model.subject.name));
            models.push(model.check(device).await);
        }
        DeviceReport {
            models,
            kernels,
            ..DeviceReport::new(device)
        }
    }
}

/// Holds what was just verified.
pub enum Checked<'a> {
    /// A kernel.
    Kernel(&'a KernelReport),
    /// A model.
    Model(&'a ModelReport),
}

/// Verifies all kernels and `subjects` on one device, and tells after each of them what was found, and which share of all is
/// done. What is expected of one is forgotten before the next one comes, so this takes less memory than a
/// [`Verification`], which serves several devices.
///
/// # Errors
/// Those of [`Verification::new`]. What goes wrong on the device is part of the report.
pub async fn verify(
    device: &Device,
    subjects: Vec<Subject>,
    on_checked: &mut dyn FnMut(Checked, f64),
) -> Result<Report> {
    let mut report = Report {
        subject: SubjectRecord::new(kernel_names()),
        devices: Vec::new(),
    };
    let mut of_device = DeviceReport::new(device);
    let all = (report.subject.kernels.len() + subjects.len()) as f64;
    for (index, kernel) in kernel_names().enumerate() {
        let suite = Suite::new(&[kernel])?;
        for kernel in suite.run_async(device, &mut |_| {}).await {
            on_checked(Checked::Kernel(&kernel), (index + 1) as f64 / all);
            of_device.kernels.push(kernel);
        }
    }
    for subject in subjects {
        let reference = Reference::new(subject)?;
        report
            .subject
            .models
            .extend([reference.subject.named_record()]);
        let model = reference.check(device).await;
        let done = report.subject.kernels.len() + report.subject.models.len();
        on_checked(Checked::Model(&model), done as f64 / all);
        of_device.models.push(model);
    }
    report.devices.push(of_device);
    Ok(report)
}

impl SubjectRecord {
    /// Describes a verification of these kernels, and of nothing else yet.
    fn new<'a>(kernels: impl Iterator<Item = &'a str>) -> Self {
        Self {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernels: kernels.map(str::to_owned).collect(),
            shaders: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }
}

impl DeviceReport {
    /// Describes `device`, of which nothing was found yet.
    fn new(device: &Device) -> Self {
        Self {
            name: device.name().to_owned(),
            backend: device.backend().to_owned(),
            driver: device.driver().to_owned(),
            strategies: models::strategy_names(device),
            kernels: Vec::new(),
            models: Vec::new(),
        }
    }
}
