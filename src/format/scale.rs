//! What a code's unit is worth.

use serde::{Deserialize, Serialize};

/// Limits the left shift m of a twin (paper: Δ1 down to 1/2^(k+10)).
pub const MAX_SHIFT: u32 = 11;

/// Says what a code's unit is worth. A unit of a twin's R2 is worth `scale · 2^shift`; uniform formats have no shift.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Δ of a uniform format, Δ1 of a twin.
    pub scale: f32,
    /// m of a twin, 0 otherwise.
    pub shift: u32,
}

impl Scale {
    /// Makes a uniform format's scale.
    pub fn uniform(scale: f32) -> Self {
        Self { scale, shift: 0 }
    }

    /// Makes a twin's scale from Δ2 and m.
    pub(super) fn twin(scale_2: f64, shift: u32) -> Self {
        Self {
            scale: (scale_2 / f64::from(1u32 << shift)) as f32,
            shift,
        }
    }

    /// Returns Δ2 of a twin.
    pub fn scale_2(self) -> f32 {
        self.scale * (1u32 << self.shift) as f32
    }

    /// Returns 1/Δ1 and 1/Δ2, which the quantizers multiply by.
    pub fn inverses(self) -> [f32; 2] {
        [1.0 / self.scale, 1.0 / self.scale_2()]
    }
}
