//! Quantization simulated in floats: what published code computes, and what the integer path is compared with.

use super::WORKGROUP;
use super::geometry::View;
use super::quantize::{Format, Quantize, half_range};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "fake_quantize",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        include_str!("../../shaders/fake_quantize.wgsl"),
    ),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    inner_groups: u32,
    group_rows: u32,
    q: f32,
    unused: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    source,
    outer,
    inner,
    rows,
    k,
    inner_groups,
    group_rows,
    q,
});

/// Rounds `source`, `[outer][inner][rows][k]`, to what its codes stand for. `what` has one job, and how its codes would be
/// packed doesn't matter. `scales` is `[groups][4]`: `scale_1`, `scale_2` and their inverses.
pub fn fake_quantize(
    commands: &mut Commands,
    what: &Quantize,
    source: &Buffer<f32>,
    scales: &Buffer<f32>,
) -> Buffer<f32> {
    let len = what.batch[0] * what.batch[1] * what.rows * what.k;
    let out = commands.uninitialized(len);
    match commands.device() {
        Device::Cpu(_) => cpu(
            what,
            &source.host_slice(),
            &scales.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => commands.dispatch(
            &SHADER,
            &[("FORMAT", f64::from(what.format as u32))],
            &Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                k: what.k as u32,
                inner_groups: what.inner_groups as u32,
                group_rows: what.group_rows as u32,
                q: half_range(what.bits),
                unused: 0,
            },
            &[
                Binding::F32(source),
                Binding::F32(scales),
                Binding::F32(&out),
            ],
            len.div_ceil(WORKGROUP),
        ),
    }
    out
}

fn cpu(what: &Quantize, source: &[f32], scales: &[f32], out: &mut [f32]) {
    let q = half_range(what.bits);
    out.par_chunks_mut(what.k)
        .enumerate()
        .for_each(|(index, out)| {
            let (problem, row) = (index / what.rows, index % what.rows);
            let batch = [problem / what.batch[1], problem % what.batch[1]];
            let group = batch[1] * what.inner_groups + row / what.group_rows;
            let scale = &scales[4 * group..][..4];
            for (k, out) in out.iter_mut().enumerate() {
                let x = source[what.source.at(batch, row, k)];
                let low = (x.abs() * scale[2]).round_ties_even();
                let high = || (x * scale[3]).round_ties_even().clamp(0.0, q - 1.0) * scale[1];
                *out = match what.format {
                    Format::Uniform => {
                        (x * scale[2]).round_ties_even().clamp(-q, q - 1.0) * scale[0]
                    }
                    Format::SoftmaxTwin if low <= q - 1.0 => low * scale[0],
                    Format::GeluTwin if x < 0.0 => -low.min(q - 1.0) * scale[0],
                    Format::SoftmaxTwin | Format::GeluTwin => high(),
                };
            }
        });
}
