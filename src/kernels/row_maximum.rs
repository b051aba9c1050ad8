//! The largest value or magnitude of each row: what candidate scales are fractions of.

use super::catalogue::{Case, Mistake, Random, case, place, third};
use super::geometry::View;
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "row_maximum",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/row_maximum.wgsl"),
    ),
};

/// Describes a batch of matrices `[rows, columns]` whose rows' maxima are wanted.
#[derive(Clone, Copy, Debug)]
pub struct RowMaximum {
    /// Where the values lie.
    pub source: View,
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of each matrix.
    pub rows: usize,
    /// Columns of each matrix, at least 1.
    pub columns: usize,
    /// Whether magnitudes are compared.
    pub absolute: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    columns: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    source,
    outer,
    inner,
    rows,
    columns
});

/// Finds `[outer][inner][rows]`: the maximum of each row of `source`.
pub fn row_maximum(
    commands: &mut Commands,
    what: &RowMaximum,
    source: &Buffer<f32>,
) -> Buffer<f32> {
    let len = what.batch[0] * what.batch[1] * what.rows;
    let maxima = commands.uninitialized(len);
    match commands.device() {
        Device::Cpu(_) => cpu(what, &source.host_slice(), &mut maxima.host_slice_mut()),
        Device::Gpu(_) => {
            // Neighbours should read what lies side by side: one row's elements, or else several rows'.
            let lanes = if what.source.column == 1 {
                rows::LANES
            } else {
                1
            };
            let constants = [("ABSOLUTE", f64::from(u8::from(what.absolute)))];
            let parameters = Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                columns: what.columns as u32,
            };
            let bindings = [Binding::F32(source), Binding::F32(&maxima)];
            rows::dispatch(
                commands,
                lanes,
                &SHADER,
                &constants,
                &parameters,
                &bindings,
                len,
            );
        }
    }
    maxima
}

fn cpu(what: &RowMaximum, source: &[f32], maxima: &mut [f32]) {
    maxima
        .par_iter_mut()
        .enumerate()
        .for_each(|(index, maximum)| {
            let (problem, row) = (index / what.rows, index % what.rows);
            let batch = [problem / what.batch[1], problem % what.batch[1]];
            *maximum = (0..what.columns)
                .map(|column| source[what.source.at(batch, row, column)])
                .map(|value| if what.absolute { value.abs() } else { value })
                .fold(f32::NEG_INFINITY, f32::max);
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "column < columns;",
    wrong: "column + 1u < columns;",
});

/// Lists cases with rows and columns of heads that are interleaved.
pub(super) fn cases() -> Vec<Case> {
    let (images, tokens, heads, dim) = (2, 7, 3, 65);
    let third = |which| third(which, [tokens, heads, dim]);
    let places = [
        ("rows", third(0), tokens, dim),
        ("columns", third(2).transposed(), dim, tokens),
    ];
    let cases = places
        .into_iter()
        .flat_map(|(name, source, rows, columns)| {
            [(false, "values"), (true, "magnitudes")].map(|(absolute, of)| {
                let what = RowMaximum {
                    source,
                    batch: [images, heads],
                    rows,
                    columns,
                    absolute,
                };
                case(
                    format!("{name}, {of}"),
                    move || Random::new(1).bell(images * tokens * 3 * heads * dim, -2.0, 1.0),
                    move |commands, device, values| {
                        row_maximum(commands, &what, &device.upload(values))
                    },
                )
                .exact(move |values| {
                    let mut expected = Vec::new();
                    for at in 0..images * heads * rows {
                        let matrix = [at / (heads * rows), at / rows % heads];
                        let of_row = (0..columns).map(|column| {
                            let value = values[place(&source, matrix, at % rows, column)];
                            if absolute { value.abs() } else { value }
                        });
                        expected.push(of_row.fold(f32::NEG_INFINITY, f32::max));
                    }
                    expected
                })
            })
        });
    cases.flat_map(Case::by_row_division).collect()
}
