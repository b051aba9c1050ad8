//! `eval`: accuracy of a model, agreement of a quantized model with its FP one, and what its features are worth.

use super::error::{Error, Result};
use super::inputs::Inputs;
use super::options::{DeviceOption, ImageSizeOptions, PreprocessingOptions};
use super::source::ModelSource;
use super::{figures, open_checkpoint, open_float, open_quantized, print_json, progress};
use crate::device::Device;
use crate::evaluation::{ImageSet, LabelledImages, Models, Part, Shard, summarize};
use crate::file::output::Output;
use crate::file::weights::Weights;
use crate::model::config::{Answer, Architecture};
use crate::model::recipe::Resolved;
use crate::quant::QuantizedModel;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;
use std::path::PathBuf;

/// Evaluates a model on labelled images, and compares a quantized model with its FP one.
///
/// With both models, the figures are the quantized one's, and agreement, KL and the SQNR of the logits tell how close it
/// is to the FP one. Images per second are of the network alone: upload, network and read-back.
///
/// A model without a classifier answers with features. They need no labels: cosine, relative error and SQNR tell how close
/// the quantized ones are to the FP model's, and --gallery whether the same images lie nearest.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # A quantized model, compared with the FP one
  ptq4vit-gpu eval --model deit_tiny_patch16_224.safetensors \\
      --quantized deit_tiny_w6a6.safetensors --images imagenet/val

  # The first quarter of an evaluation, for `merge`
  ptq4vit-gpu eval --quantized deit_tiny_w6a6.safetensors --images imagenet/val --shard 0/4 \\
      --out part-0.json

  # Features of a DINOv2, and what lies nearest to them
  ptq4vit-gpu eval --model vit_small_patch14_dinov2 --quantized dinov2_w8a8.safetensors \\
      --interpolate-positions --images queries --gallery photos")]
pub struct Eval {
    /// FP model: a timm checkpoint, named as in `calibrate`.
    #[arg(long, value_name = "MODEL", required_unless_present = "quantized")]
    model: Option<ModelSource>,
    /// Quantized model: what `calibrate` wrote.
    #[arg(long, value_name = "FILE")]
    quantized: Option<PathBuf>,
    /// Folder of images: one folder per class, unless --labels is given. They are called as the model calls its classes
    /// (for ImageNet's also by WordNet ids), or lie in the order of the classes by their numbers or names. Features need no
    /// classes.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// File with a line `file<TAB>class index` per image, relative to --images.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Folder of images among which the nearest to each of --images are looked for, by the cosine of the features; with a
    /// folder per class, or --gallery-labels, also their class.
    #[arg(long, value_name = "DIR")]
    gallery: Option<PathBuf>,
    /// File with a line `file<TAB>class index` per image, relative to --gallery.
    #[arg(long, value_name = "FILE", requires = "gallery", requires = "labels")]
    gallery_labels: Option<PathBuf>,
    /// Number of nearest images that vote for a class. Default: 1.
    #[arg(long, value_name = "K", requires = "gallery", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    neighbours: Option<usize>,
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

/// Holds the models' files.
struct Opened {
    /// The FP model, and what it was found to be where there is no quantized one.
    float: Option<(Weights, Option<Resolved>)>,
    quantized: Option<(Weights, QuantizedModel)>,
}

impl Opened {
    /// Returns the architecture of the model that is evaluated.
    fn architecture(&self) -> &Architecture {
        match (&self.quantized, &self.float) {
            (Some((_, model)), _) => &model.architecture,
            (None, Some((_, Some(resolved)))) => &resolved.architecture,
            (None, _) => unreachable!("an FP model without a quantized one is resolved"),
        }
    }

    /// Loads the models.
    fn load(&self, device: &Device) -> Result<Models> {
        let float = self.float.as_ref();
        Ok(match &self.quantized {
            Some((file, model)) => {
                let reference = float.map(|(weights, _)| weights);
                Models::quantized(device, file, model, reference)?
            }
            None => {
                let (weights, resolved) = float.expect("clap asks for one of the models");
                let resolved = resolved.as_ref().expect("it was resolved");
                Models::float(device, weights, resolved)?
            }
        })
    }
}

impl Eval {
    pub fn run(&self) -> Result<()> {
        let opened = self.open()?;
        match opened.architecture().answer() {
            Answer::Logits(classes) => self.evaluate_classes(&opened, classes),
            answer @ Answer::Features(_) => self.compare_features(&opened, answer),
        }
    }

    /// Evaluates models with classes.
    fn evaluate_classes(&self, opened: &Opened, classes: usize) -> Result<()> {
        for (flag, given) in [
            ("--gallery", self.gallery.is_some()),
            ("--neighbours", self.neighbours.is_some()),
        ] {
            if given {
                let problem = format!(
                    "is for models that answer with features, and this one has {classes} classes"
                );
                return Err(Error::usage(flag, problem));
            }
        }
        let mut images = LabelledImages::open(&self.images, self.labels.as_deref())?;
        let out = self.output(&images)?;
        let device = self.device.open()?;
        let mut models = opened.load(&device)?;
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

    /// Compares models that answer with features.
    fn compare_features(&self, opened: &Opened, answer: Answer) -> Result<()> {
        if self.out.is_some() {
            let problem = format!("is for models with classes, and this one answers with {answer}");
            return Err(Error::usage("--out", problem));
        }
        let alone = self.model.is_none() || self.quantized.is_none();
        if alone && self.gallery.is_none() {
            let problem = format!(
                "one model that answers with {answer} has nothing to be compared with: the other model, or a --gallery with classes, is expected"
            );
            return Err(Error::usage("--model, --quantized", problem));
        }
        let images = ImageSet::open(&self.images, self.labels.as_deref())?;
        let open = |folder: &PathBuf| ImageSet::open(folder, self.gallery_labels.as_deref());
        let gallery = self.gallery.as_ref().map(open).transpose()?;
        let neighbours = self.neighbours.unwrap_or(1);
        let in_gallery = gallery
            .as_ref()
            .map_or(0, |gallery| gallery.samples().len());
        if gallery.is_some() && neighbours > in_gallery {
            let problem =
                format!("expected at most the gallery's {in_gallery} images, found {neighbours}");
            return Err(Error::usage("--neighbours", problem));
        }
        let device = self.device.open()?;
        let mut models = opened.load(&device)?;
        let bar = progress::evaluation(images.samples().len() + in_gallery);
        let summary = models.compare_features(
            &images,
            gallery.as_ref().map(|gallery| (gallery, neighbours)),
            &mut |event| progress::tell(&bar, &event),
        )?;
        bar.finish_and_clear();
        check_skipped(summary.skipped, "--max-skipped", self.max_skipped)?;
        figures::print_features(&summary, self.json)
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

    /// Opens the models' files.
    fn open(&self) -> Result<Opened> {
        let Some(quantized) = &self.quantized else {
            let source = self.model.as_ref();
            let source = source.expect("clap asks for one of the models");
            let (weights, resolved) = open_float(
                source,
                self.recipe.as_deref(),
                &self.image_size,
                &self.preprocessing,
            )?;
            return Ok(Opened {
                float: Some((weights, Some(resolved))),
                quantized: None,
            });
        };
        let (file, mut model) = open_quantized(quantized)?;
        self.image_size.check_quantized(&model.architecture)?;
        model.preprocessing = self.preprocessing.apply(&model.preprocessing)?;
        let mut reference = self.model.as_ref().map(open_checkpoint).transpose()?;
        if let Some(weights) = &mut reference {
            self.image_size
                .fit_positions(weights, &model.architecture)?;
        }
        Ok(Opened {
            float: reference.map(|weights| (weights, None)),
            quantized: Some((file, model)),
        })
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
