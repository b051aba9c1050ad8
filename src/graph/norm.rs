//! A LayerNorm: which rows it normalises, in floats or as codes.

use super::order::Order;
use crate::device::{Buffer, Commands};
use crate::kernels::{
    Format, LayerNorm, RowCodes, layer_norm, layer_norm_backward, layer_norm_codes,
};

/// Holds the parameters of a LayerNorm over `width` features.
pub struct Norm<T> {
    /// γ, `[width]`.
    pub weight: T,
    /// β, `[width]`.
    pub bias: T,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm<Buffer<f32>> {
    /// Takes all tokens `[…, width]`.
    pub(super) fn of<'a>(&'a self, input: &'a Buffer<f32>) -> Normed<'a> {
        Normed {
            norm: self,
            input,
            token: None,
            order: None,
        }
    }

    /// Computes the gradient of `input`, given `grad`, the gradient of all its tokens normalised.
    pub(super) fn backward(
        &self,
        commands: &mut Commands,
        input: &Buffer<f32>,
        grad: &Buffer<f32>,
    ) -> Buffer<f32> {
        let shape = self.of(input).shape(1);
        layer_norm_backward(commands, &shape, input, &self.weight, grad)
    }
}

/// Stands for normalised tokens before they are computed.
#[derive(Clone, Copy)]
pub struct Normed<'a> {
    norm: &'a Norm<Buffer<f32>>,
    /// `[…, width]`
    input: &'a Buffer<f32>,
    token: Option<usize>,
    order: Option<&'a Order>,
}

impl<'a> Normed<'a> {
    /// Takes only this token of each image, where one is given: `[images, width]` from `[images, tokens, width]`.
    pub(super) fn only(self, token: Option<usize>) -> Self {
        Self { token, ..self }
    }

    /// Brings the tokens into this order, where there is one.
    pub(super) fn in_order(self, order: Option<&'a Order>) -> Self {
        Self { order, ..self }
    }

    /// Describes the rows of the input, which has `images` images, for the kernel.
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

    /// Computes the normalised tokens in floats, `[rows, width]`.
    pub fn values(&self, commands: &mut Commands, images: usize) -> Buffer<f32> {
        let Norm { weight, bias, .. } = self.norm;
        let normed = layer_norm(commands, &self.shape(images), self.input, weight, bias);
        match self.order {
            None => normed,
            Some(order) => order.apply(commands, weight.len(), &normed),
        }
    }

    /// Computes the normalised tokens' codes by one encoder, whose record is `encoder`: the left operand of an
    /// integer product.
    pub fn codes(
        &self,
        commands: &mut Commands,
        images: usize,
        format: Format,
        bits: u32,
        encoder: &Buffer<u32>,
    ) -> Buffer<u32> {
        let shape = self.shape(images);
        let Norm { weight, bias, .. } = self.norm;
        let order = self.order.map(Order::forward);
        let codes = RowCodes {
            format,
            bits,
            encoders: encoder,
            matrix_rows: order.map_or(shape.rows, |order| {
                shape.rows / order.tokens * order.from.len()
            }),
            groups: 1,
        };
        layer_norm_codes(commands, &shape, order, self.input, weight, bias, &codes)
    }
}
