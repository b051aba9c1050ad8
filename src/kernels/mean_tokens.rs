//! The mean of an image's tokens.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "mean_tokens",
    source: include_str!("../../shaders/mean_tokens.wgsl"),
};

/// The shape of a batch of images' tokens.
#[derive(Clone, Copy, Debug)]
pub struct MeanTokens {
    /// Images.
    pub batch: usize,
    /// Tokens of one image.
    pub tokens: usize,
    /// Elements of one token.
    pub dim: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    batch: u32,
    tokens: u32,
    dim: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { batch, tokens, dim });

/// `[batch, dim]`: the mean over the tokens of `[batch, tokens, dim]`.
pub fn mean_tokens(
    commands: &mut Commands,
    shape: &MeanTokens,
    tokens: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(shape.batch * shape.dim);
    match commands.device() {
        Device::Cpu(_) => cpu(shape, &tokens.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                batch: shape.batch as u32,
                tokens: shape.tokens as u32,
                dim: shape.dim as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(tokens), Binding::F32(&out)],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(shape: &MeanTokens, tokens: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(shape.dim)
        .zip(tokens.par_chunks(shape.tokens * shape.dim))
        .for_each(|(out, tokens)| {
            for token in tokens.chunks_exact(shape.dim) {
                for (out, value) in out.iter_mut().zip(token) {
                    *out += value;
                }
            }
            for out in out {
                *out /= shape.tokens as f32;
            }
        });
}
