//! `embed`: the features of images.

use super::error::{Error, Result};
use super::eval::check_skipped;
use super::inputs::Inputs;
use super::options::{DeviceOption, ImageSizeOptions, PreprocessingOptions};
use super::source::ModelSource;
use super::{images_at, open_float, open_quantized, print_json, progress};
use crate::data::samples::Sample;
use crate::device::Device;
use crate::evaluation::Embeddings;
use crate::file::output::Output;
use crate::inference::Model;
use crate::model::config::{Answer, Architecture};
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes the features of images, from a model without a classifier.
///
/// It writes one row of f32 for each image, in the order of the command line and, in a folder, of the paths. They are what
/// the model answers: the class token or the mean of the patches, normalised by its last LayerNorm, or what SigLIP's attention
/// pools, as timm's `num_classes=0` and the pooled output of transformers have it; of transformers' `ViTModel` and `DeiTModel`
/// what their pooler reads. With CLIP's projection they are what that makes of it. With --tokens they are a row for each
/// patch.
#[derive(Args)]
#[group(skip)]
#[command(group = ArgGroup::new("either").required(true))]
#[command(after_help = "\
Examples:
  # A matrix for NumPy, with the images' names beside it
  ptq4vit-gpu embed --quantized dinov2_w8a8.safetensors photos --out photos.npy --names photos.txt

  # The FP model's, of length 1, with their names in the same file
  ptq4vit-gpu embed --model vit_small_patch14_dinov2 photos --normalize --out photos.safetensors

  # What the model knows of each patch, images x patches x features
  ptq4vit-gpu embed --quantized dinov2_w8a8.safetensors photos --tokens --out patches.npy")]
pub struct Embed {
    /// Images, and folders of images, which are searched to any depth.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Quantized model: what `calibrate` wrote.
    #[arg(long, value_name = "FILE", group = "either", conflicts_with = "recipe")]
    quantized: Option<PathBuf>,
    /// FP model instead: a checkpoint, named as in `calibrate`.
    #[arg(long, value_name = "MODEL", group = "either")]
    model: Option<ModelSource>,
    /// The FP model's architecture, where neither the file nor its neighbours tell.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// File to write: .npy, or .safetensors with a tensor `features` and the images' names as a JSON list under the metadata
    /// key `images`.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Format, if not by the extension of --out.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Also write the images' names, a line each.
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Write the features of each patch, row by row over the image, `[images, patches, features]`, instead of what is
    /// pooled of them: the last block's tokens, normalised, without the class token and registers. The model may have a
    /// classifier, which isn't asked then.
    #[arg(long)]
    tokens: bool,
    /// Give the features of each image, or with --tokens of each patch, a length of 1.
    #[arg(long)]
    normalize: bool,
    /// How many images may be left out because they can't be read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_skipped: usize,
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

/// A format of files.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// NumPy's.
    Npy,
    /// safetensors.
    Safetensors,
}

/// Says which model it is that answers.
type Metadata = BTreeMap<String, String>;

impl Embed {
    pub fn run(&self) -> Result<()> {
        let format = self.format()?;
        let samples = images_at(&self.images)?;
        let (out, names) = self.outputs(&samples)?;
        let device = self.device.open()?;
        let (mut model, architecture, metadata) = self.open(&device)?;
        let bar = progress::evaluation(samples.len());
        let mut on_done = |done| bar.inc(done as u64);
        let mut found = Embeddings::of(&mut model, &architecture, &samples, &mut on_done)?;
        bar.finish_and_clear();
        for error in &found.unreadable {
            log::warn!("skipped: {error}");
        }
        let skipped = found.unreadable.len();
        check_skipped(skipped, "--max-skipped", self.max_skipped)?;
        if found.images.is_empty() {
            return Err(Error::check(format!(
                "none of the {skipped} images could be read"
            )));
        }
        if self.normalize {
            found.normalize();
        }
        let bytes = match format {
            Format::Npy => found.npy(),
            Format::Safetensors => found
                .safetensors(metadata)
                .map_err(|problem| Error::input(&self.out, problem))?,
        };
        if let Some(names) = &names {
            names.write(|file| {
                found
                    .images
                    .iter()
                    .try_for_each(|name| writeln!(file, "{name}"))
            })?;
        }
        out.write(|file| file.write_all(&bytes))?;
        let (images, dim) = (found.images.len(), found.dim());
        let patches = architecture
            .patch_features()
            .map(|(_, [patches, _])| patches);
        if self.json {
            let mut report = json!({
                "out": self.out.to_string_lossy(),
                "images": images,
                "features": dim,
                "images_per_second": images as f64 / found.inference.as_secs_f64(),
                "device": device.name(),
                "skipped": skipped,
            });
            if let Some(patches) = patches {
                report["patches"] = patches.into();
            }
            return print_json(&report);
        }
        let of_each = patches.map_or(String::new(), |patches| {
            format!(" of each of {patches} patches")
        });
        match out.file() {
            Some(_) => print_line!(
                "wrote {}: {images} images, {dim} features{of_each}",
                self.out.display()
            ),
            // Nothing else belongs into a stream, which may be stdout.
            None => Ok(()),
        }
    }

    fn format(&self) -> Result<Format> {
        let extension = self
            .out
            .extension()
            .and_then(|extension| extension.to_str());
        match (self.format, extension) {
            (Some(format), _) => Ok(format),
            (None, Some("npy")) => Ok(Format::Npy),
            (None, Some("safetensors")) => Ok(Format::Safetensors),
            (None, _) => Err(Error::usage(
                "--out",
                format!(
                    "{} ends neither with .npy nor with .safetensors; --format tells which it is",
                    self.out.display()
                ),
            )),
        }
    }

    /// Returns where features and names go: places where nothing lies that is read or else written.
    fn outputs(&self, samples: &[Sample]) -> Result<(Output, Option<Output>)> {
        let inputs = Inputs::default()
            .files("--model", self.model.iter().flat_map(ModelSource::files))
            .files("--quantized", &self.quantized)
            .files("IMAGE", samples.iter().map(|sample| &sample.path));
        let out = Output::open(&self.out)?;
        inputs.spare_from("--out", &out)?;
        let Some(path) = &self.names else {
            return Ok((out, None));
        };
        let names = Output::open(path)?;
        inputs
            .files("--out", out.file())
            .spare_from("--names", &names)?;
        let has_line_feed = |sample: &&Sample| sample.path.to_string_lossy().contains('\n');
        match samples.iter().find(has_line_feed) {
            Some(sample) => Err(Error::usage(
                "--names",
                format!("{} has a line feed in its name", sample.path.display()),
            )),
            None => Ok((out, Some(names))),
        }
    }

    /// Opens the model, and says what it answers with and which one it is.
    fn open(&self, device: &Device) -> Result<(Model, Architecture, Metadata)> {
        let (image_size, preprocessing) = (&self.image_size, &self.preprocessing);
        let metadata = |name: &str, sha256: String| {
            let normalized = self.normalize.to_string();
            let keys = ["model", "model_sha256", "normalized"];
            let values = [name.to_owned(), sha256, normalized];
            keys.map(str::to_owned).into_iter().zip(values).collect()
        };
        if let Some(path) = &self.quantized {
            let (file, mut model) = open_quantized(path)?;
            image_size.check_quantized(&model.architecture)?;
            if self.tokens {
                let unpooled = model.unpooled();
                model = unpooled.map_err(|problem| Error::input(path, problem))?;
            }
            expect_features(&model.architecture, path)?;
            model.preprocessing = preprocessing.apply(&model.preprocessing)?;
            let metadata = metadata(&model.provenance.name, file.sha256());
            let opened = Model::quantized(device, &model)?;
            return Ok((opened, model.architecture, metadata));
        }
        let source = self.model.as_ref();
        let source = source.expect("clap asks for one of the models");
        let (weights, resolved) =
            open_float(source, self.recipe.as_deref(), image_size, preprocessing)?;
        let architecture = match self.tokens {
            false => resolved.architecture,
            true => {
                let unpooled = resolved.architecture.unpooled();
                unpooled.map_err(|problem| Error::input(weights.path(), problem))?
            }
        };
        expect_features(&architecture, weights.path())?;
        let model = Model::float(device, &weights, &architecture, &resolved.preprocessing)?;
        let metadata = metadata(&resolved.name, weights.sha256());
        Ok((model, architecture, metadata))
    }
}

/// Finds out that the model at `path` answers with features.
fn expect_features(architecture: &Architecture, path: &Path) -> Result<()> {
    match architecture.answer() {
        Answer::Features(_) => Ok(()),
        answer => Err(Error::input(
            path,
            format!(
                "answers with {answer}, where features are expected: those of a model without a classifier, as timm's `num_classes=0` has it, or its patches' by --tokens"
            ),
        )),
    }
}
