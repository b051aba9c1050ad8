//! Levels at any places: a code stands for one of at most 2^bits of them.
//!
//! A level is an integer times the scale, plus an offset, and the integer is one that a lane of a product can be: of a
//! [`Table`](super::Format::Table) any of -128 to 127, of a [`TwinTable`](super::Format::TwinTable) a magnitude u of 0
//! to 127 in R1 or, shifted left by m, in R2. So what is multiplied is the level itself, and a table costs what a
//! uniform or a twin format does.

use super::{ROUNDER, Scale};
use serde::{Deserialize, Serialize};

/// Limits the left shift m of a table in two ranges: its cells are as many as 127 · 2^m, twice.
pub const MAX_TABLE_SHIFT: u32 = 4;

/// Lists the levels that an operand's codes stand for, in one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What is added to a level: value = integer · scale + offset. Where it isn't 0, the bias of the product makes up
    /// for it: the product is that of the integers alone.
    pub offset: f32,
    /// The lanes of the levels, by rising integers; at most 2^bits.
    pub lanes: Vec<u8>,
}

/// Says how the lanes of a table are integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// Two's complement.
    Signed,
    /// Magnitudes; those whose top bit is set are shifted left.
    Ranges,
}

impl Lanes {
    /// Returns the integer of a lane, in units of the scale.
    pub fn integer(self, lane: u8, shift: u32) -> i32 {
        match self {
            Self::Signed => i32::from(lane as i8),
            Self::Ranges if lane < 0x80 => i32::from(lane),
            Self::Ranges => i32::from(lane & 0x7f) << shift,
        }
    }

    /// Counts the cells that a table of such lanes can have: two for each step from the least level to the largest, and
    /// one more.
    pub(super) const fn cells(self) -> usize {
        match self {
            Self::Signed => 2 * 255 + 1,
            Self::Ranges => 2 * (127 << MAX_TABLE_SHIFT) + 1,
        }
    }
}

/// Finds the lane of the nearest level to a value: by a grid of cells half a scale wide, each of which has one.
///
/// x is in cell round((x - offset) · 2 / scale), within the cells of the first and the last level. The offset is that of
/// the table and half a cell, so that halfway between two levels one cell ends and another begins.
#[derive(Clone, Debug, PartialEq)]
pub struct TableEncoder {
    /// What is taken off a value.
    pub offset: f32,
    /// Cells in a unit: 2 / scale.
    pub inverse: f32,
    /// The first level's cell.
    pub first: f32,
    /// The last level's cell.
    pub last: f32,
    /// The lane of each cell, from the first on.
    pub cells: Vec<u8>,
}

impl Table {
    /// Checks that the table's lanes are at most 2^bits, at least one, and rise as integers.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn check(&self, lanes: Lanes, shift: u32, bits: u32) -> Result<(), String> {
        let most = 1 << bits;
        let count = self.lanes.len();
        if !(1..=most).contains(&count) {
            return Err(format!("expected 1 to {most} levels, found {count}"));
        }
        let integers = self.integers(lanes, shift);
        if let Some(pair) = integers.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(format!(
                "expected rising levels, found {} after {}",
                pair[1], pair[0]
            ));
        }
        Ok(())
    }

    /// Lists the levels' integers, in units of the scale.
    pub fn integers(&self, lanes: Lanes, shift: u32) -> Vec<i32> {
        self.lanes
            .iter()
            .map(|&lane| lanes.integer(lane, shift))
            .collect()
    }

    /// Makes the encoder of the table under `scale`.
    pub fn encoder(&self, lanes: Lanes, scale: Scale) -> TableEncoder {
        let integers = self.integers(lanes, scale.shift);
        let [first, last] = [0, integers.len() - 1].map(|level| 2 * integers[level]);
        let mut level = 0;
        let cells = (first..=last).map(|cell| {
            while level + 1 < integers.len() && cell >= integers[level] + integers[level + 1] {
                level += 1;
            }
            self.lanes[level]
        });
        TableEncoder {
            offset: self.offset + scale.scale / 4.0,
            inverse: 2.0 / scale.scale,
            cells: cells.collect(),
            first: first as f32,
            last: last as f32,
        }
    }
}

impl TableEncoder {
    /// Returns the lane of the level that stands for a value.
    #[inline(always)]
    pub fn lane(&self, x: f32) -> u8 {
        self.cells[cell(x, self.offset, self.inverse, self.first, self.last)]
    }
}

/// Finds the cell of a value, counted from the first one. Clamping to integers before rounding gives what clamping after
/// it gives; what isn't a number is in the first cell.
#[inline(always)]
pub(super) fn cell(x: f32, offset: f32, inverse: f32, first: f32, last: f32) -> usize {
    // A clamp would keep a NaN.
    let place = ((x - offset) * inverse).max(first).min(last);
    ((place + ROUNDER).to_bits() - (first + ROUNDER).to_bits()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_nearest_level() {
        let table = Table {
            offset: -0.5,
            // 0, 3, 127, then 16 · 8 and 16 · 127.
            lanes: vec![0, 3, 127, 0x88, 0xff],
        };
        let scale = Scale {
            scale: 0.25,
            shift: 4,
        };
        assert_eq!(table.check(Lanes::Ranges, 4, 3), Ok(()));
        assert_eq!(table.integers(Lanes::Ranges, 4), [0, 3, 127, 128, 2032]);
        let encoder = table.encoder(Lanes::Ranges, scale);
        assert_eq!(encoder.cells.len(), 4065);
        for (integer, lane) in [
            (-9.0, 0),
            (1.49, 0),
            (1.51, 3),
            (64.99, 3),
            (65.01, 127),
            (127.49, 127),
            (127.51, 0x88),
            (1079.99, 0x88),
            (1080.01, 0xff),
            (1e30, 0xff),
        ] {
            assert_eq!(encoder.lane(integer * 0.25 - 0.5), lane, "{integer}");
        }
    }

    #[test]
    fn a_table_that_is_none_is_refused() {
        let check = |lanes: &[u8], bits| {
            let lanes = lanes.to_vec();
            Table { offset: 0.0, lanes }.check(Lanes::Signed, 0, bits)
        };
        assert_eq!(check(&[0x80, 0, 0x7f], 2), Ok(()));
        assert!(check(&[], 2).unwrap_err().contains("found 0"));
        assert!(check(&[1, 2, 3, 4, 5], 2).unwrap_err().contains("found 5"));
        assert!(
            check(&[0, 0x80], 2)
                .unwrap_err()
                .contains("found -128 after 0")
        );
    }
}
