//! The FP network with its products in f16: half the memory for weights, and what the quantized network is to beat.

use super::products::FloatingProducts;
use super::site::Site;
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;
use crate::file::weights::Weights;
use crate::kernels::{ToHalf, half_product, to_half};
use half::f16;
use std::collections::HashMap;

/// Holds the weight and the bias of a linear site.
struct HalfWeights {
    /// The right operand of a `half_product`.
    weight: Buffer<f16>,
    /// `[outputs]`, where the site has one.
    bias: Option<Buffer<f32>>,
}

/// Computes products of f16 operands, summed in f32. Weights lie on the device in f16, activations are rounded to f16
/// on their way into a product; everything between the products stays in f32.
pub struct HalfProducts {
    linear: HashMap<String, HalfWeights>,
}

impl HalfProducts {
    /// Rounds the weights of the linear ones among `sites` and loads them onto the device.
    ///
    /// # Errors
    /// A weight that is missing, or that holds a NaN or an infinity.
    pub fn load<'a>(
        device: &Device,
        weights: &Weights,
        sites: impl IntoIterator<Item = &'a Site>,
    ) -> Result<Self> {
        let host = Device::cpu();
        let mut on_host = Commands::new(&host);
        let mut linear = HashMap::new();
        for site in sites {
            if let Some(sizes) = site.weight() {
                let load = |part: &str| weights.float(&format!("{}.{part}", site.name));
                // On the host, so that the device never holds the weight in f32.
                let weight = host.upload(&load("weight")?);
                let weight = to_half(&mut on_host, &ToHalf::right(&site.product(1)), &weight);
                let bias = sizes.has_bias.then(|| load("bias")).transpose()?;
                let loaded = HalfWeights {
                    weight: device.upload(&host.read(&weight)?),
                    bias: bias.map(|bias| device.upload(&bias)),
                };
                linear.insert(site.name.clone(), loaded);
            }
        }
        Ok(Self { linear })
    }
}

impl FloatingProducts for HalfProducts {
    fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let product = site.product(images);
        let a = to_half(commands, &ToHalf::left(&product), a);
        let (b, bias) = match b {
            Some(b) => (to_half(commands, &ToHalf::right(&product), b), None),
            None => {
                let HalfWeights { weight, bias } = &self.linear[&site.name];
                (weight.clone(), bias.as_ref())
            }
        };
        let out = commands.uninitialized(images * site.out_len());
        half_product(commands, &product, &a, &b, bias, &out);
        out
    }
}
