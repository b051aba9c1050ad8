//! Says how a site's product is computed, which is where the float, the f16 and the integer network differ.

use super::activation::{Activation, Output, Then};
use super::site::{Attention, Site};
use super::softmax::{Probabilities, WindowBias};
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;
use crate::file::weights::Weights;
use crate::kernels::{affine, float_product, gelu};
use std::collections::HashMap;

/// Computes the matrix products of a network. One definition of the network serves every way to compute them.
pub trait Products: Send + Sync {
    /// Computes O of `site` for `images` images and hands it on as `then` says. `b` is the right operand, or `None`
    /// where that is the site's weight. A bias, where the site has one, is added.
    fn product(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: Activation,
        b: Option<&Output>,
        then: Then,
    ) -> Output;

    /// Computes attention for `images` images and hands the result on as `then` says. By itself it computes the products
    /// one after the other.
    fn attention(
        &mut self,
        commands: &mut Commands,
        what: &SelfAttention,
        images: usize,
        then: Then,
    ) -> Output {
        what.by_products(self, commands, images, then)
    }
}

/// Describes attention from q, k and v on: two products, with a softmax between them that nothing else reads.
#[derive(Clone, Copy)]
pub struct SelfAttention<'a> {
    /// The site of q kᵀ.
    pub scores: &'a Site,
    /// The site of p v.
    pub context: &'a Site,
    /// What holds q.
    pub q: &'a Output,
    /// What holds k.
    pub k: &'a Output,
    /// What holds v.
    pub v: &'a Output,
    /// The sizes.
    pub attention: Attention,
    /// What is added to the scores within windows.
    pub bias: Option<&'a WindowBias<Buffer<f32>>>,
}

impl SelfAttention<'_> {
    /// Computes it by two `products`, one after the other.
    pub fn by_products<P: Products + ?Sized>(
        &self,
        products: &mut P,
        commands: &mut Commands,
        images: usize,
        then: Then,
    ) -> Output {
        let q = Activation::Output(self.q);
        let scores = products.product(commands, self.scores, images, q, Some(self.k), Then::Keep);
        let p = Probabilities::new(self.attention, self.bias, scores.values());
        let p = Activation::Probabilities(p);
        products.product(commands, self.context, images, p, Some(self.v), then)
    }
}

/// Computes products of floats with floats as results; other kernels compute what comes before and after them.
pub trait FloatingProducts: Send + Sync {
    /// Computes O of `site` for `images` images, with its bias. `a` is the left operand's buffer; `b` the right one's,
    /// or `None` where that is the site's weight.
    fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32>;
}

impl<P: FloatingProducts> Products for P {
    fn product(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: Activation,
        b: Option<&Output>,
        then: Then,
    ) -> Output {
        let a = a.values(commands, images);
        let out = self.multiply(commands, site, images, &a, b.map(Output::values));
        Output::Values(match then {
            Then::Keep | Then::Feed(_) => out,
            Then::Gelu(form, _) => gelu(commands, form, &out),
            Then::Add(addition) => addition.sum(commands, site.product(images).n, out),
        })
    }
}

/// Holds the weight and the bias of a linear site.
#[derive(Clone)]
pub struct LinearWeights {
    /// `[outputs, inputs]`; a convolution's kernel is flattened to `[channels, height, width]`.
    pub weight: Buffer<f32>,
    /// `[outputs]`, where the site has one.
    pub bias: Option<Buffer<f32>>,
    /// The bias once more, as an integer product takes it, `[outputs][2]`.
    pub affine: Option<Buffer<f32>>,
}

impl LinearWeights {
    /// Takes a weight that is on `device`, and uploads its bias.
    pub fn new(weight: Buffer<f32>, device: &Device, bias: Option<&[f32]>) -> Self {
        Self {
            weight,
            bias: bias.map(|bias| device.upload(bias)),
            affine: affine(None, bias).map(|affine| device.upload(&affine)),
        }
    }
}

/// Holds the weights of the FP network and computes its products in f32.
#[derive(Default)]
pub struct FloatProducts {
    linear: HashMap<String, LinearWeights>,
}

impl FloatProducts {
    /// Loads the weights of the linear ones among `sites` onto the device.
    ///
    /// # Errors
    /// A weight that is missing, or that holds a NaN or an infinity.
    pub fn load<'a>(
        device: &Device,
        weights: &Weights,
        sites: impl IntoIterator<Item = &'a Site>,
    ) -> Result<Self> {
        let mut products = Self::default();
        for site in sites {
            if let Some(sizes) = site.weight() {
                let load = |part: &str| weights.float(&format!("{}.{part}", site.name));
                let weight = device.upload(&load("weight")?);
                let bias = sizes.has_bias.then(|| load("bias")).transpose()?;
                let loaded = LinearWeights::new(weight, device, bias.as_deref());
                products.insert(site, loaded);
            }
        }
        Ok(products)
    }

    /// Adds the weight and bias of a linear site.
    pub fn insert(&mut self, site: &Site, linear: LinearWeights) {
        self.linear.insert(site.name.clone(), linear);
    }

    /// Returns the weight and the bias of a linear site.
    ///
    /// # Panics
    /// If `site` was not among those loaded.
    pub fn linear(&self, site: &Site) -> &LinearWeights {
        &self.linear[&site.name]
    }
}

impl FloatingProducts for FloatProducts {
    fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let out = commands.uninitialized(images * site.out_len());
        let (b, bias) = match b {
            Some(b) => (b, None),
            None => {
                let linear = self.linear(site);
                (&linear.weight, linear.bias.as_ref())
            }
        };
        float_product(commands, &site.product(images), a, b, bias, &out);
        out
    }
}
