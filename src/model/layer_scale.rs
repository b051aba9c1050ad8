//! timm's LayerScale: each feature of what a block adds to the residual stream is multiplied by a factor of its own, γ.

use super::network::Parameters;
use crate::device::{Buffer, Commands};
use crate::error::Result;
use crate::kernels::scale_columns;

/// The factors `[dim]` of one of a block's two layer scales.
pub struct LayerScale {
    factors: Vec<f32>,
    on_device: Buffer<f32>,
}

impl LayerScale {
    /// Loads `NAME.gamma`.
    ///
    /// # Errors
    /// Those of `parameters`.
    pub fn load(parameters: &Parameters, name: &str) -> Result<Self> {
        let factors = (parameters.float)(&format!("{name}.gamma"))?;
        Ok(Self {
            on_device: parameters.device.upload(&factors),
            factors,
        })
    }

    /// γ, for products that multiply by it themselves.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// `values` `[…, dim]`, scaled; also the gradient of what was scaled, given that of the result.
    pub fn apply(&self, commands: &mut Commands, values: &Buffer<f32>) -> Buffer<f32> {
        scale_columns(commands, values, &self.on_device)
    }
}
