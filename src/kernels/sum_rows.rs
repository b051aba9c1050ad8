//! Sums along rows: the last step of every score.

use super::catalogue::{Case, EPSILON, Mistake, ROWS, Random, case, wide};
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};

pub(crate) static SHADER: Shader = Shader {
    name: "sum_rows",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/sum_rows.wgsl"),
    ),
};

/// Counts the elements of a row beyond which all invocations of a workgroup share it: there are few long ones.
const LONG: usize = 4096;

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
        Device::Gpu(_) => {
            let lanes = if width > LONG {
                rows::MOST_LANES
            } else {
                rows::LANES
            };
            let parameters = Parameters {
                rows: rows as u32,
                width: width as u32,
                unused: [0; 2],
            };
            let bindings = [Binding::F32(values), Binding::F32(&sums)];
            rows::dispatch(commands, lanes, &SHADER, &[], &parameters, &bindings, rows);
        }
    }
    sums
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "column < width;",
    wrong: "column + 1u < width;",
});

/// Lists cases whose bound is that of a plain sum, because a compiler may undo the compensation.
pub(super) fn cases() -> Vec<Case> {
    let sizes = ROWS.into_iter().chain([[2, LONG + 1]]);
    let cases = sizes.map(|[rows, width]| {
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
    cases.flat_map(Case::by_row_division).collect()
}
