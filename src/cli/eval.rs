//! `eval`: accuracy of a model, and agreement of a quantized model with its FP one.

use super::error::{Error, Result};
use super::inputs::Inputs;
use super::options::{DeviceOption, ImageSizeOptions, PreprocessingOptions};
use super::source::ModelSource;
use super::{figures, open_checkpoint, open_float, open_quantized, print_json, progress};
use crate::device::Device;
use crate::evaluation::{LabelledImages, Models, Part, Shard, summarize};
use crate::file::output::Output;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Evaluates a model on labelled images, and compares a quantized model with its FP one.
///
/// With both models, the figures are the quantized one's, and agreement, KL and the SQNR of the logits tell how close it
/// is to the FP one. Images per second are of the network alone: upload, network and read-back.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # A quantized model, compared with the FP one
  ptq4vit-gpu eval --model deit_tiny_patch16_224.safetensors \\
      --quantized deit_tiny_w6a6.safetensors --images imagenet/val

  # The first quarter of an evaluation, for `merge`
  ptq4vit-gpu eval --quantized deit_tiny_w6a6.safetensors --images imagenet/val --shard 0/4 \\
      --out part-0.json")]
pub struct Eval {
    /// FP model: a timm checkpoint, named as in `calibrate`.
    #[arg(long, value_name = "MODEL", required_unless_present = "quantized")]
    model: Option<ModelSource>,
    /// Quantized model: what `calibrate` wrote.
    #[arg(long, value_name = "FILE")]
    quantized: Option<PathBuf>,
    /// Folder of images: one folder per class, unless --labels is given. They are called as the model calls its classes
    /// (for ImageNet's also by WordNet ids), or lie in the order of the classes by their numbers or names.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// File with a line `file<TAB>class index` per image, relative to --images.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The FP model's architecture, where neither the file nor its neighbours tell.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// How many images may be left out because they can't be read; with --shard, of the shard's images.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_skipped: usize,
    /// Evaluate the I-th of N shares of the images only, counted from 0: 0/4, 1/4, 2/4, 3/4. `merge` puts their parts
    /// together.
    #[arg(
        long,
        value_name = "I/N",
        requires = "out",
        default_value_t = Shard::WHOLE,
        hide_default_value = true
    )]
    shard: Shard,
    /// Write counts and exact sums to a part file, for `merge`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    image_size: ImageSizeOptions,
    #[command(flatten)]
    preprocessing: PreprocessingOptions,
    #[command(flatten)]
    device: DeviceOption,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub fn run(&self) -> Result<()> {
        let mut images = LabelledImages::open(&self.images, self.labels.as_deref())?;
        let out = self.output(&images)?;
        let device = self.device.open()?;
        let mut models = self.models(&device)?;
        images.label(models.classes(), models.class_names())?;

        let part = evaluate(&mut models, &images, self.shard)?;
        check_skipped(part.skipped.len(), "--max-skipped", self.max_skipped)?;
        let Some(out) = out else {
            return figures::print(&summarize([&part])?, self.json);
        };
        if self.shard != Shard::WHOLE {
            out.write(|file| part.write(file))?;
            let done = part.tally.images() + part.skipped.len();
            let (shard, of) = (self.shard, images.samples().len());
            return match self.json {
                true => print_json(
                    &json!({"out": out.path().to_string_lossy(), "shard": shard.to_string(), "images": done, "of": of}),
                ),
                false => print_line!(
                    "wrote {}: shard {shard}, {done} of {of} images",
                    out.path().display()
                ),
            };
        }
        let report = summarize([&part])?;
        out.write(|file| part.write(file))?;
        log::info!("wrote {}", out.path().display());
        figures::print(&report, self.json)
    }

    /// Returns where the part goes, if it is wanted: a place where nothing lies that is read.
    fn output(&self, images: &LabelledImages) -> Result<Option<Output>> {
        let Some(path) = &self.out else {
            return Ok(None);
        };
        let inputs = Inputs::default()
            .files("--model", self.model.iter().flat_map(ModelSource::files))
            .files("--quantized", &self.quantized)
            .files("--labels", &self.labels)
            .files("--images", images.samples().iter().map(|it| &it.path));
        let output = Output::open(path)?;
        inputs.spare_from("--out", &output)?;
        Ok(Some(output))
    }

    /// Opens the models.
    fn models(&self, device: &Device) -> Result<Models> {
        let Some(quantized) = &self.quantized else {
            let source = self.model.as_ref();
            let source = source.expect("clap asks for one of the models");
            let (weights, resolved) = open_float(
                source,
                self.recipe.as_deref(),
                &self.image_size,
                &self.preprocessing,
            )?;
            return Ok(Models::float(device, &weights, &resolved)?);
        };
        let (file, mut model) = open_quantized(quantized)?;
        self.image_size.check_quantized(&model.architecture)?;
        model.preprocessing = self.preprocessing.apply(&model.preprocessing)?;
        let mut reference = self.model.as_ref().map(open_checkpoint).transpose()?;
        if let Some(weights) = &mut reference {
            self.image_size
                .fit_positions(weights, &model.architecture)?;
        }
        Ok(Models::quantized(
            device,
            &file,
            &model,
            reference.as_ref(),
        )?)
    }
}

/// Runs the models on the images of `shard`, and names those that can't be read.
pub(super) fn evaluate(models: &mut Models, images: &LabelledImages, shard: Shard) -> Result<Part> {
    let bar = progress::evaluation(shard.range(images.samples().len()).len());
    let part = models.evaluate(images, shard, &mut |event| progress::tell(&bar, &event))?;
    bar.finish_and_clear();
    Ok(part)
}

/// Finds out whether no more images were skipped than `flag` allows.
///
/// # Errors
/// A check that did not hold if they are too many.
pub(super) fn check_skipped(skipped: usize, flag: &str, allowed: usize) -> Result<()> {
    if skipped <= allowed {
        return Ok(());
    }
    Err(Error::check(format!(
        "{skipped} images could not be read, where {flag} allows {allowed}"
    )))
}
