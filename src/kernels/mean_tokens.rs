//! The mean of an image's tokens.

use super::WORKGROUP;
use super::catalogue::{Case, EPSILON, Mistake, Random, case};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "mean_tokens",
    source: include_str!("../../shaders/mean_tokens.wgsl"),
};

/// Describes the shape of a batch of images' tokens.
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

/// Computes `[batch, dim]`: the mean over the tokens of `[batch, tokens, dim]`.
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
            out.fill(0.0);
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

/// Lists the shapes of the cases, with their names.
pub(super) fn shapes() -> [(String, MeanTokens); 4] {
    let sizes = [(1, 1, 1), (3, 7, 65), (2, 197, 3), (5, 49, 768)];
    sizes.map(|(batch, tokens, dim)| {
        let shape = MeanTokens { batch, tokens, dim };
        (format!("{batch}x{tokens}x{dim}"), shape)
    })
}

/// Makes tokens, and a gradient of their mean.
pub(super) fn inputs(shape: &MeanTokens) -> [Vec<f32>; 2] {
    let MeanTokens { batch, tokens, dim } = *shape;
    let mut random = Random::new(tokens as u64);
    let input = random.bell(batch * tokens * dim, 1.0, 2.0);
    [input, random.bell(batch * dim, 0.0, 1.0)]
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "t < p.tokens;",
    wrong: "t + 1u < p.tokens;",
});

/// Lists cases in which each of so many additions and the division err by half an epsilon of the magnitude so far.
pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().map(|(name, shape)| {
        let (tokens, dim) = (shape.tokens, shape.dim);
        case(
            name,
            move || inputs(&shape),
            move |commands, device, [input, _]| {
                mean_tokens(commands, &shape, &device.upload(input))
            },
        )
        .close(move |[input, _]| {
            let means = (0..shape.batch * dim).map(|at| {
                let (image, element) = (at / dim, at % dim);
                let values =
                    (0..tokens).map(|token| input[(image * tokens + token) * dim + element]);
                let values = values.map(f64::from);
                let magnitude = values.clone().map(f64::abs).sum::<f64>() / tokens as f64;
                let bound = (tokens as f64 / 2.0 + 2.0) * EPSILON * magnitude;
                (values.sum::<f64>() / tokens as f64, bound)
            });
            means.collect()
        })
    });
    cases.into()
}
