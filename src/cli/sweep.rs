//! `sweep`: a plan's tasks, and what they found.

use super::calibrate::Calibrating;
use super::error::{Error, Result};
use super::eval::{check_skipped, evaluate};
use super::inputs::Inputs;
use super::options::DeviceOption;
use super::source::{ModelSource, files_of};
use super::{figures, open_checkpoint, print_json};
use crate::data::samples::load;
use crate::evaluation::sweep::{SweepPlan, Task};
use crate::evaluation::{Models, Shard, Summary, summarize};
use crate::file::output;
use crate::file::weights::Weights;
use crate::model::recipe::resolve;
use crate::quant::{JournalLock, Preset, Provenance, QuantizedModel, journal_of, parse_bytes};
use crate::report::Accuracy;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Calibrates and evaluates the combinations of models, presets and bits of a plan.
///
/// Each call does one of them, and none that is finished. Without --task it lists them, with the figures of those that
/// are finished.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # The first task, and what the finished ones found
  ptq4vit-gpu sweep --plan plan.toml --task 0
  ptq4vit-gpu sweep --plan plan.toml

  # plan.toml
  out = \"sweep\"
  presets = [\"best\", \"ptq4vit\"]
  bits = [8, 6, 4]

  [[models]]
  model = \"deit_tiny_patch16_224.safetensors\"

  [calibration]
  images = \"photos\"

  [evaluation]
  images = \"imagenet/val\"")]
pub struct Sweep {
    /// What to sweep over (TOML).
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Carry out task K, counted from 0. A task that is finished is not done again.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    task: Option<usize>,
    /// Do the task though it is finished, and replace its results, whatever they stem from.
    #[arg(long, requires = "task")]
    redo: bool,
    /// Print the number of tasks only.
    #[arg(long, conflicts_with = "task")]
    count: bool,
    /// Discard what an unfinished run of the task has left in its journal, instead of going on from there.
    #[arg(long, requires = "task")]
    restart: bool,
    #[command(flatten)]
    device: DeviceOption,
    /// Most memory to take on the device for a calibration, as in 800MiB; the result doesn't depend on it.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_budget: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Holds a row of the list.
#[derive(Serialize)]
struct Row {
    task: usize,
    model: String,
    preset: Preset,
    bits: u32,
    /// Figures that the task left; absent where it isn't finished, or was with another plan.
    report: Option<Summary>,
    /// In what an earlier result differs from the plan.
    differences: Vec<String>,
}

impl Sweep {
    pub fn run(&self) -> Result<()> {
        let plan = SweepPlan::open(&self.plan)?;
        let tasks = plan.tasks();
        let Some(number) = self.task else {
            if self.count {
                return print_line!("{}", tasks.len());
            }
            return self.list(&tasks);
        };
        let task = tasks.get(number).ok_or_else(|| {
            let last = tasks.len() - 1;
            Error::usage("--task", format!("expected 0 to {last}, found {number}"))
        })?;
        let report = self.carry_out(&plan, task)?;
        figures::print(&report, self.json)
    }

    /// Returns the figures of a task, which are found out unless they are known.
    fn carry_out(&self, plan: &SweepPlan, task: &Task) -> Result<Summary> {
        let (number, name) = (task.number, task.model.name());
        log::info!(
            "task {number}: {name}, {}, {} bits",
            task.preset.name(),
            task.bits
        );
        let part_path = task.part_path();
        let finished = if self.redo { None } else { task.part()? };
        if finished.is_none() {
            // Before a model is fetched.
            self.outputs(plan, task)?;
        }
        let source = ModelSource::from(task.model.model.clone().into_os_string());
        let weights = open_checkpoint(&source)?;
        let resolved = resolve(&weights, task.model.recipe.as_deref())?;
        log::info!("model: {} ({})", resolved.name, resolved.source);
        let samples = plan.calibration_samples()?;
        let mut images = plan.evaluation_images()?;
        images.label(
            resolved.architecture.classes(),
            resolved.class_names.as_ref(),
        )?;
        let provenance =
            Provenance::new(&weights, &resolved.name, task.preset, plan.seed(), &samples)?;
        let allowed = plan.max_skipped();
        if let Some(part) = finished {
            let differences = task.differences(&part, &weights, &resolved, provenance, &images);
            if !differences.is_empty() {
                return Err(Error::input(
                    part_path,
                    format!(
                        "is not this task's result: {}; --redo replaces it",
                        differences.join("; ")
                    ),
                ));
            }
            check_skipped(part.skipped.len(), "evaluation.max_skipped", allowed)?;
            log::info!("finished already: {}", part_path.display());
            return Ok(summarize([&part])?);
        }

        let [quantized_path, part_path] = self.outputs(plan, task)?;
        let journal = journal_of(&quantized_path);
        let evaluated = images.samples().iter().map(|image| &image.path);
        let inputs = Inputs::default()
            .files("--plan", [&self.plan])
            .files("plan's model", files_of(weights.path()))
            .files("plan's list or labels", plan.lists())
            .files("plan's image", samples.iter().map(|image| &image.path))
            .files("plan's image", evaluated);
        for output in [&quantized_path, &journal, &part_path] {
            inputs.spare("out", output)?;
        }
        let lock = JournalLock::take(&quantized_path)?;
        let inputs = load(&samples, &resolved.preprocessing)?;
        let mut device = self.device.open()?;
        let method = task.method(&resolved.architecture)?;
        let calibrating = Calibrating {
            weights: &weights,
            resolved: &resolved,
            method: &method,
            goal: None,
            provenance: &provenance,
            samples: &samples,
            images: &inputs,
            memory_budget: self.memory_budget,
            restart: self.restart,
        };
        let (calibration, journal) = calibrating.run(lock, &self.device, &mut device)?;
        QuantizedModel::new(&weights, &resolved, method, calibration, provenance)?
            .save(&quantized_path)?;

        // From the file, as a user would.
        let file = Weights::open(&quantized_path)?;
        let quantized = QuantizedModel::read(&file)?;
        let mut models = Models::quantized(&device, &file, &quantized, Some(&weights))?;
        let part = evaluate(&mut models, &images, Shard::WHOLE)?;
        check_skipped(part.skipped.len(), "evaluation.max_skipped", allowed)?;
        let report = summarize([&part])?;
        output::write(&part_path, |file| part.write(file))?;
        journal.close()?;
        log::info!(
            "wrote {} and {}",
            quantized_path.display(),
            part_path.display()
        );
        Ok(report)
    }

    /// Returns where the task's quantized model and its part go, which can be written.
    fn outputs(&self, plan: &SweepPlan, task: &Task) -> Result<[PathBuf; 2]> {
        std::fs::create_dir_all(plan.out())
            .map_err(|error| Error::input(plan.out(), format!("can't be made: {error}")))?;
        let because = "the results of a sweep are read again";
        let quantized = output::regular(&task.quantized_path(), because)?;
        Ok([quantized, output::regular(&task.part_path(), because)?])
    }

    fn list(&self, tasks: &[Task]) -> Result<()> {
        let rows = tasks.iter().map(row).collect::<Result<Vec<_>>>()?;
        if self.json {
            return print_json(&rows);
        }
        let names = rows.iter().map(|row| row.model.chars().count());
        let width = names.max().unwrap_or(0).max("model".len());
        print_line!(
            "task  {:<width$}  preset    bits    top-1    top-5  agreement       KL  logit SQNR",
            "model"
        )?;
        for row in &rows {
            let accuracy = row.report.as_ref().map(|report| &report.accuracy);
            let figure = |text: &dyn Fn(&Accuracy) -> Option<String>| {
                accuracy.and_then(text).unwrap_or_else(|| "-".to_owned())
            };
            let percent = |fraction: f64| format!("{:.2}%", 100.0 * fraction);
            print_line!(
                "{:>4}  {:<width$}  {:<8}  {:>4}  {:>7}  {:>7}  {:>9}  {:>7}  {:>10}",
                row.task,
                row.model,
                row.preset.name(),
                row.bits,
                figure(&|accuracy| Some(percent(accuracy.top1))),
                figure(&|accuracy| Some(percent(accuracy.top5))),
                figure(&|accuracy| accuracy.agreement.map(percent)),
                figure(&|accuracy| accuracy.kl.map(|kl| format!("{kl:.4}"))),
                figure(&|accuracy| accuracy.logit_sqnr_db.map(|sqnr| format!("{sqnr:.1} dB"))),
            )?;
        }
        let finished = rows.iter().filter(|row| row.report.is_some()).count();
        print_line!("{} tasks, {finished} finished", rows.len())
    }
}

/// Returns what is known of a task, from its part alone.
fn row(task: &Task) -> Result<Row> {
    let mut row = Row {
        task: task.number,
        model: task.model.name(),
        preset: task.preset,
        bits: task.bits,
        report: None,
        differences: Vec::new(),
    };
    if let Some(part) = task.part()? {
        row.differences = task.differences_to_plan(&part);
        if row.differences.is_empty() {
            row.report = Some(summarize([&part])?);
        } else {
            log::warn!(
                "task {}: {} is not this plan's result: {}",
                task.number,
                task.part_path().display(),
                row.differences.join("; ")
            );
        }
    }
    Ok(row)
}
