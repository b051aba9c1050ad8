//! The gradient of the patch embeddings.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, Random, case};
use super::embed::{Embed, shapes};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "embed_backward",
    source: include_str!("../../shaders/embed_backward.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    batch: u32,
    patches: u32,
    dim: u32,
    prefix: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    batch,
    patches,
    dim,
    prefix
});

/// Computes the gradient of the patch embeddings, `[batch, patches, dim]`, given that of the tokens,
/// `[batch, prefix + patches, dim]`.
pub fn embed_backward(commands: &mut Commands, shape: &Embed, grad: &Buffer<f32>) -> Buffer<f32> {
    let out = commands.uninitialized(shape.batch * shape.patches * shape.dim);
    match commands.device() {
        Device::Cpu(_) => cpu(shape, &grad.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                batch: shape.batch as u32,
                patches: shape.patches as u32,
                dim: shape.dim as u32,
                prefix: shape.prefix as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(grad), Binding::F32(&out)],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(shape: &Embed, grad: &[f32], out: &mut [f32]) {
    let (image_patches, image_tokens) = (shape.patches * shape.dim, shape.tokens() * shape.dim);
    out.par_chunks_mut(image_patches)
        .zip(grad.par_chunks(image_tokens))
        .for_each(|(out, grad)| out.copy_from_slice(&grad[image_tokens - image_patches..]));
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "(image + 1u) * p.prefix",
    wrong: "image * p.prefix",
});

/// Lists cases whose results are the gradients of all tokens but the prefix.
pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().map(|(name, shape)| {
        let (tokens, dim) = (shape.prefix + shape.patches, shape.dim);
        case(
            name,
            move || Random::new(3).unit(shape.batch * tokens * dim),
            move |commands, device, grad| embed_backward(commands, &shape, &device.upload(grad)),
        )
        .exact(move |grad| {
            let images = grad.chunks(tokens * dim);
            images
                .flat_map(|image| image[shape.prefix * dim..].to_vec())
                .collect::<Vec<_>>()
        })
    });
    cases.into()
}
