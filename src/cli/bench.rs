//! `bench`: how fast this device is, by its kernels and by whole networks.

use super::error::{Error, Result};
use super::options::DeviceOption;
use super::source::ModelSource;
use super::{open_checkpoint, print_json};
use crate::bench::kept_strategies;
use crate::bench::{
    BATCHES, BenchNetwork, Ceilings, Clock, DEFAULT_MODEL, KernelFigure, KernelFigures,
    Measurements, NetworkFigure, NetworkFigures, Precision, TimedCase, TimedKernel, Timing, Trial,
    cases_of, cases_of_shape, tune,
};
use crate::device::{Device, Strategy, Workload};
use crate::file::weights::Weights;
use crate::model::config::Architecture;
use crate::model::recipe::{Recipe, Resolved, recipe_named, resolve};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Limits the side of a shape: below the longest sum that an integer product takes.
const MAX_SIDE: usize = 1 << 15;

/// Measures the device's ceilings, its kernels against them, and whole networks.
///
/// The ceilings are what three small kernels reach that do nothing but multiply-adds in f32, dot products of packed 8-bit
/// integers (on the CPU a large product of them), and copies. Kernels are timed at 8 images, the scan (candidates of one scale, quantized, multiplied and
/// compared with the FP network's output) at 2, by the device's own clock where it has one. Otherwise the host's clock is
/// read around repetitions that are submitted together; what an empty submission takes is taken off, what allocating the
/// results takes is not. The output says which. A multiply-add is two operations.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # The device's ceilings, and every kernel against them
  ptq4vit-gpu bench

  # A whole network, and one kernel at one shape
  ptq4vit-gpu bench --model vit_base_patch16_224 --json
  ptq4vit-gpu bench --kernel integer_product --shape 1600,384,1536

  # The fastest way for this device, once for all later runs
  ptq4vit-gpu bench --tune")]
pub struct Bench {
    #[command(flatten)]
    device: DeviceOption,
    /// Only this kernel, and no whole network; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = names())]
    kernel: Vec<String>,
    /// Kernels at the shapes of this model instead of DeiT-Tiny's, then the whole model in FP32, F16 (where the device has it),
    /// W8A8 and W6A6 with 1, 8 and 32 images at once; may be repeated. A recipe's name, for random weights in its shapes,
    /// or a safetensors file.
    #[arg(long, value_name = "MODEL")]
    model: Vec<ModelSource>,
    /// The whole models alone, without the kernels at their shapes.
    #[arg(long, requires = "model", conflicts_with = "kernel")]
    networks: bool,
    /// Kernels at this shape, a product of M rows, N columns and sums over K; those that are no products take M rows of K.
    /// Attention is M heads of N tokens with K features each, and measured if --kernel names it.
    #[arg(long, value_name = "M,N,K", value_parser = shape, conflicts_with = "model")]
    shape: Option<[usize; 3]>,
    /// Find the fastest way to divide each kind of product's work on this device, and whether attention is one kernel, and
    /// keep it in the user's cache for later runs with this adapter and driver. Results don't depend on it. At shapes of
    /// DeiT-Small, or products at --shape.
    #[arg(long, conflicts_with_all = ["kernel", "model"])]
    tune: bool,
    /// Time nothing more after so many seconds of tuning: what was tried by then is compared, what wasn't is named.
    #[arg(long, value_name = "SECONDS", requires = "tune", default_value_t = 45,
        value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Says what `--model` names.
enum Source {
    Recipe(&'static Recipe),
    Checkpoint(Weights, Box<Resolved>),
}

impl Source {
    /// Opens a model; a file wins over a recipe of its name.
    fn open(model: &ModelSource) -> Result<Self> {
        let recipe = model.name().to_str().and_then(recipe_named);
        match recipe {
            Some(recipe) if !model.name().exists() => Ok(Self::Recipe(recipe)),
            _ => {
                let weights = open_checkpoint(model)?;
                let resolved = resolve(&weights, None)?;
                Ok(Self::Checkpoint(weights, Box::new(resolved)))
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Recipe(recipe) => &recipe.name,
            Self::Checkpoint(_, resolved) => &resolved.name,
        }
    }

    fn architecture(&self) -> &Architecture {
        match self {
            Self::Recipe(recipe) => &recipe.architecture,
            Self::Checkpoint(_, resolved) => &resolved.architecture,
        }
    }

    /// Says where the weights are from.
    fn weights(&self) -> String {
        match self {
            Self::Recipe(_) => "random".to_owned(),
            Self::Checkpoint(weights, _) => weights.path().display().to_string(),
        }
    }

    fn subject(self) -> Result<BenchNetwork> {
        match self {
            Self::Recipe(recipe) => Ok(BenchNetwork::of_recipe(recipe)?),
            Self::Checkpoint(weights, resolved) => Ok(BenchNetwork::new(weights, *resolved)),
        }
    }
}

/// Holds what `--tune` found.
#[derive(Serialize)]
struct TuningReport {
    device: String,
    driver: String,
    timing: Clock,
    trials: Vec<Trial>,
    strategies: BTreeMap<&'static str, Strategy>,
    file: PathBuf,
}

impl Bench {
    pub fn run(&self) -> Result<()> {
        if self.tune {
            return self.tune();
        }
        let named = self.model.iter().map(Source::open);
        let named = named.collect::<Result<Vec<_>>>()?;
        let sets = self.cases(&named)?;
        let device = self.device.open()?;
        let report = Measurements {
            device: device.name().to_owned(),
            driver: device.driver().to_owned(),
            timing: Clock::of(&device),
            ceilings: Ceilings::measure(&device)?,
            kernels: Vec::new(),
            networks: Vec::new(),
        };
        self.show(|| print_head(&report))?;
        let mut cases = sets.iter().flat_map(|(_, cases)| cases);
        if cases.any(|case| !case.runs_on(&device)) {
            without_f16(&device, "half_product and to_half");
        }
        let mut kernels = Vec::new();
        for (shapes, cases) in sets {
            self.show(|| {
                print_line!("")?;
                print_line!("kernels at the shapes of {shapes}")?;
                print_kernel_head()
            })?;
            let mut figures = Vec::new();
            for case in cases.iter().filter(|case| case.runs_on(&device)) {
                let figure = case.measure(&device, &report.ceilings)?;
                self.show(|| print_kernel(&figure))?;
                figures.push(figure);
            }
            kernels.push(KernelFigures { shapes, figures });
        }
        let mut networks = Vec::new();
        // Asked for one kernel, nobody waits for a network.
        let whole = if self.kernel.is_empty() {
            named
        } else {
            Vec::new()
        };
        for source in whole {
            networks.push(self.network(&device, source, &report.ceilings)?);
        }
        if self.json {
            let report = Measurements {
                kernels,
                networks,
                ..report
            };
            print_json(&report)?;
        }
        Ok(())
    }

    fn tune(&self) -> Result<()> {
        let device = self.device.open()?;
        if matches!(device, Device::Cpu(_)) {
            return Err(Error::usage(
                "--tune",
                "there is nothing to tune on the CPU",
            ));
        }
        let file = kept_strategies::file_for(&device)?;
        self.show(|| {
            print_line!("device  {}, {}", device.name(), device.driver())?;
            print_line!("")?;
            print_line!(
                "{:<22}{:<20}{:<18}{:<46}time",
                "product",
                "shape",
                "at",
                "strategy"
            )
        })?;
        let mut trials = Vec::new();
        let elsewhere = |product, strategy| self.device.try_elsewhere(product, strategy);
        let limit = Duration::from_secs(self.limit);
        let chosen = tune(&device, self.shape, limit, &elsewhere, &mut |trial| {
            trials.push(trial.clone());
            self.show(|| print_trial(trial))
        })?;
        kept_strategies::keep(&file, &device, &chosen)?;
        self.show(|| {
            print_line!("")?;
            print_line!("chosen, and kept in {}", file.display())?;
            chosen
                .iter()
                .try_for_each(|(product, strategy)| print_line!("{product:<22}{strategy}"))
        })?;
        if self.json {
            let report = TuningReport {
                device: device.name().to_owned(),
                driver: device.driver().to_owned(),
                timing: Clock::of(&device),
                trials,
                strategies: chosen.into_iter().collect(),
                file,
            };
            print_json(&report)?;
        }
        Ok(())
    }

    /// Prints lines of text as they come, unless JSON is wanted.
    fn show(&self, print: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.json { Ok(()) } else { print() }
    }

    /// Returns what is measured at which shapes.
    fn cases(&self, named: &[Source]) -> Result<Vec<(String, Vec<TimedCase>)>> {
        let mut kernels = TimedKernel::all();
        kernels.retain(|kernel| match &self.kernel[..] {
            // A product's shape is too large for heads, tokens and features.
            [] => self.shape.is_none() || kernel.name != "fused_attention",
            asked => asked.iter().any(|name| name == kernel.name),
        });
        let kernels = &kernels[..];
        let at = |name: &str, architecture| (name.to_owned(), cases_of(architecture, kernels));
        let sets = match (self.shape, named) {
            (Some(shape), _) => {
                let [m, n, k] = shape;
                vec![(format!("{m},{n},{k}"), cases_of_shape(shape, kernels))]
            }
            (None, []) => {
                let recipe = recipe_named(DEFAULT_MODEL).expect("it is among the recipes");
                vec![at(&recipe.name, &recipe.architecture)]
            }
            (None, _) if self.networks => return Ok(Vec::new()),
            (None, named) => named
                .iter()
                .map(|source| at(source.name(), source.architecture()))
                .collect(),
        };
        match sets.iter().find(|(_, cases)| cases.is_empty()) {
            Some((shapes, _)) => Err(Error::usage(
                "--kernel",
                format!("{shapes} has no shape for what is asked for"),
            )),
            None => Ok(sets),
        }
    }

    fn network(
        &self,
        device: &Device,
        source: Source,
        ceilings: &Ceilings,
    ) -> Result<NetworkFigures> {
        let (model, weights) = (source.name().to_owned(), source.weights());
        self.show(|| {
            print_line!("")?;
            print_line!("{model}, weights: {weights}")?;
            print_network_head()
        })?;
        let subject = source.subject()?;
        let mut figures = Vec::new();
        for precision in Precision::ALL {
            if !precision.runs_on(device) {
                without_f16(device, precision.name());
                continue;
            }
            let mut model = subject.model(device, precision)?;
            for batch in BATCHES {
                let figure = subject.measure(device, &mut model, precision, batch, ceilings)?;
                self.show(|| print_network(&figure))?;
                figures.push(figure);
            }
        }
        Ok(NetworkFigures {
            model,
            weights,
            figures,
        })
    }
}

/// Takes the kernels' names.
fn names() -> PossibleValuesParser {
    let kernels = TimedKernel::all().into_iter();
    let names = kernels.map(|kernel| PossibleValue::new(kernel.name).help(kernel.about));
    names.collect::<Vec<_>>().into()
}

/// Says what isn't measured.
fn without_f16(device: &Device, what: &str) {
    log::info!("{} has no f16, so not measured: {what}", device.name());
}

fn print_head(report: &Measurements) -> Result<()> {
    print_line!("device  {}, {}", report.device, report.driver)?;
    let timing = match report.timing {
        Clock::Device => "by the device's own clock",
        Clock::Host => {
            "by the host's clock, less an empty submission, allocation of results included"
        }
    };
    print_line!("timing  {timing}; medians, (quartiles), repetitions")?;
    print_line!("")?;
    print_line!("{:<22}{:>9}        time", "ceiling", "rate")?;
    for ceiling in report.ceilings.all() {
        print_line!(
            "{:<22}{:>9.1} {:<5}  {}",
            ceiling.kernel,
            ceiling.rate.rate,
            ceiling.rate.unit.name(),
            time(&ceiling.timing)
        )?;
    }
    if let Some(seconds) = report.ceilings.launch_seconds {
        print_line!("{:<22}{:>9.1} us", "a launch", 1e6 * seconds)?;
    }
    Ok(())
}

fn print_kernel_head() -> Result<()> {
    print_line!(
        "{:<16}{:<31}{:<18}{:<22}{:<37}{:>15}  of its ceiling",
        "kernel",
        "codes; weights; result",
        "shape",
        "first at",
        "time",
        "rate"
    )
}

fn print_kernel(figure: &KernelFigure) -> Result<()> {
    let shape: Vec<String> = figure.shape.iter().map(usize::to_string).collect();
    let candidates = figure
        .candidates_per_second
        .map_or_else(String::new, |rate| format!(", {rate:.1} candidates/s"));
    print_line!(
        "{:<16}{:<31}{:<18}{:<22}{}{:>9.1} {:<5}  {:.1}% of {}{candidates}",
        figure.kernel,
        figure.variant(),
        shape.join("x"),
        figure.site,
        time(&figure.timing),
        figure.rate.rate,
        figure.rate.unit.name(),
        100.0 * figure.fraction,
        figure.ceiling,
    )
}

fn print_trial(trial: &Trial) -> Result<()> {
    let shape: Vec<String> = trial.shape.iter().map(usize::to_string).collect();
    let outcome = match &trial.timing {
        Some(timing) => time(timing),
        None => trial.problem.clone().unwrap_or_default(),
    };
    print_line!(
        "{:<22}{:<20}{:<18}{:<46}{outcome}",
        trial.product,
        shape.join("x"),
        trial.site,
        trial.strategy.to_string(),
    )
}

fn print_network_head() -> Result<()> {
    print_line!(
        "{:<7}{:>6}  {:>9}  {:<37}{:>12}{:>10}{:>10}  {:<26}time of kernels",
        "",
        "batch",
        "images/s",
        "time",
        "memory",
        "launches",
        "MB/image",
        "floor, its share of time"
    )
}

fn print_network(figure: &NetworkFigure) -> Result<()> {
    let total: f64 = figure.kernel_seconds.values().sum();
    let mut kernels: Vec<(&str, f64)> = figure
        .kernel_seconds
        .iter()
        .map(|(kernel, seconds)| (*kernel, 100.0 * seconds / total))
        .collect();
    kernels.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    // What is below a percent is in the JSON.
    let kernels: Vec<String> = kernels
        .iter()
        .filter(|(_, percent)| *percent >= 1.0)
        .map(|(kernel, percent)| format!("{kernel} {percent:.0}%"))
        .collect();
    let kernels = match &kernels[..] {
        [] => "-".to_owned(),
        some => some.join(", "),
    };
    let roofline = &figure.roofline;
    let (launches, megabytes) = match roofline.workload {
        Some(Workload { dispatches, bytes }) => (
            dispatches.to_string(),
            format!("{:.2}", 1e-6 * bytes as f64 / figure.batch as f64),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let floor = format!(
        "{:.3} ms {}, {:.0}%",
        1e3 * roofline.floor_seconds,
        roofline.bound_by.name(),
        100.0 * roofline.share
    );
    print_line!(
        "{:<7}{:>6}  {:>9.1}  {}{:>8} MiB{launches:>10}{megabytes:>10}  {floor:<26}{kernels}",
        figure.precision.name(),
        figure.batch,
        figure.images_per_second,
        time(&figure.timing),
        figure.peak_device_bytes >> 20,
    )
}

/// Words median, quartiles and repetitions.
fn time(timing: &Timing) -> String {
    let [lower, upper] = timing.quartiles_seconds.map(|seconds| 1e3 * seconds);
    let text = format!(
        "{:.3} ms ({lower:.3} to {upper:.3}), {}",
        1e3 * timing.median_seconds,
        timing.repetitions
    );
    format!("{text:<37}")
}

fn shape(text: &str) -> std::result::Result<[usize; 3], String> {
    let sides: Vec<usize> = text
        .split(',')
        .map(|side| side.trim().parse::<usize>())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| format!("expected three sizes as in 1600,384,1536: {error}"))?;
    if let Some(side) = sides.iter().find(|side| !(1..=MAX_SIDE).contains(*side)) {
        return Err(format!("expected sizes of 1 to {MAX_SIDE}, found {side}"));
    }
    sides
        .try_into()
        .map_err(|sides: Vec<usize>| format!("expected three sizes, found {}", sides.len()))
}
