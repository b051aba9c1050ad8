//! `calibrate`: a timm checkpoint and images in, a file of integers out.

use super::options::{DeviceOption, ImageSizeOptions, PreprocessingOptions};
use super::report::{Outcome, ReportOptions};
use super::source::ModelSource;
use super::{open_float, progress};
use crate::data::samples::{Sample, calibration_set, load_all};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::recipe::Resolved;
use crate::model::weights::Weights;
use crate::output;
use crate::quant::{
    Calibration, Calibrator, Event, Journal, JournalLock, Metric, Preset, Provenance,
    QuantizedModel, Settings, Subject, parse_bytes,
};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;
use std::path::PathBuf;

/// Quantizes a model: chooses each product's scales on a few images, and writes integers.
///
/// The images need no labels. The same inputs, seed and device give the same bytes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # A file, in 6 bits
  ptq4vit-gpu calibrate --model deit_tiny_patch16_224.safetensors --images photos --bits 6 \\
      --out deit_tiny_w6a6.safetensors

  # A model of the hub, on the images that a list names, within a small GPU's memory
  ptq4vit-gpu calibrate --model vit_base_patch16_224 --images photos --list photos.txt \\
      --memory-budget 800MiB --out vit_base_w8a8.safetensors

  # With a page that shows how well each product does
  ptq4vit-gpu calibrate --model deit_small_patch16_224 --images photos --bits 6 \\
      --out deit_small_w6a6.safetensors --report deit_small_w6a6.html")]
pub struct Calibrate {
    /// timm checkpoint: a safetensors file in F32, F16 or BF16, the index of its shards, a folder with either, a known
    /// model's name (`deit_small_patch16_224`), or `hf-hub:OWNER/NAME[@REVISION]`. The latter two are fetched from the
    /// Hugging Face hub.
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
    #[arg(long, value_name = "BITS", default_value_t = 8, value_parser = bits())]
    bits: u32,
    /// Bits of weights, if not --bits.
    #[arg(long, value_name = "BITS", value_parser = bits())]
    weight_bits: Option<u32>,
    /// Bits of activations, if not --bits.
    #[arg(long, value_name = "BITS", value_parser = bits())]
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
    #[arg(long, value_name = "FRACTION", allow_hyphen_values = true)]
    alpha: Option<f64>,
    /// Largest candidate, likewise.
    #[arg(long, value_name = "FRACTION", allow_hyphen_values = true)]
    beta: Option<f64>,
    /// Candidates for each scale.
    #[arg(long, value_name = "N")]
    candidates: Option<usize>,
    /// Rounds of choosing A's scale, then B's.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Evaluate every candidate on every image, even those that can't win any more. The choice is the same.
    #[arg(long)]
    exhaustive: bool,
    /// Number of calibration images.
    #[arg(long, value_name = "N", default_value_t = 32)]
    count: usize,
    /// Seed of the draw of images.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    seed: u64,
    /// File that names the images, one a line, relative to --images; the first --count of them are taken.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    list: Option<PathBuf>,
    #[command(flatten)]
    image_size: ImageSizeOptions,
    #[command(flatten)]
    preprocessing: PreprocessingOptions,
    #[command(flatten)]
    device: DeviceOption,
    /// Most memory to take on the device, as in 800MiB; the result doesn't depend on it. Default: 1GiB, or as much as the
    /// model's largest matrix product needs.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_budget: Option<u64>,
    /// Discard what an unfinished run has left in FILE.journal, instead of going on from there.
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    report: ReportOptions,
    /// Print a report as JSON.
    #[arg(long)]
    json: bool,
}

impl Calibrate {
    pub fn run(&self) -> Result<()> {
        let settings = self.settings();
        settings.validate()?;
        output::check("--out", &self.out, &[("--model", Some(self.model.name()))])?;
        let lock = JournalLock::take(&self.out)?;
        let (weights, resolved) = open_float(
            &self.model,
            self.recipe.as_deref(),
            &self.image_size,
            &self.preprocessing,
        )?;
        let page = self.report.open(&self.out, self.model.name(), &resolved)?;
        let samples = calibration_set(&self.images, self.list.as_deref(), self.count, self.seed)?;
        let seed = self.list.is_none().then_some(self.seed);
        let provenance = Provenance::new(&weights, &resolved.name, self.preset, seed, &samples)?;
        let images = load_all(&samples, &resolved.preprocessing)
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut device = self.device.open()?;

        let calibrating = Calibrating {
            weights: &weights,
            resolved: &resolved,
            settings: &settings,
            provenance: &provenance,
            samples: &samples,
            images: &images,
            memory_budget: self.memory_budget,
            restart: self.restart,
        };
        let (calibration, journal) = calibrating.run(lock, &self.device, &mut device)?;
        let report = self.figures(&calibration, device.name());
        let (reports, seconds) = (calibration.reports.clone(), calibration.seconds());
        QuantizedModel::new(&weights, &resolved, settings, calibration, provenance)?
            .save(&self.out)?;
        if let Some(page) = page {
            page.write(&Outcome {
                device: &device,
                weights: &weights,
                resolved: &resolved,
                quantized: &self.out,
                reports: &reports,
                seconds,
                images: &images,
            })?;
        }
        journal.close()?;
        print_report(&report, self.json)
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

    fn figures(&self, calibration: &Calibration, device: &str) -> serde_json::Value {
        let work = calibration.work();
        // Curves and histograms are for the page.
        let sites = calibration.reports.iter().map(|report| {
            json!({
                "site": report.site,
                "score": report.score,
                "rounds": report.rounds,
                "work": report.work,
                "seconds": report.seconds,
                "evidence": report.evidence,
            })
        });
        json!({
            // Not the path itself: as JSON it has to be text, which not every path is.
            "out": self.out.to_string_lossy(),
            "device": device,
            "seconds": {
                "forward": calibration.forward.as_secs_f64(),
                "backward": calibration.backward.as_secs_f64(),
                "search": calibration.search.as_secs_f64(),
                "evidence": calibration.evidence.as_secs_f64(),
            },
            "peak_device_bytes": calibration.peak_device_bytes,
            "multiply_adds": work,
            "sites": sites.collect::<Vec<_>>(),
        })
    }
}

/// A calibration with its journal.
pub(super) struct Calibrating<'a> {
    pub weights: &'a Weights,
    pub resolved: &'a Resolved,
    pub settings: &'a Settings,
    pub provenance: &'a Provenance,
    pub samples: &'a [Sample],
    /// The samples, preprocessed.
    pub images: &'a [Vec<f32>],
    pub memory_budget: Option<u64>,
    pub restart: bool,
}

impl Calibrating<'_> {
    /// Calibrates, going on from where the journal ends, and shows how far it is. `device` is what `option` opened; if it is
    /// lost, another takes its place.
    pub(super) fn run(
        &self,
        lock: JournalLock,
        option: &DeviceOption,
        device: &mut Device,
    ) -> Result<(Calibration, Journal)> {
        let subject = Subject::new(self.provenance, self.resolved, self.settings, device);
        let (mut journal, findings) = lock.open(&subject, self.restart)?;
        if journal.done() > 0 {
            log::info!("journal: {}", journal.progress());
        }
        let calibrator = Calibrator {
            architecture: &self.resolved.architecture,
            weights: self.weights,
            settings: self.settings,
            images: self.images,
            budget: self.memory_budget,
            reopen: &|| option.open(),
        };
        let bar = progress::calibration();
        let calibration = calibrator.run(device, findings, &mut |event| {
            progress::show(&bar, &event);
            match event {
                Event::Found(report, scales) => journal.add(report, scales),
                _ => Ok(()),
            }
        });
        bar.finish_and_clear();
        match calibration {
            Ok(calibration) => Ok((calibration, journal)),
            Err(error) => {
                if journal.done() > 0 {
                    log::warn!("journal: the same command goes on: {}", journal.progress());
                }
                Err(match error {
                    Error::NotFinite { image, problem } => {
                        Error::input(&self.samples[image].path, problem)
                    }
                    other => other,
                })
            }
        }
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
        "{:.1} s: forward {:.1}, backward {:.1}, search {:.1}, evidence {:.1}; {:.0} MiB of device memory at most",
        seconds("forward") + seconds("backward") + seconds("search") + seconds("evidence"),
        seconds("forward"),
        seconds("backward"),
        seconds("search"),
        seconds("evidence"),
        report["peak_device_bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20),
    )?;
    print_line!(
        "search: {:.2e} multiply-adds, {:.1}% of the exhaustive search's; {:.2e} avoided",
        work("done"),
        100.0 * work("done") / work("exhaustive"),
        (work("exhaustive") - work("done")).max(0.0),
    )
}

/// The widths that codes can have.
fn bits() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(2..=8)
}
