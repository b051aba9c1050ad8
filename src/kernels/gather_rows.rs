//! Rows of one matrix to consecutive rows of another: what the search puts its pieces together with.

use super::PER_TASK;
use super::catalogue::{Case, Mistake, Random, case};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "gather_rows",
    source: include_str!("../../shaders/gather_rows.wgsl"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    dim: u32,
    first: u32,
    unused: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, dim, first });

/// Copies rows of `dim` elements: `out[first + i] = source[rows[i]]`. Other rows of `out` keep their values.
pub fn gather_rows(
    commands: &mut Commands,
    dim: usize,
    source: &Buffer<f32>,
    rows: &[u32],
    out: &Buffer<f32>,
    first: usize,
) {
    match commands.device() {
        Device::Cpu(_) => cpu(
            dim,
            &source.host_slice(),
            rows,
            &mut out.host_slice_mut()[first * dim..],
        ),
        Device::Gpu(_) => commands.dispatch(
            &SHADER,
            &[],
            &Parameters {
                count: rows.len() as u32,
                dim: dim as u32,
                first: first as u32,
                unused: 0,
            },
            &[
                Binding::F32(source),
                Binding::U32(&commands.device().upload(rows)),
                Binding::F32(out),
            ],
            rows.len(),
        ),
    }
}

fn cpu(dim: usize, source: &[f32], rows: &[u32], out: &mut [f32]) {
    let per_task = PER_TASK.div_ceil(dim);
    out.par_chunks_mut(per_task * dim)
        .zip(rows.par_chunks(per_task))
        .for_each(|(out, rows)| {
            for (out, &row) in out.chunks_exact_mut(dim).zip(rows) {
                out.copy_from_slice(&source[row as usize * dim..][..dim]);
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "(p.first + row) * p.dim",
    wrong: "row * p.dim",
});

/// Lists cases where two rows before the gathered ones and one after them stay zero. The last size has more rows than
/// one dimension of a dispatch has workgroups.
pub(super) fn cases() -> Vec<Case> {
    const ROWS: usize = 211;
    let sizes = [(1, 1), (3, 65), (197, 64), (70_000, 3)];
    let cases = sizes.map(|(count, dim)| {
        let chosen = move || (0..count).map(|at| at * 89 % ROWS);
        case(
            format!("{count}x{dim}"),
            move || Random::new(dim as u64).unit(ROWS * dim),
            move |commands, device, source| {
                let chosen: Vec<u32> = chosen().map(|row| row as u32).collect();
                let out = device.zeros((count + 3) * dim);
                gather_rows(commands, dim, &device.upload(source), &chosen, &out, 2);
                out
            },
        )
        .exact(move |source| {
            let mut expected = vec![0.0; 2 * dim];
            for row in chosen() {
                expected.extend(&source[row * dim..][..dim]);
            }
            expected.extend(vec![0.0; dim]);
            expected
        })
    });
    cases.into()
}
