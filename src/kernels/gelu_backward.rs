//! The gradient of GELU's input.

use super::gelu::normal;
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "gelu_backward",
    source: concat!(
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/gelu_backward.wgsl"),
    ),
};

/// 1 / √(2π)
const DENSITY: f32 = 0.398_942_3;

/// Vectors that one invocation computes, as in the shader.
const STRIP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count });

/// `grad · (Φ(x) + x · φ(x))` of each element x of `input`, φ the normal distribution's density.
pub fn gelu_backward(
    commands: &mut Commands,
    input: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    assert_eq!(input.len(), grad.len(), "a gradient for each input");
    let out = commands.uninitialized(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            &input.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let vectors = input.len().div_ceil(VECTOR);
            let parameters = Parameters {
                count: vectors as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(input), Binding::F32(grad), Binding::F32(&out)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
    out
}

fn cpu(input: &[f32], grad: &[f32], out: &mut [f32]) {
    out.par_iter_mut()
        .with_min_len(PER_TASK)
        .zip(input)
        .zip(grad)
        .for_each(|((out, &x), grad)| {
            let (cumulative, exponential) = normal(x);
            *out = grad * (cumulative + x * (exponential * DENSITY));
        });
}
