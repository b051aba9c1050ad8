//! The quadratic scores of a candidate: Σ G² (Ô - O)² (`hessian`) and Σ (Ô - O)² (`mse`).

use super::WORKGROUP;
use super::geometry::Lines;
use super::sum_rows::sum_rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "weighted_error",
    source: include_str!("../../shaders/weighted_error.wgsl"),
};

/// Elements that one invocation adds up: few enough that an f32 sum keeps its digits.
const ELEMENTS_PER_INVOCATION: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    jobs: u32,
    columns: u32,
    group_columns: u32,
    column_groups: u32,
    group_rows: u32,
    row_groups: u32,
    lines: u32,
    lines_per_part: u32,
    job_stride: u32,
    has_weight: u32,
    unused: [u32; 2],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    jobs,
    columns,
    group_columns,
    column_groups,
    group_rows,
    row_groups,
    lines,
    lines_per_part,
    job_stride,
    has_weight,
});

/// `[jobs][groups]`: Σ (weight · (output - reference))² over each group, for the `outputs` `[jobs][rows][columns]` of
/// several candidates. Without a `weight` (both `[rows, columns]`), weights are 1.
pub fn weighted_error(
    commands: &mut Commands,
    lines: &Lines,
    jobs: usize,
    outputs: &Buffer<f32>,
    reference: &Buffer<f32>,
    weight: Option<&Buffer<f32>>,
) -> Buffer<f32> {
    match commands.device() {
        Device::Cpu(_) => {
            let errors = commands.device().zeros(jobs * lines.groups());
            cpu(
                lines,
                &outputs.host_slice(),
                &reference.host_slice(),
                weight.map(Buffer::host_slice).as_deref(),
                &mut errors.host_slice_mut(),
            );
            errors
        }
        Device::Gpu(_) => {
            let lines_per_part = (ELEMENTS_PER_INVOCATION * WORKGROUP / lines.group_columns)
                .clamp(1, lines.lines().max(1));
            let parts = lines.lines().div_ceil(lines_per_part);
            let workgroups = jobs * lines.groups() * parts;
            let partial = commands.uninitialized(workgroups * WORKGROUP);
            let parameters = Parameters {
                jobs: jobs as u32,
                columns: lines.columns as u32,
                group_columns: lines.group_columns as u32,
                column_groups: lines.column_groups() as u32,
                group_rows: lines.group_rows as u32,
                row_groups: lines.row_groups as u32,
                lines: lines.lines() as u32,
                lines_per_part: lines_per_part as u32,
                job_stride: lines.elements() as u32,
                has_weight: weight.is_some().into(),
                unused: [0; 2],
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(outputs),
                    Binding::F32(reference),
                    // Never read without `has_weight`; a binding must be something.
                    Binding::F32(weight.unwrap_or(reference)),
                    Binding::F32(&partial),
                ],
                workgroups,
            );
            sum_rows(commands, jobs * lines.groups(), parts * WORKGROUP, &partial)
        }
    }
}

fn cpu(
    lines: &Lines,
    outputs: &[f32],
    reference: &[f32],
    weight: Option<&[f32]>,
    errors: &mut [f32],
) {
    errors
        .par_iter_mut()
        .enumerate()
        .for_each(|(index, error)| {
            let (job, group) = (index / lines.groups(), index % lines.groups());
            let outputs = &outputs[job * lines.elements()..];
            let sum: f64 = (0..lines.lines())
                .map(|line| {
                    let line = lines.line(group, line);
                    let (output, reference) = (&outputs[line.clone()], &reference[line.clone()]);
                    f64::from(match weight {
                        Some(weight) => line_error(output, reference, |at| weight[line.start + at]),
                        None => line_error(output, reference, |_| 1.0),
                    })
                })
                .sum();
            *error = sum as f32;
        });
}

/// One line's sum, in as many independent sums as a vector register has lanes.
fn line_error(output: &[f32], reference: &[f32], weight: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let whole = output.len() / LANES * LANES;
    let square = |at: usize| {
        let error = (output[at] - reference[at]) * weight(at);
        error * error
    };
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += square(start + lane);
        }
    }
    sums.iter().sum::<f32>() + (whole..output.len()).map(square).sum::<f32>()
}
