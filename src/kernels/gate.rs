//! The gate of a gated MLP: one half of a row lets the other through.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::gelu::{apply, exact, form};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::Gelu;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "gate",
    source: concat!(
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/gate.wgsl"),
    ),
};

/// Counts the vectors that one invocation computes, as in the shader.
const STRIP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    width: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, width });

/// Computes `gelu(x) · y`, `[rows, width]`, of an input `[rows, 2 · width]` whose rows are x and then y.
pub fn gate(commands: &mut Commands, of: Gelu, width: usize, input: &Buffer<f32>) -> Buffer<f32> {
    let count = input.len() / 2;
    let out = commands.uninitialized(count);
    match commands.device() {
        Device::Cpu(_) => cpu(of, width, &input.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: count as u32,
                width: width as u32,
            };
            commands.dispatch(
                &SHADER,
                &[form(of)],
                &parameters,
                &[Binding::F32(input), Binding::F32(&out)],
                count.div_ceil(VECTOR * STRIP * WORKGROUP),
            );
        }
    }
    out
}

fn cpu(of: Gelu, width: usize, input: &[f32], out: &mut [f32]) {
    let rows = input.par_chunks(2 * width);
    let tasks = out.par_chunks_mut(width).zip(rows);
    tasks
        .with_min_len(PER_TASK.div_ceil(width))
        .for_each(|(out, row)| {
            let (x, y) = row.split_at(width);
            out.copy_from_slice(x);
            apply(of, out);
            out.iter_mut().zip(y).for_each(|(out, y)| *out *= y);
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "elements(first + p.width)",
    wrong: "elements(first + p.width - 1u)",
});

/// Lists rows and widths of the cases: widths that vectors fill and some that they don't, and more than a workgroup's.
pub(super) const SIZES: [[usize; 2]; 5] = [[1, 1], [3, 7], [5, 32], [13, 197], [40, 100]];

/// Makes rows of values of both signs.
pub(super) fn inputs([rows, width]: [usize; 2]) -> Vec<f32> {
    Random::new(width as u64).bell(rows * 2 * width, 0.0, 3.0)
}

/// Returns the places of x and y in the input for each element of the output.
pub(super) fn pairs([rows, width]: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    let of_row = move |row| (0..width).map(move |column| 2 * row * width + column);
    (0..rows)
        .flat_map(of_row)
        .map(move |first| (first, first + width))
}

/// Lists all forms of GELU, in rows of each size.
pub(super) fn cases() -> Vec<Case> {
    let cases = SIZES
        .into_iter()
        .flat_map(|sizes| Gelu::ALL.map(|of| case_of(sizes, of)));
    cases.collect()
}

fn case_of(sizes: [usize; 2], of: Gelu) -> Case {
    let [rows, width] = sizes;
    let described = case(
        format!("{rows}x{width} {}", of.name()),
        move || inputs(sizes),
        move |commands, device, input| gate(commands, of, width, &device.upload(input)),
    );
    described.close(move |input| {
        let input = wide(input);
        let of_pair = |(first, second): (usize, usize)| {
            let (gelu, bound) = exact(of, input[first]);
            let value = gelu * input[second];
            // One more product.
            let bound = bound * input[second].abs() + EPSILON * value.abs() + SMALLEST;
            (value, bound)
        };
        pairs(sizes).map(of_pair).collect()
    })
}
