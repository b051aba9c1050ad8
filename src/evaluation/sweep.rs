//! A sweep: calibrations of models × presets × bits, each a task of its own that leaves its results in one folder.

use crate::data::samples::{Sample, calibration_set};
use crate::error::{Error, Result};
use crate::evaluation::{
    EvaluationSubject, LabelledImages, ModelsRecord, Part, QuantizedRecord, Shard,
};
use crate::families::sites;
use crate::file::input;
use crate::file::weights::Weights;
use crate::model::config::Architecture;
use crate::model::recipe::Resolved;
use crate::quant::{Method, Preset, Provenance, Settings};
use crate::text::differences;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::path::{Path, PathBuf};

/// Says what to sweep over, from a TOML file. Paths are as on the command line: relative to where the program runs.
pub struct SweepPlan {
    path: PathBuf,
    file: SweepFile,
}

/// Holds a [`SweepPlan`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepFile {
    /// The folder of the results.
    out: PathBuf,
    presets: Vec<Preset>,
    /// Bits of weights and activations.
    bits: Vec<u32>,
    models: Vec<PlannedModel>,
    calibration: CalibrationImages,
    evaluation: EvaluationImages,
}

/// Describes one of a plan's FP models.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedModel {
    /// A file, a folder or a name.
    pub model: PathBuf,
    /// The name of the model's recipe, where neither the file nor its neighbours tell.
    pub recipe: Option<String>,
    /// What the model's results are called; by default as the model's file.
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibrationImages {
    images: PathBuf,
    list: Option<PathBuf>,
    #[serde(default = "default_count")]
    count: usize,
    /// The seed of the draw; 0 where neither it nor a list is given.
    seed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvaluationImages {
    images: PathBuf,
    labels: Option<PathBuf>,
    #[serde(default)]
    max_skipped: usize,
}

/// Returns how many images a calibration takes where the plan doesn't say.
fn default_count() -> usize {
    32
}

/// Describes one cell of a plan.
pub struct Task<'a> {
    plan: &'a SweepPlan,
    /// The task's number, from 0.
    pub number: usize,
    /// The FP model.
    pub model: &'a PlannedModel,
    /// The preset.
    pub preset: Preset,
    /// Bits of weights and activations.
    pub bits: u32,
}

impl PlannedModel {
    /// Returns what the model's results are called.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let file = self.model.file_name().unwrap_or_default().to_string_lossy();
            file.strip_suffix(".safetensors")
                .unwrap_or(&file)
                .to_owned()
        })
    }
}

impl SweepPlan {
    /// Reads and checks a plan. Models and images are not looked at yet.
    ///
    /// # Errors
    /// A file that can't be read or understood, and values out of range, twice, or none; the message names the field.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, &input::text(path)?)
    }

    /// Reads the plan in `text`, the file at `path`, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let file: SweepFile = toml::from_str(text)
            .map_err(|error| Error::input(path, error.to_string().trim_end()))?;
        let plan = Self {
            path: path.to_owned(),
            file,
        };
        plan.validate()
            .map_err(|problem| Error::input(path, problem))?;
        Ok(plan)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let file = &self.file;
        let names: Vec<String> = file.models.iter().map(PlannedModel::name).collect();
        let presets: Vec<&str> = file.presets.iter().map(|preset| preset.name()).collect();
        distinct("models", &names).map_err(|problem| {
            format!("{problem}; files of the same name are told apart by a `name` of their own")
        })?;
        distinct("presets", &presets)?;
        distinct("bits", &file.bits)?;
        if let Some(bits) = file.bits.iter().find(|bits| !(2..=8).contains(*bits)) {
            return Err(format!("bits: expected 2 to 8, found {bits}"));
        }
        // It becomes the name of a file in the folder of results.
        let usable = |name: &&String| {
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
        };
        if let Some(name) = names.iter().find(|name| !usable(name)) {
            return Err(format!(
                "models: {name:?} can't be the name of results; expected a `name` that can be a file's"
            ));
        }
        if file.calibration.count == 0 {
            return Err("calibration.count: expected at least 1, found 0".into());
        }
        if let (Some(_), Some(seed)) = (&file.calibration.list, file.calibration.seed) {
            return Err(format!(
                "calibration.seed: {seed} would not be used, because calibration.list names the images"
            ));
        }
        Ok(())
    }

    /// Lists all tasks in the order of their numbers: by model, then preset, then bits.
    pub fn tasks(&self) -> Vec<Task<'_>> {
        let file = &self.file;
        let mut tasks = Vec::new();
        for model in &file.models {
            for &preset in &file.presets {
                for &bits in &file.bits {
                    tasks.push(Task {
                        plan: self,
                        number: tasks.len(),
                        model,
                        preset,
                        bits,
                    });
                }
            }
        }
        tasks
    }

    /// Returns the folder of the results.
    pub fn out(&self) -> &Path {
        &self.file.out
    }

    /// Returns the files that name images: the list of the calibration's, the labels of the evaluation's.
    pub fn lists(&self) -> impl Iterator<Item = &Path> {
        let lists = [&self.file.calibration.list, &self.file.evaluation.labels];
        lists.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Says how many of the evaluation's images may be left out because they can't be read.
    pub fn max_skipped(&self) -> usize {
        self.file.evaluation.max_skipped
    }

    /// Returns the seed of the draw of calibration images, unless a list names them.
    pub fn seed(&self) -> Option<u64> {
        let calibration = &self.file.calibration;
        match calibration.list {
            Some(_) => None,
            None => Some(calibration.seed.unwrap_or(0)),
        }
    }

    /// Returns the images to calibrate on.
    ///
    /// # Errors
    /// Those of [`calibration_set`].
    pub fn calibration_samples(&self) -> Result<Vec<Sample>> {
        let CalibrationImages {
            images,
            list,
            count,
            ..
        } = &self.file.calibration;
        let samples = calibration_set(images, list.as_deref(), *count, self.seed().unwrap_or(0));
        samples.map_err(|error| match error {
            // It has another name here.
            Error::InvalidSetting { problem, .. } => {
                Error::input(&self.path, format!("calibration.count: {problem}"))
            }
            other => other,
        })
    }

    /// Returns the images to evaluate on.
    ///
    /// # Errors
    /// Those of [`LabelledImages::open`].
    pub fn evaluation_images(&self) -> Result<LabelledImages> {
        let EvaluationImages { images, labels, .. } = &self.file.evaluation;
        LabelledImages::open(images, labels.as_deref())
    }
}

/// Checks that there is at least one value, and none twice.
fn distinct<T: Eq + Hash + Display>(field: &str, values: &[T]) -> std::result::Result<(), String> {
    if values.is_empty() {
        return Err(format!("{field}: expected at least one"));
    }
    let mut seen = HashSet::new();
    match values.iter().find(|value| !seen.insert(*value)) {
        Some(value) => Err(format!("{field}: {value} is there twice")),
        None => Ok(()),
    }
}

impl Task<'_> {
    /// Returns what the preset stands for at these bits, for this architecture.
    ///
    /// # Errors
    /// Bits that are not 2 to 8, which no checked plan has.
    pub fn method(&self, architecture: &Architecture) -> Result<Method> {
        Method::preset(self.preset, self.bits, self.bits, &sites(architecture))
    }

    /// Returns where the quantized model goes.
    pub fn quantized_path(&self) -> PathBuf {
        self.path("safetensors")
    }

    /// Returns where the part of the task's evaluation goes, which says too what the task was made from. It is written
    /// last: a task that has it is finished.
    pub fn part_path(&self) -> PathBuf {
        self.path("json")
    }

    fn path(&self, extension: &str) -> PathBuf {
        let (name, preset, bits) = (self.model.name(), self.preset.name(), self.bits);
        let file = format!("{name}-{preset}-w{bits}a{bits}.{extension}");
        self.plan.file.out.join(file)
    }

    /// Reads the part that an earlier run has left, if one has.
    ///
    /// # Errors
    /// Those of [`Part::open`].
    pub fn part(&self) -> Result<Option<Part>> {
        let path = self.part_path();
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => Part::open(&path).map(Some),
        }
    }

    /// Words in what `part` differs from what the plan alone says of this task, whatever its models and images hold.
    pub fn differences_to_plan(&self, part: &Part) -> Vec<String> {
        let planned = json!({
            "shard": Shard::WHOLE,
            "subject": {
                "tool_version": env!("CARGO_PKG_VERSION"),
                "models": {
                    "quantized": {
                        "settings": Settings::preset(self.preset),
                        "provenance": {
                            "preset": self.preset,
                            "seed": self.plan.seed(),
                            "images": self.plan.file.calibration.count,
                        },
                    },
                },
            },
        });
        differences(&planned, part)
    }

    /// Words in what `part`, and the quantized model that it is of, differ from what this task would leave, given its
    /// model and images.
    pub fn differences(
        &self,
        part: &Part,
        weights: &Weights,
        resolved: &Resolved,
        provenance: Provenance,
        images: &LabelledImages,
    ) -> Vec<String> {
        let quantized = match Weights::open(self.quantized_path()) {
            Ok(file) => file,
            Err(error) => return vec![error.to_string()],
        };
        let method = match self.method(&resolved.architecture) {
            Ok(method) => method,
            Err(error) => return vec![error.to_string()],
        };
        let expected = EvaluationSubject {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            models: ModelsRecord {
                architecture: resolved.architecture.clone(),
                preprocessing: resolved.preprocessing.clone(),
                model_sha256: Some(weights.sha256()),
                quantized: Some(QuantizedRecord {
                    sha256: quantized.sha256(),
                    plan: method.plan,
                    settings: method.settings,
                    provenance,
                }),
            },
            images: images.record(),
        };
        differences(&json!({ "shard": Shard::WHOLE, "subject": expected }), part)
    }
}
