//! Whether devices compute what the CPU versions compute, and whether they compute the same as each other.

mod compare;
pub mod demo;
mod kernels;
mod models;
mod report;
mod shaders;
mod step;
mod subject;
mod trace;

pub use compare::{Difference, Level, compare};
pub use kernels::Suite;
pub use report::*;
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
        SubjectRecord {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernels: self.suite.kernels().map(str::to_owned).collect(),
            shaders,
            models: self
                .models
                .iter()
                .map(|model| model.subject.named_record())
                .collect(),
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
            name: device.name().to_owned(),
            backend: device.backend().to_owned(),
            driver: device.driver().to_owned(),
            strategies: models::strategy_names(device),
            models,
            kernels,
        }
    }
}
