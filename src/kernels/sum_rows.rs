//! Sums along rows: the last step of every score.

use super::WORKGROUP;
use super::catalogue::{Case, EPSILON, Mistake, RAGGED, Random, case, wide};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};

pub(crate) static SHADER: Shader = Shader {
    name: "sum_rows",
    source: include_str!("../../shaders/sum_rows.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    unused: [u32; 2],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { rows, width });

/// Computes `[rows]`: the sum of each row of `values` `[rows, width]`.
pub fn sum_rows(
    commands: &mut Commands,
    rows: usize,
    width: usize,
    values: &Buffer<f32>,
) -> Buffer<f32> {
    let sums = commands.uninitialized(rows);
    match commands.device() {
        Device::Cpu(_) => {
            let values = values.host_slice();
            for (row, sum) in sums.host_slice_mut().iter_mut().enumerate() {
                let row = &values[row * width..][..width];
                *sum = row.iter().map(|&value| f64::from(value)).sum::<f64>() as f32;
            }
        }
        Device::Gpu(_) => commands.dispatch(
            &SHADER,
            &[],
            &Parameters {
                rows: rows as u32,
                width: width as u32,
                unused: [0; 2],
            },
            &[Binding::F32(values), Binding::F32(&sums)],
            rows.div_ceil(WORKGROUP),
        ),
    }
    sums
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "column < p.width;",
    wrong: "column + 1u < p.width;",
});

/// Lists cases whose bound is that of a plain sum, because a compiler may undo the compensation.
pub(super) fn cases() -> Vec<Case> {
    let sizes = RAGGED.into_iter().zip(RAGGED.into_iter().rev());
    let cases = sizes.map(|(rows, width)| {
        case(
            format!("{rows}x{width}"),
            move || Random::new(width as u64).bell(rows * width, 1.0, 1.0),
            move |commands, device, values| sum_rows(commands, rows, width, &device.upload(values)),
        )
        .close(move |values| {
            let values = wide(values);
            let sums = values.chunks(width).map(|row| {
                let magnitude: f64 = row.iter().map(|x| x.abs()).sum();
                (
                    row.iter().sum(),
                    (width as f64 + 1.0) / 2.0 * EPSILON * magnitude,
                )
            });
            sums.collect()
        })
    });
    cases.collect()
}
