//! Tokens in another order: Swin's windows and its merging of patches, with padding where an image doesn't fill them.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, Random, case, reordered, token_order};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "permute_tokens",
    source: include_str!("../../shaders/permute_tokens.wgsl"),
};

/// Says how an image's tokens are put in another order.
#[derive(Clone, Copy)]
pub struct TokenOrder<'a> {
    /// For each token of the result, which token of the image it is; padding where that is none of them.
    pub from: &'a Buffer<u32>,
    /// Tokens of the image.
    pub tokens: usize,
}

impl TokenOrder<'_> {
    /// Finds which row of all images' tokens becomes `row` of the result, by what `from` holds; `None` for padding.
    pub(super) fn input_row(&self, from: &[u32], row: usize) -> Option<usize> {
        let token = from[row % from.len()] as usize;
        (token < self.tokens).then(|| row / from.len() * self.tokens + token)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    tokens: u32,
    input_tokens: u32,
    dim: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    count,
    tokens,
    input_tokens,
    dim
});

/// Reorders each image's tokens in `tokens` `[images, order.tokens, dim]`, to `[images, order.from.len(), dim]`:
/// `out[b, t] = tokens[b, order.from[t]]`, or zero for padding. The inverse leads back, and is the gradient.
pub fn permute_tokens(
    commands: &mut Commands,
    dim: usize,
    order: TokenOrder,
    tokens: &Buffer<f32>,
) -> Buffer<f32> {
    let images = tokens.len() / (order.tokens * dim);
    let out = commands.uninitialized(images * order.from.len() * dim);
    match commands.device() {
        Device::Cpu(_) => cpu(dim, order, &tokens.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: out.len() as u32,
                tokens: order.from.len() as u32,
                input_tokens: order.tokens as u32,
                dim: dim as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(tokens),
                    Binding::U32(order.from),
                    Binding::F32(&out),
                ],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(dim: usize, order: TokenOrder, tokens: &[f32], out: &mut [f32]) {
    let from = order.from.host_slice();
    out.par_chunks_mut(from.len() * dim)
        .enumerate()
        .for_each(|(image, out)| {
            for (token, out) in out.chunks_exact_mut(dim).enumerate() {
                match order.input_row(&from, image * from.len() + token) {
                    Some(row) => out.copy_from_slice(&tokens[row * dim..][..dim]),
                    None => out.fill(0.0),
                }
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "order[token]",
    wrong: "order[p.tokens - 1u - token]",
});

/// Lists cases of orders with every token, with padding besides, and of one that leaves half of the tokens out.
pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1, 1), (3, 7, 65), (2, 197, 3)];
    let cases = sizes.into_iter().flat_map(|(images, tokens, dim)| {
        let half = (0..tokens as u32).step_by(2).rev().collect();
        [
            ("", token_order(tokens, false)),
            (", padded", token_order(tokens, true)),
            (", half of them", half),
        ]
        .map(|(what, from)| {
            case(
                format!("{images}x{tokens}x{dim}{what}"),
                move || (from, Random::new(tokens as u64).unit(images * tokens * dim)),
                move |commands, device, (from, input)| {
                    let from = &device.upload(from);
                    let order = TokenOrder { from, tokens };
                    permute_tokens(commands, dim, order, &device.upload(input))
                },
            )
            .exact(move |(from, input)| reordered(from, tokens, dim, input))
        })
    });
    cases.collect()
}
