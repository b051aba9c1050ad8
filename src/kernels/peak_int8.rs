//! A ceiling that `bench` measures: dot products of packed 8-bit integers.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, case};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "peak_int8",
    source: include_str!("../../shaders/peak_int8.wgsl"),
};

/// Counts the independent chains of one invocation, as in the shader.
const CHAINS: usize = 8;
/// Counts the steps of every chain in one round, as in the shader.
const STEPS: usize = 4;

/// Says what [`peak_int8`] computes.
#[derive(Clone, Copy, Debug)]
pub struct PeakInt8 {
    /// Rounds of 4 steps. Invocation i has eight chains, which start at i to i + 7.
    pub rounds: usize,
    /// Four packed bytes, of a step `x + dot(bytes of x, operand)`.
    pub operand: u32,
}

impl PeakInt8 {
    /// Counts the multiply-adds of so many invocations.
    pub fn multiply_adds(&self, invocations: usize) -> u64 {
        (4 * invocations * CHAINS * STEPS) as u64 * self.rounds as u64
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    rounds: u32,
    operand: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    count,
    rounds,
    operand
});

/// Computes chains of dot products. Each element of `out` is the sum of one invocation's chains. Sums wrap.
pub fn peak_int8(commands: &mut Commands, what: &PeakInt8, out: &Buffer<u32>) {
    match commands.device() {
        Device::Cpu(_) => out
            .host_slice_mut()
            .par_chunks_mut(LANES)
            .enumerate()
            .for_each(|(index, out)| {
                out.copy_from_slice(&chains(index * LANES, what)[..out.len()])
            }),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: out.len() as u32,
                rounds: what.rounds as u32,
                operand: what.operand,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::U32(out)],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
}

/// Counts the invocations that the CPU version computes side by side, one in each lane of a vector register.
const LANES: usize = 8;

/// Computes the sums of the invocations from `first` on, compiled for each instruction set.
#[multiversion(targets = "simd")]
fn chains(first: usize, what: &PeakInt8) -> [u32; LANES] {
    let operand = what.operand.to_le_bytes().map(|byte| i32::from(byte as i8));
    let mut x = [[0i32; LANES]; CHAINS];
    for (chain, x) in x.iter_mut().enumerate() {
        for (lane, x) in x.iter_mut().enumerate() {
            *x = (first + lane + chain) as i32;
        }
    }
    for _ in 0..what.rounds * STEPS {
        for x in &mut x {
            for x in x {
                // Shifted up and down again, a byte keeps its sign.
                let byte = |at: u32| (*x << (24 - 8 * at)) >> 24;
                let dot = byte(0) * operand[0]
                    + byte(1) * operand[1]
                    + byte(2) * operand[2]
                    + byte(3) * operand[3];
                *x = x.wrapping_add(dot);
            }
        }
    }
    std::array::from_fn(|lane| x.iter().fold(0, |sum: i32, x| sum.wrapping_add(x[lane])) as u32)
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "sum.x + sum.y + sum.z + sum.w",
    wrong: "sum.x + sum.y + sum.z + sum.z",
});

/// Lists cases with four dot products to a round, in eight chains. So many sums fill no workgroup and no vector.
pub(super) fn cases() -> Vec<Case> {
    const COUNT: u32 = 1003;
    let cases = [(1, [1, 0, 0, 0]), (2, [-128, 127, -1, 3]), (70, [127; 4])];
    let cases = cases.map(|(rounds, operand): (_, [i8; 4])| {
        let what = PeakInt8 {
            rounds,
            operand: u32::from_le_bytes(operand.map(|byte| byte as u8)),
        };
        case(
            format!("{rounds} rounds of {operand:?}"),
            || (),
            move |commands, device, ()| {
                let out = device.zeros(COUNT as usize);
                peak_int8(commands, &what, &out);
                out
            },
        )
        .exact(move |()| {
            let chain = |start: u32| {
                (0..4 * rounds).fold(start as i32, |x, _| {
                    let pairs = x.to_le_bytes().into_iter().zip(operand);
                    let products = pairs.map(|(byte, by)| i32::from(byte as i8) * i32::from(by));
                    x.wrapping_add(products.sum())
                }) as u32
            };
            let sum = |at: u32| (at..at + 8).map(chain).fold(0, u32::wrapping_add);
            (0..COUNT).map(sum).collect::<Vec<u32>>()
        })
    });
    cases.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_chains_of_sixteen_are_counted_for_each_round() {
        let what = PeakInt8 {
            rounds: 3,
            operand: 0,
        };
        assert_eq!(what.multiply_adds(1003), 1003 * 8 * 16 * 3);
    }
}
