//! Every kernel against its CPU version: inputs of ragged and extreme sizes, and how results are compared.
//!
//! Bounds are those of `tests/kernels`, where each has its reason, for both sides: there the other side is exact, here it
//! is an f32 too. What is a copy, one rounding or an integer is compared bit for bit.

mod codes;
mod elements;
mod integers;
mod peaks;
mod products;
mod rows;
mod scores;

use super::report::{CaseReport, Codes, Failure, KernelReport, Kind};
use super::shaders::kernel_names;
use crate::device::{Buffer, Device, Strategy, Tile};
use crate::error::Result;
use crate::kernels::Format;
use half::f16;
use sha2::{Digest, Sha256};

/// The distance of 1 to the next f32: an operation that rounds correctly errs by at most half of it.
const EPSILON: f64 = f32::EPSILON as f64;
/// Below this, a device may take an f32 for zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;
/// Sizes that fill no tile, no vector and no workgroup evenly; 1 among them.
const RAGGED: [usize; 5] = [1, 3, 7, 65, 197];

/// The kernel of one of the integer product's strategies.
const COOPERATIVE: &str = "integer_product_cooperative";

/// An order of `tokens` tokens; `padded` after each third.
fn token_order(tokens: usize, padded: bool) -> Vec<u32> {
    // 5 has no factor in common with the sizes that are used, so this visits every token.
    let tokens_in_order = (0..tokens).map(|at| (at * 5 + 2) % tokens);
    let with_padding = tokens_in_order.enumerate().flat_map(|(at, token)| {
        let padding = (padded && at % 3 == 0).then_some(tokens);
        [token].into_iter().chain(padding)
    });
    with_padding.map(|token| token as u32).collect()
}

/// What a kernel left.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    Floats(Vec<f32>),
    Words(Vec<u32>),
}

/// A buffer that can be compared.
trait Readable {
    fn values(self, device: &Device) -> Result<Values>;
}

impl Readable for Buffer<f32> {
    fn values(self, device: &Device) -> Result<Values> {
        Ok(Values::Floats(device.read(&self)?))
    }
}

impl Readable for Buffer<f16> {
    fn values(self, device: &Device) -> Result<Values> {
        let halves = device.read(&self)?;
        Ok(Values::Floats(
            halves.into_iter().map(f16::to_f32).collect(),
        ))
    }
}

impl Readable for Buffer<u32> {
    fn values(self, device: &Device) -> Result<Values> {
        Ok(Values::Words(device.read(&self)?))
    }
}

/// Words of which only some count.
struct Counted(Buffer<u32>, Vec<bool>);

impl Readable for Counted {
    /// Zero where they don't.
    fn values(self, device: &Device) -> Result<Values> {
        let words = device.read(&self.0)?.into_iter().zip(self.1);
        let kept = words.map(|(word, counts)| if counts { word } else { 0 });
        Ok(Values::Words(kept.collect()))
    }
}

/// Runs a kernel.
type Run = Box<dyn Fn(&Device) -> Result<Values> + Send + Sync>;
/// Finds a bound for each value that the CPU computed.
type FindBounds = Box<dyn Fn(&[f32]) -> Vec<f64> + Send + Sync>;
/// Finds the codes that may be.
type FindCodes = Box<dyn Fn() -> Result<CodeRange> + Send + Sync>;

/// How far a device may be from the CPU version.
enum Tolerance {
    /// Not at all. Zeros of either sign are the same.
    None,
    /// So far, given what the CPU computed.
    Bounds(FindBounds),
    /// Packed codes of floats that may be so far: from the codes of the least to those of the greatest.
    Codes(FindCodes),
}

/// Between which codes a device's may lie.
struct CodeRange {
    format: Format,
    /// What a code of R2 is worth, in units of R1.
    ratio: f64,
    low: Vec<u32>,
    high: Vec<u32>,
}

/// A kernel, its inputs, and what is expected of the result.
struct Case {
    /// The name of the shader's file.
    kernel: &'static str,
    name: String,
    tolerance: Tolerance,
    /// The products whose division of work matters here.
    strategies: Option<&'static str>,
    needs_f16: bool,
    run: Run,
}

impl Case {
    fn new<R: Readable>(
        kernel: &'static str,
        name: impl Into<String>,
        tolerance: Tolerance,
        run: impl Fn(&Device) -> R + Send + Sync + 'static,
    ) -> Self {
        Self {
            kernel,
            name: name.into(),
            tolerance,
            strategies: None,
            needs_f16: false,
            run: Box::new(move |device| run(device).values(device)),
        }
    }

    /// Every bit counts.
    fn exact<R: Readable>(
        kernel: &'static str,
        name: impl Into<String>,
        run: impl Fn(&Device) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::new(kernel, name, Tolerance::None, run)
    }

    /// Floats with a bound each.
    fn close<R: Readable>(
        kernel: &'static str,
        name: impl Into<String>,
        bounds: impl Fn(&[f32]) -> Vec<f64> + Send + Sync + 'static,
        run: impl Fn(&Device) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::new(kernel, name, Tolerance::Bounds(Box::new(bounds)), run)
    }

    /// Whether it is a case of `kernel`. Cooperative matrices compute what the integer product does.
    fn is_of(&self, kernel: &str) -> bool {
        self.kernel
            == if kernel == COOPERATIVE {
                "integer_product"
            } else {
                kernel
            }
    }

    /// To be run under every strategy that a device offers for products of this name.
    fn by_strategy(self, name: &'static str) -> Self {
        Self {
            strategies: Some(name),
            ..self
        }
    }

    /// Only where there is f16.
    fn in_f16(self) -> Self {
        Self {
            needs_f16: true,
            ..self
        }
    }
}

/// The strategies that products are run with: besides the usual tile one that is small and uneven and one that is wide.
fn strategies() -> [Strategy; 5] {
    let tile = |lanes, step| Strategy::Tiled(Tile { lanes, step });
    [
        Strategy::Registers,
        Strategy::Tiled(Tile::DEFAULT),
        tile([2, 5], 3),
        tile([16, 16], 16),
        Strategy::Cooperative,
    ]
}

/// A case and what the CPU version makes of it.
struct Prepared {
    case: Case,
    expected: Values,
    tolerance: Limits,
}

/// [`Tolerance`], with the CPU's result known.
enum Limits {
    None,
    Bounds(Vec<f64>),
    Codes(CodeRange),
}

/// Kernels' cases, with the results of their CPU versions.
pub struct Suite {
    kernels: Vec<&'static str>,
    cases: Vec<Prepared>,
}

impl Suite {
    /// Runs the CPU versions of the kernels of these names, or of all where none are named.
    ///
    /// # Errors
    /// None that a CPU has.
    pub fn new(kernels: &[&str]) -> Result<Self> {
        let cpu = Device::cpu();
        let wanted = |kernel: &&str| kernels.is_empty() || kernels.contains(kernel);
        let kernels: Vec<&str> = kernel_names().filter(wanted).collect();
        let mut cases = cases();
        cases.retain(|case| kernels.iter().any(|kernel| case.is_of(kernel)));
        let prepared = cases.into_iter().map(|case| {
            let expected = (case.run)(&cpu)?;
            let tolerance = match (&case.tolerance, &expected) {
                (Tolerance::Bounds(bounds), Values::Floats(expected)) => {
                    Limits::Bounds(bounds(expected))
                }
                (Tolerance::Bounds(_), Values::Words(_)) => unreachable!("only floats have bounds"),
                (Tolerance::Codes(range), _) => Limits::Codes(range()?),
                (Tolerance::None, _) => Limits::None,
            };
            Ok(Prepared {
                case,
                expected,
                tolerance,
            })
        });
        Ok(Self {
            cases: prepared.collect::<Result<_>>()?,
            kernels,
        })
    }

    /// The kernels' names.
    pub fn kernels(&self) -> &[&'static str] {
        &self.kernels
    }

    /// Runs every kernel on `device`, and tells of each before it does. What goes wrong on the device is a failure of the
    /// kernel that it happens with.
    pub fn run(&self, device: &Device, on_kernel: &mut dyn FnMut(&str)) -> Vec<KernelReport> {
        let reports = self.kernels.iter().map(|kernel| {
            on_kernel(kernel);
            self.run_kernel(kernel, device)
        });
        reports.collect()
    }

    fn run_kernel(&self, kernel: &str, device: &Device) -> KernelReport {
        let cooperative = kernel == COOPERATIVE;
        let mut cases = Vec::new();
        for prepared in self
            .cases
            .iter()
            .filter(|prepared| prepared.case.is_of(kernel))
        {
            let case = &prepared.case;
            if case.needs_f16 && !device.has_f16() {
                continue;
            }
            let usual = case
                .strategies
                .and_then(|name| Some((name, device.strategy(name)?)));
            let Some((name, usual)) = usual else {
                if !cooperative {
                    cases.push(prepared.check(device, None));
                }
                continue;
            };
            for strategy in strategies() {
                let wanted = cooperative == (strategy == Strategy::Cooperative);
                if wanted && device.offers(strategy) {
                    device.set_strategy(name, strategy);
                    cases.push(prepared.check(device, Some(strategy)));
                }
            }
            device.set_strategy(name, usual);
        }
        KernelReport {
            kernel: kernel.to_owned(),
            cases,
        }
    }
}

impl Prepared {
    fn check(&self, device: &Device, strategy: Option<Strategy>) -> CaseReport {
        let mut report = CaseReport {
            name: self.case.name.clone(),
            strategy: strategy.map(|strategy| strategy.to_string()),
            kind: match self.tolerance {
                Limits::None => Kind::Exact,
                Limits::Bounds(_) => Kind::Close,
                Limits::Codes(_) => Kind::Codes,
            },
            values: 0,
            sha256: None,
            share_of_bound: None,
            codes: None,
            failure: None,
        };
        let found = match (self.case.run)(device) {
            Ok(found) => found,
            Err(error) => {
                report.failure = Some(Failure::of(error));
                return report;
            }
        };
        report.values = found.len();
        report.sha256 = Some(found.sha256());
        // On the CPU itself nothing may differ from one run to the next.
        let repeats = matches!(device, Device::Cpu(_));
        match (&self.tolerance, &found, &self.expected) {
            _ if found.len() != self.expected.len() => {
                let [found, expected] = [found.len(), self.expected.len()];
                report.failure = Some(Failure::of(format!("{found} values instead of {expected}")));
            }
            (Limits::Bounds(bounds), Values::Floats(found), Values::Floats(expected))
                if !repeats =>
            {
                compare_floats(found, expected, bounds, &mut report);
            }
            (Limits::Codes(range), Values::Words(found), Values::Words(expected)) if !repeats => {
                compare_codes(found, expected, range, &mut report);
            }
            _ => report.failure = found.first_difference(&self.expected),
        }
        report
    }
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Words(words) => words.len(),
        }
    }

    /// Over the bits of all values, little-endian; a negative zero counts as zero.
    fn sha256(&self) -> String {
        match self {
            Self::Floats(values) => sha256(values.iter().map(|value| (value + 0.0).to_bits())),
            Self::Words(words) => sha256(words.iter().copied()),
        }
    }

    fn first_difference(&self, expected: &Self) -> Option<Failure> {
        fn first<T: PartialEq + Copy>(
            found: &[T],
            expected: &[T],
            show: impl Fn(T) -> String,
        ) -> Option<Failure> {
            let differ = || (0..found.len()).filter(|&at| found[at] != expected[at]);
            let index = differ().next()?;
            Some(Failure {
                index: Some(index),
                found: show(found[index]),
                expected: Some(show(expected[index])),
                wrong: differ().count(),
            })
        }
        match (self, expected) {
            (Self::Floats(found), Self::Floats(expected)) => {
                first(found, expected, |value| format!("{value:e}"))
            }
            (Self::Words(found), Self::Words(expected)) => {
                first(found, expected, |word| format!("{word:#010x}"))
            }
            _ => unreachable!("a kernel's results are of one kind"),
        }
    }
}

/// SHA-256 over words, little-endian.
pub(super) fn sha256(words: impl Iterator<Item = u32>) -> String {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word.to_le_bytes());
    }
    format!("{:x}", hash.finalize())
}

fn compare_floats(found: &[f32], expected: &[f32], bounds: &[f64], report: &mut CaseReport) {
    let mut worst = 0.0f64;
    for (index, ((&found, &expected), &bound)) in found.iter().zip(expected).zip(bounds).enumerate()
    {
        let error = (f64::from(found) - f64::from(expected)).abs();
        // So written that NaN fails.
        if error <= bound {
            if error > 0.0 {
                worst = worst.max(error / bound);
            }
            continue;
        }
        let failure = report.failure.get_or_insert_with(|| Failure {
            index: Some(index),
            found: format!("{found:e}"),
            expected: Some(format!("{expected:e}, to within {bound:.1e}")),
            wrong: 0,
        });
        failure.wrong += 1;
    }
    report.share_of_bound = Some(worst);
}

fn compare_codes(found: &[u32], expected: &[u32], range: &CodeRange, report: &mut CaseReport) {
    let mut codes = Codes::default();
    for word in 0..found.len() {
        let lanes =
            [found, expected, &range.low, &range.high].map(|words| words[word].to_le_bytes());
        for lane in 0..4 {
            let [found, expected, low, high] = lanes.map(|lanes| lanes[lane]);
            codes.count(step(range.format, range.ratio, found, expected));
            let worth = |code| worth(range.format, range.ratio, code);
            let between = worth(low) <= worth(found) && worth(found) <= worth(high);
            if between {
                continue;
            }
            let failure = report.failure.get_or_insert_with(|| Failure {
                index: Some(4 * word + lane),
                found: format!("code {found:#04x}"),
                expected: Some(match low == high {
                    true => format!("{low:#04x}"),
                    false => format!("{low:#04x} to {high:#04x}"),
                }),
                wrong: 0,
            });
            failure.wrong += 1;
        }
    }
    report.codes = Some(codes);
}

/// What a code stands for, in units of R1's scale; `ratio` is what R2's is worth in them.
pub(super) fn worth(format: Format, ratio: f64, code: u8) -> f64 {
    let magnitude = f64::from(code & 0x7f);
    match (format, code >= 0x80) {
        (Format::Uniform, _) => f64::from(code as i8),
        (Format::SoftmaxTwin, false) => magnitude,
        (Format::GeluTwin, false) => -magnitude,
        (Format::SoftmaxTwin | Format::GeluTwin, true) => magnitude * ratio,
    }
}

/// How far two codes are from each other. Within a range a step is a step. From one range of a twin to the other it is
/// what the codes stand for that counts, in units of the coarser scale: neighbouring values on either side of the border
/// are no more than that apart.
pub(super) fn step(format: Format, ratio: f64, one: u8, other: u8) -> f64 {
    let distance = (worth(format, ratio, one) - worth(format, ratio, other)).abs();
    let in_r2 = |code: u8| format.is_twin() && code >= 0x80;
    match (in_r2(one), in_r2(other)) {
        (false, false) => distance,
        (true, true) => distance / ratio,
        _ => distance / ratio.max(1.0),
    }
}

fn cases() -> Vec<Case> {
    [
        elements::cases(),
        rows::cases(),
        codes::cases(),
        products::cases(),
        integers::cases(),
        scores::cases(),
        peaks::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kernel_has_cases_and_each_has_a_name_of_its_own() {
        let cases = cases();
        for kernel in kernel_names() {
            assert!(cases.iter().any(|case| case.is_of(kernel)), "{kernel}");
        }
        let mut names = HashSet::new();
        for case in &cases {
            assert!(
                kernel_names().any(|kernel| kernel == case.kernel),
                "{}",
                case.kernel
            );
            assert!(
                names.insert((case.kernel, &case.name)),
                "{}: {}",
                case.kernel,
                case.name
            );
        }
    }

    #[test]
    fn a_step_between_a_twins_ranges_is_one_of_the_coarser_scale() {
        use Format::{GeluTwin, SoftmaxTwin, Uniform};
        for (format, one, other, expected) in [
            (Uniform, 0x80, 0x81, 1.0),
            (Uniform, 0xff, 0x01, 2.0),
            (SoftmaxTwin, 0x7e, 0x7f, 1.0),
            (SoftmaxTwin, 0x83, 0x84, 1.0),
            // 127 units of R1, and 16 and 17 of R2, which are 8 each.
            (SoftmaxTwin, 0x7f, 0x90, 1.0 / 8.0),
            (SoftmaxTwin, 0x7f, 0x91, 9.0 / 8.0),
            // Zeros of either range.
            (GeluTwin, 0x00, 0x80, 0.0),
            (GeluTwin, 0x01, 0x80, 1.0 / 8.0),
            (GeluTwin, 0x00, 0x81, 1.0),
        ] {
            assert_eq!(
                step(format, 8.0, one, other),
                expected,
                "{format:?} {one:x} {other:x}"
            );
            assert_eq!(step(format, 8.0, other, one), expected);
        }
    }
}
