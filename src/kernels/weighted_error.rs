//! The quadratic scores of a candidate: Σ G² (Ô - O)² (`hessian`) and Σ (Ô - O)² (`mse`).

use super::WORKGROUP;
use super::catalogue::{Case, EPSILON, Mistake, Random, case};
use super::geometry::Lines;
use super::sum_rows::sum_rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "weighted_error",
    source: include_str!("../../shaders/weighted_error.wgsl"),
};

/// Counts the elements that one invocation adds up: few enough that an f32 sum keeps its digits.
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

/// Computes `[jobs][groups]`: Σ (weight · (output - reference))² over each group, for the `outputs`
/// `[jobs][rows][columns]` of several candidates. Without a `weight` (both `[rows, columns]`), weights are 1.
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

/// Computes one line's sum, in as many independent sums as a vector register has lanes.
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

/// Holds candidates' outputs, which come ever closer to the reference.
pub(super) struct Candidates {
    /// `[JOBS][rows][columns]`
    pub outputs: Vec<f32>,
    pub reference: Vec<f32>,
    pub weight: Vec<f32>,
}

pub(super) const JOBS: usize = 5;

impl Candidates {
    pub fn new(shape: &Lines) -> Self {
        let (len, columns) = (shape.rows * shape.columns, shape.columns);
        let mut random = Random::new(len as u64);
        let mut reference = random.bell(len, 0.5, 1.0);
        let mut outputs = Vec::new();
        for noise in [10.0, 1.0, 0.1, 0.01, 0.001] {
            let pairs = reference.iter().zip(random.bell(len, 0.0, noise));
            outputs.extend(pairs.map(|(value, noise)| value + noise));
        }
        // Lines without a direction: of the reference, of one output, of both.
        if shape.rows >= 4 {
            reference[..2 * columns].fill(0.0);
            outputs[..columns].fill(0.0);
            outputs[2 * columns..3 * columns].fill(0.0);
        }
        Self {
            outputs,
            reference,
            weight: random.bell(len, 0.0, 1e-3),
        }
    }
}

/// Lists shapes with their names: one group; groups of columns; heads stacked in rows, twice over (two images); more
/// lines than one workgroup takes.
pub(super) fn shapes() -> [(String, Lines); 5] {
    let shapes = [
        (1, 1, 1, 1, 1),
        (197, 65, 65, 197, 1),
        (14, 3 * 70, 70, 14, 1),
        (2 * 3 * 7, 9, 9, 7, 3),
        (2 * 2 * 450, 33, 33, 450, 2),
    ];
    shapes.map(|(rows, columns, group_columns, group_rows, row_groups)| {
        let groups = columns / group_columns * row_groups;
        let shape = Lines {
            rows,
            columns,
            group_columns,
            group_rows,
            row_groups,
        };
        (format!("{rows}x{columns} in {groups} groups"), shape)
    })
}

/// Lists each group's lines of `values` `[rows][columns]`.
pub(super) fn grouped<'a, T>(shape: &Lines, values: &'a [T]) -> Vec<Vec<&'a [T]>> {
    let column_groups = shape.columns / shape.group_columns;
    let mut groups = vec![Vec::new(); column_groups * shape.row_groups];
    for (row, values) in values.chunks(shape.columns).enumerate() {
        for (column_group, line) in values.chunks(shape.group_columns).enumerate() {
            let row_group = row / shape.group_rows % shape.row_groups;
            groups[column_group * shape.row_groups + row_group].push(line);
        }
    }
    groups
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "column < p.group_columns;",
    wrong: "column + 1u < p.group_columns;",
});

pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().into_iter().flat_map(|(name, shape)| {
        [(false, "unweighted"), (true, "weighted")].map(|(weighted, what)| {
            case(
                format!("{name}, {what}"),
                move || Candidates::new(&shape),
                move |commands, device, candidates| {
                    let weight = weighted.then(|| device.upload(&candidates.weight));
                    weighted_error(
                        commands,
                        &shape,
                        JOBS,
                        &device.upload(&candidates.outputs),
                        &device.upload(&candidates.reference),
                        weight.as_ref(),
                    )
                },
            )
            .close(move |candidates| errors(&shape, candidates, weighted))
        })
    });
    cases.collect()
}

/// Computes each sum and a bound on its error: an element is rounded three times; a line, all lines and all parts are
/// summed one in the other. The difference is rounded before it is squared, on all devices alike.
fn errors(shape: &Lines, candidates: &Candidates, weighted: bool) -> Vec<(f64, f64)> {
    let len = candidates.reference.len();
    let jobs = candidates.outputs.chunks(len).flat_map(|outputs| {
        let squares: Vec<f64> = (0..len)
            .map(|at| {
                let weight = if weighted { candidates.weight[at] } else { 1.0 };
                let difference = outputs[at] - candidates.reference[at];
                (f64::from(difference) * f64::from(weight)).powi(2)
            })
            .collect();
        let groups = grouped(shape, &squares).into_iter().map(|lines| {
            let steps = (shape.group_columns + lines.len()) as f64;
            let sum: f64 = lines.concat().iter().sum();
            (sum, (5.0 + steps / 2.0) * EPSILON * sum)
        });
        groups.collect::<Vec<_>>()
    });
    jobs.collect()
}
