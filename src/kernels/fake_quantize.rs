//! Quantization simulated in floats: what published code computes, and what the integer path is compared with.

use super::WORKGROUP;
use super::catalogue::{
    Case, FORMATS, Group, Mistake, Random, TABLES, case, format_name, place, third,
};
use super::geometry::View;
use super::quantize::cases::{groups, records, values};
use super::quantize::{Quantize, fill_rows};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{Decoder, Format, formats_wgsl, half_range};
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
/// be packed doesn't matter. `encoders` are the records of the groups' [encoders](Format::encoders), `decoders` what their
/// lanes [stand for](Format::decoders).
pub fn fake_quantize(
    commands: &mut Commands,
    what: &Quantize,
    source: &Buffer<f32>,
    encoders: &Buffer<u32>,
    decoders: &[Decoder],
) -> Buffer<f32> {
    let len = what.batch[0] * what.batch[1] * what.rows * what.k;
    let out = commands.uninitialized(len);
    match commands.device() {
        Device::Cpu(_) => cpu(
            what,
            &source.host_slice(),
            &encoders.host_slice(),
            decoders,
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let members = decoders
                .iter()
                .map(|decoder| [decoder.unit_1, decoder.unit_2, decoder.offset, decoder.most]);
            let decoders = commands
                .device()
                .upload(&members.flatten().collect::<Vec<f32>>());
            let parameters = Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                k: what.k as u32,
                inner_groups: what.inner_groups as u32,
                group_rows: what.group_rows as u32,
                q: half_range(what.bits),
                unused: 0,
            };
            let is_twin = f64::from(u8::from(what.format.is_twin()));
            commands.dispatch(
                &SHADER,
                &[("FORMAT", f64::from(what.format as u32)), ("TWIN", is_twin)],
                &parameters,
                &[
                    Binding::F32(source),
                    Binding::U32(encoders),
                    Binding::F32(&decoders),
                    Binding::F32(&out),
                ],
                len.div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(what: &Quantize, source: &[f32], encoders: &[u32], decoders: &[Decoder], out: &mut [f32]) {
    let words = what.format.encoder_words();
    out.par_chunks_mut(what.k)
        .enumerate()
        .for_each(|(index, out)| {
            let (problem, row) = (index / what.rows, index % what.rows);
            let batch = [problem / what.batch[1], problem % what.batch[1]];
            let group = batch[1] * what.inner_groups + row / what.group_rows;
            let record = &encoders[group * words..][..words];
            let line = &source[what.source.at(batch, row, 0)..];
            let line = line.iter().step_by(what.source.column as usize);
            out.iter_mut().zip(line).for_each(|(out, &x)| *out = x);
            fake_quantize_values(what.format, what.bits, record, decoders[group], out);
        });
}

/// Rounds values that share an encoder, whose record is given, to what their codes stand for.
pub(crate) fn fake_quantize_values(
    format: Format,
    bits: u32,
    record: &[u32],
    decoder: Decoder,
    values: &mut [f32],
) {
    let mut words = vec![0; values.len().div_ceil(4)];
    fill_rows(
        format,
        half_range(bits),
        values.len(),
        values,
        record,
        &mut words,
    );
    let lanes: &[u8] = bytemuck::cast_slice(&words);
    let is_twin = format.is_twin();
    for (value, &lane) in values.iter_mut().zip(lanes) {
        *value = decoder.value(is_twin, lane);
    }
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "quantize(vec4(x),",
    wrong: "quantize(vec4(x + 0.5 * decoders[group].x),",
});

/// Lists a case with keys that have a scale for each head. What codes stand for is rounded once, and
/// once more where an offset is added.
pub(super) fn cases() -> Vec<Case> {
    let (images, tokens, heads, dim) = (2, 7, 3, 5);
    let formats = FORMATS.into_iter().chain(TABLES);
    let cases = formats.flat_map(|format| {
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
                    let groups = groups(&what, &mut random);
                    (values, groups)
                },
                move |commands, device, (values, groups)| {
                    let values = device.upload(values);
                    let encoders = device.upload(&records(groups));
                    let decoders: Vec<Decoder> = groups.iter().map(Group::decoder).collect();
                    fake_quantize(commands, &what, &values, &encoders, &decoders)
                },
            )
            .exact(move |(values, groups)| {
                let mut expected = Vec::new();
                for at in 0..images * heads * tokens * dim {
                    let (row, k) = (at / dim % tokens, at % dim);
                    let matrix = [at / (dim * tokens * heads), at / (dim * tokens) % heads];
                    let group = &groups[matrix[1]];
                    let [scale_1, scale_2] = group.scales;
                    let code = group.code(values[place(&what.source, matrix, row, k)]);
                    let magnitude = f32::from(code % 128);
                    expected.push(match (format, code >= 128) {
                        (Format::Uniform, _) => f32::from(code as i8) * scale_1,
                        (Format::SoftmaxTwin, false) => magnitude * scale_1,
                        (Format::GeluTwin, false) => -magnitude * scale_1,
                        (Format::SoftmaxTwin | Format::GeluTwin, true) => magnitude * scale_2,
                        (Format::Table, _) => f32::from(code as i8) * scale_1 + group.offset(),
                        (Format::TwinTable, false) => magnitude * scale_1 + group.offset(),
                        (Format::TwinTable, true) => magnitude * scale_2 + group.offset(),
                    });
                }
                expected
            })
        })
    });
    cases.collect()
}
