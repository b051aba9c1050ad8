//! Accuracy of a checkpoint under both presets at 8, 6 and 4 bits, and the ablation of metric and twins at 6 bits, as rows
//! of a Markdown table. The command that makes the tables of `ACCURACY.md`:
//!
//! ```sh
//! cargo bench --bench accuracy -- --model M.safetensors --calibration DIR --list FILE --images DIR --labels FILE
//! ```
//!
//! In the ablation, as in the paper's Table 3, what is switched are parts of the method: without the Hessian metric, the
//! search is the baseline's. Sites are searched independently of each other, so the rows share the searches of the sites
//! that they treat alike: switching a twin changes the scales of the sites that have it, and no others.

use clap::Parser;
use ptq4vit_gpu::data::samples::{Sample, labelled, listed, load_all};
use ptq4vit_gpu::device::{Device, open};
use ptq4vit_gpu::error::{Error, Result};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::graph::Site;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::recipe::{Resolved, resolve};
use ptq4vit_gpu::quant::{
    Calibration, Method, Policy, Preset, Provenance, QuantizedModel, Settings,
};
use ptq4vit_gpu::report::{Accuracy, Tally};
use std::path::PathBuf;

#[derive(Parser)]
struct Arguments {
    /// timm checkpoint.
    #[arg(long)]
    model: PathBuf,
    /// Folder of calibration images.
    #[arg(long)]
    calibration: PathBuf,
    /// File that names the calibration images.
    #[arg(long)]
    list: PathBuf,
    /// Folder of evaluation images.
    #[arg(long)]
    images: PathBuf,
    /// File with a line `file<TAB>class index` per evaluation image.
    #[arg(long)]
    labels: PathBuf,
    /// As for `ptq4vit-gpu`.
    #[arg(long)]
    device: Option<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What every row needs.
struct Session {
    device: Device,
    weights: Weights,
    resolved: Resolved,
    calibration_samples: Vec<Sample>,
    calibration_images: Vec<Vec<f32>>,
    images: Vec<Vec<f32>>,
    labels: Vec<usize>,
    float_logits: Vec<Vec<f32>>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let selection = open(arguments.device.as_deref())?;
    eprintln!("device: {}", selection.notice);
    let session = Session::new(&arguments, selection.device)?;
    println!(
        "| {} | correct of {} | agreement | KL | SQNR | file | calibration |",
        session.resolved.name,
        session.images.len()
    );
    println!("|---|---|---|---|---|---|---|");
    session.float_row();

    let mut at_six_bits = Vec::new();
    for preset in [Preset::Ptq4vit, Preset::BasePtq] {
        for bits in [8, 6, 4] {
            let policy = Policy::preset(preset, bits, bits);
            let method = session.method(preset, &policy);
            let calibration = session.calibrate(&method, &|_| true)?;
            session.row(&format!("{preset:?} W{bits}A{bits}"), &method, &calibration)?;
            if bits == 6 {
                at_six_bits.push((preset, policy, calibration));
            }
        }
    }
    for (preset, policy, calibration) in at_six_bits {
        let switched = Policy {
            softmax_twin: !policy.softmax_twin,
            gelu_twin: !policy.gelu_twin,
            ..policy.clone()
        };
        let switched = session.calibrate(&session.method(preset, &switched), &|site| {
            has_softmax_twin(&site.name) || has_gelu_twin(&site.name)
        })?;
        for softmax_twin in [false, true] {
            for gelu_twin in [false, true] {
                let mut mixed = calibration.clone();
                let from_switched = switched.sites.iter().filter(|(site, _)| {
                    (has_softmax_twin(site) && softmax_twin != policy.softmax_twin)
                        || (has_gelu_twin(site) && gelu_twin != policy.gelu_twin)
                });
                for (name, site) in from_switched {
                    mixed.sites.insert(name.clone(), site.clone());
                }
                let mark = |on: bool| if on { "yes" } else { "no" };
                let name = format!(
                    "W6A6, {:?}, softmax twin {}, GELU twin {}",
                    Settings::preset(preset).metric,
                    mark(softmax_twin),
                    mark(gelu_twin)
                );
                let policy = Policy {
                    softmax_twin,
                    gelu_twin,
                    ..policy.clone()
                };
                session.row(&name, &session.method(preset, &policy), &mixed)?;
            }
        }
    }
    Ok(())
}

fn has_softmax_twin(site: &str) -> bool {
    site.ends_with("attn.pv")
}

fn has_gelu_twin(site: &str) -> bool {
    site.ends_with("mlp.fc2")
}

impl Session {
    fn new(arguments: &Arguments, device: Device) -> Result<Self> {
        let weights = Weights::open(&arguments.model)?;
        let resolved = resolve(&weights, None)?;
        let load = |samples: &[_]| -> Result<Vec<Vec<f32>>> {
            load_all(samples, &resolved.preprocessing)
                .into_iter()
                .collect()
        };
        let calibration_samples = listed(&arguments.calibration, &arguments.list)?;
        let calibration_images = load(&calibration_samples)?;
        let samples = labelled(&arguments.images, &arguments.labels)?;
        let images = load(&samples)?;
        let mut float = Model::float(
            &device,
            &weights,
            &resolved.architecture,
            &resolved.preprocessing,
        )?;
        Ok(Self {
            float_logits: float.logits(&images)?,
            labels: samples.iter().filter_map(|sample| sample.label).collect(),
            device,
            weights,
            calibration_samples,
            calibration_images,
            images,
            resolved,
        })
    }

    fn method(&self, preset: Preset, policy: &Policy) -> Method {
        let plan = policy.plan(&sites(&self.resolved.architecture));
        Method {
            plan: plan.expect("the widths are in range, and there are no rules"),
            settings: Settings::preset(preset),
        }
    }

    fn calibrate(&self, method: &Method, wanted: &dyn Fn(&Site) -> bool) -> Result<Calibration> {
        Calibration::builder(&self.device, &self.weights, &self.resolved.architecture)
            .method(method)
            .images(&self.calibration_images)
            .only(wanted)
            .run()
    }

    fn float_row(&self) {
        let tally = Tally::of(&self.labels, &self.float_logits, None);
        if let Some(accuracy) = tally.accuracy() {
            println!("| FP32 | {} | | | | | |", correct(&accuracy));
        }
    }

    /// Writes the quantized model, reads it back, evaluates it in integers, and prints a row.
    fn row(&self, name: &str, method: &Method, calibration: &Calibration) -> Result<()> {
        let file = tempfile::NamedTempFile::new()
            .map_err(|error| Error::input(std::env::temp_dir(), error))?;
        let provenance = Provenance::new(
            &self.weights,
            &self.resolved.name,
            Preset::Ptq4vit,
            None,
            &self.calibration_samples,
        )?;
        QuantizedModel::new(
            &self.weights,
            &self.resolved,
            method.clone(),
            calibration.clone(),
            provenance,
        )?
        .save(file.path())?;
        let bytes = std::fs::metadata(file.path())
            .map_err(|error| Error::input(file.path(), error))?
            .len();

        let mut model = Model::quantized(&self.device, &QuantizedModel::open(file.path())?)?;
        let logits = model.logits(&self.images)?;
        let tally = Tally::of(&self.labels, &logits, Some(&self.float_logits));
        let Some(accuracy) = tally.accuracy() else {
            return Ok(());
        };
        let figure = |value: Option<f64>| value.unwrap_or(f64::NAN);
        println!(
            "| {name} | {} | {:.1}% | {:.4} | {:.1} dB | {:.2} MB | {:.0} s |",
            correct(&accuracy),
            100.0 * figure(accuracy.agreement),
            figure(accuracy.kl),
            figure(accuracy.logit_sqnr_db),
            bytes as f64 / 1e6,
            (calibration.forward + calibration.backward + calibration.search).as_secs_f64(),
        );
        Ok(())
    }
}

/// Images whose label has the largest logit.
fn correct(accuracy: &Accuracy) -> f64 {
    (accuracy.top1 * accuracy.images as f64).round()
}
