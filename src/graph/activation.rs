//! The operands of a fused network's products, and what becomes of their results.

use super::layer_scale::LayerScale;
use super::norm::Normed;
use super::order::Order;
use super::site::Site;
use super::softmax::Probabilities;
use crate::device::{Buffer, Commands};
use crate::format::Gelu;
use crate::kernels::add;

/// Describes the left operand of a product. Products in integers make codes of it at once.
#[derive(Clone, Copy)]
pub enum Activation<'a> {
    /// The result of another operation or product.
    Output(&'a Output),
    /// Normalised tokens.
    Norm(Normed<'a>),
    /// The softmax of attention's scores.
    Probabilities(Probabilities<'a>),
}

impl Activation<'_> {
    /// Computes the operand's values for `images` images.
    ///
    /// # Panics
    /// If it is what another product left as codes.
    pub fn values(&self, commands: &mut Commands, images: usize) -> Buffer<f32> {
        match self {
            Self::Output(output) => output.values().clone(),
            Self::Norm(normed) => normed.values(commands, images),
            Self::Probabilities(probabilities) => probabilities.values(commands, images),
        }
    }
}

/// Says what happens to O before anything else sees it.
#[derive(Clone, Copy)]
pub enum Then<'a> {
    /// It is kept as it is.
    Keep,
    /// It is added to the residual stream.
    Add(Addition<'a>),
    /// Its GELU, in this form, is the left operand of this site, and of nothing else.
    Gelu(Gelu, &'a Site),
    /// It is the left operand of this site, and of nothing else.
    Feed(&'a Site),
}

/// Says how O is added to the residual stream.
#[derive(Clone, Copy)]
pub struct Addition<'a> {
    /// The stream, to which O is added.
    pub stream: &'a Buffer<f32>,
    /// The order that O's tokens are in, where it isn't the image's: they are put back.
    pub order: Option<&'a Order>,
    /// The factors that O's columns are multiplied by before.
    pub scale: Option<&'a LayerScale>,
}

impl Addition<'_> {
    /// Computes the stream afterwards, given O, whose tokens have `dim` features.
    pub fn sum(&self, commands: &mut Commands, dim: usize, mut out: Buffer<f32>) -> Buffer<f32> {
        if let Some(scale) = self.scale {
            out = scale.apply(commands, &out);
        }
        if let Some(order) = self.order {
            out = order.undo(commands, dim, &out);
        }
        add(commands, self.stream, &out)
    }
}

/// Holds what a product leaves.
#[derive(Clone)]
pub enum Output {
    /// Its results as floats.
    Values(Buffer<f32>),
    /// Codes of the site that it feeds, packed as the left operand of an integer product.
    Codes(Buffer<u32>),
}

impl Output {
    /// Returns the floats.
    ///
    /// # Panics
    /// If these are codes: a product that feeds a site has no other reader.
    pub fn values(&self) -> &Buffer<f32> {
        match self {
            Self::Values(values) => values,
            Self::Codes(_) => panic!("codes for one site were handed to something else"),
        }
    }

    /// Returns the floats.
    ///
    /// # Panics
    /// As [`values`](Self::values).
    pub fn into_values(self) -> Buffer<f32> {
        self.values().clone()
    }
}
