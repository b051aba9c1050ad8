//! `calibrate`: a timm checkpoint and images in, a file of integers out.

use super::error::{Error, Result};
use super::inputs::Inputs;
use super::landscape::{self, LandscapeOption};
use super::options::{DeviceOption, ImageSizeOptions, PreprocessingOptions};
use super::report::{Outcome, PlannedPage, ReportOptions};
use super::source::{ModelSource, files_of};
use super::{open_float, print_json, progress};
use crate::data::samples::{Sample, calibration_set, load};
use crate::device::Device;
use crate::error;
use crate::families::sites;
use crate::file::output::{self, Output};
use crate::file::weights::Weights;
use crate::model::config::Architecture;
use crate::model::recipe::Resolved;
use crate::quant::{
    ALLOTTED_BITS, Allotment, AllotmentGoal, Calibration, CalibrationIdentity, Event, Journal,
    JournalLock, Landscape, Method, Metric, OperandKind, Plan, Policy, Preset, Provenance,
    QuantizedModel, Rule, Sequence, Settings, Transform, WeightScales, journal_of, parse_bytes,
};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

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

  # In 4 bits, but the second half of each MLP in 8 and the head in floats
  ptq4vit-gpu calibrate --model deit_tiny_patch16_224 --images photos --bits 4 \\
      --site '*.mlp.fc2=w8a8' --keep-float head --out deit_tiny_mixed.safetensors

  # With 4.5 bits on average, more where they matter more, or in a file of 3 MB
  ptq4vit-gpu calibrate --model deit_tiny_patch16_224 --images photos --mixed 4.5 \\
      --out deit_tiny_4.5.safetensors
  ptq4vit-gpu calibrate --model deit_tiny_patch16_224 --images photos --max-size 3MB \\
      --activation-bits 6 --out deit_tiny_3mb.safetensors

  # With a page that shows how well each product does
  ptq4vit-gpu calibrate --model deit_small_patch16_224 --images photos --bits 6 \\
      --out deit_small_w6a6.safetensors --report deit_small_w6a6.html

  # Whether the metric's choice is the network's, for two products
  ptq4vit-gpu calibrate --model deit_tiny_patch16_224 --images photos --bits 6 --preset ptq4vit \\
      --landscape blocks.10.mlp.fc2 --landscape blocks.10.attn.proj \\
      --out deit_tiny_w6a6.safetensors --report deit_tiny_w6a6.html")]
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
    #[arg(long, value_enum, default_value = "best")]
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
    /// Mean bits, 3 to 8, as in 4.5, that weights and activations are allotted each, operand by operand, by what errors cost
    /// there: an activation gets 3 to 8, a weight one of the two widths around the mean. With --weight-bits or
    /// --activation-bits only the others are allotted.
    #[arg(long, value_name = "BITS", value_parser = mean_bits, conflicts_with_all = ["bits", "plan"])]
    mixed: Option<f64>,
    /// Largest file to write, as in 3MB or 2.5MiB: weights are allotted bits, 3 to 8, so that it is no larger.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = file_size,
        conflicts_with_all = ["bits", "weight_bits", "plan"]
    )]
    max_size: Option<u64>,
    /// Which values of a weight share a scale.
    #[arg(long, value_enum)]
    weight_scales: Option<WeightScales>,
    /// Bits of the products whose names match, as in '*.mlp.fc2=w8a8', 'blocks.0.*=a8' or 'head=w8'. May be given several
    /// times; of two for one product the later one holds.
    #[arg(long = "site", value_name = "PATTERN=BITS")]
    site_rules: Vec<Rule>,
    /// Products to leave in floats, by their names: 'head', '*.attn.qk'. May be given several times.
    #[arg(long, value_name = "PATTERN", value_parser = Rule::float)]
    keep_float: Vec<Rule>,
    /// Plan that says what becomes of each product, instead of bits, twins and rules for single ones.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["bits", "weight_bits", "activation_bits", "weight_scales", "softmax_twin", "gelu_twin", "site_rules", "keep_float"]
    )]
    plan: Option<PathBuf>,
    /// File to write the plan to, as --plan takes it.
    #[arg(long, value_name = "FILE")]
    plan_out: Option<PathBuf>,
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
    /// Change of the model before it is quantized, which leaves its function as it is, if not as the preset says. May be
    /// given several times.
    #[arg(
        long = "transform",
        value_name = "TRANSFORM",
        value_enum,
        conflicts_with = "no_transforms"
    )]
    transforms: Vec<Transform>,
    /// Leave the model as it is before it is quantized.
    #[arg(long)]
    no_transforms: bool,
    /// Take the mean error of each output on the calibration images off its bias, if not as the preset says.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    bias_correction: Option<bool>,
    /// Labels to draw for each image from the network's own probabilities, or directions to project its features onto, by
    /// which `best` weighs errors.
    #[arg(long, value_name = "N")]
    probes: Option<usize>,
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
    landscape: LandscapeOption,
    #[command(flatten)]
    report: ReportOptions,
    /// Print a report as JSON.
    #[arg(long)]
    json: bool,
}

impl Calibrate {
    pub fn run(&self) -> Result<()> {
        self.check_options()?;
        let settings = self.settings();
        settings.validate()?;
        let out = output::regular(&self.out, "a journal lies beside it")?;
        let plan_out = self.plan_out.as_deref().map(Output::open).transpose()?;
        let mut report = self.report.open()?;
        let mut lock = JournalLock::take(&out)?;
        let (weights, resolved) = open_float(
            &self.model,
            self.recipe.as_deref(),
            &self.image_size,
            &self.preprocessing,
        )?;
        let planned = self.planned(&resolved.architecture)?;
        let selected = match &planned {
            Planned::Wholly(plan) => self.landscape.select(plan, &resolved.architecture)?,
            // Of preset `best`, which has no candidates.
            Planned::ButWidths(_) => HashSet::new(),
        };
        let samples = calibration_set(&self.images, self.list.as_deref(), self.count, self.seed)?;
        if let Some(report) = &mut report {
            report.label(&resolved)?;
        }
        let outputs = (&*out, plan_out.as_ref(), report.as_ref());
        self.spare_inputs(outputs, &weights, &samples)?;
        let seed = self.list.is_none().then_some(self.seed);
        let provenance = Provenance::new(&weights, &resolved.name, self.preset, seed, &samples)?;
        let images = load(&samples, &resolved.preprocessing)?;
        let mut device = self.device.open()?;
        let (plan, goal, allotment) = match planned {
            Planned::Wholly(plan) => (plan, None, None),
            Planned::ButWidths(mut allotment) => {
                let goal = self.goal(&allotment);
                let narrowest = Method {
                    plan: goal.narrowest().clone(),
                    settings: settings.clone(),
                };
                let identity =
                    CalibrationIdentity::new(&provenance, &resolved, &narrowest, &device);
                let known = match self.restart {
                    true => None,
                    false => lock.allotted_plan(&identity.allotted(&goal))?,
                };
                let plan = match known {
                    Some(plan) => plan,
                    None => {
                        let model = (&weights, &resolved);
                        let images = (&samples[..], &images[..]);
                        self.measure(&mut allotment, model, &narrowest, images, &mut device)?;
                        self.allot(&allotment, &goal, &resolved, &settings, &provenance)?
                    }
                };
                tell_means(&allotment, &plan);
                // A run that goes on has measured nothing, and so has no curves.
                let is_shown = report.is_some() || self.json;
                let curves = is_shown.then(|| allotment.curves(&plan));
                (plan, Some(goal), curves)
            }
        };
        if let Some(plan_out) = plan_out {
            let text = plan.to_toml(&sites(&resolved.architecture));
            plan_out.write(|file| file.write_all(text.as_bytes()))?;
        }
        let method = Method { plan, settings };

        let calibrating = Calibrating {
            weights: &weights,
            resolved: &resolved,
            method: &method,
            goal: goal.as_ref(),
            provenance: &provenance,
            samples: &samples,
            images: &images,
            memory_budget: self.memory_budget,
            restart: self.restart,
        };
        let (calibration, journal) = calibrating.run(lock, &self.device, &mut device)?;
        let mut figures = self.figures(&calibration, device.name());
        let (reports, seconds) = (calibration.reports.clone(), calibration.seconds());
        let model = QuantizedModel::new(
            &weights,
            &resolved,
            method.clone(),
            calibration,
            provenance.clone(),
        )?;
        model.save(&out)?;
        // Last, as it may take long: until it is done, the journal has all scales.
        let landscapes = calibrating.survey(&selected, &self.device, &mut device)?;
        if self.landscape.is_given() {
            figures["landscapes"] = json!(landscapes);
        }
        if let Some(curves) = &allotment {
            figures["allotment"] = json!(curves);
        }
        if let Some(report) = report {
            report.write(&Outcome {
                device: &device,
                weights: &weights,
                resolved: &resolved,
                quantized: &out,
                reports: &reports,
                landscapes: &landscapes,
                allotment: allotment.as_deref(),
                seconds,
                images: &images,
            })?;
        }
        journal.close()?;
        print_figures(&figures, self.json)?;
        match self.json {
            true => Ok(()),
            false => landscape::print(&landscapes),
        }
    }

    /// Finds out that nothing that is written would replace what is read, or what else is written.
    fn spare_inputs(
        &self,
        (out, plan_out, report): (&Path, Option<&Output>, Option<&PlannedPage>),
        weights: &Weights,
        samples: &[Sample],
    ) -> Result<()> {
        let inputs = Inputs::default()
            .files("--model", files_of(weights.path()))
            .files("--plan", &self.plan)
            .files("--list", &self.list)
            .files("--images", samples.iter().map(|sample| &sample.path))
            .images("--images", [&self.images]);
        let inputs = self.report.add_inputs(inputs);
        let journal = journal_of(out);
        inputs.spare("--out", out)?;
        inputs.spare("--out's journal", &journal)?;
        let mut taken = inputs.files("--out", [out]).files("journal", [journal]);
        if let Some(report) = report {
            taken.spare_from("--report", report.output())?;
            taken = taken.files("--report", report.output().file());
        }
        match plan_out {
            Some(plan_out) => taken.spare_from("--plan-out", plan_out),
            None => Ok(()),
        }
    }

    /// Says what becomes of each product of a network of this `architecture`, as far as the options do.
    fn planned(&self, architecture: &Architecture) -> Result<Planned> {
        let sites = &sites(architecture);
        match &self.plan {
            Some(path) => Ok(Planned::Wholly(Plan::open(path, sites)?)),
            None => {
                let preset = Policy::preset(
                    self.preset,
                    self.weight_bits.unwrap_or(self.bits),
                    self.activation_bits.unwrap_or(self.bits),
                );
                let policy = Policy {
                    weight_scales: self.weight_scales.unwrap_or(preset.weight_scales),
                    softmax_twin: self.softmax_twin.unwrap_or(preset.softmax_twin),
                    gelu_twin: self.gelu_twin.unwrap_or(preset.gelu_twin),
                    rules: [&self.site_rules[..], &self.keep_float].concat(),
                    ..preset
                };
                let usage = |problem| Error::usage("--site, --keep-float", problem);
                let kinds = self.allotted();
                if kinds.is_empty() {
                    return policy.plan(sites).map(Planned::Wholly).map_err(usage);
                }
                let allotment = Allotment::new(&policy, &kinds, architecture);
                allotment.map(Planned::ButWidths).map_err(usage)
            }
        }
    }

    /// Lists the kinds of operands that are allotted bits.
    fn allotted(&self) -> Vec<OperandKind> {
        let is_mixed = |fixed: Option<u32>| self.mixed.is_some() && fixed.is_none();
        let weights = self.max_size.is_some() || is_mixed(self.weight_bits);
        let activations = is_mixed(self.activation_bits);
        let kinds = [
            (OperandKind::Weight, weights),
            (OperandKind::Activation, activations),
        ];
        kinds
            .into_iter()
            .filter(|(_, is_allotted)| *is_allotted)
            .map(|(kind, _)| kind)
            .collect()
    }

    /// Says what bits are allotted for.
    fn goal(&self, allotment: &Allotment) -> AllotmentGoal {
        let kinds = self.allotted().into_iter();
        // A file's size decides how many bits its weights have.
        let of_mean = kinds.filter(|kind| self.max_size.is_none() || *kind != OperandKind::Weight);
        let means = of_mean.filter_map(|kind| Some((kind, self.mixed?)));
        allotment.goal(&means.collect::<Vec<_>>(), self.max_size)
    }

    /// Measures what operands cost, and shows how far it is.
    fn measure(
        &self,
        allotment: &mut Allotment,
        (weights, resolved): (&Weights, &Resolved),
        method: &Method,
        (samples, images): (&[Sample], &[Vec<f32>]),
        device: &mut Device,
    ) -> Result<()> {
        let bar = progress::calibration();
        let opened = device.clone();
        let measured = Calibration::builder(&opened, weights, &resolved.architecture)
            .method(method)
            .images(images)
            .memory_budget(self.memory_budget)
            .reopening(device, &|| self.device.open())
            .on_event(&mut |event| {
                progress::show(&bar, &event);
                Ok(())
            })
            .costs(allotment);
        bar.finish_and_clear();
        measured.map_err(|error| of_sample(error, samples))
    }

    /// Makes the plan, once it is known what operands cost.
    fn allot(
        &self,
        allotment: &Allotment,
        goal: &AllotmentGoal,
        resolved: &Resolved,
        settings: &Settings,
        provenance: &Provenance,
    ) -> Result<Plan> {
        let size = |plan: &Plan| {
            let method = Method {
                plan: plan.clone(),
                settings: settings.clone(),
            };
            QuantizedModel::most_bytes(resolved, &method, provenance)
        };
        allotment.plan_for(goal, size).map_err(|[least, most]| {
            let problem = format!(
                "expected at least {least} bytes, which the model takes with weights of 3 bits, found {most}"
            );
            Error::usage("--max-size", problem)
        })
    }

    /// Finds out that no option is given that the preset makes no use of.
    fn check_options(&self) -> Result<()> {
        let of_search = [
            ("--metric", self.metric.is_some()),
            ("--alpha", self.alpha.is_some()),
            ("--beta", self.beta.is_some()),
            ("--candidates", self.candidates.is_some()),
            ("--rounds", self.rounds.is_some()),
            ("--exhaustive", self.exhaustive),
            ("--landscape", self.landscape.is_given()),
            ("--softmax-twin", self.softmax_twin.is_some()),
            ("--gelu-twin", self.gelu_twin.is_some()),
        ];
        if self.mixed.is_some() && self.allotted().is_empty() {
            let problem = "leaves nothing to allot with --weight-bits and --activation-bits";
            return Err(Error::usage("--mixed", problem));
        }
        if let (Some(_), Some(_), Some(_)) = (self.mixed, self.max_size, self.activation_bits) {
            let problem = "leaves nothing to allot with --max-size and --activation-bits";
            return Err(Error::usage("--mixed", problem));
        }
        let of_sequence = [
            ("--probes", self.probes.is_some()),
            ("--mixed", self.mixed.is_some()),
            ("--max-size", self.max_size.is_some()),
        ];
        let in_sequence = Settings::preset(self.preset).sequence.is_some();
        let (unused, why) = match in_sequence {
            true => (
                &of_search[..],
                "is for a search of scales, which there is none of with",
            ),
            false => (&of_sequence[..], "is for --preset best, and not used with"),
        };
        match unused.iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                let problem = format!("{why} --preset {}", self.preset.name());
                Err(Error::usage(*option, problem))
            }
            None => Ok(()),
        }
    }

    fn settings(&self) -> Settings {
        let preset = Settings::preset(self.preset);
        Settings {
            metric: self.metric.unwrap_or(preset.metric),
            alpha: self.alpha.unwrap_or(preset.alpha),
            beta: self.beta.unwrap_or(preset.beta),
            candidates: self.candidates.unwrap_or(preset.candidates),
            rounds: self.rounds.unwrap_or(preset.rounds),
            exhaustive: self.exhaustive,
            transforms: match self.no_transforms || !self.transforms.is_empty() {
                true => self.transforms.clone(),
                false => preset.transforms,
            },
            bias_correction: self.bias_correction.unwrap_or(preset.bias_correction),
            sequence: preset.sequence.map(|sequence| Sequence {
                probes: self.probes.unwrap_or(sequence.probes),
            }),
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

/// Holds what the options say of each product before anything is measured.
enum Planned {
    /// All of it.
    Wholly(Plan),
    /// All but the widths that are allotted.
    ButWidths(Allotment),
}

/// Describes a calibration with its journal.
pub(super) struct Calibrating<'a> {
    pub weights: &'a Weights,
    pub resolved: &'a Resolved,
    pub method: &'a Method,
    /// What the widths of the method's plan were allotted for, where they were.
    pub goal: Option<&'a AllotmentGoal>,
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
        let mut identity =
            CalibrationIdentity::new(self.provenance, self.resolved, self.method, device);
        if let Some(goal) = self.goal {
            identity = identity.allotted(goal);
        }
        let (mut journal, findings) = lock.open(&identity, self.restart)?;
        if journal.done() > 0 {
            log::info!("journal: {}", journal.progress());
        }
        let bar = progress::calibration();
        let opened = device.clone();
        let calibration = Calibration::builder(&opened, self.weights, &self.resolved.architecture)
            .method(self.method)
            .images(self.images)
            .memory_budget(self.memory_budget)
            .going_on_from(findings)
            .reopening(device, &|| option.open())
            .on_event(&mut |event| {
                progress::show(&bar, &event);
                match event {
                    Event::Found(report, quantized) => journal.add(report, quantized),
                    _ => Ok(()),
                }
            })
            .run();
        bar.finish_and_clear();
        match calibration {
            Ok(calibration) => Ok((calibration, journal)),
            Err(error) => {
                if journal.done() > 0 {
                    log::warn!("journal: the same command goes on: {}", journal.progress());
                }
                Err(of_sample(error, self.samples))
            }
        }
    }

    /// Computes the landscapes of the `selected` products, and shows how far it is. `device` is what `option` opened; if it is
    /// lost, another takes its place.
    fn survey(
        &self,
        selected: &HashSet<String>,
        option: &DeviceOption,
        device: &mut Device,
    ) -> Result<Vec<Landscape>> {
        if selected.is_empty() {
            return Ok(Vec::new());
        }
        let bar = progress::calibration();
        let opened = device.clone();
        let landscapes = Calibration::builder(&opened, self.weights, &self.resolved.architecture)
            .method(self.method)
            .images(self.images)
            .memory_budget(self.memory_budget)
            .reopening(device, &|| option.open())
            .only(&|site| selected.contains(&site.name))
            .on_event(&mut |event| {
                progress::show(&bar, &event);
                Ok(())
            })
            .landscapes();
        bar.finish_and_clear();
        Ok(landscapes?)
    }
}

/// Says how many bits operands were allotted on average.
fn tell_means(allotment: &Allotment, plan: &Plan) {
    for kind in OperandKind::ALL {
        if let Some(mean) = allotment.mean_bits(plan, kind) {
            let name = kind.name();
            log::info!("allotted: {name} have {mean:.3} bits on average");
        }
    }
}

fn print_figures(figures: &serde_json::Value, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(figures);
    }
    let seconds = |phase: &str| figures["seconds"][phase].as_f64().unwrap_or(f64::NAN);
    let work = |part: &str| figures["multiply_adds"][part].as_f64().unwrap_or(f64::NAN);
    print_line!("wrote {}", figures["out"].as_str().unwrap_or_default())?;
    print_line!(
        "{:.1} s: forward {:.1}, backward {:.1}, search {:.1}, evidence {:.1}; {:.0} MiB of device memory at most",
        seconds("forward") + seconds("backward") + seconds("search") + seconds("evidence"),
        seconds("forward"),
        seconds("backward"),
        seconds("search"),
        seconds("evidence"),
        figures["peak_device_bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20),
    )?;
    if work("exhaustive") == 0.0 {
        return Ok(());
    }
    print_line!(
        "search: {:.2e} multiply-adds, {:.1}% of the exhaustive search's; {:.2e} avoided",
        work("done"),
        100.0 * work("done") / work("exhaustive"),
        (work("exhaustive") - work("done")).max(0.0),
    )
}

/// Names the image's file in an error about one of the `samples`.
fn of_sample(error: error::Error, samples: &[Sample]) -> Error {
    match error {
        error::Error::NotFinite { image, problem } => Error::input(&samples[image].path, problem),
        other => other.into(),
    }
}

/// Reads the mean of bits that are allotted.
fn mean_bits(text: &str) -> std::result::Result<f64, String> {
    let [least, most] = [ALLOTTED_BITS.start(), ALLOTTED_BITS.end()].map(|&bits| f64::from(bits));
    match text.parse() {
        Ok(mean) if (least..=most).contains(&mean) => Ok(mean),
        _ => Err(format!("expected {least} to {most}, as in 4.5")),
    }
}

/// Reads the size of a file, in bytes or followed by a unit, decimal or binary.
fn file_size(text: &str) -> std::result::Result<u64, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|&(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))
        .unwrap_or((text, 1));
    match number.trim().parse::<f64>() {
        Ok(number) if number >= 0.0 && number * f64::from(unit) < u64::MAX as f64 => {
            Ok((number * f64::from(unit)) as u64)
        }
        _ => Err("expected a size as in 3MB or 2.5MiB".to_owned()),
    }
}

/// Returns the parser of the widths that codes can have.
fn bits() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(2..=8)
}
