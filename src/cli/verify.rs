//! `verify`: whether devices compute what the CPU versions compute, and the same as each other.

use super::error::{Error, Result};
use super::inputs::Inputs;
use super::options::open_tuned;
use super::source::ModelSource;
use super::{open_checkpoint, open_quantized, print_json, print_text, progress};
use crate::device::{Device, adapters};
use crate::file::input;
use crate::file::output::Output;
use crate::model::recipe::resolve;
use crate::text::differences;
use crate::verify::{
    CaseReport, Codes, DeviceReport, Difference, Figure, FloatReport, Images, IntegerReport,
    KernelReport, Kind, Level, Report, Subject, Verification, compare, failures, kernel_names,
    text_of,
};
use clap::Args;
use clap::builder::PossibleValuesParser;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Checks that devices compute the same, kernel by kernel and in whole models.
///
/// Everything is compared with the CPU versions: integers bit for bit, floats by bounds, codes that follow from floats by
/// steps; the demo models' logits, gradients and chosen scales by what rounding can do. What is wrong is named, with the
/// first value, and the exit code is 1. Reports of several machines can be compared with each other.
#[derive(Args)]
#[group(skip)]
#[command(
    group = clap::ArgGroup::new("models").args(["model", "quantized"]).multiple(true),
    after_help = "\
Examples:
  # Every adapter and the CPU; keep what was found
  ptq4vit-gpu verify --out here.json

  # What another machine computes differently
  ptq4vit-gpu verify --against here.json there.json

  # An edited kernel, without building the program anew
  ptq4vit-gpu verify --device 0 --kernel softmax --shader softmax=edited.wgsl"
)]
pub struct Verify {
    /// An adapter's number or part of its name (see `devices`), or `cpu`. Default: every adapter, and `cpu`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Check the kernel of this name in `shaders` alone, and no demo models; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(kernel_names()), hide_possible_values = true)]
    kernel: Vec<String>,
    /// FP model in the place of the demo models: a timm checkpoint, named as in `calibrate`.
    #[arg(long, value_name = "MODEL")]
    model: Option<ModelSource>,
    /// Quantized model in the place of the demo models: what `calibrate` wrote.
    #[arg(long, value_name = "FILE")]
    quantized: Option<PathBuf>,
    /// The FP model's architecture, where neither the file nor its neighbours tell.
    #[arg(long, value_name = "NAME", requires = "model")]
    recipe: Option<String>,
    /// Folder of images for these models, searched to any depth. Default: random pixels, the same every time.
    #[arg(long, value_name = "DIR", requires = "models")]
    images: Option<PathBuf>,
    /// Number of images.
    #[arg(long, value_name = "N", default_value_t = 4, requires = "models", value_parser = count)]
    count: usize,
    /// Build kernels with FILE in the place of the file of this name in `shaders`, as `softmax` or `shared/codes`.
    #[arg(long, value_name = "NAME=FILE", value_parser = replacement)]
    shader: Vec<Replacement>,
    /// Write the report, to be compared with others.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compare reports, of one version and the same models, instead: the first device of the first with all others.
    #[arg(long, value_name = "REPORT", num_args = 1.., conflicts_with_all = ["device", "kernel", "model", "quantized", "shader", "out"])]
    against: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Names a shader and the file with its text.
#[derive(Clone)]
struct Replacement {
    name: String,
    file: PathBuf,
}

fn replacement(text: &str) -> std::result::Result<Replacement, String> {
    let (name, file) = text
        .split_once('=')
        .ok_or("expected a shader's name and a file, as in softmax=edited.wgsl")?;
    Ok(Replacement {
        name: name.to_owned(),
        file: file.into(),
    })
}

fn count(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of images, 1 or more".to_owned()),
        Ok(count) => Ok(count),
    }
}

impl Verify {
    pub fn run(&self) -> Result<()> {
        if !self.against.is_empty() {
            return self.compare();
        }
        let out = self.out.as_deref().map(Output::open).transpose()?;
        if let Some(out) = &out {
            let inputs = Inputs::default()
                .files("--model", self.model.iter().flat_map(ModelSource::files))
                .files("--quantized", &self.quantized)
                .files("--shader", self.shader.iter().map(|shader| &shader.file))
                .images("--images", &self.images);
            inputs.spare_from("--out", out)?;
        }
        let subjects = self.subjects()?;
        let shaders = self.shaders()?;
        let (requests, broken) = self.requests()?;

        log::info!("computing what is expected, on the CPU");
        let kernels: Vec<&str> = self.kernel.iter().map(String::as_str).collect();
        let verification = Verification::new(&kernels, subjects)?;
        let hashes = shaders
            .iter()
            .map(|(name, text)| (name.clone(), format!("{:x}", Sha256::digest(text))));
        let mut report = Report {
            subject: verification.record(hashes.collect()),
            devices: Vec::new(),
        };
        for request in requests {
            let device = open_tuned(Some(&request))?;
            if !shaders.is_empty() && matches!(device, Device::Cpu(_)) {
                return Err(Error::usage(
                    "--shader",
                    "the CPU has no shaders; pass another --device",
                ));
            }
            for (name, text) in &shaders {
                device.replace_shader_text(text_of(name)?, text.clone());
            }
            let bar = progress::verification(verification.steps());
            let device_report =
                verification.run(&device, &mut |event| progress::count(&bar, &event));
            bar.finish_and_clear();
            if !self.json {
                print_device(&device_report)?;
            }
            report.devices.push(device_report);
        }
        if let Some(out) = &out {
            out.write(|file| report.write(file))?;
            log::info!("wrote {}", out.path().display());
        }
        if self.json {
            print_text(&report.to_json())?;
        }
        let failures: usize = report
            .devices
            .iter()
            .map(|device| failures(device).len())
            .sum();
        conclude(failures + broken, "checks that failed")
    }

    /// Returns the models that are asked for, or those that come with the program.
    fn subjects(&self) -> Result<Vec<Subject>> {
        if self.model.is_none() && self.quantized.is_none() {
            return match self.kernel.is_empty() {
                true => Ok(Subject::demo()?),
                false => Ok(Vec::new()),
            };
        }
        let float = match &self.model {
            Some(source) => {
                let weights = open_checkpoint(source)?;
                let resolved = resolve(&weights, self.recipe.as_deref())?;
                Some((weights, resolved))
            }
            None => None,
        };
        let quantized = match &self.quantized {
            Some(path) => {
                let (file, model) = open_quantized(path)?;
                Some((model, file.sha256()))
            }
            None => None,
        };
        let images = match &self.images {
            Some(folder) => Images::Folder(folder, self.count),
            None => Images::Random(self.count),
        };
        Ok(vec![Subject::new(float, quantized, &images)?])
    }

    /// Reads the shaders that are to be replaced, and returns their texts.
    fn shaders(&self) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        for Replacement { name, file } in &self.shader {
            text_of(name)?;
            let text = input::text(file)?;
            if texts.insert(name.clone(), text).is_some() {
                return Err(Error::usage("--shader", format!("{name} is there twice")));
            }
        }
        Ok(texts)
    }

    /// Returns what to open, as `--device` takes it, and how many adapters can't be: those that fail the self-test,
    /// which no subcommand uses. They are named.
    fn requests(&self) -> Result<(Vec<String>, usize)> {
        if let Some(device) = &self.device {
            return Ok((vec![device.clone()], 0));
        }
        let (sound, broken): (Vec<_>, Vec<_>) = adapters()
            .into_iter()
            .partition(|adapter| adapter.self_test == "ok");
        for adapter in &broken {
            log::warn!(
                "{} fails the self-test: {}",
                adapter.name,
                adapter.self_test
            );
        }
        let mut requests: Vec<String> = sound
            .iter()
            .filter_map(|adapter| Some(adapter.index?.to_string()))
            .collect();
        if self.shader.is_empty() {
            requests.push("cpu".to_owned());
        } else if requests.is_empty() {
            let problem = "there is no adapter, and the CPU has no shaders";
            return Err(Error::usage("--shader", problem));
        }
        Ok((requests, broken.len()))
    }

    fn compare(&self) -> Result<()> {
        let mut reports = Vec::new();
        for path in &self.against {
            reports.push((path, Report::open(path)?));
        }
        let (first_path, first) = &reports[0];
        for (path, report) in &reports[1..] {
            let differences = differences(&first.subject, &report.subject);
            if !differences.is_empty() {
                return Err(Error::input(
                    path,
                    format!(
                        "is not of the same verification as {}: {}",
                        first_path.display(),
                        differences.join("; ")
                    ),
                ));
            }
        }
        let devices = reports.iter().flat_map(|(path, report)| {
            let devices = report.devices.iter();
            devices.map(move |device| (format!("{} ({})", device.name, path.display()), device))
        });
        let devices: Vec<(String, &DeviceReport)> = devices.collect();
        let ((first_name, first), others) = devices.split_first().expect("a report has devices");
        if others.is_empty() {
            let problem = "expected reports of two devices or more, found one";
            return Err(Error::usage("--against", problem));
        }
        let compared: Vec<(&String, Vec<Difference>)> = others
            .iter()
            .map(|(name, other)| (name, compare(first, other)))
            .collect();
        if self.json {
            let compared: Vec<_> = compared
                .iter()
                .map(|(name, differences)| {
                    serde_json::json!({ "device": name, "differences": differences })
                })
                .collect();
            let all = serde_json::json!({ "reference": first_name, "compared": compared });
            print_json(&all)?;
        } else {
            for (name, differences) in &compared {
                print_differences(first_name, name, differences)?;
            }
        }
        let all = compared.iter().flat_map(|(_, differences)| differences);
        let failures = all.filter(|difference| difference.level == Level::Failure);
        conclude(failures.count(), "differences that should not be")
    }
}

fn conclude(failures: usize, what: &str) -> Result<()> {
    match failures {
        0 => Ok(()),
        _ => Err(Error::check(format!("{what}: {failures}"))),
    }
}

fn print_device(device: &DeviceReport) -> Result<()> {
    print_line!("{} ({}, {})", device.name, device.backend, device.driver)?;
    print_line!("")?;
    print_line!(
        "{:<28} {:>5}  {:<12} {:>14} {:>22}  verdict",
        "kernel",
        "cases",
        "compared",
        "largest error",
        "codes a step off"
    )?;
    for kernel in &device.kernels {
        print_kernel(kernel)?;
    }
    for model in &device.models {
        print_line!("")?;
        print_line!("{}", model.name)?;
        if let Some(float) = &model.float {
            print_float(float)?;
        }
        if let Some(integer) = &model.integer {
            print_integer(integer)?;
        }
        if let Some(failure) = &model.failure {
            print_line!("  FAILED: {failure}")?;
        }
    }
    let failures = failures(device);
    print_line!("")?;
    if failures.is_empty() {
        print_line!("all as on the CPU")?;
    } else {
        print_line!("wrong:")?;
    }
    for failure in failures {
        print_line!("  {failure}")?;
    }
    print_line!("")
}

fn verdict(failed: bool) -> &'static str {
    if failed { "FAILED" } else { "ok" }
}

fn print_kernel(kernel: &KernelReport) -> Result<()> {
    if kernel.cases.is_empty() {
        return print_line!(
            "{:<28} {:>5}  {:<12} {:>14} {:>22}  not offered here",
            kernel.kernel,
            0,
            "-",
            "-",
            "-"
        );
    }
    let with = |kind: Kind| kernel.cases.iter().any(|case| case.kind == kind);
    let compared = match (with(Kind::Close), with(Kind::Codes), with(Kind::Exact)) {
        (false, false, _) => "bit for bit",
        (true, _, false) | (false, true, false) => "by bounds",
        (_, _, true) => "both",
    };
    let shares = kernel.cases.iter().filter_map(|case| case.share_of_bound);
    let share = shares
        .reduce(f64::max)
        .map_or("-".to_owned(), |share| format!("{share:.3} of bound"));
    let mut codes = Codes::default();
    kernel
        .cases
        .iter()
        .filter_map(|case: &CaseReport| case.codes.as_ref())
        .for_each(|of_case| codes.add(of_case));
    print_line!(
        "{:<28} {:>5}  {compared:<12} {share:>14} {:>22}  {}",
        kernel.kernel,
        kernel.cases.len(),
        count_codes(&codes),
        verdict(kernel.failure().is_some()),
    )
}

/// Words how many codes differ, of how many.
fn count_codes(codes: &Codes) -> String {
    match codes.all {
        0 => "-".to_owned(),
        all => format!("{} of {all}", codes.differing),
    }
}

fn print_figure(what: &str, figure: &Figure, more: &str) -> Result<()> {
    let found = format!(
        "{:.1e} off, {:.1e} allowed{more}",
        figure.error, figure.bound
    );
    print_line!("  {what:<16} {found:<62}  {}", verdict(!figure.holds()))
}

/// Words how many images are of another class, where there are classes.
fn flips(flips: Option<usize>, images: usize) -> String {
    flips.map_or_else(String::new, |flips| {
        format!(", top-1 flips: {flips} of {images}")
    })
}

fn print_float(float: &FloatReport) -> Result<()> {
    let flips = flips(float.top1_flips, float.logits.len());
    print_figure("FP32 logits", &float.logits_error, &flips)?;
    let gradients = float.gradients.iter();
    let worst = gradients.max_by(|one, other| one.figure.error.total_cmp(&other.figure.error));
    if let Some(worst) = worst {
        print_figure("gradients", &worst.figure, &format!(" ({})", worst.site))?;
    }
    let others = float
        .scales
        .iter()
        .filter(|choice| choice.expected.is_some())
        .count();
    let same = float.scales.len() - others;
    let found = format!(
        "{same} of {} sites' as on the CPU, {others} others",
        float.scales.len()
    );
    let wrong = float.scales.iter().any(|choice| !choice.is_as_good());
    print_line!("  {:<16} {found:<62}  {}", "chosen scales", verdict(wrong))
}

fn print_integer(integer: &IntegerReport) -> Result<()> {
    let (mut operands, mut next) = (Codes::default(), Codes::default());
    for site in &integer.sites {
        operands.add(&site.operands);
        site.next.iter().for_each(|codes| next.add(codes));
    }
    let wrong = integer.sites.iter().any(|site| site.failure.is_some());
    let found = format!(
        "{} sites; codes a step off: {} in, {} out",
        integer.sites.len(),
        count_codes(&operands),
        count_codes(&next)
    );
    print_line!("  {:<16} {found:<62}  {}", "integers", verdict(wrong))?;
    let flips = flips(integer.top1_flips, integer.logits.len());
    print_figure("integer logits", &integer.logits_error, &flips)
}

fn print_differences(first: &str, other: &str, differences: &[Difference]) -> Result<()> {
    print_line!("{other} against {first}")?;
    if differences.is_empty() {
        print_line!("  the same in every bit")?;
    }
    for Difference { level, place, what } in differences {
        let level = match level {
            Level::Failure => "WRONG",
            Level::Allowed => "allowed",
            Level::Missing => "missing",
        };
        print_line!("  {level:<8} {place}: {what}")?;
    }
    print_line!("")
}
