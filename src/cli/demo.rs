//! `demo`: the whole product on a small model that comes with it.

use super::options::DeviceOption;
use crate::data::samples::{choose, flat_folder, image_folder, load_all};
use crate::error::{Error, Result};
use crate::inference::{Model, build};
use crate::model::recipe::resolve;
use crate::model::weights::Weights;
use crate::quant::{Preset, Provenance, QuantizedModel, Settings, calibrate};
use crate::report::{Accuracy, Tally};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Calibrates and evaluates a small ViT, trained on MNIST, with both presets at 8, 6 and 4 bits.
#[derive(Args)]
pub struct Demo {
    /// Folder of the demo model and its images.
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
        let path = self.files.join("vit_mnist.safetensors");
        let weights = Weights::open(&path)?;
        let resolved = resolve(&weights, None)?;
        let calibration_samples =
            choose(flat_folder(&self.files.join("calibration"))?, self.count, 0)?;
        let calibration_images = load_all(&calibration_samples, &resolved.preprocessing)
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let test = image_folder(&self.files.join("test"))?;
        let device = self.device.open()?;

        let network = build(&device, &weights, &resolved.architecture)?;
        let mut float = Model::float(
            &device,
            &weights,
            &resolved.architecture,
            &resolved.preprocessing,
        )?;
        let labels: Vec<usize> = test.iter().filter_map(|sample| sample.label).collect();
        let test_images = load_all(&test, &resolved.preprocessing)
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        print_line!(
            "{} images to calibrate on, {} to test on\n",
            calibration_images.len(),
            test.len()
        )?;
        print_line!("method     bits   accuracy   agreement with FP32      file")?;
        let float_logits = float.logits(&test_images)?;
        let accuracy = Tally::of(&labels, &float_logits, None).accuracy();
        row("FP32", "32", accuracy.as_ref(), &path)?;

        let folder = tempfile::tempdir().map_err(|error| {
            Error::input(std::env::temp_dir(), format!("can't be written: {error}"))
        })?;
        for preset in [Preset::BasePtq, Preset::Ptq4vit] {
            let name = preset.name();
            for bits in [8, 6, 4] {
                let settings = Settings::preset(preset, bits, bits);
                let calibration = calibrate(
                    &network,
                    &weights,
                    &settings,
                    &calibration_images,
                    &|_| true,
                    &mut |_| {},
                )?;
                let path = folder.path().join(format!("{name}-{bits}.safetensors"));
                let provenance = Provenance::new(
                    &weights,
                    &resolved.name,
                    preset,
                    Some(0),
                    &calibration_samples,
                )?;
                QuantizedModel::new(&weights, &resolved, settings, calibration, provenance)?
                    .save(&path)?;
                // From the file, as a user would.
                let quantized = QuantizedModel::open(&path)?;
                let logits = Model::quantized(&device, &quantized)?.logits(&test_images)?;
                let accuracy = Tally::of(&labels, &logits, Some(&float_logits)).accuracy();
                row(name, &format!("{bits}"), accuracy.as_ref(), &path)?;
            }
        }
        print_line!(
            "\n{:.0} s on {}",
            start.elapsed().as_secs_f64(),
            device.name()
        )?;
        Ok(())
    }
}

fn row(name: &str, bits: &str, accuracy: Option<&Accuracy>, file: &Path) -> Result<()> {
    let percent = |fraction: Option<f64>| {
        fraction.map_or("-".to_owned(), |fraction| {
            format!("{:.1}%", 100.0 * fraction)
        })
    };
    let bytes = std::fs::metadata(file)
        .map_err(|error| Error::input(file, error))?
        .len();
    print_line!(
        "{name:<10} {bits:>4} {:>10} {:>21} {:>6} KiB",
        percent(accuracy.map(|accuracy| accuracy.top1)),
        percent(accuracy.and_then(|accuracy| accuracy.agreement)),
        bytes / 1024,
    )?;
    Ok(())
}
