//! Where float, recording and integer execution of a network differ: how a site's product is computed.

use super::site::Site;
use super::weights::Weights;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::kernels::float_product;
use std::collections::HashMap;

/// Computes the matrix products of a network. One definition of the network serves every way to compute them.
pub trait Products {
    /// O of `site` for `images` images. `a` is the left operand's buffer; `b` the right one's, or `None` where B is the
    /// site's weight. A bias, where the site has one, is added.
    fn product(
        &mut self,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32>;
}

/// The weight and the bias of a linear site.
#[derive(Clone)]
pub struct LinearWeights {
    /// `[outputs, inputs]`; a convolution's kernel is flattened to `[channels, height, width]`.
    pub weight: Buffer<f32>,
    /// `[outputs]`, where the site has one.
    pub bias: Option<Buffer<f32>>,
}

/// Products in f32: the FP network.
pub struct FloatProducts {
    device: Device,
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
        let mut linear = HashMap::new();
        for site in sites {
            if let Some(sizes) = site.weight() {
                let load = |part: &str| {
                    let values = weights.float(&format!("{}.{part}", site.name))?;
                    Ok(device.upload(&values))
                };
                let loaded = LinearWeights {
                    weight: load("weight")?,
                    bias: sizes.has_bias.then(|| load("bias")).transpose()?,
                };
                linear.insert(site.name.clone(), loaded);
            }
        }
        Ok(Self {
            device: device.clone(),
            linear,
        })
    }

    /// The weight and bias of a linear site.
    ///
    /// # Panics
    /// If `site` was not among those loaded.
    pub fn linear(&self, site: &Site) -> &LinearWeights {
        &self.linear[&site.name]
    }
}

impl Products for FloatProducts {
    fn product(
        &mut self,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let out = self.device.zeros(images * site.out_len());
        let (b, bias) = match b {
            Some(b) => (b, None),
            None => {
                let linear = self.linear(site);
                (&linear.weight, linear.bias.as_ref())
            }
        };
        float_product(&self.device, &site.product(images), a, b, bias, &out);
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
        site: &Site,
        images: usize,
        grad: Buffer<f32>,
        grad_a: Option<&Buffer<f32>>,
        grad_b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let device = &self.products.device;
        let product = site.product(images);
        let record = &self.records[&site.name];
        let b = match &record.b {
            Some(b) => b,
            None => &self.products.linear(site).weight,
        };
        let grad_a = match grad_a {
            Some(grad_a) => grad_a.clone(),
            None => device.zeros(record.a.len()),
        };
        float_product(device, &product.backward_a(), &grad, b, None, &grad_a);
        if let Some(grad_b) = grad_b {
            let backward = product.backward_b();
            float_product(device, &backward, &record.a, &grad, None, grad_b);
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

impl Products for Recorder<'_> {
    fn product(
        &mut self,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let out = self.products.product(site, images, a, b);
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
