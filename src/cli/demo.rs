//! `demo`: the whole product on the two small models that come with it.

use super::options::DeviceOption;
use crate::data::samples::{Sample, choose, flat_folder, image_folder, load_all};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::inference::{Model, build};
use crate::model::recipe::{Resolved, resolve};
use crate::model::weights::Weights;
use crate::quant::{Budget, Preset, Provenance, QuantizedModel, Settings, calibrate};
use crate::report::{Accuracy, Tally};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The demo models: folders with `model.safetensors` and timm's `config.json`.
const MODELS: [&str; 2] = ["vit_mnist", "swin_mnist"];

/// Calibrates and evaluates a small ViT and a small Swin, trained on MNIST, with both presets at 8, 6 and 4 bits.
#[derive(Args)]
pub struct Demo {
    /// Folder of the demo models and their images.
    #[arg(long, value_name = "DIR", default_value = "models/demo")]
    files: PathBuf,
    /// Number of calibration images.
    #[arg(long, default_value_t = 8)]
    count: usize,
    #[command(flatten)]
    device: DeviceOption,
}

impl Demo {
    pub fn run(&self) -> Result<()> {
        let start = Instant::now();
        // All input is read before anything is computed.
        let samples = Samples {
            calibration: choose(flat_folder(&self.files.join("calibration"))?, self.count, 0)?,
            test: image_folder(&self.files.join("test"))?,
        };
        let models = MODELS
            .iter()
            .map(|name| DemoModel::open(&self.files.join(name), &samples))
            .collect::<Result<Vec<_>>>()?;
        let device = self.device.open()?;

        print_line!(
            "{} images to calibrate on, {} to test on\n",
            samples.calibration.len(),
            samples.test.len()
        )?;
        print_line!("model        method     bits   accuracy   agreement with FP32      file")?;
        for model in &models {
            model.print_rows(&samples, &device)?;
        }
        print_line!(
            "\n{:.0} s on {}",
            start.elapsed().as_secs_f64(),
            device.name()
        )?;
        Ok(())
    }
}

/// The images, the same for all models.
struct Samples {
    calibration: Vec<Sample>,
    test: Vec<Sample>,
}

/// A model, and the images as it takes them.
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
        let load = |samples| {
            load_all(samples, &resolved.preprocessing)
                .into_iter()
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            path,
            calibration_images: load(&samples.calibration)?,
            test_images: load(&samples.test)?,
            weights,
            resolved,
        })
    }

    /// Prints the FP32 row, then one of each preset and width.
    fn print_rows(&self, samples: &Samples, device: &Device) -> Result<()> {
        let Self {
            weights, resolved, ..
        } = self;
        let labels: Vec<usize> = samples
            .test
            .iter()
            .filter_map(|sample| sample.label)
            .collect();

        let network = build(device, weights, &resolved.architecture)?;
        let mut float = Model::float(
            device,
            weights,
            &resolved.architecture,
            &resolved.preprocessing,
        )?;
        let float_logits = float.logits(&self.test_images)?;
        let accuracy = Tally::of(&labels, &float_logits, None).accuracy();
        self.print_row("FP32", 32, accuracy.as_ref(), &self.path)?;

        let folder = tempfile::tempdir().map_err(|error| {
            Error::input(std::env::temp_dir(), format!("can't be written: {error}"))
        })?;
        for preset in [Preset::BasePtq, Preset::Ptq4vit] {
            let name = preset.name();
            for bits in [8, 6, 4] {
                let settings = Settings::preset(preset, bits, bits);
                let calibration = calibrate(
                    &network,
                    weights,
                    &settings,
                    &self.calibration_images,
                    Budget::default(),
                    &|_| true,
                    &mut |_| Ok(()),
                )?;
                let path = folder.path().join(format!("{name}-{bits}.safetensors"));
                let provenance = Provenance::new(
                    weights,
                    &resolved.name,
                    preset,
                    Some(0),
                    &samples.calibration,
                )?;
                QuantizedModel::new(weights, resolved, settings, calibration, provenance)?
                    .save(&path)?;
                // From the file, as a user would.
                let quantized = QuantizedModel::open(&path)?;
                let logits = Model::quantized(device, &quantized)?.logits(&self.test_images)?;
                let accuracy = Tally::of(&labels, &logits, Some(&float_logits)).accuracy();
                self.print_row(name, bits, accuracy.as_ref(), &path)?;
            }
        }
        Ok(())
    }

    fn print_row(
        &self,
        method: &str,
        bits: u32,
        accuracy: Option<&Accuracy>,
        file: &Path,
    ) -> Result<()> {
        let percent = |fraction: Option<f64>| {
            fraction.map_or("-".to_owned(), |fraction| {
                format!("{:.1}%", 100.0 * fraction)
            })
        };
        let bytes = std::fs::metadata(file)
            .map_err(|error| Error::input(file, error))?
            .len();
        print_line!(
            "{:<12} {method:<10} {bits:>4} {:>10} {:>21} {:>6} KiB",
            self.resolved.name,
            percent(accuracy.map(|accuracy| accuracy.top1)),
            percent(accuracy.and_then(|accuracy| accuracy.agreement)),
            bytes / 1024,
        )?;
        Ok(())
    }
}
