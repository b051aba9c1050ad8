//! A LayerNorm of a network: its parameters on the device, and which rows it normalises.

use super::network::Parameters;
use super::order::Order;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::kernels::{
    Format, LayerNorm, RowCodes, layer_norm, layer_norm_backward, layer_norm_codes,
};

/// A LayerNorm over `width` features.
pub struct Norm {
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    eps: f32,
}

impl Norm {
    /// Loads `NAME.weight` and `NAME.bias`.
    ///
    /// # Errors
    /// Those of `parameters`.
    pub fn load(parameters: &Parameters, name: &str, eps: f32) -> Result<Self> {
        Ok(Self {
            weight: parameters.load(&format!("{name}.weight"))?,
            bias: parameters.load(&format!("{name}.bias"))?,
            eps,
        })
    }

    /// All tokens `[…, width]`, normalised.
    pub fn of<'a>(&'a self, input: &'a Buffer<f32>) -> Normed<'a> {
        Normed {
            norm: self,
            input,
            token: None,
            order: None,
        }
    }

    /// The gradient of `input`, given that of all its tokens normalised.
    pub fn backward(
        &self,
        device: &Device,
        input: &Buffer<f32>,
        grad: &Buffer<f32>,
    ) -> Buffer<f32> {
        let shape = self.of(input).shape(1);
        layer_norm_backward(device, &shape, input, &self.weight, grad)
    }

    /// The gradient of `input` `[images, tokens, width]`, given that of one `token` of each image normalised: zero at all
    /// others.
    pub fn backward_token(
        &self,
        device: &Device,
        images: usize,
        token: usize,
        input: &Buffer<f32>,
        grad: &Buffer<f32>,
    ) -> Buffer<f32> {
        let shape = self.of(input).only(token).shape(images);
        layer_norm_backward(device, &shape, input, &self.weight, grad)
    }
}

/// Tokens that are to be normalised.
#[derive(Clone, Copy)]
pub struct Normed<'a> {
    norm: &'a Norm,
    /// `[…, width]`
    input: &'a Buffer<f32>,
    token: Option<usize>,
    order: Option<&'a Order>,
}

impl<'a> Normed<'a> {
    /// Only this token of each image: `[images, width]` from `[images, tokens, width]`.
    pub fn only(self, token: usize) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    /// In this order, where there is one.
    pub fn in_order(self, order: Option<&'a Order>) -> Self {
        Self { order, ..self }
    }

    /// The rows of the input, which has `images` images.
    fn shape(&self, images: usize) -> LayerNorm {
        let width = self.norm.weight.len();
        let (rows, input_offset, input_stride) = match self.token {
            None => (self.input.len() / width, 0, width),
            Some(token) => (images, token * width, self.input.len() / images),
        };
        LayerNorm {
            rows,
            width,
            input_offset,
            input_stride,
            eps: self.norm.eps,
        }
    }

    /// `[rows, width]` in floats.
    pub fn values(&self, device: &Device, images: usize) -> Buffer<f32> {
        let Norm { weight, bias, .. } = self.norm;
        let normed = layer_norm(device, &self.shape(images), self.input, weight, bias);
        match self.order {
            None => normed,
            Some(order) => order.apply(device, weight.len(), &normed),
        }
    }

    /// Their codes under one scale, whose inverses are `inverses` `[1, 2]`: the left operand of an integer product.
    pub fn codes(
        &self,
        device: &Device,
        images: usize,
        format: Format,
        bits: u32,
        inverses: &Buffer<f32>,
    ) -> Buffer<u32> {
        let shape = self.shape(images);
        let Norm { weight, bias, .. } = self.norm;
        let order = self.order.map(Order::forward);
        let codes = RowCodes {
            format,
            bits,
            inverse_scales: inverses,
            matrix_rows: order.map_or(shape.rows, |order| {
                shape.rows / order.tokens * order.from.len()
            }),
            groups: 1,
        };
        layer_norm_codes(device, &shape, order, self.input, weight, bias, &codes)
    }
}
