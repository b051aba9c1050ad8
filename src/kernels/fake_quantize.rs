//! Quantization simulated in floats: what published code computes, and what the integer path is compared with.

use super::WORKGROUP;
use super::geometry::View;
use super::quantize::Quantize;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{by_format, formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "fake_quantize",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        formats_wgsl!(),
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

/// `[outer][inner][rows][k]`: `source` rounded to what its codes stand for. Of `what`, one job is meant, and the layout
/// of packed codes doesn't matter. `scales` is `[groups][4]`: `scale_1`, `scale_2` and their inverses.
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
            let scale = scales.as_chunks().0[group];
            for (k, out) in out.iter_mut().enumerate() {
                let x = source[what.source.at(batch, row, k)];
                *out = by_format!(what.format, F => F::value_of_code(x, scale, q));
            }
        });
}
