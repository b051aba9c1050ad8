//! Tokens in another order: Swin's windows and its merging of patches.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "permute_tokens",
    source: include_str!("../../shaders/permute_tokens.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    tokens: u32,
    dim: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, tokens, dim });

/// `tokens` `[images, order.len(), dim]` with each image's tokens reordered: `out[b, t] = tokens[b, order[t]]`. `order`
/// is a permutation; its inverse leads back, and is the gradient.
pub fn permute_tokens(
    device: &Device,
    dim: usize,
    order: &Buffer<u32>,
    tokens: &Buffer<f32>,
) -> Buffer<f32> {
    let out = device.uninitialized(tokens.len());
    match device {
        Device::Cpu(_) => cpu(
            dim,
            &order.host_slice(),
            &tokens.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                count: out.len() as u32,
                tokens: order.len() as u32,
                dim: dim as u32,
            };
            gpu.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(tokens),
                    Binding::U32(order),
                    Binding::F32(&out),
                ],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(dim: usize, order: &[u32], tokens: &[f32], out: &mut [f32]) {
    let image_len = order.len() * dim;
    out.par_chunks_mut(image_len)
        .zip(tokens.par_chunks(image_len))
        .for_each(|(out, tokens)| {
            for (out, &from) in out.chunks_exact_mut(dim).zip(order) {
                out.copy_from_slice(&tokens[from as usize * dim..][..dim]);
            }
        });
}
