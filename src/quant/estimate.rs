//! Computes a site in integers from what went through it in floats.

use super::plan::{Codes, Side, SitePlan};
use super::quantized_site::QuantizedSite;
use super::search::Batch;
use crate::device::{Buffer, Commands, Device};
use crate::kernels::affine;

/// Computes a site in integers from the FP network's operands.
pub(super) struct Estimator<'a> {
    plan: &'a SitePlan,
    quantized: &'a QuantizedSite,
    /// The weight's codes, if B is a weight.
    weight: Option<Codes>,
    affine: Option<Buffer<f32>>,
}

impl<'a> Estimator<'a> {
    /// Uploads the weight and bias of the site of `plan`, if it has them.
    pub fn new(device: &Device, plan: &'a SitePlan, quantized: &'a QuantizedSite) -> Self {
        let weight = plan.site.weight().zip(quantized.weight.as_ref());
        let codes = weight
            .map(|(sizes, weight)| Codes::of_weight(device, &weight.codes, sizes.inputs, &plan.b));
        let bias = quantized
            .weight
            .as_ref()
            .and_then(|weight| weight.bias.as_deref());
        Self {
            plan,
            quantized,
            weight: codes,
            affine: affine(None, bias).map(|affine| device.upload(&affine)),
        }
    }

    /// Computes Ô of a batch, laid out as its O.
    pub fn estimate(&self, commands: &mut Commands, batch: &Batch) -> Buffer<f32> {
        let product = self.plan.product(batch.images);
        let scales = &self.quantized.scales;
        let mut codes = |side, source| {
            let (scales, tables) = scales.operand(side);
            product.codes(commands, side, source, &[scales.to_vec()], tables)
        };
        let a = codes(Side::A, &batch.record.a);
        let activation = batch.record.b.as_ref();
        let activation = activation.map(|b| codes(Side::B, b));
        let b = self.weight.as_ref().or(activation.as_ref());
        let b = b.expect("a site has a weight or two activations");
        let scales = std::slice::from_ref(scales);
        product.integer_product(commands, &a, b, scales, self.affine.as_ref())
    }
}
