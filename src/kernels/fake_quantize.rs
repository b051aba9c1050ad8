//! Quantization simulated in floats: what published code computes, and what the integer path is compared with.

use super::WORKGROUP;
use super::catalogue::{Case, FORMATS, Mistake, Random, case, format_name, place, third};
use super::geometry::View;
use super::quantize::Quantize;
use super::quantize::cases::{code_of, inverse_scales, values};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{Format, by_format, formats_wgsl, half_range};
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

/// Rounds `source`, `[outer][inner][rows][k]`, to what its codes stand for. `what` has one job, and how its codes would
/// be packed doesn't matter. `scales` is `[groups][4]`: `scale_1`, `scale_2` and their inverses.
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

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "value_of_code(x, scales[group]",
    wrong: "value_of_code(x + 0.5 * scales[group].x, scales[group]",
});

/// Lists a case with keys that have a scale for each head. What codes stand for is rounded once.
pub(super) fn cases() -> Vec<Case> {
    let (images, tokens, heads, dim) = (2, 7, 3, 5);
    let cases = FORMATS.into_iter().flat_map(|format| {
        [8, 6, 3].map(|bits| {
            let what = Quantize {
                source: third(1, [tokens, heads, dim]),
                batch: [images, heads],
                rows: tokens,
                k: dim,
                jobs: 1,
                groups: heads,
                inner_groups: 1,
                group_rows: tokens,
                bits,
                format,
            };
            case(
                format!("keys, {}, {bits} bits", format_name(format)),
                move || {
                    let mut random = Random::new(u64::from(bits));
                    let len = images * tokens * 3 * heads * dim;
                    let values = values(format, bits, len, &mut random);
                    let inverses = inverse_scales(&what, &mut random).into_iter();
                    let scales = inverses.map(|[one, two]| [1.0 / one, 1.0 / two, one, two]);
                    (values, scales.collect::<Vec<_>>())
                },
                move |commands, device, (values, scales)| {
                    let (values, scales) = (device.upload(values), device.upload(&scales.concat()));
                    fake_quantize(commands, &what, &values, &scales)
                },
            )
            .exact(move |(values, scales)| {
                let mut expected = Vec::new();
                for at in 0..images * heads * tokens * dim {
                    let (row, k) = (at / dim % tokens, at % dim);
                    let matrix = [at / (dim * tokens * heads), at / (dim * tokens) % heads];
                    let [scale_1, scale_2, one, two] = scales[matrix[1]];
                    let value = values[place(&what.source, matrix, row, k)];
                    let code = code_of(&what, value, [one, two]);
                    let magnitude = f32::from(code % 128);
                    expected.push(match (format, code >= 128) {
                        (Format::Uniform, _) => f32::from(code as i8) * scale_1,
                        (Format::SoftmaxTwin, false) => magnitude * scale_1,
                        (Format::GeluTwin, false) => -magnitude * scale_1,
                        (Format::SoftmaxTwin | Format::GeluTwin, true) => magnitude * scale_2,
                    });
                }
                expected
            })
        })
    });
    cases.collect()
}
