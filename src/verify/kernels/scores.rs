//! The kernels that score candidates.

use super::super::random::Random;
use super::{Case, EPSILON, RAGGED};
use crate::kernels::{Lines, RowMaximum, View, row_error, row_maximum, sum_rows, weighted_error};

const JOBS: usize = 5;

/// One group; groups of columns; heads stacked in rows, twice over (two images); more lines than one workgroup takes.
fn shapes() -> [Lines; 5] {
    let lines = |rows, columns, group_columns, group_rows, row_groups| Lines {
        rows,
        columns,
        group_columns,
        group_rows,
        row_groups,
    };
    [
        lines(1, 1, 1, 1, 1),
        lines(197, 65, 65, 197, 1),
        lines(14, 3 * 70, 70, 14, 1),
        lines(2 * 3 * 7, 9, 9, 7, 3),
        lines(2 * 2 * 450, 33, 33, 450, 2),
    ]
}

/// Candidates' outputs, which come ever closer to the reference, the reference, and weights.
struct Data {
    outputs: Vec<f32>,
    reference: Vec<f32>,
    weight: Vec<f32>,
}

impl Data {
    fn new(shape: &Lines) -> Self {
        let mut random = Random::new(shape.elements() as u64);
        let mut reference = random.bell(shape.elements(), 0.5, 1.0);
        let noises = [10.0, 1.0, 0.1, 0.01, 0.001];
        let mut outputs = Vec::new();
        for noise in noises {
            let noise = random.bell(shape.elements(), 0.0, noise);
            outputs.extend(
                reference
                    .iter()
                    .zip(noise)
                    .map(|(value, noise)| value + noise),
            );
        }
        // Lines without a direction: of the reference, of one output, of both.
        if shape.rows >= 4 {
            reference[..2 * shape.columns].fill(0.0);
            outputs[..shape.columns].fill(0.0);
            outputs[2 * shape.columns..3 * shape.columns].fill(0.0);
        }
        Self {
            outputs,
            reference,
            weight: random.bell(shape.elements(), 0.0, 1e-3),
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in shapes() {
        let Lines { rows, columns, .. } = shape;
        let title = format!("{rows}x{columns} in {} groups", shape.groups());
        for flag in [false, true] {
            let name = format!("{title}, {}", if flag { "weighted" } else { "unweighted" });
            // Three roundings of an element; a line, all lines and all parts are summed one in the other.
            let steps = (shape.group_columns + shape.lines()) as f64;
            let bounds = move |expected: &[f32]| {
                let sums = expected.iter();
                sums.map(|sum| 2.0 * (5.0 + steps / 2.0) * EPSILON * f64::from(*sum))
                    .collect()
            };
            cases.push(Case::close(
                "weighted_error",
                name,
                bounds,
                move |commands, device| {
                    let data = Data::new(&shape);
                    let weight = flag.then(|| device.upload(&data.weight));
                    let (outputs, reference) =
                        (device.upload(&data.outputs), device.upload(&data.reference));
                    weighted_error(
                        commands,
                        &shape,
                        JOBS,
                        &outputs,
                        &reference,
                        weight.as_ref(),
                    )
                },
            ));
            let name = format!("{title}, {}", if flag { "correlations" } else { "cosines" });
            let bounds = move |expected: &[f32]| angle_bounds(&shape, flag, expected);
            cases.push(Case::close(
                "row_error",
                name,
                bounds,
                move |commands, device| {
                    let data = Data::new(&shape);
                    let (outputs, reference) =
                        (device.upload(&data.outputs), device.upload(&data.reference));
                    row_error(commands, &shape, JOBS, flag, &outputs, &reference)
                },
            ));
        }
    }
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        let values = Random::new(width as u64).bell(rows * width, 1.0, 1.0);
        let of_values = values.clone();
        // A compiler may undo the compensation, so the bound is that of a plain sum.
        let bounds = move |_: &[f32]| {
            let rows = of_values.chunks(width);
            rows.map(|row| {
                let magnitude: f64 = row.iter().map(|x| f64::from(x.abs())).sum();
                (width as f64 + 1.0) * EPSILON / 2.0 * magnitude
            })
            .collect()
        };
        cases.push(Case::close(
            "sum_rows",
            format!("{rows}x{width}"),
            bounds,
            move |commands, device| sum_rows(commands, rows, width, &device.upload(&values)),
        ));
    }
    cases.extend(maxima());
    cases
}

/// Bounds on sums of 1 - cos: the sums of squares of a line err by as many half-epsilons as it has elements each, and so
/// does the part of the error that is parallel to the reference and is subtracted.
fn angle_bounds(shape: &Lines, centered: bool, expected: &[f32]) -> Vec<f64> {
    let data = Data::new(shape);
    let (groups, width) = (shape.groups(), shape.group_columns as f64);
    let of_group = |(index, &sum): (usize, &f32)| {
        let (job, group) = (index / groups, index % groups);
        let outputs = &data.outputs[job * shape.elements()..];
        let lines = (0..shape.lines()).map(|line| {
            let line = shape.line(group, line);
            let scale = line_scale(&outputs[line.clone()], &data.reference[line], centered);
            (2.0 * width + 20.0) * EPSILON * scale
        });
        let of_sum = shape.lines() as f64 * EPSILON / 2.0 * f64::from(sum);
        2.0 * (lines.sum::<f64>() + of_sum)
    };
    expected.iter().enumerate().map(of_group).collect()
}

/// What the errors of one line's 1 - cos are in proportion to.
fn line_scale(output: &[f32], reference: &[f32], centered: bool) -> f64 {
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
    if oo == 0.0 || rr == 0.0 {
        return 0.0;
    }
    let exact = 1.0 - or / (oo.sqrt() * rr.sqrt());
    exact.max(ee / oo.max(rr)).max(1e-9)
}

/// Rows and columns of heads that are interleaved.
fn maxima() -> Vec<Case> {
    let (images, tokens, heads, dim) = (2, 7, 3, 65);
    let width = 3 * heads * dim;
    let third = |which: usize| View::new(which * heads * dim, [tokens * width, dim], width, 1);
    let places = [
        ("rows", third(0), tokens, dim),
        ("columns", third(2).transposed(), dim, tokens),
    ];
    let mut cases = Vec::new();
    for (what, source, rows, columns) in places {
        for absolute in [false, true] {
            let row_maximum_of = RowMaximum {
                source,
                batch: [images, heads],
                rows,
                columns,
                absolute,
            };
            let name = format!("{what}, {}", if absolute { "magnitudes" } else { "values" });
            cases.push(Case::exact("row_maximum", name, move |commands, device| {
                let values = Random::new(1).bell(images * tokens * width, -2.0, 1.0);
                row_maximum(commands, &row_maximum_of, &device.upload(&values))
            }));
        }
    }
    cases
}
