//! Codes by the definition of their formats, a value at a time.

use super::{Difference, Random, first_of};
use crate::format::{Decoder, Scale, Table};
use crate::kernels::Format;

/// Lists the formats whose codes follow from scales alone.
pub(in crate::kernels) const FORMATS: [Format; 3] =
    [Format::Uniform, Format::SoftmaxTwin, Format::GeluTwin];

/// Lists the formats of tables.
pub(in crate::kernels) const TABLES: [Format; 2] = [Format::Table, Format::TwinTable];

pub(in crate::kernels) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Uniform => "uniform",
        Format::SoftmaxTwin => "softmax twin",
        Format::GeluTwin => "GELU twin",
        Format::Table => "table",
        Format::TwinTable => "twin table",
    }
}

/// What the values of a group become codes by.
#[derive(Clone)]
pub(in crate::kernels) struct Group {
    pub format: Format,
    pub bits: u32,
    /// `scale_1` and `scale_2`, and what a quantizer multiplies by in their place.
    pub scales: [f32; 2],
    pub inverses: [f32; 2],
    /// In a table's format, where R2's lanes are shifted left by so many bits.
    pub table: Option<(Table, u32)>,
}

impl Group {
    /// Makes a group of a format without a table.
    pub fn of_scales(format: Format, bits: u32, inverses: [f32; 2]) -> Self {
        Self {
            format,
            bits,
            scales: inverses.map(|inverse| 1.0 / inverse),
            inverses,
            table: None,
        }
    }

    /// Makes a group with a table of random levels, the outermost that there can be among them.
    pub fn of_table(
        format: Format,
        bits: u32,
        Scale { scale, shift }: Scale,
        offset: f32,
        random: &mut Random,
    ) -> Self {
        let ends = match format {
            Format::Table => [0x80, 0x7f],
            _ => [0x00, 0xff],
        };
        let mut lanes = random.bytes((1 << bits) - 2);
        lanes.extend(ends);
        lanes.sort_by_key(|&lane| integer(format, shift, lane));
        lanes.dedup_by_key(|lane| integer(format, shift, *lane));
        let scale_2 = scale * 2f32.powi(shift as i32);
        Self {
            format,
            bits,
            scales: [scale, scale_2],
            inverses: [scale, scale_2].map(|scale| 1.0 / scale),
            table: Some((Table { offset, lanes }, shift)),
        }
    }

    /// The record of the encoder.
    pub fn record(&self) -> Vec<u32> {
        match &self.table {
            None => self.inverses.map(f32::to_bits).to_vec(),
            Some((table, shift)) => {
                let [scale, _] = self.scales;
                let scale = Scale {
                    scale,
                    shift: *shift,
                };
                self.format.encoders(&[scale], std::slice::from_ref(table))
            }
        }
    }

    /// What lanes stand for.
    pub fn decoder(&self) -> Decoder {
        let [scale_1, scale_2] = self.scales;
        Decoder {
            unit_1: match self.format {
                Format::GeluTwin => -scale_1,
                _ => scale_1,
            },
            unit_2: scale_2,
            offset: self.offset(),
            most: f32::MAX,
        }
    }

    pub fn offset(&self) -> f32 {
        self.table.as_ref().map_or(0.0, |(table, _)| table.offset)
    }

    /// The code of a value, each step rounded to an f32.
    pub fn code(&self, value: f32) -> u8 {
        self.code_at(|offset, inverse| f64::from((value - offset) * inverse))
    }

    /// The code of a value, without rounding on the way.
    pub fn code_near(&self, value: f64) -> u8 {
        self.code_at(|offset, inverse| (value - f64::from(offset)) * f64::from(inverse))
    }

    /// The code of a value that lies `at(offset, inverse)` once the offset is off and it is multiplied by the inverse.
    fn code_at(&self, at: impl Fn(f32, f32) -> f64) -> u8 {
        let Some((table, shift)) = &self.table else {
            return code(self.format, self.bits, self.inverses.map(|it| at(0.0, it)));
        };
        // In half scales above the least integer, of which the middle of two levels is a whole number, so that the middle
        // of such a cell has one that is nearest.
        let least = match self.format {
            Format::Table => -128.0,
            _ => 0.0,
        };
        let place = at(table.offset + least * self.scales[0], 2.0 / self.scales[0]);
        // Far out all levels would seem equally far.
        let place = place.floor().clamp(-1e6, 1e6) + 0.5 + 2.0 * f64::from(least);
        let distance =
            |lane: u8| (place - 2.0 * f64::from(integer(self.format, *shift, lane))).abs();
        let nearer = |best: u8, lane: &u8| match distance(*lane) < distance(best) {
            true => *lane,
            false => best,
        };
        table.lanes.iter().fold(table.lanes[0], nearer)
    }
}

/// The integer of a table's lane.
fn integer(format: Format, shift: u32, lane: u8) -> i32 {
    worth(format, f64::from(1u32 << shift), lane) as i32
}

/// The code of a value whose quotients by `scale_1` and `scale_2` are given: low seven bits and the flag of a twin, or
/// two's complement.
fn code(format: Format, bits: u32, [by_1, by_2]: [f64; 2]) -> u8 {
    let q = 2f64.powi(bits as i32 - 1);
    let magnitude = |quotient: f64| quotient.clamp(0.0, q - 1.0) as u8;
    let in_r2 = 0x80 | magnitude(round(by_2));
    match format {
        Format::Uniform => round(by_1).clamp(-q, q - 1.0) as i8 as u8,
        Format::SoftmaxTwin if round(by_1) > q - 1.0 => in_r2,
        Format::SoftmaxTwin => magnitude(round(by_1)),
        Format::GeluTwin if by_1 < 0.0 => magnitude(round(-by_1)),
        Format::GeluTwin => in_r2,
        Format::Table | Format::TwinTable => unreachable!("a table's codes are looked up"),
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
        (Format::Uniform | Format::Table, _) => f64::from(code as i8),
        (Format::SoftmaxTwin | Format::TwinTable, false) => magnitude,
        (Format::GeluTwin, false) => -magnitude,
        (Format::SoftmaxTwin | Format::GeluTwin | Format::TwinTable, true) => magnitude * ratio,
    }
}
