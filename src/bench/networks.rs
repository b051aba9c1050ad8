//! Whole networks: images a second, memory, and where the time goes.

use super::ceilings::Ceilings;
use super::random::{random_checkpoint, random_images};
use super::roofline::{Operations, Roofline};
use super::timing::{Timing, time_whole};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::families::sites;
use crate::file::weights::Weights;
use crate::inference::Model;
use crate::model::config::Architecture;
use crate::model::recipe::{Recipe, Resolved};
use crate::quant::{Calibration, Method, Metric, Preset, Provenance, QuantizedModel, Settings};
use serde::Serialize;
use std::collections::BTreeMap;

/// Lists how many images are run at once.
pub const BATCHES: [usize; 3] = [1, 8, 32];

/// Says how a network is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Precision {
    /// In f32.
    #[serde(rename = "FP32")]
    Float,
    /// With products in f16, on a device that has it.
    #[serde(rename = "F16")]
    Half,
    /// In integers, from 8-bit codes.
    W8A8,
    /// In integers, from 6-bit codes.
    W6A6,
}

impl Precision {
    /// Lists all precisions.
    pub const ALL: [Self; 4] = [Self::Float, Self::Half, Self::W8A8, Self::W6A6];

    /// Says whether `device` can compute in this precision.
    pub fn runs_on(self, device: &Device) -> bool {
        self != Self::Half || device.has_f16()
    }

    /// Returns the precision's name, as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "FP32",
            Self::Half => "F16",
            Self::W8A8 => "W8A8",
            Self::W6A6 => "W6A6",
        }
    }
}

/// Holds a network to be measured.
pub struct BenchNetwork {
    weights: Weights,
    resolved: Resolved,
}

/// Holds what was measured of a network.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkFigure {
    /// How the network was computed.
    pub precision: Precision,
    /// Images at once.
    pub batch: usize,
    /// Images a second.
    pub images_per_second: f64,
    /// How long the batch takes by the host's clock: uploaded, computed, logits read back.
    #[serde(flatten)]
    pub timing: Timing,
    /// The most bytes that device buffers held at once, weights included.
    pub peak_device_bytes: u64,
    /// What the batch asks of the device, and the least time for it.
    pub roofline: Roofline,
    /// Seconds of each kernel in one batch by the device's own clock, all its dispatches together; empty without one.
    pub kernel_seconds: BTreeMap<&'static str, f64>,
}

impl BenchNetwork {
    /// Takes the network in `weights`.
    pub fn new(weights: Weights, resolved: Resolved) -> Self {
        Self { weights, resolved }
    }

    /// Makes a network of the recipe's shapes, with random weights.
    ///
    /// # Errors
    /// Those of [`random_checkpoint`].
    pub fn of_recipe(recipe: &Recipe) -> Result<Self> {
        let (weights, resolved) = random_checkpoint(recipe)?;
        Ok(Self { weights, resolved })
    }

    /// Loads the network in `precision`, ready to run. Scales only cover the values: speed doesn't depend on them.
    ///
    /// # Errors
    /// Weights or activations that are not finite, and the device's errors.
    pub fn model(&self, device: &Device, precision: Precision) -> Result<Model> {
        device.wait(self.model_async(device, precision))
    }

    /// Does what [`model`](Self::model) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub async fn model_async(&self, device: &Device, precision: Precision) -> Result<Model> {
        let Self { weights, resolved } = self;
        let Resolved {
            architecture,
            preprocessing,
            ..
        } = resolved;
        let bits = match precision {
            Precision::Float => {
                return Model::float(device, weights, architecture, preprocessing);
            }
            Precision::Half => {
                return Model::half(device, weights, architecture, preprocessing);
            }
            Precision::W8A8 => 8,
            Precision::W6A6 => 6,
        };
        let method = covering(bits, architecture)?;
        let calibration = Calibration::builder(device, weights, architecture)
            .method(&method)
            .images(&random_images(architecture, 1))
            .run_async()
            .await?;
        let provenance = Provenance::of_files(weights, &resolved.name, Preset::Ptq4vit, None, &[]);
        let model = QuantizedModel::new(weights, resolved, method, calibration, provenance)?;
        Model::quantized(device, &model)
    }

    /// Measures `model`, which is this network in `precision`, with `batch` images at once, on a device whose `ceilings` are
    /// known.
    ///
    /// # Errors
    /// Those of the device, and logits that are not finite.
    pub fn measure(
        &self,
        device: &Device,
        model: &mut Model,
        precision: Precision,
        batch: usize,
        ceilings: &Ceilings,
    ) -> Result<NetworkFigure> {
        device.wait(self.measure_async(device, model, precision, batch, ceilings))
    }

    /// Does what [`measure`](Self::measure) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub async fn measure_async(
        &self,
        device: &Device,
        model: &mut Model,
        precision: Precision,
        batch: usize,
        ceilings: &Ceilings,
    ) -> Result<NetworkFigure> {
        let images = random_images(&self.resolved.architecture, batch);
        device.memory().reset_peak();
        let logits = model.logits_by_async(batch, &images).await?;
        if logits.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err(Error::Check("the logits are not finite".into()));
        }
        let run = async || model.logits_by_async(batch, &images).await.map(drop);
        let timing = time_whole(device, run).await?;
        let peak_device_bytes = device.memory().peak();

        let workload = model.workload_async(batch, &images).await?;
        let roofline = Roofline::new(
            workload,
            self.operations(precision, batch),
            ceilings,
            timing.median_seconds,
        );
        let dispatches = model.kernel_times_async(&images).await?;
        let mut kernel_seconds = BTreeMap::new();
        for (kernel, time) in dispatches {
            *kernel_seconds.entry(kernel).or_default() += time.as_secs_f64();
        }
        Ok(NetworkFigure {
            precision,
            batch,
            images_per_second: batch as f64 / timing.median_seconds,
            timing,
            peak_device_bytes,
            roofline,
            kernel_seconds,
        })
    }

    /// Counts the operations of the products of `images` images.
    fn operations(&self, precision: Precision, images: usize) -> Operations {
        let sites = sites(&self.resolved.architecture);
        let multiply_adds = sites
            .iter()
            .map(|site| site.product(images).multiply_adds());
        let operations = 2 * multiply_adds.sum::<u64>();
        match precision {
            Precision::Float | Precision::Half => Operations {
                float_operations: operations,
                ..Operations::default()
            },
            // The method of `covering` leaves no product in floats.
            Precision::W8A8 | Precision::W6A6 => Operations {
                integer_operations: operations,
                ..Operations::default()
            },
        }
    }
}

/// Returns the method of the quickest calibration: one candidate, the scale that covers the largest value. It is enough
/// to run in integers.
///
/// # Errors
/// Bits that are not 2 to 8.
pub fn covering(bits: u32, architecture: &Architecture) -> Result<Method> {
    let method = Method::preset(Preset::Ptq4vit, bits, bits, &sites(architecture))?;
    Ok(Method {
        settings: Settings {
            metric: Metric::Mse,
            candidates: 1,
            beta: 1.0,
            rounds: 1,
            ..method.settings
        },
        ..method
    })
}
