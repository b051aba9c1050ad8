//! `calibrate`: a timm checkpoint and images in, a file of integers out.

use super::open_checkpoint;
use super::options::{DeviceOption, PreprocessingOptions};
use super::source::ModelSource;
use crate::data::samples::{Sample, choose, flat_folder, listed, load_all};
use crate::error::{Error, Result};
use crate::inference::build;
use crate::model::recipe::resolve;
use crate::quant::{
    Calibration, Metric, Phase, Preset, Progress, Provenance, QuantizedModel, Settings, calibrate,
};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Chooses the scales of every matrix product on a few images, and writes the quantized model.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ptq4vit-gpu calibrate --model deit_tiny_patch16_224.safetensors --images photos \
                        --bits 6 --out deit_tiny_w6a6.safetensors"
)]
pub struct Calibrate {
    /// timm checkpoint: a safetensors file in F32, F16 or BF16, a known model's name (`deit_small_patch16_224`), or
    /// `hf-hub:OWNER/NAME[@REVISION]`. The latter two are fetched from the Hugging Face hub.
    #[arg(long, value_name = "MODEL")]
    model: ModelSource,
    /// Folder of calibration images, searched to any depth.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The quantized model to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The architecture's name, where neither the file nor its neighbours tell.
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// Set of choices to start from.
    #[arg(long, value_enum, default_value = "ptq4vit")]
    preset: Preset,
    /// Bits of weights and activations, 2 to 8.
    #[arg(long, default_value_t = 8, value_parser = bits())]
    bits: u32,
    /// Bits of weights, if not --bits.
    #[arg(long, value_parser = bits())]
    weight_bits: Option<u32>,
    /// Bits of activations, if not --bits.
    #[arg(long, value_parser = bits())]
    activation_bits: Option<u32>,
    /// How candidate scales are compared, if not as the preset says.
    #[arg(long, value_enum)]
    metric: Option<Metric>,
    /// Whether attention's probabilities are quantized in two ranges.
    #[arg(long, value_name = "BOOL")]
    softmax_twin: Option<bool>,
    /// Whether GELU's output is quantized in two ranges.
    #[arg(long, value_name = "BOOL")]
    gelu_twin: Option<bool>,
    /// Smallest candidate, as a fraction of the scale that clips nothing.
    #[arg(long, allow_hyphen_values = true)]
    alpha: Option<f64>,
    /// Largest candidate, likewise.
    #[arg(long, allow_hyphen_values = true)]
    beta: Option<f64>,
    /// Candidates for each scale.
    #[arg(long)]
    candidates: Option<usize>,
    /// Rounds of choosing A's scale, then B's.
    #[arg(long)]
    rounds: Option<usize>,
    /// Evaluate every candidate on every image, even those that can't win any more. The choice is the same.
    #[arg(long)]
    exhaustive: bool,
    /// Number of calibration images.
    #[arg(long, default_value_t = 32)]
    count: usize,
    /// Seed of the draw of images.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    seed: u64,
    /// File that names the images, one a line, relative to --images; the first --count of them are taken.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    list: Option<PathBuf>,
    #[command(flatten)]
    preprocessing: PreprocessingOptions,
    #[command(flatten)]
    device: DeviceOption,
    /// Print a report as JSON.
    #[arg(long)]
    json: bool,
}

impl Calibrate {
    pub fn run(&self) -> Result<()> {
        let settings = self.settings();
        settings.validate()?;
        self.check_out()?;
        let weights = open_checkpoint(&self.model)?;
        let mut resolved = resolve(&weights, self.recipe.as_deref())?;
        eprintln!("model: {} ({})", resolved.name, resolved.source);
        resolved.preprocessing = self.preprocessing.apply(&resolved.preprocessing)?;
        let samples = self.samples()?;
        let images = load_all(&samples, &resolved.preprocessing)
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let device = self.device.open()?;

        let network = build(&device, &weights, &resolved.architecture)?;
        let bar = progress_bar();
        let calibration = calibrate(
            &network,
            &weights,
            &settings,
            &images,
            &|_| true,
            &mut |progress| show(&bar, &progress),
        )?;
        bar.finish_and_clear();

        let report = self.report(&calibration, device.name());
        let provenance = Provenance {
            name: resolved.name.clone(),
            preset: self.preset,
            seed: self.list.is_none().then_some(self.seed),
            images: images.len(),
            source_sha256: weights.sha256(),
            calibration_sha256: hash_of(&samples)?,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        QuantizedModel::new(&weights, &resolved, settings, calibration, provenance)?
            .save(&self.out)?;
        print_report(&report, self.json)
    }

    /// Finds out before the work, not after it, that the result can't be written.
    fn check_out(&self) -> Result<()> {
        let out = &self.out;
        let folder = match out.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if out.is_dir() {
            return Err(Error::input(
                out,
                "is a folder, where a file to write is expected",
            ));
        }
        if let (Ok(out), Ok(model)) = (out.canonicalize(), self.model.name().canonicalize())
            && out == model
        {
            return Err(Error::usage(
                "--out",
                format!("would replace the --model {}", model.display()),
            ));
        }
        tempfile::tempfile_in(folder)
            .map(drop)
            .map_err(|error| Error::input(out, format!("can't be written: {error}")))
    }

    fn settings(&self) -> Settings {
        let preset = Settings::preset(
            self.preset,
            self.weight_bits.unwrap_or(self.bits),
            self.activation_bits.unwrap_or(self.bits),
        );
        Settings {
            metric: self.metric.unwrap_or(preset.metric),
            softmax_twin: self.softmax_twin.unwrap_or(preset.softmax_twin),
            gelu_twin: self.gelu_twin.unwrap_or(preset.gelu_twin),
            alpha: self.alpha.unwrap_or(preset.alpha),
            beta: self.beta.unwrap_or(preset.beta),
            candidates: self.candidates.unwrap_or(preset.candidates),
            rounds: self.rounds.unwrap_or(preset.rounds),
            exhaustive: self.exhaustive,
            ..preset
        }
    }

    fn samples(&self) -> Result<Vec<Sample>> {
        let Some(list) = &self.list else {
            return choose(flat_folder(&self.images)?, self.count, self.seed);
        };
        let mut samples = listed(&self.images, list)?;
        if samples.len() < self.count {
            return Err(Error::usage(
                "--count",
                format!(
                    "expected {} images, but {} names {}",
                    self.count,
                    list.display(),
                    samples.len()
                ),
            ));
        }
        samples.truncate(self.count);
        Ok(samples)
    }

    fn report(&self, calibration: &Calibration, device: &str) -> serde_json::Value {
        let work = calibration.work();
        json!({
            // Not the path itself: as JSON it has to be text, which not every path is.
            "out": self.out.to_string_lossy(),
            "device": device,
            "seconds": {
                "forward": calibration.forward.as_secs_f64(),
                "backward": calibration.backward.as_secs_f64(),
                "search": calibration.search.as_secs_f64(),
            },
            "peak_device_bytes": calibration.peak_device_bytes,
            "multiply_adds": work,
            "sites": calibration.reports,
        })
    }
}

fn print_report(report: &serde_json::Value, as_json: bool) -> Result<()> {
    if as_json {
        return print_line!("{report:#}");
    }
    let seconds = |phase: &str| report["seconds"][phase].as_f64().unwrap_or(f64::NAN);
    let work = |part: &str| report["multiply_adds"][part].as_f64().unwrap_or(f64::NAN);
    print_line!("wrote {}", report["out"].as_str().unwrap_or_default())?;
    print_line!(
        "{:.1} s: forward {:.1}, backward {:.1}, search {:.1}; {:.0} MiB of device memory at most",
        seconds("forward") + seconds("backward") + seconds("search"),
        seconds("forward"),
        seconds("backward"),
        seconds("search"),
        report["peak_device_bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20),
    )?;
    print_line!(
        "search: {:.2e} multiply-adds, {:.1}% of the exhaustive search's",
        work("done"),
        100.0 * work("done") / work("exhaustive"),
    )
}

/// The widths that codes can have.
fn bits() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(2..=8)
}

/// SHA-256 over the images' files, in order.
pub(super) fn hash_of(samples: &[Sample]) -> Result<String> {
    let mut hash = Sha256::new();
    for sample in samples {
        let bytes =
            std::fs::read(&sample.path).map_err(|error| Error::input(&sample.path, error))?;
        hash.update(Sha256::digest(bytes));
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {elapsed} + {eta}  {msg}")
        .expect("the template is valid");
    ProgressBar::new(1000).with_style(style)
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let doing = match progress.phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Search => "search",
    };
    bar.set_message(format!("{doing} {}", progress.site));
    bar.set_position((1000.0 * progress.done) as u64);
}
