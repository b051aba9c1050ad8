//! The directional scores of a candidate: Σ over lines of 1 - cos(Ô, O) (`cosine`), or of 1 - Pearson's correlation
//! (`pearson`).

use super::catalogue::{Case, EPSILON, Mistake, case};
use super::geometry::Lines;
use super::rows;
use super::sum_rows::sum_rows;
use super::weighted_error::{Candidates, JOBS, grouped, shapes};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "row_error",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/row_error.wgsl"),
    ),
};

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
    job_stride: u32,
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
    job_stride,
});

/// Computes `[jobs][groups]`: Σ over the lines of each group of 1 - cos(output, reference), for the `outputs`
/// `[jobs][rows][columns]` of several candidates; of 1 - Pearson's correlation if `centered`.
pub fn row_error(
    commands: &mut Commands,
    lines: &Lines,
    jobs: usize,
    centered: bool,
    outputs: &Buffer<f32>,
    reference: &Buffer<f32>,
) -> Buffer<f32> {
    match commands.device() {
        Device::Cpu(_) => {
            let errors = commands.device().zeros(jobs * lines.groups());
            cpu(
                lines,
                centered,
                &outputs.host_slice(),
                &reference.host_slice(),
                &mut errors.host_slice_mut(),
            );
            errors
        }
        Device::Gpu(_) => {
            let rows = jobs * lines.groups() * lines.lines();
            let errors = commands.device().zeros(rows);
            let parameters = Parameters {
                jobs: jobs as u32,
                columns: lines.columns as u32,
                group_columns: lines.group_columns as u32,
                column_groups: lines.column_groups() as u32,
                group_rows: lines.group_rows as u32,
                row_groups: lines.row_groups as u32,
                lines: lines.lines() as u32,
                job_stride: lines.elements() as u32,
            };
            rows::dispatch(
                commands,
                rows::LANES,
                &SHADER,
                &[("CENTERED", f64::from(u8::from(centered)))],
                &parameters,
                &[
                    Binding::F32(outputs),
                    Binding::F32(reference),
                    Binding::F32(&errors),
                ],
                rows,
            );
            sum_rows(commands, jobs * lines.groups(), lines.lines(), &errors)
        }
    }
}

fn cpu(lines: &Lines, centered: bool, outputs: &[f32], reference: &[f32], errors: &mut [f32]) {
    errors
        .par_iter_mut()
        .enumerate()
        .for_each(|(index, error)| {
            let (job, group) = (index / lines.groups(), index % lines.groups());
            let outputs = &outputs[job * lines.elements()..];
            let sum: f64 = (0..lines.lines())
                .map(|line| {
                    let line = lines.line(group, line);
                    line_error(&outputs[line.clone()], &reference[line], centered)
                })
                .sum();
            *error = sum as f32;
        });
}

/// Computes 1 - cos of one line, by the formula in the shader's head.
fn line_error(output: &[f32], reference: &[f32], centered: bool) -> f64 {
    let (mut reference_mean, mut error_mean) = (0.0, 0.0);
    if centered {
        let [reference_sum, error_sum] =
            sums(output, reference, |reference, error| [reference, error]);
        reference_mean = (reference_sum / output.len() as f64) as f32;
        error_mean = (error_sum / output.len() as f64) as f32;
    }
    let [oo, ee, oe] = sums(output, reference, |reference, error| {
        let (o, e) = (reference - reference_mean, error - error_mean);
        [o * o, e * e, o * e]
    });
    let output_norm = (oo + 2.0 * oe + ee).max(0.0);
    if oo == 0.0 && output_norm == 0.0 {
        return 0.0;
    }
    if oo == 0.0 || output_norm == 0.0 {
        return 1.0;
    }
    let cosine = (oo + oe) / (oo.sqrt() * output_norm.sqrt());
    if cosine > 0.0 {
        (ee - oe / oo * oe).max(0.0) / output_norm / (1.0 + cosine)
    } else {
        1.0 - cosine
    }
}

/// Sums over a line of the `terms` of (reference, output - reference), in as many independent sums as a vector register
/// has lanes.
fn sums<const N: usize>(
    output: &[f32],
    reference: &[f32],
    terms: impl Fn(f32, f32) -> [f32; N],
) -> [f64; N] {
    const LANES: usize = 8;
    let mut sums = [[0.0f32; LANES]; N];
    let (outputs, output_rest) = output.as_chunks::<LANES>();
    let (references, reference_rest) = reference.as_chunks::<LANES>();
    for (output, reference) in outputs.iter().zip(references) {
        for lane in 0..LANES {
            let terms = terms(reference[lane], output[lane] - reference[lane]);
            for (sums, term) in sums.iter_mut().zip(terms) {
                sums[lane] += term;
            }
        }
    }
    let mut totals = sums.map(|sums| sums.iter().map(|&sum| f64::from(sum)).sum::<f64>());
    for (&output, &reference) in output_rest.iter().zip(reference_rest) {
        for (total, term) in totals.iter_mut().zip(terms(reference, output - reference)) {
            *total += f64::from(term);
        }
    }
    totals
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "result = 1.0 - cosine;",
    wrong: "result = cosine;",
});

pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().into_iter().flat_map(|(name, shape)| {
        [(false, "cosines"), (true, "correlations")].map(|(centered, what)| {
            case(
                format!("{name}, {what}"),
                move || Candidates::new(&shape),
                move |commands,
                      device,
                      Candidates {
                          outputs, reference, ..
                      }| {
                    let (outputs, reference) = (device.upload(outputs), device.upload(reference));
                    row_error(commands, &shape, JOBS, centered, &outputs, &reference)
                },
            )
            .close(
                move |Candidates {
                          outputs, reference, ..
                      }| {
                    let references = grouped(&shape, reference);
                    let jobs = outputs.chunks(reference.len()).flat_map(|outputs| {
                        let groups = grouped(&shape, outputs);
                        let pairs = groups.into_iter().zip(&references);
                        pairs
                            .map(|(outputs, references)| {
                                sum_of_errors(&outputs, references, centered)
                            })
                            .collect::<Vec<_>>()
                    });
                    jobs.collect()
                },
            )
        })
    });
    cases.flat_map(Case::by_row_division).collect()
}

fn sum_of_errors(outputs: &[&[f32]], references: &[&[f32]], centered: bool) -> (f64, f64) {
    let lines = outputs.iter().zip(references);
    let errors = lines.map(|(output, reference)| one_minus_cosine(output, reference, centered));
    let (sum, bound) = errors.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    (sum, bound + outputs.len() as f64 * EPSILON / 2.0 * sum)
}

/// Computes 1 - cos of one line by the definition, and the bound on its error: the sums of squares err by `width`
/// half-epsilons each, and so does the part of the error that is parallel to the reference and is subtracted.
fn one_minus_cosine(output: &[f32], reference: &[f32], centered: bool) -> (f64, f64) {
    let width = output.len() as f64;
    let mean = |values: &[f32]| match centered {
        true => values.iter().map(|&x| f64::from(x)).sum::<f64>() / width,
        false => 0.0,
    };
    let (output_mean, reference_mean) = (mean(output), mean(reference));
    let (mut oo, mut rr, mut or, mut ee) = (0.0, 0.0, 0.0, 0.0);
    for (&output, &reference) in output.iter().zip(reference) {
        let o = f64::from(output) - output_mean;
        let r = f64::from(reference) - reference_mean;
        oo += o * o;
        rr += r * r;
        or += o * r;
        ee += (o - r) * (o - r);
    }
    // A line of one element has no direction once its mean is taken away.
    if oo == 0.0 || rr == 0.0 {
        return (if oo == rr { 0.0 } else { 1.0 }, 0.0);
    }
    let exact = 1.0 - or / (oo.sqrt() * rr.sqrt());
    let scale = exact.max(ee / oo.max(rr)).max(1e-9);
    (exact, (2.0 * width + 20.0) * EPSILON * scale)
}
