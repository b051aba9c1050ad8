//! The kernels that score candidates: `weighted_error`, `row_error`, `sum_rows`, `row_maximum`.

use crate::harness::{EPSILON, Everywhere, RAGGED, Random, wide};
use ptq4vit_gpu::kernels::{
    Lines, RowMaximum, View, row_error, row_maximum, sum_rows, weighted_error,
};

/// One group; groups of columns; heads stacked in rows, twice over (two images).
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
        // More lines than one workgroup takes.
        lines(2 * 2 * 450, 33, 33, 450, 2),
    ]
}

/// `values`, `[rows][columns]`, as lists of lines for each group.
fn grouped(shape: &Lines, values: &[f64]) -> Vec<Vec<Vec<f64>>> {
    let mut groups = vec![Vec::new(); shape.groups()];
    for (row, values) in values.chunks(shape.columns).enumerate() {
        for (column_group, line) in values.chunks(shape.group_columns).enumerate() {
            let row_group = row / shape.group_rows % shape.row_groups;
            groups[column_group * shape.row_groups + row_group].push(line.to_vec());
        }
    }
    groups
}

/// Candidates' outputs, the reference, and weights. Outputs come ever closer to the reference.
fn data(shape: &Lines, jobs: usize) -> [Vec<f32>; 3] {
    let mut random = Random::new(shape.elements() as u64);
    let reference = random.normal(shape.elements(), 0.5, 1.0);
    let outputs = (0..jobs)
        .flat_map(|job| {
            let noise = random.normal(shape.elements(), 0.0, 10f32.powi(1 - job as i32));
            let pairs = reference.iter().zip(noise);
            pairs
                .map(|(value, noise)| value + noise)
                .collect::<Vec<_>>()
        })
        .collect();
    let weight = random.normal(shape.elements(), 0.0, 1e-3);
    [outputs, reference, weight]
}

const JOBS: usize = 5;

#[test]
fn weighted_error_of_groups_and_jobs() {
    let everywhere = Everywhere::new();
    for shape in shapes() {
        let [outputs, reference, weight] = data(&shape, JOBS);
        for weighted in [true, false] {
            let mut expected = Vec::new();
            for outputs in outputs.chunks(shape.elements()) {
                // The difference is rounded before it is squared, on all devices alike.
                let squares: Vec<f64> = (0..shape.elements())
                    .map(|at| {
                        let weight = if weighted { weight[at] } else { 1.0 };
                        (f64::from(outputs[at] - reference[at]) * f64::from(weight)).powi(2)
                    })
                    .collect();
                for group in grouped(&shape, &squares) {
                    let sum: f64 = group.iter().flatten().sum();
                    // Three roundings of an element; a line, all lines and all parts are summed one in the other.
                    let steps = shape.group_columns + group.len();
                    let bound = (3.0 + steps as f64 / 2.0 + 2.0) * EPSILON * sum;
                    expected.push((sum, bound));
                }
            }
            everywhere.close(
                &format!("weighted_error {shape:?}"),
                &expected,
                |commands, device| {
                    let weight = weighted.then(|| device.upload(&weight));
                    weighted_error(
                        commands,
                        &shape,
                        JOBS,
                        &device.upload(&outputs),
                        &device.upload(&reference),
                        weight.as_ref(),
                    )
                },
            );
        }
    }
}

/// 1 - cos of one line by the definition, and the bound on its error: the sums of squares err by `width` half-epsilons
/// each, and so does the part of the error that is parallel to the reference and is subtracted.
fn one_minus_cosine(output: &[f64], reference: &[f64], centered: bool) -> (f64, f64) {
    let width = output.len() as f64;
    let mean = |values: &[f64]| match centered {
        true => values.iter().sum::<f64>() / width,
        false => 0.0,
    };
    let (output_mean, reference_mean) = (mean(output), mean(reference));
    let (mut oo, mut rr, mut or, mut ee) = (0.0, 0.0, 0.0, 0.0);
    for (output, reference) in output.iter().zip(reference) {
        let (o, r) = (output - output_mean, reference - reference_mean);
        oo += o * o;
        rr += r * r;
        or += o * r;
        ee += (o - r) * (o - r);
    }
    if oo == 0.0 || rr == 0.0 {
        return (if oo == rr { 0.0 } else { 1.0 }, 0.0);
    }
    let exact = 1.0 - or / (oo.sqrt() * rr.sqrt());
    let scale = exact.max(ee / oo.max(rr)).max(1e-9);
    (exact, (2.0 * width + 20.0) * EPSILON * scale)
}

#[test]
fn row_error_is_one_minus_the_cosine() {
    let everywhere = Everywhere::new();
    for shape in shapes() {
        let [mut outputs, mut reference, _] = data(&shape, JOBS);
        // Lines without a direction: of the reference, of one output, of both.
        if shape.rows >= 4 {
            reference[..2 * shape.columns].fill(0.0);
            outputs[..shape.columns].fill(0.0);
            outputs[2 * shape.columns..3 * shape.columns].fill(0.0);
        }
        for centered in [false, true] {
            // A line of one element has no direction once its mean is taken away.
            let mut expected = Vec::new();
            let references = grouped(&shape, &wide(&reference));
            for outputs in outputs.chunks(shape.elements()) {
                for (outputs, references) in grouped(&shape, &wide(outputs)).iter().zip(&references)
                {
                    let (mut sum, mut bound) = (0.0, 0.0);
                    for (output, reference) in outputs.iter().zip(references) {
                        let line = one_minus_cosine(output, reference, centered);
                        sum += line.0;
                        bound += line.1;
                    }
                    expected.push((sum, bound + outputs.len() as f64 * EPSILON / 2.0 * sum));
                }
            }
            let what = format!("row_error {shape:?}, centered {centered}");
            everywhere.close(&what, &expected, |commands, device| {
                let (outputs, reference) = (device.upload(&outputs), device.upload(&reference));
                row_error(commands, &shape, JOBS, centered, &outputs, &reference)
            });
        }
    }
}

#[test]
fn sum_rows_of_ragged_rows() {
    let everywhere = Everywhere::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        let values = Random::new(width as u64).normal(rows * width, 1.0, 1.0);
        let expected: Vec<_> = wide(&values)
            .chunks(width)
            .map(|row| {
                let magnitude: f64 = row.iter().map(|x| x.abs()).sum();
                // A compiler may undo the compensation, so the bound is that of a plain sum.
                let bound = width as f64 * EPSILON / 2.0 * magnitude;
                (row.iter().sum(), bound)
            })
            .collect();
        everywhere.close(
            &format!("sum_rows {rows}x{width}"),
            &expected,
            |commands, device| sum_rows(commands, rows, width, &device.upload(&values)),
        );
    }
}

#[test]
fn row_maximum_of_interleaved_heads() {
    let everywhere = Everywhere::new();
    let (images, tokens, heads, dim) = (2, 7, 3, 65);
    let width = 3 * heads * dim;
    let third = |which: usize| View::new(which * heads * dim, [tokens * width, dim], width, 1);
    let values = Random::new(1).normal(images * tokens * width, -2.0, 1.0);
    for (source, rows, columns) in [
        (third(0), tokens, dim),
        (third(2).transposed(), dim, tokens),
    ] {
        for absolute in [false, true] {
            let what = RowMaximum {
                source,
                batch: [images, heads],
                rows,
                columns,
                absolute,
            };
            let mut expected = Vec::new();
            for image in 0..images {
                for head in 0..heads {
                    for row in 0..rows {
                        let start = source.offset as usize
                            + image * source.outer as usize
                            + head * source.inner as usize
                            + row * source.row as usize;
                        let of_row = (0..columns).map(|column| {
                            let value = values[start + column * source.column as usize];
                            if absolute { value.abs() } else { value }
                        });
                        expected.push(of_row.fold(f32::NEG_INFINITY, f32::max));
                    }
                }
            }
            everywhere.equal(&format!("{what:?}"), &expected, |commands, device| {
                row_maximum(commands, &what, &device.upload(&values))
            });
        }
    }
}
