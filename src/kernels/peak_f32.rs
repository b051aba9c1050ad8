//! A ceiling that `bench` measures: multiply-adds in f32.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, case};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use rten_simd::ops::NumOps;
use rten_simd::{Isa, SimdOp};

pub(crate) static SHADER: Shader = Shader {
    name: "peak_f32",
    source: include_str!("../../shaders/peak_f32.wgsl"),
};

/// Counts the independent chains of one invocation, as in the shader.
const CHAINS: usize = 8;
/// Counts the steps of every chain in one round, as in the shader.
const STEPS: usize = 16;

/// Says what [`peak_f32`] computes.
#[derive(Clone, Copy, Debug)]
pub struct PeakF32 {
    /// Rounds of 16 steps. Invocation i has eight chains, which start at i mod 16 to i mod 16 + 7.
    pub rounds: usize,
    /// The factor of a step `x · factor + term`.
    pub factor: f32,
    /// The term of a step `x · factor + term`.
    pub term: f32,
}

impl PeakF32 {
    /// Counts the multiply-adds of so many invocations.
    pub fn multiply_adds(&self, invocations: usize) -> u64 {
        (invocations * CHAINS * STEPS) as u64 * self.rounds as u64
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    rounds: u32,
    factor: f32,
    term: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    count,
    rounds,
    factor,
    term
});

/// Computes chains of multiply-adds. Each element of `out` is the sum of one invocation's chains.
pub fn peak_f32(commands: &mut Commands, what: &PeakF32, out: &Buffer<f32>) {
    match commands.device() {
        Device::Cpu(_) => out
            .host_slice_mut()
            .par_chunks_mut(PER_TASK)
            .enumerate()
            .for_each(|(task, sums)| {
                let first = task * PER_TASK;
                Chains { first, what, sums }.dispatch();
            }),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: out.len() as u32,
                rounds: what.rounds as u32,
                factor: what.factor,
                term: what.term,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(out)],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
}

/// Counts the invocations that one task of the CPU version computes.
const PER_TASK: usize = 128;
/// Limits the lanes of a vector.
const LANES: usize = 16;

/// Computes the sums of the invocations from `first` on, one in each lane of a vector. A library knows the machine's widest
/// vectors; a ceiling is no ceiling without them.
struct Chains<'a> {
    first: usize,
    what: &'a PeakF32,
    sums: &'a mut [f32],
}

impl SimdOp for Chains<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (factor, term) = (ops.splat(self.what.factor), ops.splat(self.what.term));
        for (part, sums) in self.sums.chunks_mut(ops.len()).enumerate() {
            let first = self.first + part * ops.len();
            let start: [f32; LANES] = std::array::from_fn(|lane| ((first + lane) % 16) as f32);
            let start = ops.load(&start);
            let mut x = [start; CHAINS];
            for (chain, x) in x.iter_mut().enumerate() {
                *x = ops.add(*x, ops.splat(chain as f32));
            }
            for _ in 0..self.what.rounds * STEPS {
                for x in &mut x {
                    *x = ops.mul_add(*x, factor, term);
                }
            }
            let [mut sum, rest @ ..] = x;
            for x in rest {
                sum = ops.add(sum, x);
            }
            let mut lanes = [0.0; LANES];
            ops.store(sum, &mut lanes);
            sums.copy_from_slice(&lanes[..sums.len()]);
        }
    }
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "sum.x + sum.y + sum.z + sum.w",
    wrong: "sum.x + sum.y + sum.z + sum.z",
});

/// Lists cases with numbers that an f32 holds. x grows by the steps, 16 to a round; x · -1 + 3 leads back to x after an
/// even number of them. So many sums fill no workgroup and no vector.
pub(super) fn cases() -> Vec<Case> {
    const COUNT: usize = 1003;
    let cases = [
        (1, 1.0, 1.0, 16.0),
        (2, 1.0, 0.5, 16.0),
        (2, -1.0, 3.0, 0.0),
    ];
    let cases = cases.map(|(rounds, factor, term, grown)| {
        let what = PeakF32 {
            rounds,
            factor,
            term,
        };
        case(
            format!("{rounds} rounds of x · {factor} + {term}"),
            || (),
            move |commands, device, ()| {
                let out = device.zeros(COUNT);
                peak_f32(commands, &what, &out);
                out
            },
        )
        .exact(move |()| {
            let sum = |at: usize| (0..8).map(|chain| (at % 16 + chain) as f32 + grown).sum();
            (0..COUNT).map(sum).collect::<Vec<f32>>()
        })
    });
    cases.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_chains_of_sixteen_are_counted_for_each_round() {
        let what = PeakF32 {
            rounds: 3,
            factor: 1.0,
            term: 1.0,
        };
        assert_eq!(what.multiply_adds(1003), 1003 * 8 * 16 * 3);
    }
}
