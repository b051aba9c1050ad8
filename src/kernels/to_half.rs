//! Floats to f16, on the fly: the operands of a `half_product`.

use super::WORKGROUP;
use super::catalogue::{
    Amount, Case, Exercise, Launch, Mistake, NetworkProduct, Random, Timed, Variant, case, place,
};
use super::geometry::{Product, View};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use half::f16;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "to_half",
    source: concat!(
        // First, because it begins with what it enables.
        include_str!("../../shaders/to_half.wgsl"),
        include_str!("../../shaders/shared/view.wgsl"),
    ),
};

/// Counts the rows and columns that one invocation writes, as in the shader, and that both are padded to.
const BLOCK: usize = 4;

/// Says what to round: a batch of matrices `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct ToHalf {
    /// Where the values lie.
    pub source: View,
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of each matrix.
    pub rows: usize,
    /// Columns of each matrix.
    pub columns: usize,
}

impl ToHalf {
    /// Describes the left operand of `product`, `[m, k]`.
    pub fn left(product: &Product) -> Self {
        Self {
            source: product.a,
            batch: product.batch,
            rows: product.m,
            columns: product.k,
        }
    }

    /// Describes the right operand of `product`, `[k, n]`.
    pub fn right(product: &Product) -> Self {
        Self {
            source: product.b,
            batch: product.batch,
            rows: product.k,
            columns: product.n,
        }
    }

    /// Counts the rows and columns of each matrix of the result.
    pub(super) fn padded(&self) -> [usize; 2] {
        [self.rows, self.columns].map(|side| side.next_multiple_of(BLOCK))
    }

    /// Says where the result lies.
    pub(super) fn result(&self) -> View {
        let [rows, columns] = self.padded();
        let matrix = rows * columns;
        View::new(0, [self.batch[1] * matrix, matrix], columns, 1)
    }

    fn values(&self) -> usize {
        self.batch[0] * self.batch[1] * self.rows * self.columns
    }

    /// Counts the values of the whole result.
    pub fn len(&self) -> usize {
        let [rows, columns] = self.padded();
        self.batch[0] * self.batch[1] * rows * columns
    }

    /// Says whether there is nothing to round.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
    columns,
});

/// Rounds `source` to f16, `[outer][inner][rows][columns]`, rows and columns padded to multiples of four with zeros.
/// Values beyond the range of f16 become the nearest of its ends. Which of its two neighbours in f16 a value is rounded
/// to is the driver's choice.
pub fn to_half(commands: &mut Commands, what: &ToHalf, source: &Buffer<f32>) -> Buffer<f16> {
    let out = commands.uninitialized(what.len());
    match commands.device() {
        Device::Cpu(_) => cpu(what, &source.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                columns: what.columns as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::PartOfF32(source, what.values()),
                    Binding::F16(&out),
                ],
                (what.len() / (BLOCK * BLOCK)).div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(what: &ToHalf, source: &[f32], out: &mut [f16]) {
    let [height, width] = what.padded();
    let largest = f16::MAX.to_f32();
    out.par_chunks_mut(width)
        .enumerate()
        .for_each(|(line, out)| {
            let (problem, row) = (line / height, line % height);
            let batch = [problem / what.batch[1], problem % what.batch[1]];
            let columns = if row < what.rows { what.columns } else { 0 };
            let (values, padding) = out.split_at_mut(columns);
            for (column, out) in values.iter_mut().enumerate() {
                let value = source[what.source.at(batch, row, column)];
                *out = f16::from_f32(value.clamp(-largest, largest));
            }
            padding.fill(f16::ZERO);
        });
}

/// Lists the ends of f16's range and what lies beyond, the smallest normal value, values on both sides of a half step.
const SPECIAL: [f32; 10] = [
    0.0,
    -0.0,
    65504.0,
    -65504.0,
    65520.0,
    -1e30,
    f32::MAX,
    6.103_515_6e-5,
    2049.0,
    -2051.0,
];

/// Describes how the kernel is timed.
pub(super) const TIMED: Timed = Timed {
    about: "Floats to f16, on a device that has it",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let [rows, columns] = at.rows();
    let written = columns.next_multiple_of(BLOCK) * size_of::<f16>();
    let bytes = rows * (columns * size_of::<f32>() + written);
    let exercise = Exercise::new(
        Variant::default(),
        vec![rows, columns],
        Amount::Bytes(bytes as u64),
        at.largest(),
        move |device, _| {
            let what = ToHalf::left(&at.product);
            let a = at.operands(device, None).a;
            let run: Launch = Box::new(move |commands| drop(to_half(commands, &what, &a)));
            run.into()
        },
    );
    vec![exercise.in_f16()]
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "clamp(values, vec4(-LARGEST)",
    wrong: "clamp(values * 1.001, vec4(-LARGEST)",
});

/// Lists cases with two matrices, read by columns. WGSL leaves open which neighbour in f16 a value becomes.
pub(super) fn cases() -> Vec<Case> {
    let cases = [(9, 7), (1, 1), (65, 197)].map(|(rows, columns)| {
        let what = ToHalf {
            source: View::new(0, [0, rows * columns], 1, rows),
            batch: [1, 2],
            rows,
            columns,
        };
        let case = case(
            format!("{rows}x{columns}"),
            move || {
                let mut values = Random::new(5).bell(2 * rows * columns, 0.0, 3.0);
                let places = values.iter_mut().zip(SPECIAL);
                places.for_each(|(value, special)| *value = special);
                values
            },
            move |commands, device, values| to_half(commands, &what, &device.upload(values)),
        )
        .close(move |values| {
            let [height, width] = [rows, columns].map(|side| side.div_ceil(4) * 4);
            let places = (0..2 * height * width).map(|at| {
                let (matrix, row, column) =
                    (at / (height * width), at / width % height, at % width);
                let inside = row < rows && column < columns;
                match inside {
                    true => neighbours(values[place(&what.source, [0, matrix], row, column)]),
                    false => (0.0, 0.0),
                }
            });
            places.collect()
        });
        case.on(Device::has_f16)
    });
    cases.into()
}

/// Returns a value within f16's range, and its distance to the farther of the two that f16 has beside it; below the
/// normal ones, what a device may take for zero.
fn neighbours(value: f32) -> (f64, f64) {
    let value = f64::from(value).clamp(-65504.0, 65504.0);
    let (magnitude, smallest) = (value.abs(), f16::MIN_POSITIVE.to_f64());
    let error = (f16::from_f64(value).to_f64() - value).abs();
    let bound = if error == 0.0 && (magnitude == 0.0 || magnitude >= smallest) {
        0.0
    } else if magnitude < smallest {
        magnitude.max(f16::EPSILON.to_f64() * smallest)
    } else {
        2f64.powi(magnitude.log2().floor() as i32) * f16::EPSILON.to_f64() - error
    };
    (value, bound)
}
