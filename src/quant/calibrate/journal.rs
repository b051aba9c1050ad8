//! The journal of a calibration: a file beside the output that keeps what is found, site by site. However a run ends,
//! the next one of the same command goes on from there.
//!
//! Each line is JSON: an `entry`, and the `sha256` of the line before's `sha256` and the entry's text. The first entry
//! is the [`CalibrationIdentity`], the others are [`Finding`]s. A line is appended whole and is on disk before the calibration goes
//! on, so that only the last one can be incomplete, if the machine or the process stops meanwhile.
//!
//! The file is locked as long as its run lasts: two runs never write one output.

use super::{Finding, SiteReport};
use crate::data::preprocess::Preprocessing;
use crate::device::Device;
use crate::error::{Error, Remedy, Result};
use crate::families::sites;
use crate::file::interrupt::{self, Unfinished};
use crate::file::output;
use crate::model::config::Architecture;
use crate::model::recipe::Resolved;
use crate::quant::{
    AllotmentGoal, Method, Plan, Provenance, QuantizedSite, QuantizedWeight, ScoreCurve, Settings,
    SitePlan, SiteScales,
};
use crate::text::differences;
use same_file::Handle;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Names the format, in the field `format`.
const FORMAT_NAME: &str = "ptq4vit-gpu journal";
/// Numbers the version of the format that this program writes and reads, in the field `format_version`.
const FORMAT_VERSION: u64 = 3;
/// Limits the differences from another calibration that an error names: other bits differ at every site.
const MOST_DIFFERENCES: usize = 6;

/// Describes what a journal's calibration is of: everything that decides its bytes.
#[derive(Clone, Debug, Serialize)]
pub struct CalibrationIdentity {
    format: &'static str,
    format_version: u64,
    provenance: Provenance,
    architecture: Architecture,
    preprocessing: Preprocessing,
    settings: Settings,
    plan: Plan,
    /// What the plan's widths were allotted for, where they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<AllotmentGoal>,
    /// The device, because floats differ in the last bits from one to another, and so would the scales.
    device: String,
    driver: String,
}

impl CalibrationIdentity {
    /// Describes a calibration of the model `resolved` on `device`.
    pub fn new(
        provenance: &Provenance,
        resolved: &Resolved,
        method: &Method,
        device: &Device,
    ) -> Self {
        Self {
            format: FORMAT_NAME,
            format_version: FORMAT_VERSION,
            provenance: provenance.clone(),
            architecture: resolved.architecture.clone(),
            preprocessing: resolved.preprocessing.clone(),
            settings: method.settings.clone(),
            plan: method.plan.clone(),
            goal: None,
            device: device.name().to_owned(),
            driver: device.driver().to_owned(),
        }
    }

    /// Says that the plan's widths were, or are to be, allotted for `goal`.
    pub fn allotted(self, goal: &AllotmentGoal) -> Self {
        Self {
            goal: Some(goal.clone()),
            ..self
        }
    }
}

/// Holds a [`Finding`] as a line has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    report: Cow<'a, SiteReport>,
    scales: Cow<'a, SiteScales>,
    /// The weight, where B is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<StoredWeight>,
}

/// Holds a weight's codes in hex, each as a byte in two's complement, of a table the lanes, and its bias.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredWeight {
    codes: String,
    bias: Option<Vec<f32>>,
}

impl StoredWeight {
    fn new(weight: &QuantizedWeight) -> Self {
        let mut codes = String::with_capacity(2 * weight.codes.len());
        for code in &weight.codes {
            write!(codes, "{code:02x}").expect("a string takes text");
        }
        Self {
            codes,
            bias: weight.bias.clone(),
        }
    }

    /// Returns the weight of the site of `plan`, if this can be that.
    fn read(
        &self,
        plan: &SitePlan,
        scales: &SiteScales,
    ) -> std::result::Result<QuantizedWeight, String> {
        let Some(sizes) = plan.site.weight() else {
            return Err("has no weight, but one is there".into());
        };
        let digits = self.codes.as_bytes().as_chunks::<2>().0;
        let code = |digits: &[u8; 2]| {
            let text = std::str::from_utf8(digits).ok()?;
            let code = u8::from_str_radix(text, 16).ok()? as i8;
            let q = 1 << (plan.b.bits - 1);
            let is_one = match scales.b_tables.first() {
                None => (-q..q).contains(&i32::from(code)),
                Some(table) => table.lanes.contains(&(code as u8)),
            };
            is_one.then_some(code)
        };
        let codes: Option<Vec<i8>> = digits.iter().map(code).collect();
        let count = sizes.outputs * sizes.inputs;
        let codes = codes.filter(|_| self.codes.len() == 2 * count);
        let codes = codes
            .ok_or_else(|| format!("expected {count} codes of {} bits in hex", plan.b.bits))?;
        let bias = self.bias.as_deref();
        if bias.map(<[f32]>::len) != sizes.has_bias.then_some(sizes.outputs)
            || bias
                .unwrap_or_default()
                .iter()
                .any(|bias| !bias.is_finite())
        {
            return Err("expected a finite bias for each output, where it has any".into());
        }
        Ok(QuantizedWeight {
            codes,
            bias: self.bias.clone(),
        })
    }
}

impl Entry<'_> {
    /// Returns what was found at the site of `plan`, if this can be of it.
    fn finding(self, plan: &SitePlan, settings: &Settings) -> std::result::Result<Finding, String> {
        self.check(plan, settings)?;
        let weight = self.weight.as_ref();
        let weight = weight.map(|weight| weight.read(plan, &self.scales));
        let weight = weight.transpose()?;
        if plan.site.has_weight() && weight.is_none() {
            return Err("the weight is missing".into());
        }
        Ok(Finding {
            report: self.report.into_owned(),
            quantized: QuantizedSite {
                scales: self.scales.into_owned(),
                weight,
            },
        })
    }

    fn check(&self, plan: &SitePlan, settings: &Settings) -> std::result::Result<(), String> {
        plan.check_formats(&self.scales)?;
        plan.check_scales(&self.scales)?;
        self.report.evidence.validate(plan, settings.metric)?;
        let is_whole = |curve: &&ScoreCurve| curve.chosen < curve.candidates.len();
        match self.report.curves.iter().find(|curve| !is_whole(curve)) {
            Some(curve) => Err(format!(
                "candidate {} was chosen of {}",
                curve.chosen,
                curve.candidates.len()
            )),
            None => Ok(()),
        }
    }
}

/// Returns where the journal of the output `out` is: `out` with `.journal` appended.
pub fn journal_of(out: &Path) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".journal");
    path.into()
}

/// Holds the right to write an output, from before the work until the journal is closed.
pub struct JournalLock {
    path: PathBuf,
    file: File,
    /// There as long as nothing in the file is worth keeping; the file is then removed with the lock.
    empty: Option<Unfinished>,
}

/// Holds an open journal.
pub struct Journal {
    lock: JournalLock,
    /// Bytes of the complete lines.
    len: u64,
    /// The last line's checksum.
    sha256: String,
    /// The number of sites that are to be finished.
    sites: usize,
    /// The number of those that are finished.
    done: usize,
}

impl JournalLock {
    /// Locks the journal of the output `out`, at [`journal_of`] it.
    ///
    /// # Errors
    /// Another process that holds it; something else in its place; a file that can't be opened or locked.
    pub fn take(out: &Path) -> Result<Self> {
        let path = journal_of(out);
        // Opening a device may have effects, and of a link the target would be cut or removed.
        if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::input(
                path,
                "is no regular file, where a journal is expected",
            ));
        }
        // An interruption waits until it is known whether the file is new, so that none leaves an empty one behind.
        let mut outstanding = interrupt::hold_off();
        loop {
            let cannot = |what: &str, error: io::Error| {
                Error::input(&path, format!("can't be {what}: {error}"))
            };
            let mut options = OpenOptions::new();
            let file = options.read(true).append(true).create(true).open(&path);
            let file = file.map_err(|error| cannot("opened", error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::input(
                        out,
                        format!(
                            "another process writes it, and has locked {}",
                            path.display()
                        ),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(cannot("locked", error)),
            }
            // Whoever had the lock before may have removed the file since it was opened here, and a lock on a file without
            // a name keeps nobody out.
            let is_current = is_at(&file, &path).map_err(|error| cannot("opened", error))?;
            if is_current {
                let metadata = file.metadata().map_err(|error| cannot("read", error))?;
                output::remove_unfinished(out)?;
                let empty = (metadata.len() == 0).then(|| outstanding.unfinished(&path));
                return Ok(Self { path, file, empty });
            }
        }
    }

    /// Reads the plan that an earlier run of the same calibration allotted, if one has found anything: costs then need not be
    /// measured again. The calibration `identity` is allotted, and may have any plan.
    ///
    /// # Errors
    /// A journal of another calibration, and in what it differs; a file that can't be read.
    pub fn allotted_plan(&mut self, identity: &CalibrationIdentity) -> Result<Option<Plan>> {
        let cannot = |error: io::Error| Error::input(&self.path, format!("can't be read: {error}"));
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(cannot)?;
        self.file.rewind().map_err(cannot)?;
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
        // What is damaged is told of when it is opened.
        let Some((entry, _)) = lines.next().and_then(|line| parse(line, "")) else {
            return Ok(None);
        };
        let Ok(mut found) = serde_json::from_str::<Value>(entry) else {
            return Ok(None);
        };
        if lines.next().is_none() {
            return Ok(None);
        }
        let mut expected = value_of(identity);
        let [_, plan] = [&mut expected, &mut found].map(|value| value["plan"].take());
        same_calibration(&expected, &found)
            .map_err(|problem| Error::remediable(&self.path, problem, Remedy::DiscardJournal))?;
        let sites = sites(&identity.architecture);
        let plan = serde_json::from_value(plan).ok();
        Ok(plan.filter(|plan: &Plan| plan.check(&sites).is_ok()))
    }

    /// Reads what an earlier run of the same calibration has found, or, if there was none, or it is to be discarded,
    /// begins the journal.
    ///
    /// # Errors
    /// A journal of another calibration, and in what it differs; one that is damaged before its last line; a file that
    /// can't be read or written.
    pub fn open(
        mut self,
        identity: &CalibrationIdentity,
        restart: bool,
    ) -> Result<(Journal, Vec<Finding>)> {
        let mut bytes = Vec::new();
        if !restart {
            self.file
                .read_to_end(&mut bytes)
                .map_err(|error| Error::input(&self.path, format!("can't be read: {error}")))?;
        }
        let sites = sites(&identity.architecture);
        let plans = identity.plan.integer(&sites);
        let plans: HashMap<String, SitePlan> =
            plans.map(|plan| (plan.site.name.clone(), plan)).collect();
        let read = read(&bytes, identity, &plans)
            .map_err(|problem| Error::remediable(&self.path, problem, Remedy::DiscardJournal))?;
        let mut journal = Journal {
            lock: self,
            len: read.len as u64,
            sha256: read.sha256,
            sites: plans.len(),
            done: read.findings.len(),
        };
        journal.cut()?;
        if read.findings.is_empty() {
            let path = &journal.lock.path;
            let unfinished = || interrupt::hold_off().unfinished(path);
            journal.lock.empty.get_or_insert_with(unfinished);
            journal.append(identity)?;
        } else {
            interrupt::hold_off().notice = Some(journal.notice());
        }
        Ok((journal, read.findings))
    }
}

impl Drop for JournalLock {
    fn drop(&mut self) {
        if self.empty.is_some() {
            // If that fails, an empty file stays, which belongs to no calibration.
            let _ = std::fs::remove_file(&self.path);
        }
        // Closing the file alone wouldn't end the lock as long as a child that another thread starts has yet to close its
        // copy. If that fails, closing is what is left.
        let _ = self.file.unlock();
    }
}

impl Journal {
    /// Adds a line for a site. When this returns, it is on disk.
    ///
    /// # Errors
    /// A file that can't be written to. It is still a sound journal then.
    pub fn add(&mut self, report: &SiteReport, quantized: &QuantizedSite) -> Result<()> {
        let entry = Entry {
            report: Cow::Borrowed(report),
            scales: Cow::Borrowed(&quantized.scales),
            weight: quantized.weight.as_ref().map(StoredWeight::new),
        };
        let mut outstanding = interrupt::hold_off();
        self.append(&entry)?;
        self.done += 1;
        outstanding.notice = Some(self.notice());
        if let Some(empty) = &self.lock.empty {
            outstanding.keep(empty);
        }
        drop(outstanding);
        self.lock.empty = None;
        Ok(())
    }

    /// Tells in words how far the calibration is.
    pub fn progress(&self) -> String {
        format!("{} of {} sites are done", self.done, self.sites)
    }

    fn notice(&self) -> String {
        format!("the same command goes on: {}", self.progress())
    }

    /// Counts the sites that are finished.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Removes the journal of a calibration whose output is in its place.
    ///
    /// # Errors
    /// A file that can't be removed.
    pub fn close(self) -> Result<()> {
        let mut outstanding = interrupt::hold_off();
        outstanding.notice = None;
        std::fs::remove_file(&self.lock.path)
            .map_err(|error| Error::input(&self.lock.path, format!("can't be removed: {error}")))
    }

    fn append(&mut self, entry: &impl Serialize) -> Result<()> {
        let entry = json(entry);
        let sha256 = chained(&self.sha256, &entry);
        let line = line(&entry, &sha256);
        let written = (&self.lock.file)
            .write_all(line.as_bytes())
            .and_then(|()| self.lock.file.sync_data());
        if let Err(error) = written {
            // An incomplete line does no harm, but cut off it takes no room.
            let _ = self.cut();
            return Err(self.cannot_write(error));
        }
        self.len += line.len() as u64;
        self.sha256 = sha256;
        Ok(())
    }

    /// Removes what follows the complete lines.
    fn cut(&mut self) -> Result<()> {
        let file = &self.lock.file;
        file.set_len(self.len)
            .map_err(|error| self.cannot_write(error))
    }

    fn cannot_write(&self, error: io::Error) -> Error {
        Error::input(&self.lock.path, format!("can't be written: {error}"))
    }
}

/// Says whether `path` is the name of the open `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match Handle::from_path(path) {
        Ok(there) => Ok(there == Handle::from_file(file.try_clone()?)?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Computes a line's checksum, given that of the line before.
fn chained(before: &str, entry: &str) -> String {
    format!("{:x}", Sha256::digest([before, entry].concat()))
}

const BEFORE_ENTRY: &str = r#"{"entry":"#;
const AFTER_ENTRY: &str = r#","sha256":""#;
const END: &str = "\"}\n";

fn line(entry: &str, sha256: &str) -> String {
    [BEFORE_ENTRY, entry, AFTER_ENTRY, sha256, END].concat()
}

/// Returns the entry and the checksum of a line that is whole and follows one with the checksum `before`.
fn parse<'a>(line: &'a [u8], before: &str) -> Option<(&'a str, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let inner = line.strip_prefix(BEFORE_ENTRY)?.strip_suffix(END)?;
    let (entry, sha256) = inner.rsplit_once(AFTER_ENTRY)?;
    let expected = chained(before, entry);
    (sha256 == expected).then_some((entry, expected))
}

/// Holds what was read from a journal.
struct Contents {
    findings: Vec<Finding>,
    /// Bytes of the lines that stay.
    len: usize,
    /// The last such line's checksum; empty if there is none.
    sha256: String,
}

/// Reads a journal of the calibration `identity`, whose sites have these `plans`. The last line may be incomplete, and is left out then.
fn read(
    bytes: &[u8],
    identity: &CalibrationIdentity,
    plans: &HashMap<String, SitePlan>,
) -> std::result::Result<Contents, String> {
    let nothing = || Contents {
        findings: Vec::new(),
        len: 0,
        sha256: String::new(),
    };
    let (begun, expected) = (json(identity), value_of(identity));
    let mut contents = nothing();
    let mut found_subject = None;
    let mut lines = (1..)
        .zip(bytes.split_inclusive(|&byte| byte == b'\n'))
        .peekable();
    while let Some((number, line)) = lines.next() {
        let Some((entry, sha256)) = parse(line, &contents.sha256) else {
            if number == 1 && !is_begun(line, &begun) {
                return Err("is no journal of a calibration, or its first line is damaged".into());
            }
            if lines.peek().is_none() {
                break;
            }
            return Err(format!("line {number} is damaged"));
        };
        contents.len += line.len();
        contents.sha256 = sha256;
        let problem = |problem: String| format!("line {number}: {problem}");
        if number == 1 {
            let found: Value =
                serde_json::from_str(entry).map_err(|error| problem(error.to_string()))?;
            found_subject = Some(found);
            continue;
        }
        // First checks that it is of this calibration: another one may have other sites.
        if number == 2
            && let Some(found) = &found_subject
        {
            same_calibration(&expected, found)?;
        }
        let entry: Entry =
            serde_json::from_str(entry).map_err(|error| problem(error.to_string()))?;
        let site = entry.report.site.clone();
        let plan = plans
            .get(&site)
            .ok_or_else(|| problem(format!("there is no site `{site}`")))?;
        let is_known = |known: &Finding| known.report.site == site;
        if contents.findings.iter().any(is_known) {
            return Err(problem(format!("`{site}` is there twice")));
        }
        let finding = entry
            .finding(plan, &identity.settings)
            .map_err(|wrong| problem(format!("`{site}`: {wrong}")))?;
        contents.findings.push(finding);
    }
    // Without a finding there is nothing to keep, whichever calibration it is of.
    Ok(if contents.findings.is_empty() {
        nothing()
    } else {
        contents
    })
}

/// Says whether an incomplete first line is what an interrupted calibration with this `identity` wrote.
fn is_begun(begun: &[u8], identity: &str) -> bool {
    let whole = line(identity, &chained("", identity));
    whole.as_bytes().starts_with(begun)
}

/// Checks that a journal's first entry, `found`, is the `expected` one.
fn same_calibration(expected: &Value, found: &Value) -> std::result::Result<(), String> {
    let differences = differences(expected, found);
    if differences.is_empty() {
        return Ok(());
    }
    let mut shown = differences[..differences.len().min(MOST_DIFFERENCES)].join("; ");
    if differences.len() > MOST_DIFFERENCES {
        shown += &format!("; and {} more", differences.len() - MOST_DIFFERENCES);
    }
    Err(format!("is of another calibration: {shown}"))
}

/// Returns `identity` as it is read from a journal: its text may have fewer digits of a float.
fn value_of(identity: &CalibrationIdentity) -> Value {
    serde_json::from_str(&json(identity)).expect("it has just been written")
}

fn json(entry: &impl Serialize) -> String {
    serde_json::to_string(entry).expect("plain data is always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_the_value_whoever_has_a_copy_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.safetensors");
        // An empty journal would be removed with the lock.
        std::fs::write(journal_of(&out), "a line\n").unwrap();
        let lock = JournalLock::take(&out).unwrap();
        // As a child has one between its start and its program's.
        let _copy = lock.file.try_clone().unwrap();
        let problem = JournalLock::take(&out).err().unwrap().to_string();
        assert!(problem.contains("another process"), "{problem}");
        drop(lock);
        JournalLock::take(&out).unwrap();
    }
}
