//! A LayerNorm of a network: its parameters on the device, and which rows it normalises.

use super::network::Parameters;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::kernels::{LayerNorm, layer_norm, layer_norm_backward};

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

    /// Every row of `input`.
    fn every_row(&self, input: &Buffer<f32>) -> LayerNorm {
        let width = self.weight.len();
        LayerNorm {
            rows: input.len() / width,
            width,
            input_offset: 0,
            input_stride: width,
            eps: self.eps,
        }
    }

    /// The rows of one token of each of `images` images.
    fn one_token(&self, images: usize, token: usize, input: &Buffer<f32>) -> LayerNorm {
        let width = self.weight.len();
        LayerNorm {
            rows: images,
            width,
            input_offset: token * width,
            input_stride: input.len() / images,
            eps: self.eps,
        }
    }

    /// All tokens `[…, width]`, normalised.
    pub fn forward(&self, device: &Device, input: &Buffer<f32>) -> Buffer<f32> {
        layer_norm(
            device,
            &self.every_row(input),
            input,
            &self.weight,
            &self.bias,
        )
    }

    /// The gradient of `input` given that of [`Self::forward`].
    pub fn backward(
        &self,
        device: &Device,
        input: &Buffer<f32>,
        grad: &Buffer<f32>,
    ) -> Buffer<f32> {
        layer_norm_backward(device, &self.every_row(input), input, &self.weight, grad)
    }

    /// One token of each image, normalised: `[images, width]` from `[images, tokens, width]`.
    pub fn forward_token(
        &self,
        device: &Device,
        images: usize,
        token: usize,
        input: &Buffer<f32>,
    ) -> Buffer<f32> {
        let norm = self.one_token(images, token, input);
        layer_norm(device, &norm, input, &self.weight, &self.bias)
    }

    /// The gradient of `input` given that of [`Self::forward_token`]: zero at all other tokens.
    pub fn backward_token(
        &self,
        device: &Device,
        images: usize,
        token: usize,
        input: &Buffer<f32>,
        grad: &Buffer<f32>,
    ) -> Buffer<f32> {
        let norm = self.one_token(images, token, input);
        layer_norm_backward(device, &norm, input, &self.weight, grad)
    }
}
