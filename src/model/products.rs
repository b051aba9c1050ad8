//! Where float, recording and integer execution of a network differ: how a site's product is computed.

use super::block::Probabilities;
use super::layer_scale::LayerScale;
use super::norm::Normed;
use super::order::Order;
use super::site::Site;
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;
use crate::file::weights::Weights;
use crate::kernels::{add, affine, float_product, gelu};
use std::collections::HashMap;

/// The left operand of a product, as the network describes it. Products in integers make codes of it at once.
#[derive(Clone, Copy)]
pub enum Activation<'a> {
    /// As it is.
    Values(&'a Buffer<f32>),
    /// What another product left.
    Output(&'a Output),
    /// Tokens, normalised.
    Norm(Normed<'a>),
    /// The softmax of attention's scores.
    Probabilities(Probabilities<'a>),
}

impl Activation<'_> {
    /// Its values for `images` images.
    ///
    /// # Panics
    /// If it is what another product left as codes.
    pub fn values(&self, commands: &mut Commands, images: usize) -> Buffer<f32> {
        match self {
            Self::Values(values) => (*values).clone(),
            Self::Output(output) => output.values().clone(),
            Self::Norm(normed) => normed.values(commands, images),
            Self::Probabilities(probabilities) => probabilities.values(commands, images),
        }
    }
}

/// What happens to O before anything else sees it.
#[derive(Clone, Copy)]
pub enum Then<'a> {
    /// Nothing.
    Keep,
    /// It is added to the residual stream.
    Add(Addition<'a>),
    /// GELU, and then it is the left operand of this site.
    Gelu(&'a Site),
    /// It is the left operand of this site, and of nothing else.
    Feed(&'a Site),
}

/// How O is added to the residual stream.
#[derive(Clone, Copy)]
pub struct Addition<'a> {
    /// The stream before.
    pub stream: &'a Buffer<f32>,
    /// The order that O's tokens are in, where it isn't the image's: they are put back.
    pub order: Option<&'a Order>,
    /// What O is multiplied by before.
    pub scale: Option<&'a LayerScale>,
}

impl Addition<'_> {
    /// The stream afterwards, given O, whose tokens have `dim` features.
    pub fn sum(&self, commands: &mut Commands, dim: usize, mut out: Buffer<f32>) -> Buffer<f32> {
        if let Some(scale) = self.scale {
            out = scale.apply(commands, &out);
        }
        if let Some(order) = self.order {
            out = order.undo(commands, dim, &out);
        }
        add(commands, self.stream, &out)
    }

    /// ∂L/∂O, given the gradient of the stream afterwards.
    pub fn gradient(
        &self,
        commands: &mut Commands,
        dim: usize,
        mut grad: Buffer<f32>,
    ) -> Buffer<f32> {
        if let Some(order) = self.order {
            grad = order.apply(commands, dim, &grad);
        }
        if let Some(scale) = self.scale {
            grad = scale.apply(commands, &grad);
        }
        grad
    }
}

/// What a product leaves.
pub enum Output {
    /// Floats.
    Values(Buffer<f32>),
    /// Codes of the site that it feeds, packed as the left operand of an integer product.
    Codes(Buffer<u32>),
}

impl Output {
    /// The floats.
    ///
    /// # Panics
    /// If these are codes: a product that feeds a site has no other reader.
    pub fn values(&self) -> &Buffer<f32> {
        match self {
            Self::Values(values) => values,
            Self::Codes(_) => panic!("codes for one site were handed to something else"),
        }
    }

    /// The floats.
    ///
    /// # Panics
    /// As [`values`](Self::values).
    pub fn into_values(self) -> Buffer<f32> {
        self.values().clone()
    }
}

/// Computes the matrix products of a network. One definition of the network serves every way to compute them.
pub trait Products: Send + Sync {
    /// O of `site` for `images` images, and what `then` says. `b` is the right operand, or `None` where B is the site's
    /// weight. A bias, where the site has one, is added.
    fn product(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: Activation,
        b: Option<&Output>,
        then: Then,
    ) -> Output;
}

/// Products whose operands and results are floats. What comes before and after them, other kernels compute.
pub trait FloatingProducts: Send + Sync {
    /// O of `site` for `images` images, with its bias. `a` is the left operand's buffer; `b` the right one's, or `None`
    /// where B is the site's weight.
    fn multiply(
        &mut self,
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
            Then::Gelu(_) => gelu(commands, &out),
            Then::Add(addition) => addition.sum(commands, site.product(images).n, out),
        })
    }
}

/// The weight and the bias of a linear site.
#[derive(Clone)]
pub struct LinearWeights {
    /// `[outputs, inputs]`; a convolution's kernel is flattened to `[channels, height, width]`.
    pub weight: Buffer<f32>,
    /// `[outputs]`, where the site has one.
    pub bias: Option<Buffer<f32>>,
    /// The same as an integer product takes it, `[outputs][2]`.
    pub affine: Option<Buffer<f32>>,
}

impl LinearWeights {
    /// A weight that is on the device, and its bias, which is uploaded.
    pub fn new(weight: Buffer<f32>, device: &Device, bias: Option<&[f32]>) -> Self {
        Self {
            weight,
            bias: bias.map(|bias| device.upload(bias)),
            affine: affine(None, bias).map(|affine| device.upload(&affine)),
        }
    }
}

/// Products in f32: the FP network.
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

    /// The weight and bias of a linear site.
    ///
    /// # Panics
    /// If `site` was not among those loaded.
    pub fn linear(&self, site: &Site) -> &LinearWeights {
        &self.linear[&site.name]
    }
}

impl FloatingProducts for FloatProducts {
    fn multiply(
        &mut self,
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

/// What went through a site for a few images: A, B (unless it is the weight), O, and ∂L/∂O once the backward pass has
/// been there. Laid out as [`Site::product`] says.
pub struct Record {
    /// The left operand's buffer.
    pub a: Buffer<f32>,
    /// The right operand's buffer, where it isn't the weight.
    pub b: Option<Buffer<f32>>,
    /// The product.
    pub out: Buffer<f32>,
    /// The loss's gradient with respect to the product.
    pub grad: Option<Buffer<f32>>,
}

/// The FP network's products, each kept for the backward pass and for the search.
pub struct Recorder<'a> {
    products: &'a mut FloatProducts,
    records: HashMap<String, Record>,
}

impl<'a> Recorder<'a> {
    /// A recorder with nothing recorded yet.
    pub fn new(products: &'a mut FloatProducts) -> Self {
        Self {
            products,
            records: HashMap::new(),
        }
    }

    /// What went through `site`.
    ///
    /// # Panics
    /// If the forward pass has not been there.
    pub fn record(&self, site: &Site) -> &Record {
        &self.records[&site.name]
    }

    /// Everything recorded, by the sites' names.
    pub fn into_records(self) -> HashMap<String, Record> {
        self.records
    }

    /// Keeps ∂L/∂O of `site`, and returns ∂L/∂A. Where B is an activation, ∂L/∂B is written to `grad_b`, which may be a
    /// part of a larger buffer, as k and v are of qkv; likewise ∂L/∂A to `grad_a` where that is given.
    pub fn backward(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        grad: Buffer<f32>,
        grad_a: Option<&Buffer<f32>>,
        grad_b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let product = site.product(images);
        let record = &self.records[&site.name];
        let b = match &record.b {
            Some(b) => b,
            None => &self.products.linear(site).weight,
        };
        let grad_a = match grad_a {
            Some(grad_a) => grad_a.clone(),
            None => commands.uninitialized(record.a.len()),
        };
        float_product(commands, &product.backward_a(), &grad, b, None, &grad_a);
        if let Some(grad_b) = grad_b {
            let backward = product.backward_b();
            float_product(commands, &backward, &record.a, &grad, None, grad_b);
        }
        self.keep_gradient(site, grad);
        grad_a
    }

    /// Keeps ∂L/∂O of a site whose operands need no gradient.
    pub fn keep_gradient(&mut self, site: &Site, grad: Buffer<f32>) {
        self.records
            .get_mut(&site.name)
            .expect("the forward pass has been at this site")
            .grad = Some(grad);
    }
}

impl FloatingProducts for Recorder<'_> {
    fn multiply(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let out = self.products.multiply(commands, site, images, a, b);
        self.records.insert(
            site.name.clone(),
            Record {
                a: a.clone(),
                b: b.cloned(),
                out: out.clone(),
                grad: None,
            },
        );
        out
    }
}
