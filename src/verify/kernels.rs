//! Every kernel against its CPU version.
//!
//! Both may err by the bound of a case, so they are no further apart than twice that. What is a copy, one rounding or an
//! integer is compared bit for bit.

use super::report::{CaseReport, Codes, Failure, KernelReport, Kind};
use super::step::step;
use crate::device::{Device, Strategy};
use crate::error::Result;
use crate::kernels::KERNELS;
use crate::kernels::catalogue::{Answer, Case, CodeRange, Kernel, Values};
use sha2::{Digest, Sha256};

/// Holds a case and what the CPU version makes of it.
struct Prepared {
    case: Case,
    expected: Values,
    /// What a device may compute in its place.
    allowed: Answer,
}

/// Holds kernels' cases, with the results of their CPU versions.
pub struct Suite {
    kernels: Vec<(&'static Kernel, Vec<Prepared>)>,
}

impl Suite {
    /// Runs the CPU versions of the kernels of these names, or of all where none are named.
    ///
    /// # Errors
    /// None that a CPU has.
    pub fn new(kernels: &[&str]) -> Result<Self> {
        let wanted = |kernel: &&Kernel| kernels.is_empty() || kernels.contains(&kernel.name);
        let prepared = KERNELS.iter().filter(wanted).map(|kernel| {
            let cases = kernel.cases().into_iter().map(Prepared::new);
            Ok((kernel, cases.collect::<Result<_>>()?))
        });
        Ok(Self {
            kernels: prepared.collect::<Result<_>>()?,
        })
    }

    /// Returns the kernels' names.
    pub fn kernels(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.kernels.iter().map(|(kernel, _)| kernel.name)
    }

    /// Runs every kernel on `device`, and tells of each before it does. What goes wrong on the device is a failure of the
    /// kernel that it happens with.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, device: &Device, on_kernel: &mut dyn FnMut(&str)) -> Vec<KernelReport> {
        let reports = device.wait(async { Ok(self.run_async(device, on_kernel).await) });
        reports.expect("what goes wrong is part of the reports")
    }

    /// Does what [`run`](Self::run) does, without waiting, as a browser needs it. On a native target it blocks the thread.
    pub async fn run_async(
        &self,
        device: &Device,
        on_kernel: &mut dyn FnMut(&str),
    ) -> Vec<KernelReport> {
        let mut reports = Vec::new();
        for (kernel, prepared) in &self.kernels {
            on_kernel(kernel.name);
            let mut cases = Vec::new();
            for prepared in prepared {
                prepared.case.compile(device);
            }
            for prepared in prepared {
                let each = &mut |strategy, found| {
                    cases.push(prepared.check(device, strategy, found));
                };
                prepared.case.run_async(device, each).await;
            }
            reports.push(KernelReport {
                kernel: kernel.name.to_owned(),
                cases,
            });
        }
        reports
    }
}

impl Prepared {
    fn new(case: Case) -> Result<Self> {
        let expected = case.cpu()?;
        let allowed = if case.is_bit_for_bit() {
            Answer::Exact(expected.clone())
        } else {
            match (case.answer(), &expected) {
                (Answer::Close(answer), Values::Floats(expected)) => {
                    let pairs = expected.iter().zip(answer);
                    let pairs = pairs.map(|(&value, (_, bound))| (value.into(), 2.0 * bound));
                    Answer::Close(pairs.collect())
                }
                (answer, _) => answer,
            }
        };
        Ok(Self {
            case,
            expected,
            allowed,
        })
    }

    fn check(
        &self,
        device: &Device,
        strategy: Option<Strategy>,
        found: Result<Values>,
    ) -> CaseReport {
        let mut report = CaseReport {
            name: self.case.name().to_owned(),
            strategy: strategy.map(|strategy| strategy.to_string()),
            kind: match self.allowed {
                Answer::Exact(_) => Kind::Exact,
                Answer::Close(_) => Kind::Close,
                Answer::Codes(_) => Kind::Codes,
            },
            values: 0,
            sha256: None,
            share_of_bound: None,
            codes: None,
            failure: None,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                report.failure = Some(Failure::of(error));
                return report;
            }
        };
        report.values = found.len();
        report.sha256 = Some(sha256_of(&found));
        if found.len() != self.expected.len() {
            let [found, expected] = [found.len(), self.expected.len()];
            report.failure = Some(Failure::of(format!("{found} values instead of {expected}")));
            return report;
        }
        // On the CPU itself nothing may differ from one run to the next.
        let again = Answer::Exact(self.expected.clone());
        let difference = if matches!(device, Device::Cpu(_)) {
            again.difference(&found)
        } else {
            report.share_of_bound = self.allowed.share_of_bound(&found);
            report.codes = match (&self.allowed, &found, &self.expected) {
                (Answer::Codes(range), Values::Words(found), Values::Words(expected)) => {
                    Some(steps(range, found, expected))
                }
                _ => None,
            };
            self.allowed.difference(&found)
        };
        report.failure = difference.map(|difference| Failure {
            index: Some(difference.index),
            found: difference.found,
            expected: Some(difference.expected),
            wrong: difference.wrong,
        });
        report
    }
}

/// Counts how the `found` codes differ from the CPU version's.
fn steps(range: &CodeRange, found: &[u32], expected: &[u32]) -> Codes {
    let mut codes = Codes::default();
    for (found, expected) in found.iter().zip(expected) {
        for (found, expected) in found.to_le_bytes().into_iter().zip(expected.to_le_bytes()) {
            codes.count(step(range.format, range.ratio, found, expected));
        }
    }
    codes
}

/// Computes SHA-256 over the bits of all values, little-endian; a negative zero counts as zero.
fn sha256_of(values: &Values) -> String {
    match values {
        Values::Floats(values) => sha256(values.iter().map(|value| (value + 0.0).to_bits())),
        Values::Words(words) => sha256(words.iter().copied()),
    }
}

/// Computes SHA-256 over words, little-endian.
pub(super) fn sha256(words: impl Iterator<Item = u32>) -> String {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word.to_le_bytes());
    }
    format!("{:x}", hash.finalize())
}
