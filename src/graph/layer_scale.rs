//! timm's LayerScale: each feature of what a block adds to the residual stream is multiplied by a factor of its own, γ.

use crate::device::{Buffer, Commands, Device};
use crate::kernels::scale_columns;

/// Holds the factors `[dim]` of a layer scale.
pub struct LayerScale {
    factors: Vec<f32>,
    on_device: Buffer<f32>,
}

impl LayerScale {
    /// Brings the factors onto `device`.
    pub(super) fn new(device: &Device, factors: Vec<f32>) -> Self {
        Self {
            on_device: device.upload(&factors),
            factors,
        }
    }

    /// Returns γ, for products that multiply by it themselves.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// Multiplies `values` `[…, dim]` by the factors; this also makes the gradient of the values from that of the
    /// result.
    pub fn apply(&self, commands: &mut Commands, values: &Buffer<f32>) -> Buffer<f32> {
        scale_columns(commands, values, &self.on_device)
    }
}
