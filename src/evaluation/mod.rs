//! Evaluation: models on labelled images, all of them or one machine's share, and the file that keeps the outcome; models
//! that answer with features on any images, and these features themselves.

mod embeddings;
mod features;
mod images;
mod part;
mod shard;
pub mod sweep;

pub use embeddings::Embeddings;
pub use features::{FeatureSummary, ImageSet, Neighbours};
pub use images::{ImagesRecord, LabelledImages};
pub use part::{EvaluationSubject, Part, check_complete, summarize};
pub use shard::Shard;

use crate::data::class_names::ClassNames;
use crate::data::preprocess::Preprocessing;
use crate::data::samples::{Sample, load_all};
use crate::device::Device;
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::inference::{Model, check_finite};
use crate::model::config::{Answer, Architecture};
use crate::model::recipe::Resolved;
use crate::quant::{Plan, Provenance, QuantizedModel, Settings};
use crate::report::{Accuracy, Agreement, Closeness, Tally};
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

/// Holds what the models answered for some images.
struct Answers {
    /// The places of the images that could be read.
    shown: Vec<usize>,
    /// The places of those that couldn't.
    skipped: Vec<usize>,
    /// The evaluated model's logits or features of each image that is shown.
    evaluated: Vec<Vec<f32>>,
    /// The FP model's, where there are both.
    reference: Option<Vec<Vec<f32>>>,
    /// Time of the evaluated network.
    inference: Duration,
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
            if float.answer() == evaluated.answer() {
                return Ok(float);
            }
            Err(Error::setting(
                Setting::Model,
                format!(
                    "answers with {}, the quantized model with {}",
                    float.answer(),
                    evaluated.answer()
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
    pub fn agreement(&mut self, images: &[Vec<f32>]) -> Result<Agreement> {
        let float = self.reference.as_mut().expect("there is an FP model");
        let reference = float.logits(images)?;
        let logits = self.evaluated.logits(images)?;
        for logits in logits.iter().chain(&reference) {
            check_finite(logits, Path::new("a calibration image"), &self.device)?;
        }
        Ok(match self.evaluated.answer() {
            Answer::Logits(_) => {
                let tally = Tally::unlabelled(&logits, &reference);
                Agreement::Logits(tally.accuracy().expect("there are images"))
            }
            Answer::Features(_) => {
                let closeness = Closeness::of(&logits, &reference);
                Agreement::Features(closeness.expect("there are images"), images.len())
            }
        })
    }

    /// Returns the number of logits: 0 of models that answer with features.
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
            let answers = self.answers(samples, on_event)?;
            inference += answers.inference;
            let skipped = answers.skipped.iter();
            let name = |place: &usize| images.name(&samples[*place]).to_string_lossy();
            part.skipped
                .extend(skipped.map(|place| name(place).into_owned()));
            let shown = answers.shown.iter();
            let labels: Vec<usize> = shown.filter_map(|&place| samples[place].label).collect();
            let reference = answers.reference.as_deref();
            part.tally
                .merge(&Tally::of(&labels, &answers.evaluated, reference));
        }
        part.inference_seconds = inference.as_secs_f64();
        Ok(part)
    }

    /// Runs the models on those of `samples` that can be read, at once.
    fn answers(&mut self, samples: &[Sample], on_event: &mut dyn FnMut(Event)) -> Result<Answers> {
        let (mut inputs, mut shown, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        let loaded = load_all(samples, &self.record.preprocessing);
        for (place, loaded) in loaded.into_iter().enumerate() {
            match loaded {
                Ok(input) => {
                    inputs.push(input);
                    shown.push(place);
                }
                Err(error) => {
                    skipped.push(place);
                    on_event(Event::Skipped(&error));
                }
            }
        }
        let start = Instant::now();
        let evaluated = self.evaluated.logits(&inputs)?;
        let inference = start.elapsed();
        let reference = match &mut self.reference {
            Some(float) => Some(float.logits(&inputs)?),
            None => None,
        };
        let all = evaluated.iter().chain(reference.iter().flatten());
        for (values, &place) in all.zip(shown.iter().cycle()) {
            check_finite(values, &samples[place].path, &self.device)?;
        }
        on_event(Event::Done(samples.len()));
        Ok(Answers {
            shown,
            skipped,
            evaluated,
            reference,
            inference,
        })
    }
}
