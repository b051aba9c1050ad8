//! Levels at any places: a code stands for one of at most 2^bits of them.
//!
//! A level is an integer times the scale, plus an offset, and the integer is one that a lane of a product can be: of a
//! [`Table`](super::Format::Table) any of -128 to 127, of a [`TwinTable`](super::Format::TwinTable) a magnitude u of 0
//! to 127 in R1 or, shifted left by m, in R2. So what is multiplied is the level itself, and a table costs what a
//! uniform or a twin format does.

use super::Scale;
use serde::{Deserialize, Serialize};

/// Counts the bytes that the cells of any table fit into.
pub(super) const TABLE_BYTES: usize = 512;

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

    /// Returns the least integer that a lane can be.
    pub(super) fn least(self) -> i32 {
        match self {
            Self::Signed => -128,
            Self::Ranges => 0,
        }
    }

    /// Counts the cells of a grid, two for each scale: from the least integer to the largest one of R1, or as many of R2.
    pub(super) const fn cells(self) -> usize {
        match self {
            Self::Signed => 2 * 255 + 1,
            Self::Ranges => 2 * 127 + 1,
        }
    }

    /// Counts the grids.
    pub(super) const fn grids(self) -> u32 {
        match self {
            Self::Signed => 1,
            Self::Ranges => 2,
        }
    }

    /// Returns the lane of a cell, by its place among those of both grids, where every lane is a level: all but a range's
    /// first have two cells.
    #[inline(always)]
    pub(super) const fn of_whole(self, cell: u16) -> u8 {
        const SECOND: u16 = Lanes::Ranges.cells() as u16;
        match self {
            Self::Signed => (cell.div_ceil(2) as u8).wrapping_sub(0x80),
            Self::Ranges if cell < SECOND => cell.div_ceil(2) as u8,
            Self::Ranges => 0x80 | cell.wrapping_sub(SECOND).div_ceil(2) as u8,
        }
    }

    /// Lists the lanes of all cells where every lane is a level.
    pub(super) const fn whole(self) -> [u8; TABLE_BYTES] {
        let mut lanes = [0; TABLE_BYTES];
        let mut cell = 0;
        while cell < self.cells() * self.grids() as usize {
            lanes[cell] = self.of_whole(cell as u16);
            cell += 1;
        }
        lanes
    }
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

    /// Writes the record of the table's encoder under `scale`, which [`Encoder`](super::Encoder) reads.
    ///
    /// A grid of cells half a scale wide finds the nearest level: x is in cell floor((x - origin) · 2 / scale), so that
    /// halfway between two levels one cell ends and another begins. With two ranges there are two grids, each for one
    /// scale. The second one counts from where the first level ends that doesn't end in the first grid; all levels from
    /// there on are R2's.
    pub(super) fn record(&self, lanes: Lanes, scale: Scale) -> Vec<u32> {
        let (least, cells) = (lanes.least(), lanes.cells() as i32);
        let integers = self.integers(lanes, scale.shift);
        // The cell of the first grid that begins where a level ends, for each but the last.
        let ends: Vec<i32> = integers
            .windows(2)
            .map(|pair| pair[0] + pair[1] - 2 * least)
            .collect();
        let boundary = ends.iter().find(|&&end| end >= cells);
        let origin = self.offset + least as f32 * scale.scale;
        let head = [
            origin,
            2.0 / scale.scale,
            boundary.map_or(f32::MAX, |&end| end as f32),
            1.0 / (1u32 << scale.shift) as f32,
        ];
        // Of a cell in which a level ends, the values before that are in the first grid.
        let places = (0..lanes.grids()).flat_map(|grid| {
            let shift = grid * scale.shift;
            (0..cells).map(move |cell| ((cell + 1) << shift) - 1)
        });
        let cells =
            places.map(|place| u32::from(self.lanes[ends.partition_point(|&end| end <= place)]));
        head.map(f32::to_bits).into_iter().chain(cells).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
