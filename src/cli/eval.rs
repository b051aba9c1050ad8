//! `eval`: accuracy of a model, and agreement of a quantized model with its FP one.

use super::open_checkpoint;
use super::options::{DeviceOption, PreprocessingOptions};
use super::source::ModelSource;
use crate::data::preprocess::Preprocessing;
use crate::data::samples::{Sample, image_folder, labelled, load_all};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::inference::Model;
use crate::model::recipe::resolve;
use crate::quant::QuantizedModel;
use crate::report::{Accuracy, Tally};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Images that are decoded at once, between two runs of the networks.
const IMAGES_AT_ONCE: usize = 64;

/// Evaluates a model on labelled images. With both models, the figures are the quantized one's, and it is compared with
/// the FP one.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ptq4vit-gpu eval --model deit_tiny_patch16_224.safetensors --quantized \
                        deit_tiny_w6a6.safetensors --images imagenet/val"
)]
pub struct Eval {
    /// FP model: a timm checkpoint, named as in `calibrate`.
    #[arg(long, value_name = "MODEL", required_unless_present = "quantized")]
    model: Option<ModelSource>,
    /// Quantized model: what `calibrate` wrote.
    #[arg(long, value_name = "FILE")]
    quantized: Option<PathBuf>,
    /// Folder of images: one folder per class (in the order of the classes), unless --labels is given.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// File with a line `file<TAB>class index` per image, relative to --images.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The FP model's architecture, where neither the file nor its neighbours tell.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// How many images may be left out because they can't be read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_skipped: usize,
    #[command(flatten)]
    preprocessing: PreprocessingOptions,
    #[command(flatten)]
    device: DeviceOption,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `eval` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    accuracy: Accuracy,
    /// Of the model that is evaluated: upload, network and read-back, without decoding images.
    images_per_second: f64,
    device: String,
    skipped: usize,
}

/// The models to run, prepared for the same images.
struct Models {
    float: Option<Model>,
    quantized: Option<Model>,
    preprocessing: Preprocessing,
}

impl Eval {
    pub fn run(&self) -> Result<()> {
        let samples = match &self.labels {
            Some(labels) => labelled(&self.images, labels)?,
            None => image_folder(&self.images)?,
        };
        let device = self.device.open()?;
        let mut models = self.models(&device)?;
        let classes = models.evaluated().classes();
        self.check_labels(&samples, classes)?;

        let outcome = evaluate(&mut models, &samples, self.max_skipped)?;
        let report = Report {
            accuracy: outcome.tally.accuracy().ok_or_else(|| {
                Error::Check(format!(
                    "none of the {} images could be read",
                    samples.len()
                ))
            })?,
            images_per_second: (samples.len() - outcome.skipped) as f64
                / outcome.inference.as_secs_f64(),
            device: device.name().to_owned(),
            skipped: outcome.skipped,
        };
        if self.json {
            print_line!(
                "{}",
                serde_json::to_string_pretty(&report).expect("plain data")
            )
        } else {
            print(&report)
        }
    }

    /// Opens the models. With both, the quantized file tells architecture and preprocessing, so that both see the same
    /// images.
    fn models(&self, device: &Device) -> Result<Models> {
        let quantized = self
            .quantized
            .as_deref()
            .map(QuantizedModel::open)
            .transpose()?;
        let weights = self.model.as_ref().map(open_checkpoint).transpose()?;
        let (architecture, preprocessing) = match (&quantized, &weights) {
            (Some(quantized), _) => (
                quantized.architecture.clone(),
                quantized.preprocessing.clone(),
            ),
            (None, Some(weights)) => {
                let resolved = resolve(weights, self.recipe.as_deref())?;
                eprintln!("model: {} ({})", resolved.name, resolved.source);
                (resolved.architecture, resolved.preprocessing)
            }
            (None, None) => unreachable!("clap asks for one of the models"),
        };
        let preprocessing = self.preprocessing.apply(&preprocessing)?;
        let float = match weights {
            None => None,
            Some(weights) => {
                let architecture = architecture.fitted(&weights, "the quantized model")?;
                Some(Model::float(
                    device,
                    &weights,
                    &architecture,
                    &preprocessing,
                )?)
            }
        };
        let quantized = quantized
            .map(|model| Model::quantized(device, &model))
            .transpose()?;
        if let (Some(float), Some(quantized)) = (&float, &quantized)
            && float.classes() != quantized.classes()
        {
            return Err(Error::usage(
                "--model",
                format!(
                    "has {} classes, the quantized model {}",
                    float.classes(),
                    quantized.classes()
                ),
            ));
        }
        Ok(Models {
            float,
            quantized,
            preprocessing,
        })
    }

    fn check_labels(&self, samples: &[Sample], classes: usize) -> Result<()> {
        let Some(labels) = &self.labels else {
            // The order of the folders gives the index only if no class is left out.
            let folders: HashSet<_> = samples.iter().map(|sample| sample.label).collect();
            if folders.len() == classes {
                return Ok(());
            }
            return Err(Error::input(
                &self.images,
                format!(
                    "has {} class folders, but the model has {classes} classes; name the classes with --labels",
                    folders.len()
                ),
            ));
        };
        for sample in samples {
            if let Some(label) = sample.label.filter(|&label| label >= classes) {
                return Err(Error::input(
                    labels,
                    format!(
                        "gives {} class {label}, where the model's {classes} classes are 0 to {}",
                        sample.path.display(),
                        classes - 1
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Models {
    /// The model whose figures are wanted.
    fn evaluated(&mut self) -> &mut Model {
        self.quantized
            .as_mut()
            .or(self.float.as_mut())
            .expect("clap asks for one of the models")
    }
}

/// What an evaluation counted.
struct Outcome {
    tally: Tally,
    inference: Duration,
    skipped: usize,
}

/// Runs the models on every image that can be read, names the others, and fails if those are too many.
fn evaluate(models: &mut Models, samples: &[Sample], max_skipped: usize) -> Result<Outcome> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} + {eta}")
        .expect("the template is valid");
    let bar = ProgressBar::new(samples.len() as u64).with_style(style);
    let mut outcome = Outcome {
        tally: Tally::default(),
        inference: Duration::ZERO,
        skipped: 0,
    };
    for samples in samples.chunks(IMAGES_AT_ONCE) {
        let mut images = Vec::new();
        let mut shown = Vec::new();
        for (loaded, sample) in load_all(samples, &models.preprocessing)
            .into_iter()
            .zip(samples)
        {
            match loaded {
                Ok(image) => {
                    images.push(image);
                    shown.push(sample);
                }
                Err(error) => {
                    outcome.skipped += 1;
                    bar.suspend(|| eprintln!("skipped: {error}"));
                }
            }
        }
        let start = Instant::now();
        let logits = models.evaluated().logits(&images)?;
        outcome.inference += start.elapsed();
        let reference = match (&mut models.float, &models.quantized) {
            (Some(float), Some(_)) => Some(float.logits(&images)?),
            _ => None,
        };
        let all = logits.iter().chain(reference.iter().flatten());
        for (logits, sample) in all.zip(shown.iter().cycle()) {
            // Against a NaN every comparison is false: it would count as right.
            if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
                return Err(Error::Check(format!(
                    "the model gives {} a logit of {logit}, where finite values are expected: its weights or \
                     scales are too large for f32",
                    sample.path.display()
                )));
            }
        }
        let labels: Vec<usize> = shown.iter().filter_map(|sample| sample.label).collect();
        outcome
            .tally
            .merge(&Tally::of(&labels, &logits, reference.as_deref()));
        bar.inc(samples.len() as u64);
    }
    bar.finish_and_clear();
    if outcome.skipped > max_skipped {
        return Err(Error::Check(format!(
            "{} images could not be read, where --max-skipped allows {max_skipped}",
            outcome.skipped
        )));
    }
    Ok(outcome)
}

fn print(report: &Report) -> Result<()> {
    let accuracy = &report.accuracy;
    print_line!("images        {}", accuracy.images)?;
    print_line!("top-1         {:.2}%", 100.0 * accuracy.top1)?;
    print_line!("top-5         {:.2}%", 100.0 * accuracy.top5)?;
    if let (Some(agreement), Some(kl)) = (accuracy.agreement, accuracy.kl) {
        print_line!("agreement     {:.2}%", 100.0 * agreement)?;
        print_line!("KL            {kl:.4}")?;
        match accuracy.logit_sqnr_db {
            Some(sqnr) => print_line!("logit SQNR    {sqnr:.1} dB")?,
            None => print_line!("logit SQNR    the logits are equal")?,
        }
    }
    print_line!("images/s      {:.1}", report.images_per_second)?;
    print_line!("device        {}", report.device)?;
    print_line!("skipped       {}", report.skipped)
}
