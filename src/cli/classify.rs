//! `classify`: what a model sees in images.

use super::error::{Error, Result};
use super::options::{DeviceOption, ImageSizeOptions, PreprocessingOptions};
use super::source::ModelSource;
use super::{images_at, open_float, open_quantized, print_json, progress};
use crate::data::class_names::{ClassName, ClassNames};
use crate::data::samples::{Sample, load_all};
use crate::device::Device;
use crate::error;
use crate::inference::{Model, check_finite};
use crate::model::config::{Answer, Architecture};
use crate::report::{Class, Classified, Guess, Outcome, TOP};
use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Counts the images that are decoded at once.
const DECODED: usize = 64;

/// Shows what a model sees in images: the likeliest classes, and how long it takes.
///
/// Each image's classes come with their probabilities. The time is that of upload, network and read-back, without reading
/// and decoding the file. The first image is run once before without a clock: it would pay for what is compiled once.
///
/// An image that can't be read is named on stderr, the others are classified, and the exit code is 3.
#[derive(Args)]
#[group(skip)]
#[command(group = ArgGroup::new("either").required(true))]
#[command(after_help = "\
Examples:
  # The five likeliest of ImageNet's classes
  ptq4vit-gpu classify --quantized deit_tiny_w6a6.safetensors cat.jpg dog.png

  # A model with classes of its own, on a folder of images, for a program
  ptq4vit-gpu classify --quantized birds_w8a8.safetensors --classes birds.txt --top 1 --json photos")]
pub struct Classify {
    /// Images, and folders of images, which are searched to any depth.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Quantized model: what `calibrate` wrote.
    #[arg(long, value_name = "FILE", group = "either", conflicts_with = "recipe")]
    quantized: Option<PathBuf>,
    /// FP model instead: a timm checkpoint, named as in `calibrate`.
    #[arg(long, value_name = "MODEL", group = "either")]
    model: Option<ModelSource>,
    /// The FP model's architecture, where neither the file nor its neighbours tell.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// File with the classes' names: one a line, or lines `index<TAB>wnid<TAB>name`. Default: the model's own, if it has
    /// any.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Number of classes to show. Default: 5, or all if there are fewer.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    top: Option<usize>,
    /// Images that are run at once; each is then said to take an equal share of their time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    batch: usize,
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

/// Holds everything that was found.
#[derive(Serialize)]
struct Classifications {
    device: String,
    images: Vec<Classified>,
}

impl Classify {
    pub fn run(&self) -> Result<()> {
        let samples = images_at(&self.images)?;
        let device = self.device.open()?;
        let (mut model, names) = self.open(&device)?;
        let top = self.top(model.classes())?;

        let mut report = Classifications {
            device: device.name().to_owned(),
            images: Vec::new(),
        };
        let mut unreadable = Vec::new();
        // As text the results themselves show how far it is.
        let bar = self.json.then(|| progress::evaluation(samples.len()));
        for samples in samples.chunks(DECODED) {
            let rows = self.rows(&mut model, samples, top, names.as_deref(), &mut unreadable)?;
            if let Some(bar) = &bar {
                bar.inc(rows.len() as u64);
                report.images.extend(rows);
            } else {
                rows.iter().try_for_each(print_row)?;
            }
        }
        drop(bar);
        if self.json {
            print_json(&report)?;
        }
        // Each is an error of its own; the last one is the program's.
        let Some(last) = unreadable.pop() else {
            return Ok(());
        };
        for error in unreadable {
            log::error!("{error}");
        }
        Err(last)
    }

    /// Opens the model, with what its classes are called.
    fn open(&self, device: &Device) -> Result<(Model, Option<ClassNames>)> {
        let (image_size, preprocessing) = (&self.image_size, &self.preprocessing);
        if let Some(path) = &self.quantized {
            let (_, mut model) = open_quantized(path)?;
            expect_classes(&model.architecture, path)?;
            image_size.check_quantized(&model.architecture)?;
            model.preprocessing = preprocessing.apply(&model.preprocessing)?;
            let names = self.names(model.architecture.classes(), model.class_names.take())?;
            return Ok((Model::quantized(device, &model)?, names));
        }
        let source = self.model.as_ref();
        let source = source.expect("clap asks for one of the models");
        let (weights, resolved) =
            open_float(source, self.recipe.as_deref(), image_size, preprocessing)?;
        expect_classes(&resolved.architecture, weights.path())?;
        let names = self.names(resolved.architecture.classes(), resolved.class_names)?;
        let model = Model::float(
            device,
            &weights,
            &resolved.architecture,
            &resolved.preprocessing,
        )?;
        Ok((model, names))
    }

    /// Returns the names of so many classes: those in --classes, else the model's `own`.
    fn names(&self, classes: usize, own: Option<ClassNames>) -> Result<Option<ClassNames>> {
        if let Some(path) = &self.classes {
            return Ok(Some(ClassNames::open(path, classes)?));
        }
        match &own {
            Some(names) if *names == ClassNames::imagenet() => {
                log::info!("classes: ImageNet-1k's, as the model says");
            }
            Some(_) => log::info!("classes: by the model's own names"),
            None => {
                log::info!(
                    "classes: by index, since the model has no names; --classes gives it some"
                );
            }
        }
        Ok(own)
    }

    fn top(&self, classes: usize) -> Result<usize> {
        match self.top {
            Some(top) if top > classes => Err(Error::usage(
                "--top",
                format!("expected at most the model's {classes} classes, found {top}"),
            )),
            Some(top) => Ok(top),
            None => Ok(TOP.min(classes)),
        }
    }

    /// Classifies a few images at once, and keeps the errors of those that can't be read.
    fn rows(
        &self,
        model: &mut Model,
        samples: &[Sample],
        top: usize,
        names: Option<&[ClassName]>,
        unreadable: &mut Vec<Error>,
    ) -> Result<Vec<Classified>> {
        let mut images = Vec::new();
        let failures: Vec<Option<error::Error>> = load_all(samples, model.preprocessing())
            .into_iter()
            .map(|loaded| loaded.map(|image| images.push(image)).err())
            .collect();
        let mut timed = model.timed_logits(self.batch, &images)?.into_iter();
        let mut rows = Vec::new();
        for (sample, failure) in samples.iter().zip(failures) {
            let outcome = match failure {
                None => {
                    let (logits, time) = timed.next().expect("logits of every image");
                    check_finite(&logits, &sample.path, model.device())?;
                    Outcome::of(&logits, time, top, names)
                }
                Some(error) => {
                    let text = error.to_string();
                    unreadable.push(error.into());
                    Outcome::Unreadable { error: text }
                }
            };
            rows.push(Classified {
                image: sample.path.to_string_lossy().into_owned(),
                outcome,
            });
        }
        Ok(rows)
    }
}

/// Finds out that the model at `path` has classes.
fn expect_classes(architecture: &Architecture, path: &Path) -> Result<()> {
    match architecture.answer() {
        Answer::Logits(_) => Ok(()),
        answer => Err(Error::input(
            path,
            format!("answers with {answer} and has no classes; `embed` writes its features"),
        )),
    }
}

/// Prints what was found in an image; one that can't be read is stderr's.
fn print_row(row: &Classified) -> Result<()> {
    let Outcome::Classified { ms, classes } = &row.outcome else {
        return Ok(());
    };
    print_line!("{}  {ms:.1} ms", row.image)?;
    for Class { guess, name } in classes {
        let Guess { class, probability } = guess;
        let percent = 100.0 * probability;
        match name {
            Some(ClassName {
                wnid: Some(wnid),
                name,
            }) => {
                print_line!("  {percent:>6.2}%  {class:>4}  {wnid}  {name}")
            }
            Some(ClassName { wnid: None, name }) => {
                print_line!("  {percent:>6.2}%  {class:>4}  {name}")
            }
            None => print_line!("  {percent:>6.2}%  {class:>4}"),
        }?;
    }
    Ok(())
}
