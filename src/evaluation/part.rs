//! The file that holds the outcome of an evaluation or of one shard of it, and what such files make together.

use super::{ImagesRecord, ModelsRecord, Shard, Summary};
use crate::error::{Error, Result, Setting};
use crate::file::input;
use crate::report::Tally;
use crate::text::differences;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Holds the value of the field `format`, which tells a part from any other JSON.
const FORMAT_NAME: &str = "ptq4vit-gpu evaluation";
/// Holds the value of the field `format_version` that this program writes and reads.
const FORMAT_VERSION: u64 = 2;
/// Limits how many missing shards an error spells out before it only counts.
const NAMED: usize = 10;

/// Holds the outcome of evaluating one shard, and says of what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The share of the images that was evaluated.
    pub shard: Shard,
    /// What was evaluated.
    pub subject: EvaluationSubject,
    /// The device's name.
    pub device: String,
    /// The device's driver.
    pub driver: String,
    /// What was counted on these images.
    pub tally: Tally,
    /// The images that could not be read, relative to their folder.
    pub skipped: Vec<String>,
    /// Seconds of the evaluated network: upload, network and read-back, without decoding images.
    pub inference_seconds: f64,
}

/// Says what an evaluation is of. All its parts agree in every field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSubject {
    /// The version of this program that evaluated.
    pub tool_version: String,
    /// The models.
    pub models: ModelsRecord,
    /// The images, those of the other shards too.
    pub images: ImagesRecord,
}

/// Holds a part as it is stored.
#[derive(Serialize)]
struct Stored<'a> {
    format: &'a str,
    format_version: u64,
    #[serde(flatten)]
    part: &'a Part,
}

impl Part {
    /// Writes the part as the text of a file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        let stored = Stored {
            format: FORMAT_NAME,
            format_version: FORMAT_VERSION,
            part: self,
        };
        serde_json::to_writer_pretty(&mut out, &stored)?;
        writeln!(out)
    }

    /// Reads and checks the part at `path`.
    ///
    /// # Errors
    /// A file that is no part, of another version, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, &input::text(path)?)
    }

    /// Reads the part in `text`, the file at `path`, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let problem = |problem: String| Error::input(path, problem);
        let no_part = |why: &dyn std::fmt::Display| {
            problem(format!(
                "is no part of an evaluation, as `eval` writes it: {why}"
            ))
        };
        let mut stored: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| no_part(&error))?;
        if stored.remove("format") != Some(FORMAT_NAME.into()) {
            return Err(no_part(&format!("its `format` is not `{FORMAT_NAME}`")));
        }
        let version = stored.remove("format_version").unwrap_or_default();
        if version != FORMAT_VERSION {
            return Err(problem(format!(
                "is of format version {version}, where {FORMAT_VERSION} is expected"
            )));
        }
        let part: Self =
            serde_json::from_value(Value::from_iter(stored)).map_err(|error| no_part(&error))?;
        part.validate().map_err(problem)?;
        Ok(part)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let models = &self.subject.models;
        models.preprocessing.validate()?;
        let both = models.model_sha256.is_some() && models.quantized.is_some();
        self.tally.validate(both)?;
        let (images, skipped) = (self.tally.images(), self.skipped.len());
        let expected = self.shard.range(self.subject.images.count).len();
        if images.checked_add(skipped) != Some(expected) {
            return Err(format!(
                "shard {} of {} images has {expected}, found {images} evaluated and {skipped} skipped",
                self.shard, self.subject.images.count
            ));
        }
        let seconds = self.inference_seconds;
        if !seconds.is_finite() || seconds < 0.0 || (images > 0 && seconds == 0.0) {
            return Err(format!(
                "inference_seconds: expected more than 0 for {images} images, found {seconds}"
            ));
        }
        Ok(())
    }
}

/// Finds out whether `parts`, by their files' names, are all shards of one evaluation, each of them once.
///
/// # Errors
/// The file that is of another evaluation, and what differs; the file that repeats another's shard; the shards that
/// are missing.
pub fn check_complete(parts: &[(PathBuf, Part)]) -> Result<()> {
    let Some((first_path, first)) = parts.first() else {
        return Err(Error::setting(Setting::Parts, "expected at least one file"));
    };
    let count = first.shard.count();
    let mut found: BTreeMap<usize, &Path> = BTreeMap::new();
    for (path, part) in parts {
        let mut differences = differences(&first.subject, &part.subject);
        if part.shard.count() != count {
            let shards = part.shard.count();
            differences.push(format!(
                "shard.count is {shards}, where {count} is expected"
            ));
        }
        if !differences.is_empty() {
            return Err(Error::input(
                path,
                format!(
                    "is not of the same evaluation as {}: {}",
                    first_path.display(),
                    differences.join("; ")
                ),
            ));
        }
        if let Some(other) = found.insert(part.shard.index(), path) {
            return Err(Error::input(
                path,
                format!("is shard {}, as {} is", part.shard, other.display()),
            ));
        }
    }
    let missing = count - found.len();
    if missing == 0 {
        return Ok(());
    }
    // The count is the file's own word: it may be beyond what can be listed.
    let mut named: Vec<String> = (0..count)
        .filter(|index| !found.contains_key(index))
        .take(NAMED)
        .map(|index| format!("{index}/{count}"))
        .collect();
    if missing > named.len() {
        named.push(format!("and {} more", missing - named.len()));
    }
    Err(Error::setting(
        Setting::Parts,
        format!("expected all {count} shards, missing: {}", named.join(", ")),
    ))
}

/// Computes the figures of an evaluation, given all its parts.
///
/// # Errors
/// [`Error::Check`] if not one image could be read.
pub fn summarize<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Result<Summary> {
    let mut parts: Vec<&Part> = parts.into_iter().collect();
    parts.sort_by_key(|part| part.shard);
    let mut tally = Tally::default();
    let mut seconds = 0.0;
    let mut skipped = 0;
    let mut devices: Vec<&str> = Vec::new();
    for part in parts {
        tally.merge(&part.tally);
        seconds += part.inference_seconds;
        skipped += part.skipped.len();
        if !devices.contains(&part.device.as_str()) {
            devices.push(&part.device);
        }
    }
    let accuracy = tally
        .accuracy()
        .ok_or_else(|| Error::Check(format!("none of the {skipped} images could be read")))?;
    Ok(Summary {
        images_per_second: accuracy.images as f64 / seconds,
        accuracy,
        device: devices.join(", "),
        skipped,
    })
}
