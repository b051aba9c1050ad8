//! Evaluation: models on labelled images, all of them or one machine's share, and the file that keeps the outcome.

mod images;
mod part;
mod shard;
pub mod sweep;

pub use images::{ImagesRecord, LabelledImages};
pub use part::{EvaluationSubject, Part, check_complete, summarize};
pub use shard::Shard;

use crate::data::class_names::ClassNames;
use crate::data::preprocess::Preprocessing;
use crate::data::samples::load_all;
use crate::device::Device;
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::inference::{Model, check_finite};
use crate::model::config::Architecture;
use crate::model::recipe::Resolved;
use crate::quant::{Plan, Provenance, QuantizedModel, Settings};
use crate::report::{Accuracy, Tally};
use serde::{Deserialize, Serialize};
use shard::IMAGES_AT_ONCE;
use std::path::Path;
use web_time::{Duration, Instant};

/// Holds the models to run, prepared for the same images.
pub struct Models {
    device: Device,
    /// The model whose figures are wanted.
    evaluated: Model,
    /// The FP model that it is compared with.
    reference: Option<Model>,
    class_names: Option<ClassNames>,
    record: ModelsRecord,
}

/// Says which models an evaluation is of: everything that decides their logits, but for the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelsRecord {
    /// Family and sizes.
    pub architecture: Architecture,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// SHA-256 of the FP model's file; absent where a quantized model is evaluated alone.
    pub model_sha256: Option<String>,
    /// The quantized model; absent where the FP model is evaluated alone.
    pub quantized: Option<QuantizedRecord>,
}

/// Describes a quantized model, and what it was made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedRecord {
    /// SHA-256 of the quantized model's file.
    pub sha256: String,
    /// What became of each product.
    pub plan: Plan,
    /// How the scales were chosen.
    pub settings: Settings,
    /// Where the model comes from.
    pub provenance: Provenance,
}

/// Tells what happens while an evaluation runs.
#[non_exhaustive]
pub enum Event<'a> {
    /// Counts the images that have been evaluated since the last time.
    Done(usize),
    /// An image could not be read.
    Skipped(&'a Error),
}

/// Holds the figures of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How well the model does.
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Images per second of the model that is evaluated: upload, network and read-back, without decoding images.
    pub images_per_second: f64,
    /// The device's name; the names of all, where there were several.
    pub device: String,
    /// Images that could not be read.
    pub skipped: usize,
}

impl Models {
    /// Loads the FP model that `weights` was found to hold.
    ///
    /// # Errors
    /// Those of [`Model::float`].
    pub fn float(device: &Device, weights: &Weights, resolved: &Resolved) -> Result<Self> {
        let Resolved {
            architecture,
            preprocessing,
            class_names,
            ..
        } = resolved;
        Ok(Self {
            evaluated: Model::float(device, weights, architecture, preprocessing)?,
            reference: None,
            class_names: class_names.clone(),
            record: ModelsRecord {
                architecture: architecture.clone(),
                preprocessing: preprocessing.clone(),
                model_sha256: Some(weights.sha256()),
                quantized: None,
            },
            device: device.clone(),
        })
    }

    /// Loads the quantized model of `file`, to be compared with the FP model in `reference` if there is one. The
    /// quantized model tells architecture and preprocessing, so that both see the same images.
    ///
    /// # Errors
    /// Those of [`Model::quantized`] and [`Model::float`], and an FP model of another architecture or class count.
    pub fn quantized(
        device: &Device,
        file: &Weights,
        model: &QuantizedModel,
        reference: Option<&Weights>,
    ) -> Result<Self> {
        let evaluated = Model::quantized(device, model)?;
        let float = |weights: &Weights| {
            let architecture = model.architecture.fitted(weights, "the quantized model")?;
            let float = Model::float(device, weights, &architecture, &model.preprocessing)?;
            if float.classes() == evaluated.classes() {
                return Ok(float);
            }
            Err(Error::setting(
                Setting::Model,
                format!(
                    "has {} classes, the quantized model {}",
                    float.classes(),
                    evaluated.classes()
                ),
            ))
        };
        Ok(Self {
            reference: reference.map(float).transpose()?,
            evaluated,
            class_names: model.class_names.clone(),
            record: ModelsRecord {
                architecture: model.architecture.clone(),
                preprocessing: model.preprocessing.clone(),
                model_sha256: reference.map(Weights::sha256),
                quantized: Some(QuantizedRecord {
                    sha256: file.sha256(),
                    plan: model.method.plan.clone(),
                    settings: model.method.settings.clone(),
                    provenance: model.provenance.clone(),
                }),
            },
            device: device.clone(),
        })
    }

    /// Computes how well the quantized model agrees with the FP model on preprocessed images, whatever these show.
    ///
    /// # Errors
    /// Those of the device, and [`Error::Input`] for logits that are not finite.
    ///
    /// # Panics
    /// Without an FP model, or without images.
    pub fn agreement(&mut self, images: &[Vec<f32>]) -> Result<Accuracy> {
        let float = self.reference.as_mut().expect("there is an FP model");
        let reference = float.logits(images)?;
        let logits = self.evaluated.logits(images)?;
        for logits in logits.iter().chain(&reference) {
            check_finite(logits, Path::new("a calibration image"), &self.device)?;
        }
        let tally = Tally::unlabelled(&logits, &reference);
        Ok(tally.accuracy().expect("there are images"))
    }

    /// Returns the number of logits.
    pub fn classes(&self) -> usize {
        self.evaluated.classes()
    }

    /// Returns what the classes are called, where the evaluated model says it.
    pub fn class_names(&self) -> Option<&ClassNames> {
        self.class_names.as_ref()
    }

    /// Runs the models on every image of `shard` that can be read.
    ///
    /// # Errors
    /// Those of the device, and [`Error::Input`] for an image whose logits are not finite.
    pub fn evaluate(
        &mut self,
        images: &LabelledImages,
        shard: Shard,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Part> {
        let mut part = Part {
            shard,
            subject: EvaluationSubject {
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
                models: self.record.clone(),
                images: images.record(),
            },
            device: self.device.name().to_owned(),
            driver: self.device.driver().to_owned(),
            tally: Tally::default(),
            skipped: Vec::new(),
            inference_seconds: 0.0,
        };
        let mut inference = Duration::ZERO;
        let samples = &images.samples()[shard.range(images.samples().len())];
        for samples in samples.chunks(IMAGES_AT_ONCE) {
            let mut inputs = Vec::new();
            let mut shown = Vec::new();
            for (loaded, sample) in load_all(samples, &self.record.preprocessing)
                .into_iter()
                .zip(samples)
            {
                match loaded {
                    Ok(input) => {
                        inputs.push(input);
                        shown.push(sample);
                    }
                    Err(error) => {
                        let name = images.name(sample).to_string_lossy().into_owned();
                        part.skipped.push(name);
                        on_event(Event::Skipped(&error));
                    }
                }
            }
            let start = Instant::now();
            let logits = self.evaluated.logits(&inputs)?;
            inference += start.elapsed();
            let reference = match &mut self.reference {
                Some(float) => Some(float.logits(&inputs)?),
                None => None,
            };
            let all = logits.iter().chain(reference.iter().flatten());
            for (logits, sample) in all.zip(shown.iter().cycle()) {
                check_finite(logits, &sample.path, &self.device)?;
            }
            let labels: Vec<usize> = shown.iter().filter_map(|sample| sample.label).collect();
            part.tally
                .merge(&Tally::of(&labels, &logits, reference.as_deref()));
            on_event(Event::Done(samples.len()));
        }
        part.inference_seconds = inference.as_secs_f64();
        Ok(part)
    }
}
