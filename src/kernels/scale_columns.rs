//! The rows of a matrix, each column times a factor of its own: LayerScale, and its gradient.

use super::catalogue::{Case, Mistake, Random, case};
use super::{PER_TASK, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "scale_columns",
    source: include_str!("../../shaders/scale_columns.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    columns: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, columns });

/// Multiplies `input` `[rows, columns]` by `factors` `[columns]`, row by row.
pub fn scale_columns(
    commands: &mut Commands,
    input: &Buffer<f32>,
    factors: &Buffer<f32>,
) -> Buffer<f32> {
    assert!(
        input.len().is_multiple_of(factors.len()),
        "each row has a value for each factor"
    );
    let out = commands.uninitialized(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            &input.host_slice(),
            &factors.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: input.len() as u32,
                columns: factors.len() as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(input),
                    Binding::F32(factors),
                    Binding::F32(&out),
                ],
                input.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(input: &[f32], factors: &[f32], out: &mut [f32]) {
    let columns = factors.len();
    let per_task = PER_TASK.div_ceil(columns) * columns;
    out.par_chunks_mut(per_task)
        .zip(input.par_chunks(per_task))
        .for_each(|(out, input)| {
            let factors = factors.iter().cycle();
            for ((out, input), factor) in out.iter_mut().zip(input).zip(factors) {
                *out = input * factor;
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "at % parameters.columns",
    wrong: "at % max(parameters.columns - 1u, 1u)",
});

/// Lists cases whose products round once. The last size needs more workgroups than one dimension of a dispatch holds.
pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1), (3, 65), (197, 64), (70_000, 71)];
    let cases = sizes.map(|(rows, columns)| {
        case(
            format!("{rows}x{columns}"),
            move || {
                let mut random = Random::new(columns as u64);
                [rows * columns, columns].map(|len| random.bell(len, 0.0, 1.0))
            },
            |commands, device, [input, factors]| {
                scale_columns(commands, &device.upload(input), &device.upload(factors))
            },
        )
        .exact(move |[input, factors]| {
            let places = 0..rows * columns;
            places
                .map(|at| input[at] * factors[at % columns])
                .collect::<Vec<_>>()
        })
    });
    cases.into()
}
