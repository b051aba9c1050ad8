//! What a quantizer has to know of a group of values, and what its lanes stand for.
//!
//! Kernels read a record of u32 words for each group: the inverses of `scale_1` and `scale_2`, of which a format without
//! ranges uses the first; or of a table what is taken off a value, the cells in a unit, the first and the last cell, and
//! then the lanes of the cells, four to a word, the first lowest. Floats are there by their bits: a lane in a float's
//! place could be a NaN, which devices needn't keep.

use super::table::{self, TableEncoder};
use super::{Format, ProductRule, Scale, Table, by_format};

/// Counts the words of a record without a table.
pub(super) const INVERSES: usize = 2;
/// Counts the words before the cells of a table.
pub(super) const HEAD: usize = 4;

/// Holds the encoder of one group, as a quantizer reads it.
#[derive(Clone, Copy)]
pub(crate) struct Encoder<'a> {
    head: [f32; HEAD],
    /// The lanes of the cells, four to a word.
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

    /// Finds the lane of the nearest level to a value, in a table.
    #[inline(always)]
    pub(super) fn lane(self, x: f32) -> u8 {
        let [offset, inverse, first, last] = self.head;
        let cell = table::cell(x, offset, inverse, first, last);
        (self.cells[cell / 4] >> (8 * (cell % 4))) as u8
    }

    /// Says whether a value lies beyond the outermost levels of a table by more than half a scale.
    pub(super) fn clips(self, x: f32) -> bool {
        let [offset, inverse, first, last] = self.head;
        let cell = (x - offset) * inverse;
        // A cell is half a scale, and begins where the offset puts the middle of the one before.
        cell < first - 1.5 || cell > last + 0.5
    }
}

impl TableEncoder {
    /// Writes the record of a group, of `words` words.
    fn record(&self, words: usize) -> Vec<u32> {
        let head = [self.offset, self.inverse, self.first, self.last].map(f32::to_bits);
        let cells = self.cells.chunks(4).map(|lanes| {
            let lanes = lanes.iter().enumerate();
            lanes.fold(0, |word, (at, &lane)| word | u32::from(lane) << (8 * at))
        });
        let mut record: Vec<u32> = head.into_iter().chain(cells).collect();
        record.resize(words, 0);
        record
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
                table.encoder(lanes, scale).record(self.encoder_words())
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
    use crate::format::{Lanes, by_format};

    #[test]
    fn a_record_finds_the_lanes_that_its_table_does() {
        let (offset, scale) = (0.3, 0.01);
        for (format, lanes, shift) in [
            (Format::Table, vec![0x80, 0xf7, 0, 3, 0x7f], 0),
            (Format::Table, vec![0xfe], 0),
            (Format::TwinTable, vec![0, 5, 0x7f, 0x90, 0xff], 4),
            (Format::TwinTable, vec![0x80, 0x81, 3], 1),
        ] {
            let (table, scale) = (Table { offset, lanes }, Scale { scale, shift });
            let lanes_are = format.lanes().unwrap();
            assert_eq!(table.check(lanes_are, shift, 3), Ok(()));
            let encoder = table.encoder(lanes_are, scale);
            let record = format.encoders(&[scale], std::slice::from_ref(&table));
            assert_eq!(record.len(), format.encoder_words());
            let read = Encoder::of(&record);
            let decoder = format.decoders(&[scale], std::slice::from_ref(&table))[0];
            for step in -9000..9000 {
                let x = step as f32 * 0.0037;
                let lane = by_format!(format, F => F::encode(x, read, 4.0));
                assert_eq!(lane, encoder.lane(x), "{format:?} {x}");
                let level = lanes_are.integer(lane, shift) as f32 * scale.scale + offset;
                assert!((decoder.value(format.is_twin(), lane) - level).abs() < 1e-5);
            }
            assert_eq!(read.lane(f32::NAN), table.lanes[0]);
        }
        assert_eq!(Lanes::Signed.cells(), 511);
        assert_eq!(Lanes::Ranges.cells(), 4065);
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
            let place = Format::Table.place(x, &record, 2.0);
            assert_eq!((place.clipped, place.in_r2), (clipped, false), "{x}");
        }
    }
}
