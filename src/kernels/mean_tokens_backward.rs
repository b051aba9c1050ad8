//! The gradient of the tokens of a mean.

use super::WORKGROUP;
use super::catalogue::{Case, EPSILON, Mistake, case};
use super::mean_tokens::{MeanTokens, inputs, shapes};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "mean_tokens_backward",
    source: include_str!("../../shaders/mean_tokens_backward.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    batch: u32,
    tokens: u32,
    dim: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { batch, tokens, dim });

/// Computes the gradient of the tokens, `[batch, tokens, dim]`, given that of their mean, `grad` `[batch, dim]`.
pub fn mean_tokens_backward(
    commands: &mut Commands,
    shape: &MeanTokens,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(shape.batch * shape.tokens * shape.dim);
    match commands.device() {
        Device::Cpu(_) => cpu(shape, &grad.host_slice(), &mut out.host_slice_mut()),
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
                &[Binding::F32(grad), Binding::F32(&out)],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(shape: &MeanTokens, grad: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(shape.tokens * shape.dim)
        .zip(grad.par_chunks(shape.dim))
        .for_each(|(out, grad)| {
            for token in out.chunks_exact_mut(shape.dim) {
                for (out, value) in token.iter_mut().zip(grad) {
                    *out = value / shape.tokens as f32;
                }
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "/ f32(p.tokens)",
    wrong: "/ f32(p.tokens + 1u)",
});

/// Lists cases whose bound is WGSL's for a division: it errs by 2.5 ULP, an ULP being at most an epsilon.
pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().map(|(name, shape)| {
        let (tokens, dim) = (shape.tokens, shape.dim);
        case(
            name,
            move || inputs(&shape),
            move |commands, device, [_, grad]| {
                mean_tokens_backward(commands, &shape, &device.upload(grad))
            },
        )
        .close(move |[_, grad]| {
            let places = 0..shape.batch * tokens * dim;
            let shares = places.map(|at| grad[at / (tokens * dim) * dim + at % dim]);
            let shares = shares.map(|grad| f64::from(grad) / tokens as f64);
            shares
                .map(|share| (share, 2.5 * EPSILON * share.abs()))
                .collect()
        })
    });
    cases.into()
}
