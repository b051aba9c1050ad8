//! Codes by the definition of their formats, a value at a time.

use super::{Difference, first_of};
use crate::kernels::Format;

pub(in crate::kernels) const FORMATS: [Format; 3] =
    [Format::Uniform, Format::SoftmaxTwin, Format::GeluTwin];

pub(in crate::kernels) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Uniform => "uniform",
        Format::SoftmaxTwin => "softmax twin",
        Format::GeluTwin => "GELU twin",
    }
}

/// The code of a value whose quotients by `scale_1` and `scale_2` are given: low seven bits and the flag of a twin, or
/// two's complement.
pub(in crate::kernels) fn code(format: Format, bits: u32, [by_1, by_2]: [f64; 2]) -> u8 {
    let q = 2f64.powi(bits as i32 - 1);
    let magnitude = |quotient: f64| quotient.clamp(0.0, q - 1.0) as u8;
    let in_r2 = 0x80 | magnitude(round(by_2));
    match format {
        Format::Uniform => round(by_1).clamp(-q, q - 1.0) as i8 as u8,
        Format::SoftmaxTwin if round(by_1) > q - 1.0 => in_r2,
        Format::SoftmaxTwin => magnitude(round(by_1)),
        Format::GeluTwin if by_1 < 0.0 => magnitude(round(-by_1)),
        Format::GeluTwin => in_r2,
    }
}

/// Rounds half to even, from first principles.
fn round(x: f64) -> f64 {
    let (floor, fraction) = (x.floor(), x - x.floor());
    let up = fraction > 0.5 || (fraction == 0.5 && floor.rem_euclid(2.0) == 1.0);
    if up { floor + 1.0 } else { floor }
}

/// `[word][row]`: the codes of a matrix `[rows, k]`, four along k to a word, the first in the lowest byte; rows padded
/// to a multiple of four, and words to their end, with zeros.
pub(in crate::kernels) fn packed(
    [rows, k]: [usize; 2],
    code: impl Fn(usize, usize) -> u8,
) -> Vec<u32> {
    let mut words = Vec::new();
    for word in 0..k.div_ceil(4) {
        for row in 0..rows.div_ceil(4) * 4 {
            let lane = |lane: usize| match 4 * word + lane {
                at if at < k && row < rows => u32::from(code(row, at)) << (8 * lane),
                _ => 0,
            };
            words.push(lane(0) + lane(1) + lane(2) + lane(3));
        }
    }
    words
}

/// Bounds packed codes of floats that may err.
pub struct CodeRange {
    /// Their format.
    pub(crate) format: Format,
    /// What a code of R2 is worth, in units of R1.
    pub(crate) ratio: f64,
    /// The codes of the least that the floats may be.
    pub(crate) low: Vec<u32>,
    /// The codes of the greatest that the floats may be.
    pub(crate) high: Vec<u32>,
}

impl CodeRange {
    /// Finds the first of the `found` codes that isn't between those of the least and the greatest value, and how many
    /// aren't.
    pub(super) fn difference(&self, found: &[u32]) -> Option<Difference> {
        let lane = |words: &[u32], at: usize| words[at / 4].to_le_bytes()[at % 4];
        let worth = |code| worth(self.format, self.ratio, code);
        let ends = |at| [lane(&self.low, at), lane(&self.high, at)];
        let right = |at| {
            let [low, high] = ends(at).map(worth);
            (low..=high).contains(&worth(lane(found, at)))
        };
        first_of(
            4 * found.len(),
            right,
            |at| format!("code {:#04x}", lane(found, at)),
            |at| match ends(at) {
                [low, high] if low == high => format!("{low:#04x}"),
                [low, high] => format!("{low:#04x} to {high:#04x}"),
            },
        )
    }
}

/// Returns what a code stands for, in units of R1's scale; `ratio` is what R2's is worth in them.
pub(crate) fn worth(format: Format, ratio: f64, code: u8) -> f64 {
    let magnitude = f64::from(code & 0x7f);
    match (format, code >= 0x80) {
        (Format::Uniform, _) => f64::from(code as i8),
        (Format::SoftmaxTwin, false) => magnitude,
        (Format::GeluTwin, false) => -magnitude,
        (Format::SoftmaxTwin | Format::GeluTwin, true) => magnitude * ratio,
    }
}
