//! What a verification found, as it is stored and read.

use crate::error::{Error, Result};
#[cfg(feature = "files")]
use crate::file::input;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// Holds the value of the field `format`, which tells a report from any other JSON.
const FORMAT_NAME: &str = "ptq4vit-gpu verification";
/// Holds the value of the field `format_version` that this program writes and reads.
const FORMAT_VERSION: u64 = 1;

/// Holds everything that was verified at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What was computed, the same on all devices.
    pub subject: SubjectRecord,
    /// The devices, each compared with the CPU versions on its machine.
    pub devices: Vec<DeviceReport>,
}

/// Says what was computed. Reports can be compared where it is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectRecord {
    /// The version of this program.
    pub tool_version: String,
    /// The kernels' names.
    pub kernels: Vec<String>,
    /// SHA-256 of the shaders that were replaced, by name.
    pub shaders: BTreeMap<String, String>,
    /// The models, by name.
    pub models: BTreeMap<String, ModelRecord>,
}

/// Describes a model and its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// SHA-256 of the FP weights' file, where there is one.
    pub model_sha256: Option<String>,
    /// SHA-256 of the quantized file, where there is one.
    pub quantized_sha256: Option<String>,
    /// Number of images.
    pub images: usize,
    /// SHA-256 of the preprocessed images, f32, little-endian.
    pub images_sha256: String,
}

/// Holds what was found on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceReport {
    /// The device's name, or `cpu`.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `none`.
    pub backend: String,
    /// The driver's name and version.
    pub driver: String,
    /// How products divide their work in the models, by name; empty on the CPU.
    pub strategies: BTreeMap<String, String>,
    /// Every kernel.
    pub kernels: Vec<KernelReport>,
    /// Every model.
    pub models: Vec<ModelReport>,
}

/// Holds what was found of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelReport {
    /// The name of the kernel's file.
    pub kernel: String,
    /// None where the device doesn't offer what the kernel needs.
    pub cases: Vec<CaseReport>,
}

/// Says how a result is compared with the CPU version's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bit for bit.
    Exact,
    /// Floats, each within its bound.
    Close,
    /// Codes of floats that may differ in their last bits.
    Codes,
}

/// Describes one run of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseReport {
    /// Sizes and formats.
    pub name: String,
    /// How work was divided, where that can be chosen.
    pub strategy: Option<String>,
    /// How the result is compared.
    pub kind: Kind,
    /// Values of the result.
    pub values: usize,
    /// SHA-256 of the result; absent where there was none.
    pub sha256: Option<String>,
    /// The largest error of floats in units of its bound.
    pub share_of_bound: Option<f64>,
    /// How codes differ from the CPU version's.
    pub codes: Option<Codes>,
    /// What is wrong, if something is.
    pub failure: Option<Failure>,
}

/// Counts how a device's codes differ from the CPU version's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Codes {
    /// Lanes, those past the end of a row included.
    pub all: u64,
    /// Codes that stand for something else. Zeros of either range of a twin are the same.
    pub differing: u64,
    /// The largest distance between two codes, in steps: of their range, or from one range of a twin to the other, in
    /// steps of the coarser one.
    pub largest_step: f64,
}

/// Describes something that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Where it was first seen: a value's place in the result, or a code's.
    pub index: Option<usize>,
    /// What is there, or what happened instead.
    pub found: String,
    /// What the CPU version says.
    pub expected: Option<String>,
    /// Values that are wrong.
    pub wrong: usize,
}

/// Holds what was found of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelReport {
    /// The architecture's name.
    pub name: String,
    /// The FP network, where there are FP weights.
    pub float: Option<FloatReport>,
    /// The integer network, where there is a quantized model.
    pub integer: Option<IntegerReport>,
    /// What went wrong on the device, if it could not be finished.
    pub failure: Option<Failure>,
}

/// Holds an error figure and what it must not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// ‖found - expected‖ / ‖expected‖.
    pub error: f64,
    /// The most that is allowed.
    pub bound: f64,
}

/// Describes the FP network on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FloatReport {
    /// Of each image; empty where they are not finite.
    pub logits: Vec<Vec<f32>>,
    /// All logits against the CPU's.
    pub logits_error: Figure,
    /// Images whose largest logit is another than on the CPU; absent where the network answers with features.
    pub top1_flips: Option<usize>,
    /// The loss's gradient at each site against the CPU's.
    pub gradients: Vec<SiteFigure>,
    /// The scales that a search with few candidates chooses.
    pub scales: Vec<SiteChoice>,
}

/// Holds an error figure of one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteFigure {
    /// The site.
    pub site: String,
    /// Its error.
    pub figure: Figure,
}

/// Holds scales that were chosen for one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteChoice {
    /// The site.
    pub site: String,
    /// What the device chose.
    pub found: Choice,
    /// What the CPU chose, where that differs.
    pub expected: Option<Choice>,
}

/// Holds scales and their score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// A's scales.
    pub a: Vec<ScaleRecord>,
    /// B's scales.
    pub b: Vec<ScaleRecord>,
    /// The score of the choice, where it was made.
    pub score: f64,
}

/// Holds a scale as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRecord {
    /// Δ of a uniform format, Δ1 of a twin.
    pub scale: f32,
    /// m of a twin, otherwise 0.
    pub shift: u32,
}

/// Describes the integer network on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerReport {
    /// Every site, given the CPU's input.
    pub sites: Vec<SiteIntegers>,
    /// Of each image, the network left to itself; empty where they are not finite.
    pub logits: Vec<Vec<f32>>,
    /// These logits against the CPU's.
    pub logits_error: Figure,
    /// Images whose largest logit is another than on the CPU; absent where the network answers with features.
    pub top1_flips: Option<usize>,
}

/// Describes one site of the integer network, given what the CPU gave it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteIntegers {
    /// The site.
    pub site: String,
    /// SHA-256 of the integers of random codes, the same on every machine.
    pub sha256: String,
    /// The operands' codes against the CPU's.
    pub operands: Codes,
    /// The codes that the product's epilogue writes for the next one, where it does.
    pub next: Option<Codes>,
    /// What is wrong, if something is.
    pub failure: Option<Failure>,
}

impl Failure {
    /// Makes a failure of something that has no place in a result.
    pub fn of(what: impl Display) -> Self {
        Self {
            index: None,
            found: what.to_string(),
            expected: None,
            wrong: 0,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if let Some(index) = self.index {
            write!(f, "[{index}] is ")?;
        }
        write!(f, "{}", self.found)?;
        if let Some(expected) = &self.expected {
            write!(f, ", expected {expected}")?;
        }
        if self.wrong > 1 {
            write!(f, " ({} values are wrong)", self.wrong)?;
        }
        Ok(())
    }
}

impl Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let list = |scales: &[ScaleRecord]| {
            let scales: Vec<String> = scales
                .iter()
                .map(|ScaleRecord { scale, shift }| match shift {
                    0 => format!("{scale:e}"),
                    _ => format!("{scale:e} (m {shift})"),
                })
                .collect();
            scales.join(" ")
        };
        write!(f, "A {}, B {}", list(&self.a), list(&self.b))
    }
}

impl Codes {
    /// Counts one code, which is `step` steps off.
    pub fn count(&mut self, step: f64) {
        self.all += 1;
        self.differing += u64::from(step > 0.0);
        self.largest_step = self.largest_step.max(step);
    }

    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.differing += other.differing;
        self.largest_step = self.largest_step.max(other.largest_step);
    }
}

impl Figure {
    /// Says whether the bound is kept to. A NaN keeps to none.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

impl SiteChoice {
    /// Says whether the device chose as the CPU did, or as well.
    pub fn is_as_good(&self) -> bool {
        let expected = self.expected.as_ref();
        expected.is_none_or(|expected| self.found.scores_like(expected))
    }
}

/// Lists everything that is wrong on a device, each in a line: where it was first seen, what is there, and what is
/// expected.
pub fn failures(device: &DeviceReport) -> Vec<String> {
    let mut failures = Vec::new();
    for kernel in &device.kernels {
        if let Some((case, failure)) = kernel.failure() {
            let all = kernel
                .cases
                .iter()
                .filter(|case| case.failure.is_some())
                .count();
            let (kernel, title) = (&kernel.kernel, case.title());
            failures.push(format!("{kernel}, {title}: {failure}; {all} cases fail"));
        }
    }
    for model in &device.models {
        let name = &model.name;
        failures.extend(
            model
                .failure
                .iter()
                .map(|failure| format!("{name}: {failure}")),
        );
        let mut check = |what: &str, figure: &Figure| {
            if !figure.holds() {
                let Figure { error, bound } = figure;
                failures.push(format!(
                    "{name}, {what}: {error:.1e} off, {bound:.1e} allowed"
                ));
            }
        };
        if let Some(float) = &model.float {
            check("FP32 logits", &float.logits_error);
            for site in &float.gradients {
                check(&format!("gradient of {}", site.site), &site.figure);
            }
        }
        if let Some(integer) = &model.integer {
            check("integer logits", &integer.logits_error);
        }
        for choice in model.float.iter().flat_map(|float| &float.scales) {
            if let Some(expected) = choice.expected.as_ref().filter(|_| !choice.is_as_good()) {
                let (found, site) = (&choice.found, &choice.site);
                failures.push(format!(
                    "{name}, scales of {site}: {found} with a score of {:e}, expected {expected} with {:e}",
                    found.score, expected.score
                ));
            }
        }
        for site in model.integer.iter().flat_map(|integer| &integer.sites) {
            let of_site = site.failure.iter();
            failures.extend(of_site.map(|failure| format!("{name}, {}: {failure}", site.site)));
        }
    }
    failures
}

impl KernelReport {
    /// Returns the first case that failed, and how.
    pub fn failure(&self) -> Option<(&CaseReport, &Failure)> {
        let mut cases = self.cases.iter();
        cases.find_map(|case| case.failure.as_ref().map(|failure| (case, failure)))
    }
}

/// Holds a report as it is stored.
#[derive(Serialize)]
struct Stored<'a> {
    format: &'a str,
    format_version: u64,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// Returns the report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.stored()).expect("plain data is always JSON")
    }

    fn stored(&self) -> Stored<'_> {
        Stored {
            format: FORMAT_NAME,
            format_version: FORMAT_VERSION,
            report: self,
        }
    }

    /// Writes the report as the text of a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, &self.stored())?;
        writeln!(out)
    }

    /// Reads and checks the report at `path`.
    ///
    /// # Errors
    /// A file that is no report, of another version, or contradicts itself.
    #[cfg(feature = "files")]
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, &input::text(path)?)
    }

    /// Reads and checks the report in `text`, the file at `path`.
    ///
    /// # Errors
    /// Text that is no report, of another version, or contradicts itself.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let problem = |problem: String| Error::input(path, problem);
        let no_report =
            |why: &dyn Display| problem(format!("is no report, as `verify` writes it: {why}"));
        let mut stored: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| no_report(&error))?;
        if stored.remove("format") != Some(FORMAT_NAME.into()) {
            return Err(no_report(&format!("its `format` is not `{FORMAT_NAME}`")));
        }
        let version = stored.remove("format_version").unwrap_or_default();
        if version != FORMAT_VERSION {
            return Err(problem(format!(
                "is of format version {version}, where {FORMAT_VERSION} is expected"
            )));
        }
        let report: Self =
            serde_json::from_value(Value::from_iter(stored)).map_err(|error| no_report(&error))?;
        report.validate().map_err(problem)?;
        Ok(report)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.devices.is_empty() {
            return Err("has no device".to_owned());
        }
        for device in &self.devices {
            let name = &device.name;
            unique(device.kernels.iter().map(|kernel| &kernel.kernel))?;
            for kernel in &device.kernels {
                let titles: Vec<String> = kernel.cases.iter().map(CaseReport::title).collect();
                unique(titles.iter())?;
                for case in &kernel.cases {
                    case.validate().map_err(|problem| {
                        format!("{name}: {}, {}: {problem}", kernel.kernel, case.title())
                    })?;
                }
            }
            if !device
                .kernels
                .iter()
                .map(|report| &report.kernel)
                .eq(&self.subject.kernels)
            {
                return Err(format!("{name}: its kernels are not those of `subject`"));
            }
            unique(device.models.iter().map(|model| &model.name))?;
            if device.models.len() != self.subject.models.len() {
                return Err(format!("{name}: its models are not those of `subject`"));
            }
            for model in &device.models {
                let record = self.subject.models.get(&model.name);
                let checked = match record {
                    Some(record) => model.validate(record),
                    None => Err("is no model of `subject`".to_owned()),
                };
                checked.map_err(|problem| format!("{name}: {}: {problem}", model.name))?;
            }
        }
        Ok(())
    }
}

/// Checks that no name comes twice.
fn unique<'a>(names: impl Iterator<Item = &'a String>) -> std::result::Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("has `{name}` twice"));
        }
    }
    Ok(())
}

fn check_sha256(text: &str) -> std::result::Result<(), String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() == 64 && text.bytes().all(is_digit) {
        return Ok(());
    }
    Err(format!("expected a SHA-256 in 64 digits, found `{text}`"))
}

impl CaseReport {
    /// Returns the case's name, and how work was divided.
    pub fn title(&self) -> String {
        let strategy = self.strategy.iter().map(|strategy| format!(", {strategy}"));
        self.name.clone() + &strategy.collect::<String>()
    }

    fn validate(&self) -> std::result::Result<(), String> {
        match (&self.sha256, &self.failure) {
            (Some(sha256), _) => check_sha256(sha256)?,
            (None, Some(_)) => {}
            (None, None) => return Err("has neither a result nor a failure".to_owned()),
        }
        match self.share_of_bound {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(format!("share_of_bound: expected 0 to 1, found {share}"))
            }
            _ => self.codes.iter().try_for_each(Codes::validate),
        }
    }
}

impl Codes {
    fn validate(&self) -> std::result::Result<(), String> {
        if self.differing <= self.all && self.largest_step >= 0.0 {
            return Ok(());
        }
        Err(format!(
            "{} of {} codes can't differ",
            self.differing, self.all
        ))
    }
}

impl ModelReport {
    fn validate(&self, record: &ModelRecord) -> std::result::Result<(), String> {
        let check_logits = |logits: &[Vec<f32>]| {
            let width = logits.first().map_or(0, Vec::len);
            let complete = logits.is_empty() || logits.len() == record.images;
            if complete && logits.iter().all(|logits| logits.len() == width) {
                return Ok(());
            }
            Err(format!(
                "expected as many logits for each of {} images",
                record.images
            ))
        };
        if let Some(float) = &self.float {
            check_logits(&float.logits)?;
            unique(float.scales.iter().map(|choice| &choice.site))?;
        }
        if let Some(integer) = &self.integer {
            check_logits(&integer.logits)?;
            unique(integer.sites.iter().map(|site| &site.site))?;
            for site in &integer.sites {
                check_sha256(&site.sha256)
                    .map_err(|problem| format!("{}: {problem}", site.site))?;
                let codes = std::iter::once(&site.operands).chain(&site.next);
                codes.into_iter().try_for_each(Codes::validate)?;
            }
        }
        Ok(())
    }
}
