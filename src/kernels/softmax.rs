//! Softmax along rows.

use super::WORKGROUP;
use crate::device::{Binding, Buffer, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "softmax",
    source: include_str!("../../shaders/softmax.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    factor
});

/// `softmax(factor · scores)` along each row of `[rows, width]`; `factor` is positive.
pub fn softmax(
    device: &Device,
    rows: usize,
    width: usize,
    factor: f32,
    scores: &Buffer<f32>,
) -> Buffer<f32> {
    let out = device.uninitialized(rows * width);
    match device {
        Device::Cpu(_) => cpu(
            width,
            factor,
            &scores.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                rows: rows as u32,
                width: width as u32,
                factor,
            };
            gpu.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(scores), Binding::F32(&out)],
                rows.div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(width: usize, factor: f32, scores: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(width)
        .zip(scores.par_chunks(width))
        .for_each(|(out, scores)| {
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for (out, score) in out.iter_mut().zip(scores) {
                *out = (factor * (score - largest)).exp();
                sum += *out;
            }
            let inverse = 1.0 / sum;
            for out in out {
                *out *= inverse;
            }
        });
}
