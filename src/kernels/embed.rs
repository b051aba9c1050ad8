//! Patch embeddings to tokens.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "embed",
    source: include_str!("../../shaders/embed.wgsl"),
};

/// The shape of a batch of embedded images.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// Images.
    pub batch: usize,
    /// Patches of one image; its tokens are one more.
    pub patches: usize,
    /// Elements of one token.
    pub dim: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    batch: u32,
    patches: u32,
    dim: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    batch,
    patches,
    dim
});

/// Tokens `[batch, 1 + patches, dim]`: the class token `[dim]`, then an image's `patch_embeddings`
/// `[batch, patches, dim]`, with `positions` `[1 + patches, dim]` added to all of them.
pub fn embed(
    device: &Device,
    shape: &Embed,
    patch_embeddings: &Buffer<f32>,
    class_token: &Buffer<f32>,
    positions: &Buffer<f32>,
) -> Buffer<f32> {
    let tokens = device.zeros(shape.batch * (shape.patches + 1) * shape.dim);
    match device {
        Device::Cpu(_) => cpu(
            shape,
            &patch_embeddings.host_slice(),
            &class_token.host_slice(),
            &positions.host_slice(),
            &mut tokens.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                batch: shape.batch as u32,
                patches: shape.patches as u32,
                dim: shape.dim as u32,
            };
            gpu.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(patch_embeddings),
                    Binding::F32(class_token),
                    Binding::F32(positions),
                    Binding::F32(&tokens),
                ],
                tokens.len().div_ceil(WORKGROUP),
            );
        }
    }
    tokens
}

fn cpu(
    shape: &Embed,
    patch_embeddings: &[f32],
    class_token: &[f32],
    positions: &[f32],
    tokens: &mut [f32],
) {
    let image_patches = shape.patches * shape.dim;
    tokens
        .par_chunks_mut(image_patches + shape.dim)
        .zip(patch_embeddings.par_chunks(image_patches))
        .for_each(|(tokens, patches)| {
            let values = class_token.iter().chain(patches);
            for ((token, value), position) in tokens.iter_mut().zip(values).zip(positions) {
                *token = value + position;
            }
        });
}
