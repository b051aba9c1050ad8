//! What a quantizer has to know of a group of values, and what its lanes stand for.
//!
//! Kernels read a record of u32 words for each group. Without a table it is the inverses of `scale_1` and `scale_2`, of
//! which a format without ranges uses the first. Of a table it is where the cells begin, the cells in a unit, the cell
//! from which on the second grid counts, and the cells of that grid in one of the first; then the lanes of all cells, a word for
//! each, so that no shader has to take one apart. Floats are there by their bits: a lane in a float's place could be a NaN,
//! which devices needn't keep.

use super::cells::read_cells;
use super::table::TABLE_BYTES;
use super::{Format, Lanes, ProductRule, ROUNDER, Scale, Table, by_format};

/// Counts the words of a record without a table.
pub(super) const INVERSES: usize = 2;
/// Counts the words before the cells of a table.
pub(super) const HEAD: usize = 4;

/// Counts the values whose cells are found before what stands in them. Of few, a cell would be read while the vector that
/// holds it is still on its way to memory.
const AT_ONCE: usize = 256;

/// Returns the whole part of a float of 0 to 2^16. A conversion has to saturate, which keeps compilers from vectors.
#[inline(always)]
fn whole_part(x: f32) -> u16 {
    // Of the sum's bits, ROUNDER has none among the lowest 16.
    (x.floor() + ROUNDER).to_bits() as u16
}

/// Holds the encoder of one group, as a quantizer reads it.
#[derive(Clone, Copy)]
pub(crate) struct Encoder<'a> {
    head: [f32; HEAD],
    /// The lanes of the cells.
    cells: &'a [u32],
}

impl<'a> Encoder<'a> {
    /// Reads the record of a group.
    #[inline(always)]
    pub fn of(record: &'a [u32]) -> Self {
        let bits = |at: usize| f32::from_bits(record[at]);
        match record.len() {
            INVERSES => Self {
                head: [bits(0), bits(1), 0.0, 0.0],
                cells: &[],
            },
            _ => Self {
                head: [bits(0), bits(1), bits(2), bits(3)],
                cells: &record[HEAD..],
            },
        }
    }

    /// Returns the inverses of `scale_1` and `scale_2`.
    #[inline(always)]
    pub(super) fn inverses(self) -> [f32; 2] {
        [self.head[0], self.head[1]]
    }

    /// Finds the lane of the nearest level to a value, in a table. What isn't a number has the first level's.
    #[inline(always)]
    pub(super) fn lane(self, x: f32, lanes: Lanes) -> u8 {
        self.cells[usize::from(self.cell(x, lanes))] as u8
    }

    /// Finds the lanes of the nearest levels to values, as [`lane`](Self::lane) does of one: first the cells of many, in
    /// vectors, then what stands in these. Each of `rows` is where lanes go and the values that they are of; lanes beyond
    /// the values keep what they hold.
    #[inline(always)]
    pub fn look_up<'b>(self, rows: impl Iterator<Item = (&'b mut [u8], &'b [f32])>, lanes: Lanes) {
        let mut table = [0; TABLE_BYTES];
        for (lane, &word) in table.iter_mut().zip(self.cells) {
            *lane = word as u8;
        }
        let is_whole = self.is_whole(&table, lanes);
        let mut cells = [0; AT_ONCE];
        for (found, x) in rows {
            for (found, x) in found.chunks_mut(AT_ONCE).zip(x.chunks(AT_ONCE)) {
                let (found, cells) = (&mut found[..x.len()], &mut cells[..x.len()]);
                for (cell, &x) in cells.iter_mut().zip(x) {
                    *cell = self.cell(x, lanes);
                }
                if is_whole {
                    let cells = found.iter_mut().zip(cells);
                    cells.for_each(|(found, cell)| *found = lanes.of_whole(*cell));
                } else {
                    read_cells(&table, cells, found);
                }
            }
        }
    }

    /// Says whether every lane is a level, as at 8 bits, so that a cell's lane follows from its number.
    #[inline(always)]
    fn is_whole(self, table: &[u8; TABLE_BYTES], lanes: Lanes) -> bool {
        const WHOLE: [[u8; TABLE_BYTES]; 2] = [Lanes::Signed.whole(), Lanes::Ranges.whole()];
        let [_, _, boundary, ratio] = self.head;
        let (first, all) = (lanes.cells(), lanes.cells() * lanes.grids() as usize);
        // No value is in a cell of the second grid before the boundary's.
        let unused = (boundary * ratio).min(first as f32) as usize;
        let second = (first + unused).min(all);
        let whole = &WHOLE[lanes as usize];
        table[..first] == whole[..first] && table[second..all] == whole[second..all]
    }

    /// Finds the cell of a value, by its place among those of both grids.
    #[inline(always)]
    fn cell(self, x: f32, lanes: Lanes) -> u16 {
        let [origin, inverse, boundary, ratio] = self.head;
        // A clamp would keep a NaN.
        let fine = ((x - origin) * inverse).max(0.0);
        let last = (lanes.cells() - 1) as f32;
        if lanes.grids() == 1 || fine < boundary {
            whole_part(fine.min(last))
        } else {
            lanes.cells() as u16 + whole_part((fine * ratio).min(last))
        }
    }

    /// Returns what says whether a value lies beyond the outermost levels of a table by more than half a scale, that of
    /// their range.
    pub(super) fn clips(self, lanes: Lanes) -> impl Fn(f32) -> bool {
        let [origin, inverse, _, ratio] = self.head;
        let unit_2 = 1.0 / ratio;
        // In cells of the first grid: where the level lies, and half of its scale.
        let [first, last] = [f32::NEG_INFINITY, f32::INFINITY].map(|end| {
            let lane = self.lane(end, lanes);
            let integer = lanes.integer(lane, (unit_2 as u32).trailing_zeros());
            let half = match lanes {
                Lanes::Ranges if lane >= 0x80 => unit_2,
                _ => 1.0,
            };
            ((2 * (integer - lanes.least())) as f32, half)
        });
        move |x| {
            let place = (x - origin) * inverse;
            place < first.0 - first.1 || place > last.0 + last.1
        }
    }
}

/// Says what the lanes of a group stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoder {
    /// What a lane of R1, or of a format without ranges, is multiplied by: `scale_1`, or its negative where R1 holds
    /// negatives.
    pub unit_1: f32,
    /// What a lane of R2 is multiplied by.
    pub unit_2: f32,
    /// What is added.
    pub offset: f32,
    /// No less than any product. Taking the minimum before the offset is added keeps devices from fusing the two, which
    /// would round only once.
    pub most: f32,
}

impl Format {
    /// Counts the words of an encoder's record.
    pub fn encoder_words(self) -> usize {
        by_format!(self, F => F::ENCODER_WORDS)
    }

    /// Writes a record for each of `scales`. A table's format takes the table of the same number, or the only one.
    pub fn encoders(self, scales: &[Scale], tables: &[Table]) -> Vec<u32> {
        let record = |(group, &scale): (usize, &Scale)| match self.lanes() {
            None => scale.inverses().map(f32::to_bits).to_vec(),
            Some(lanes) => {
                let table = &tables[group % tables.len()];
                table.record(lanes, scale)
            }
        };
        scales.iter().enumerate().flat_map(record).collect()
    }

    /// Says what lanes stand for in each group, whose tables are as in [`encoders`](Self::encoders).
    pub fn decoders(self, scales: &[Scale], tables: &[Table]) -> Vec<Decoder> {
        let sign = match self.rule() {
            ProductRule::Signed => 1,
            ProductRule::Ranges { r1_sign } => r1_sign,
        };
        let decoder = |(group, &scale): (usize, &Scale)| Decoder {
            unit_1: sign as f32 * scale.scale,
            unit_2: scale.scale_2(),
            offset: match self.lanes() {
                None => 0.0,
                Some(_) => tables[group % tables.len()].offset,
            },
            most: f32::MAX,
        };
        scales.iter().enumerate().map(decoder).collect()
    }
}

impl Decoder {
    /// Returns what a lane stands for, in a format with a range flag or without.
    pub(crate) fn value(self, is_twin: bool, lane: u8) -> f32 {
        let product = match (is_twin, lane < 0x80) {
            (false, _) => f32::from(lane as i8) * self.unit_1,
            (true, true) => f32::from(lane) * self.unit_1,
            (true, false) => f32::from(lane & 0x7f) * self.unit_2,
        };
        product.min(self.most) + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{CodeFormat, SignedTable, TwinTable};

    /// The lane of the level that lies nearest to `x`, the upper one of two.
    fn nearest(table: &Table, lanes: Lanes, scale: Scale, x: f32) -> u8 {
        let distance = |lane: u8| {
            let integer = f64::from(lanes.integer(lane, scale.shift));
            (integer * f64::from(scale.scale) + f64::from(table.offset) - f64::from(x)).abs()
        };
        let nearer = |best: u8, lane: &u8| match distance(*lane) <= distance(best) {
            true => *lane,
            false => best,
        };
        table.lanes.iter().fold(table.lanes[0], nearer)
    }

    #[test]
    fn values_have_the_nearest_levels() {
        // In binary fractions, so that nothing is rounded on the way.
        let (offset, scale) = (-0.5, 0.25);
        // All lanes that can be levels, of two ranges those with a shift of 4.
        let signed: Vec<u8> = (0x80..=0xff).chain(0..=0x7f).collect();
        let ranges: Vec<u8> = (0..=0x7f).chain(0x88..=0xff).collect();
        for (format, lanes, shift, boundary) in [
            (Format::Table, vec![0x80, 0xf7, 0, 3, 0x7f], 0, f32::MAX),
            (Format::Table, vec![0xfe], 0, f32::MAX),
            (Format::TwinTable, vec![0, 3, 127, 0x88, 0xff], 4, 255.0),
            (Format::TwinTable, vec![0, 5, 0x7f, 0x90, 0xff], 11, 32895.0),
            (Format::TwinTable, vec![0, 0x81, 0x82, 0xff], 11, 2048.0),
            (Format::TwinTable, vec![2, 0x83, 17, 0x85, 0xf0], 2, 468.0),
            (Format::TwinTable, vec![0x80, 0x81, 3], 1, f32::MAX),
            (Format::TwinTable, vec![0xff], 11, f32::MAX),
            (Format::Table, signed.clone(), 0, f32::MAX),
            (Format::Table, signed[1..].to_vec(), 0, f32::MAX),
            (Format::TwinTable, ranges.clone(), 4, 255.0),
            (
                Format::TwinTable,
                [&ranges[..200], &ranges[201..]].concat(),
                4,
                255.0,
            ),
            (Format::TwinTable, ranges[1..128].to_vec(), 4, f32::MAX),
        ] {
            let (table, scale) = (Table { offset, lanes }, Scale { scale, shift });
            let lanes = format.lanes().unwrap();
            assert_eq!(table.check(lanes, shift, 8), Ok(()));
            let record = format.encoders(&[scale], std::slice::from_ref(&table));
            assert_eq!(record.len(), format.encoder_words());
            assert_eq!(f32::from_bits(record[2]), boundary, "{table:?}");
            let encoder = Encoder::of(&record);
            let decoder = format.decoders(&[scale], std::slice::from_ref(&table))[0];
            let integers = table.integers(lanes, shift);
            let middles = integers
                .windows(2)
                .map(|pair| (pair[0] + pair[1]) as f32 / 2.0);
            let around = middles.flat_map(|middle| [middle - 0.01, middle, middle + 0.01]);
            let spread = (-3000..3000).map(|step| step as f32 * 0.11);
            let places: Vec<f32> = around.chain(spread).chain([-1e8, 1e8]).collect();
            let values: Vec<f32> = places
                .iter()
                .map(|place| place * scale.scale + offset)
                .collect();
            let mut found = vec![0xa5; values.len() + 3];
            encoder.look_up([(&mut found[..], &values[..])].into_iter(), lanes);
            assert_eq!(found.split_off(values.len()), [0xa5; 3]);
            for ((place, x), found) in places.into_iter().zip(values).zip(found) {
                let lane = by_format!(format, F => F::encode(x, encoder, 4.0));
                assert_eq!(lane, nearest(&table, lanes, scale, x), "{table:?} {place}");
                assert_eq!(found, lane, "{table:?} {place}");
                let level = lanes.integer(lane, shift) as f32 * scale.scale + offset;
                assert_eq!(decoder.value(format.is_twin(), lane), level);
            }
            for x in [f32::NAN, f32::NEG_INFINITY] {
                assert_eq!(encoder.lane(x, lanes), table.lanes[0]);
            }
            assert_eq!(
                Some(&encoder.lane(f32::INFINITY, lanes)),
                table.lanes.last()
            );
        }
    }

    #[test]
    fn a_value_is_clipped_half_a_scale_beyond_the_outermost_levels() {
        let table = Table {
            offset: 1.0,
            lanes: vec![0xfe, 0, 4],
        };
        let record = Format::Table.encoders(&[Scale::uniform(0.5)], &[table]);
        // From -0.25 to 3.25.
        for (x, clipped) in [(-0.26, true), (-0.25, false), (3.25, false), (3.26, true)] {
            let place = SignedTable::places(Encoder::of(&record), 2.0)(x);
            assert_eq!((place.clipped, place.in_r2), (clipped, false), "{x}");
        }
        // R2's scale is 4.
        let table = Table {
            offset: 1.0,
            lanes: vec![3, 0x83],
        };
        let scale = Scale {
            scale: 0.5,
            shift: 3,
        };
        let record = Format::TwinTable.encoders(&[scale], &[table]);
        for (x, clipped) in [(2.24, true), (2.26, false), (14.9, false), (15.1, true)] {
            let place = TwinTable::places(Encoder::of(&record), 2.0)(x);
            assert_eq!((place.clipped, place.in_r2), (clipped, x > 10.0), "{x}");
        }
    }
}
