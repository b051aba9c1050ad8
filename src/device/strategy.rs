//! How a kernel that can divide its work in several ways does it on one device, or whether several kernels do.
//!
//! Every way gives the same results; they differ in speed, and which one is fastest depends on the device.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Names a way of dividing the work of a product, or of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Strategy {
    /// Each invocation computes a tile in its registers from global memory.
    Registers,
    /// A workgroup brings what its invocations share to workgroup memory.
    Tiled(Tile),
    /// Subgroups multiply small matrices of f16 as a whole: codes only, on devices with such units.
    Cooperative,
    /// The same with matrices of int8.
    CooperativeInt8,
    /// Of attention: a kernel for each product and for the softmax between them.
    Separate,
    /// Of attention: one kernel, which keeps the scores of some queries at a time in workgroup memory.
    Fused {
        /// How many queries, a power of two from 4 to 32; fewer where their scores don't fit.
        queries: u32,
    },
}

impl Strategy {
    /// Says whether this is a way to compute attention, rather than one product.
    pub fn is_of_attention(self) -> bool {
        matches!(self, Self::Separate | Self::Fused { .. })
    }
}

impl Strategy {
    /// Says whether what offers it is experimental, so that it is to be tried each time before it is used.
    pub fn is_experimental(self) -> bool {
        match self {
            Self::Registers | Self::Tiled(_) | Self::Separate | Self::Fused { .. } => false,
            Self::Cooperative | Self::CooperativeInt8 => true,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Registers => write!(f, "registers"),
            Self::Cooperative => write!(f, "cooperative matrices of f16"),
            Self::CooperativeInt8 => write!(f, "cooperative matrices of int8"),
            Self::Separate => write!(f, "separate kernels"),
            Self::Fused { queries } => write!(f, "fused by {queries}"),
            Self::Tiled(tile) => write!(f, "tiled {tile}"),
        }
    }
}

/// Sets the invocations of a workgroup, what each of them computes, and how operands pass through workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Invocations down the rows and across the columns.
    pub lanes: [u32; 2],
    /// Vectors of four rows of each invocation, one or two.
    #[serde(default = "two")]
    pub row_vectors: u32,
    /// Vectors of four columns of each invocation, one or two.
    #[serde(default = "one")]
    pub column_vectors: u32,
    /// Words of codes, or floats, of each row and column that are staged at once.
    pub step: u32,
    /// Stages in workgroup memory, one or two: with two, a step is written while others still multiply the one before.
    #[serde(default = "one")]
    pub stages: u32,
    /// Invocations that share each sum, a slice of every step's words to each: 1, 2, 4 or 8. Sums of floats have one, which
    /// adds them up in order.
    #[serde(default = "one")]
    pub slices: u32,
}

/// Returns the column vectors, stages and slices of tiles that were kept before there was a choice.
fn one() -> u32 {
    1
}

/// Returns the row vectors of these.
fn two() -> u32 {
    2
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [down, across] = self.lanes;
        let [rows, columns] = [self.row_vectors, self.column_vectors].map(|vectors| 4 * vectors);
        write!(f, "{down}x{across} of {rows}x{columns}, step {}", self.step)?;
        if self.stages > 1 {
            write!(f, ", {} stages", self.stages)?;
        }
        if self.slices > 1 {
            write!(f, ", {} slices", self.slices)?;
        }
        Ok(())
    }
}

/// Describes an adapter's cooperative matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeUnits {
    /// Rows of a left matrix and columns of a right one, 8 or 16.
    pub side: u32,
    /// Columns of a left matrix and rows of a right one.
    pub depth: u32,
    /// Invocations of the smallest subgroup, which has one matrix in common.
    pub subgroup: u32,
    /// Workgroup memory that kernels may use, in bytes.
    pub workgroup_bytes: u32,
}

/// Limits a workgroup's invocations, as WebGPU does by default.
const MOST_INVOCATIONS: u64 = 256;
const MOST_BYTES: u64 = 16 << 10;

impl Tile {
    /// Computes 64 rows by 64 columns in steps of 32 codes: what the integer kernels of ggml (Vulkan) and ONNX Runtime
    /// (WebGPU) settled on.
    pub const DEFAULT: Self = Self {
        lanes: [8, 16],
        row_vectors: 2,
        column_vectors: 1,
        step: 8,
        stages: 1,
        slices: 1,
    };

    /// Says whether every device can have it.
    pub fn is_valid(&self) -> bool {
        [1, 2].contains(&self.row_vectors)
            && [1, 2].contains(&self.column_vectors)
            && [1, 2].contains(&self.stages)
            && [1, 2, 4, 8].contains(&self.slices)
            && self.step > 0
            && (1..=MOST_INVOCATIONS).contains(&self.invocations())
            && self.bytes() <= MOST_BYTES
    }

    /// Counts the invocations of a workgroup.
    pub fn invocations(&self) -> u64 {
        let [down, across] = self.lanes.map(u64::from);
        down.saturating_mul(across)
            .saturating_mul(u64::from(self.slices))
    }

    /// Returns the rows and columns of a workgroup.
    pub fn sides(&self) -> [u64; 2] {
        let [down, across] = self.lanes.map(u64::from);
        [
            4 * down * u64::from(self.row_vectors),
            4 * across * u64::from(self.column_vectors),
        ]
    }

    /// Counts the bytes of workgroup memory: the steps in it, and a place for each sum where invocations share them.
    pub fn bytes(&self) -> u64 {
        let [rows, columns] = self.sides();
        let steps = u64::from(self.step) * u64::from(self.stages);
        let staged = (4 * (rows + columns)).saturating_mul(steps);
        let exchanged = match self.slices {
            1 => 0,
            _ => rows.saturating_mul(4 * columns),
        };
        staged.saturating_add(exchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_beyond_the_default_limits_are_invalid() {
        let valid = |lanes, step| {
            let tile = Tile {
                lanes,
                step,
                ..Tile::DEFAULT
            };
            tile.is_valid()
        };
        assert!(Tile::DEFAULT.is_valid());
        assert!(valid([16, 16], 16));
        assert!(!valid([16, 17], 8));
        let wider = |column_vectors| Tile {
            column_vectors,
            ..Tile::DEFAULT
        };
        assert!(wider(2).is_valid());
        assert!(!wider(0).is_valid());
        assert!(!wider(3).is_valid());
        assert!(!valid([16, 16], 32));
        let [staged, sliced] = [(2, 1), (1, 2)].map(|(stages, slices)| Tile {
            stages,
            slices,
            ..Tile::DEFAULT
        });
        assert_eq!(Tile::DEFAULT.bytes(), 4096);
        assert_eq!([staged.bytes(), sliced.bytes()], [8192, 4096 + 16_384]);
        assert!(staged.is_valid());
        assert!(!sliced.is_valid());
        let small = Tile {
            lanes: [4, 8],
            ..sliced
        };
        assert_eq!(small.invocations(), 64);
        assert!(small.is_valid());
        assert!(!Tile { slices: 3, ..small }.is_valid());
        assert!(!Tile { stages: 3, ..small }.is_valid());
        for none in [[0, 16], [8, 0]] {
            assert!(!valid(none, 8));
        }
        assert!(!valid([8, 16], 0));
        assert!(!valid([u32::MAX; 2], u32::MAX));
    }
}
