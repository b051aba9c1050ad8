//! Patch embeddings to tokens.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, Random, case};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "embed",
    source: include_str!("../../shaders/embed.wgsl"),
};

/// Describes the shape of a batch of embedded images.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// Images.
    pub batch: usize,
    /// Patches of one image.
    pub patches: usize,
    /// Tokens that come before the patches, if any: the class token, a distilled DeiT's second one, registers.
    pub prefix: usize,
    /// Elements of one token.
    pub dim: usize,
}

impl Embed {
    /// Counts the tokens of one image.
    pub fn tokens(&self) -> usize {
        self.prefix + self.patches
    }
}

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

/// Computes tokens `[batch, prefix + patches, dim]`: the `prefix` tokens `[prefix, dim]`, then an image's
/// `patch_embeddings` `[batch, patches, dim]`, with `positions` `[prefix + patches, dim]` added to all of them.
pub fn embed(
    commands: &mut Commands,
    shape: &Embed,
    patch_embeddings: &Buffer<f32>,
    prefix: &Buffer<f32>,
    positions: &Buffer<f32>,
) -> Buffer<f32> {
    let tokens = commands.uninitialized(shape.batch * shape.tokens() * shape.dim);
    match commands.device() {
        Device::Cpu(_) => cpu(
            shape,
            &patch_embeddings.host_slice(),
            &prefix.host_slice(),
            &positions.host_slice(),
            &mut tokens.host_slice_mut(),
        ),
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
                &[
                    Binding::F32(patch_embeddings),
                    Binding::F32(prefix),
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
    prefix: &[f32],
    positions: &[f32],
    tokens: &mut [f32],
) {
    let (image_patches, image_tokens) = (shape.patches * shape.dim, shape.tokens() * shape.dim);
    tokens
        .par_chunks_mut(image_tokens)
        .zip(patch_embeddings.par_chunks(image_patches))
        .for_each(|(tokens, patches)| {
            let values = prefix.iter().chain(patches);
            for ((token, value), position) in tokens.iter_mut().zip(values).zip(positions) {
                *token = value + position;
            }
        });
}

/// Lists the shapes of the cases, with their names.
pub(super) fn shapes() -> [(String, Embed); 5] {
    let sizes = [
        (1, 1, 1, 1),
        (3, 7, 1, 65),
        (2, 196, 2, 3),
        (3, 5, 2, 7),
        (2, 9, 0, 5),
    ];
    sizes.map(|(batch, patches, prefix, dim)| {
        let shape = Embed {
            batch,
            patches,
            prefix,
            dim,
        };
        (format!("{batch}x({prefix}+{patches})x{dim}"), shape)
    })
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "positions[within]",
    wrong: "positions[within - within % p.dim]",
});

pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().map(|(name, shape)| {
        let Embed {
            batch,
            patches,
            prefix,
            dim,
        } = shape;
        let tokens = prefix + patches;
        let lens = [batch * patches * dim, prefix * dim, tokens * dim];
        case(
            name,
            move || [0, 1, 2].map(|seed| Random::new(seed as u64).unit(lens[seed])),
            move |commands, device, inputs| {
                let [patches, first, positions] = inputs.each_ref().map(|it| device.upload(it));
                embed(commands, &shape, &patches, &first, &positions)
            },
        )
        .exact(move |[of_patches, first, positions]| {
            let mut expected = Vec::new();
            for image in 0..batch {
                for token in 0..tokens {
                    for at in 0..dim {
                        let value = match token.checked_sub(prefix) {
                            None => first[token * dim + at],
                            Some(patch) => of_patches[(image * patches + patch) * dim + at],
                        };
                        expected.push(value + positions[token * dim + at]);
                    }
                }
            }
            expected
        })
    });
    cases.into()
}
