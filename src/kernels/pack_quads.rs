//! Operands of a product in f32, laid out so that one load brings four rows or columns.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, Random, case, place};
use super::geometry::View;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "pack_quads",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        include_str!("../../shaders/pack_quads.wgsl"),
    ),
};

/// Counts the steps of k that one invocation packs, as in the shader.
const STEPS: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    input: View,
    problems: u32,
    inner: u32,
    lines: u32,
    quads: u32,
    k: u32,
    unused: [u32; 3],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    input,
    problems,
    inner,
    lines,
    quads,
    k
});

/// Describes one operand of a batched product: lines that a product sums along. They are the rows of a left operand and
/// the columns of a right one.
#[derive(Clone, Copy, Debug)]
pub struct PackQuads {
    /// Outer and inner batch size.
    pub batch: [usize; 2],
    /// Lines of one matrix.
    pub lines: usize,
    /// Elements of a line.
    pub k: usize,
    /// Where the lines lie: a row of the view is a line.
    pub view: View,
}

impl PackQuads {
    /// Sets the multiple that lines are padded to: one side of the product's tile.
    pub const SIDE: usize = 12;

    /// Counts the elements of the packed operand.
    pub fn packed_len(&self) -> usize {
        self.batch[0] * self.batch[1] * self.k * self.padded_lines()
    }

    fn padded_lines(&self) -> usize {
        self.lines.next_multiple_of(Self::SIDE)
    }
}

/// Packs `input` as `[problem][k][line]`, the lines padded to a multiple of [`PackQuads::SIDE`] with copies of the last
/// one.
pub fn pack_quads(
    commands: &mut Commands,
    operand: &PackQuads,
    input: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(operand.packed_len());
    match commands.device() {
        Device::Cpu(_) => cpu(operand, &input.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let problems = operand.batch[0] * operand.batch[1];
            let quads = operand.padded_lines() / 4;
            let parameters = Parameters {
                input: operand.view,
                problems: problems as u32,
                inner: operand.batch[1] as u32,
                lines: operand.lines as u32,
                quads: quads as u32,
                k: operand.k as u32,
                unused: [0; 3],
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::PartOfF32(input, problems * operand.lines * operand.k),
                    Binding::F32(&out),
                ],
                (problems * operand.k.div_ceil(STEPS) * quads).div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(operand: &PackQuads, input: &[f32], out: &mut [f32]) {
    out.par_chunks_exact_mut(operand.padded_lines())
        .enumerate()
        .for_each(|(step, out)| {
            let (problem, k) = (step / operand.k, step % operand.k);
            let batch = [problem / operand.batch[1], problem % operand.batch[1]];
            for (line, out) in out.iter_mut().enumerate() {
                *out = input[operand.view.at(batch, line.min(operand.lines - 1), k)];
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "vec4(0u, 1u, 2u, 3u)",
    wrong: "vec4(0u, 1u, 3u, 2u)",
});

/// Lists cases with lines along either side of the input.
pub(super) fn cases() -> Vec<Case> {
    let (images, heads) = (2, 3);
    let sizes = [(1, 1), (12, 16), (13, 17), (7, 65)];
    let cases = sizes.into_iter().flat_map(|(lines, k)| {
        let strides = [heads * lines * k, lines * k];
        [
            ("lines", View::new(1, strides, k, 1)),
            ("columns", View::new(1, strides, 1, lines)),
        ]
        .map(|(what, view)| {
            let operand = PackQuads {
                batch: [images, heads],
                lines,
                k,
                view,
            };
            case(
                format!("{lines} {what} of {k}"),
                move || Random::new(k as u64).unit(1 + images * heads * lines * k),
                move |commands, device, input| {
                    pack_quads(commands, &operand, &device.upload(input))
                },
            )
            .exact(move |input| {
                let mut expected = Vec::new();
                for problem in 0..images * heads {
                    for step in 0..k {
                        for line in 0..lines.next_multiple_of(PackQuads::SIDE) {
                            let matrix = [problem / heads, problem % heads];
                            // What pads is never used; it repeats the last line.
                            let line = line.min(lines - 1);
                            expected.push(input[place(&view, matrix, line, step)]);
                        }
                    }
                }
                expected
            })
        })
    });
    cases.collect()
}
