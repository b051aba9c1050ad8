//! `demo`: the whole product on the two small models that come with it.

use super::error::{Error, Result};
use super::options::DeviceOption;
use super::print_json;
use crate::data::samples::{Sample, choose, flat_folder, image_folder, load};
use crate::device::Device;
use crate::families::sites;
use crate::file::interrupt;
use crate::file::output;
use crate::file::weights::Weights;
use crate::inference::Model;
use crate::model::recipe::{Resolved, resolve};
use crate::quant::{Calibration, Method, Preset, Provenance, QuantizedModel};
use crate::report::{Accuracy, Tally};
use crate::verify::demo::{CALIBRATION, MODELS, TEST, unpack};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// Quantizes a small ViT and a small Swin, trained on MNIST, and tells how well they do.
///
/// Both are calibrated with each preset at 8, 6 and 4 bits, and evaluated on 500 images. Models and images are inside the
/// program.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # The table, on the best device there is
  ptq4vit-gpu demo

  # Files to try the other subcommands on
  ptq4vit-gpu demo --export demo
  ptq4vit-gpu calibrate --model demo/vit_mnist/model.safetensors --images demo/calibration \\
      --out vit_mnist_w8a8.safetensors")]
pub struct Demo {
    /// Write the models and their images to a new folder, to try the other subcommands on, and end.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["count", "device", "json"])]
    export: Option<PathBuf>,
    /// Number of calibration images.
    #[arg(long, value_name = "N", default_value_t = 32)]
    count: usize,
    #[command(flatten)]
    device: DeviceOption,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Holds everything that was found.
#[derive(Serialize)]
struct Comparison {
    device: String,
    calibration_images: usize,
    test_images: usize,
    rows: Vec<Row>,
    seconds: f64,
}

/// Describes one way of computing one model.
#[derive(Serialize)]
struct Row {
    model: String,
    /// A preset, or `FP32`.
    method: &'static str,
    bits: u32,
    /// Fractions of the test images.
    accuracy: f64,
    agreement: Option<f64>,
    file_bytes: u64,
}

impl Demo {
    pub fn run(&self) -> Result<()> {
        if let Some(folder) = &self.export {
            output::write_folder(folder, unpack)?;
            return print_line!("wrote {}", folder.display());
        }
        let start = Instant::now();
        let folder = temporary_folder()?;
        let _interrupted = interrupt::hold_off().unfinished(folder.path());
        let files = folder.path();
        unpack(files)?;
        // All input is read before anything is computed.
        let samples = Samples {
            calibration: choose(flat_folder(&files.join(CALIBRATION))?, self.count, 0)?,
            test: image_folder(&files.join(TEST))?,
        };
        let models = MODELS
            .iter()
            .map(|name| DemoModel::open(&files.join(name), &samples))
            .collect::<Result<Vec<_>>>()?;
        let device = self.device.open()?;

        let mut report = Comparison {
            device: device.name().to_owned(),
            calibration_images: samples.calibration.len(),
            test_images: samples.test.len(),
            rows: Vec::new(),
            seconds: 0.0,
        };
        self.show(|| {
            print_line!(
                "{} images to calibrate on, {} to test on",
                report.calibration_images,
                report.test_images
            )?;
            print_line!("")?;
            print_line!("model        method     bits   accuracy   agreement with FP32      file")
        })?;
        for model in &models {
            model.rows(&samples, &device, &mut |row| {
                self.show(|| print_row(&row))?;
                report.rows.push(row);
                Ok(())
            })?;
        }
        report.seconds = start.elapsed().as_secs_f64();
        if self.json {
            return print_json(&report);
        }
        print_line!("")?;
        print_line!("{:.0} s on {}", report.seconds, report.device)
    }

    /// Prints lines of text as they come, unless JSON is wanted.
    fn show(&self, print: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.json { Ok(()) } else { print() }
    }
}

/// Makes a folder that is removed when it is dropped.
fn temporary_folder() -> Result<TempDir> {
    tempfile::tempdir()
        .map_err(|error| Error::input(std::env::temp_dir(), format!("can't be written: {error}")))
}

/// Holds the images, the same for all models.
struct Samples {
    calibration: Vec<Sample>,
    test: Vec<Sample>,
}

/// Holds a model, and the images as it takes them.
struct DemoModel {
    path: PathBuf,
    weights: Weights,
    resolved: Resolved,
    calibration_images: Vec<Vec<f32>>,
    test_images: Vec<Vec<f32>>,
}

impl DemoModel {
    fn open(folder: &Path, samples: &Samples) -> Result<Self> {
        let path = folder.join("model.safetensors");
        let weights = Weights::open(&path)?;
        let resolved = resolve(&weights, None)?;
        let load = |samples| load(samples, &resolved.preprocessing);
        Ok(Self {
            path,
            calibration_images: load(&samples.calibration)?,
            test_images: load(&samples.test)?,
            weights,
            resolved,
        })
    }

    /// Computes the FP32 row, then one of each preset and width.
    fn rows(
        &self,
        samples: &Samples,
        device: &Device,
        on_row: &mut dyn FnMut(Row) -> Result<()>,
    ) -> Result<()> {
        let Self {
            weights, resolved, ..
        } = self;
        let labels: Vec<usize> = samples
            .test
            .iter()
            .filter_map(|sample| sample.label)
            .collect();

        let mut float = Model::float(
            device,
            weights,
            &resolved.architecture,
            &resolved.preprocessing,
        )?;
        let float_logits = float.logits(&self.test_images)?;
        let accuracy = Tally::of(&labels, &float_logits, None).accuracy();
        on_row(self.row("FP32", 32, accuracy, &self.path)?)?;

        let folder = temporary_folder()?;
        let _interrupted = interrupt::hold_off().unfinished(folder.path());
        for preset in [Preset::BasePtq, Preset::Ptq4vit, Preset::Best] {
            let name = preset.name();
            for bits in [8, 6, 4] {
                let method = Method::preset(preset, bits, bits, &sites(&resolved.architecture))?;
                let calibration = Calibration::builder(device, weights, &resolved.architecture)
                    .method(&method)
                    .images(&self.calibration_images)
                    .run()?;
                let path = folder.path().join(format!("{name}-{bits}.safetensors"));
                let provenance = Provenance::new(
                    weights,
                    &resolved.name,
                    preset,
                    Some(0),
                    &samples.calibration,
                )?;
                QuantizedModel::new(weights, resolved, method, calibration, provenance)?
                    .save(&path)?;
                // From the file, as a user would.
                let quantized = QuantizedModel::open(&path)?;
                let logits = Model::quantized(device, &quantized)?.logits(&self.test_images)?;
                let accuracy = Tally::of(&labels, &logits, Some(&float_logits)).accuracy();
                on_row(self.row(name, bits, accuracy, &path)?)?;
            }
        }
        Ok(())
    }

    fn row(
        &self,
        method: &'static str,
        bits: u32,
        accuracy: Option<Accuracy>,
        file: &Path,
    ) -> Result<Row> {
        let accuracy = accuracy.expect("there are images to test on");
        let metadata = std::fs::metadata(file).map_err(|error| Error::input(file, error))?;
        Ok(Row {
            model: self.resolved.name.clone(),
            method,
            bits,
            accuracy: accuracy.top1,
            agreement: accuracy.agreement,
            file_bytes: metadata.len(),
        })
    }
}

fn print_row(row: &Row) -> Result<()> {
    let percent = |fraction: f64| format!("{:.1}%", 100.0 * fraction);
    print_line!(
        "{:<12} {:<10} {:>4} {:>10} {:>21} {:>6} KiB",
        row.model,
        row.method,
        row.bits,
        percent(row.accuracy),
        row.agreement.map_or("-".to_owned(), percent),
        row.file_bytes / 1024,
    )
}
