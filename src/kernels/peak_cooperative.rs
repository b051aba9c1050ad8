//! A ceiling that `bench` measures: products of cooperative matrices, f16 with sums in f32.

use super::catalogue::{Case, Mistake, case};
use super::integer_product_cooperative::with_side_16;
use crate::device::{Binding, Buffer, Commands, CooperativeUnits, Shader};
use bytemuck::{Pod, Zeroable};
use std::sync::LazyLock;

pub(crate) static SHADER: Shader = Shader {
    name: "peak_cooperative",
    source: include_str!("../../shaders/peak_cooperative.wgsl"),
};

static SOURCE_16: LazyLock<String> = LazyLock::new(|| with_side_16(SHADER.source));

static SHADER_16: LazyLock<Shader> = LazyLock::new(|| Shader {
    name: SHADER.name,
    source: &SOURCE_16,
});

/// Counts the independent chains of one subgroup, as in the shader.
const CHAINS: usize = 4;
/// Counts the steps of every chain in one round, as in the shader.
const STEPS: usize = 2;
/// Gives what a step adds to the chains, per row of a right matrix: (1 + 2) · (1 + 3).
const STEP: f32 = 12.0;

/// Counts the multiply-adds of so many subgroups, with matrices of these `units`.
pub fn peak_cooperative_multiply_adds(
    subgroups: usize,
    rounds: usize,
    units: CooperativeUnits,
) -> u64 {
    let of_a_product = u64::from(units.side).pow(2) * u64::from(units.depth);
    (subgroups * CHAINS * STEPS * rounds) as u64 * of_a_product
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    rounds: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, rounds });

/// Computes chains of products, each subgroup the same: `out` has an element of each subgroup's sum of its chains, per row
/// of a right matrix.
pub fn peak_cooperative(commands: &mut Commands, rounds: usize, out: &Buffer<f32>) {
    let Some(units) = commands.device().cooperative_units() else {
        return on_cpu(rounds, out);
    };
    let parameters = Parameters {
        count: out.len() as u32,
        rounds: rounds as u32,
    };
    let shader = if units.side == 16 {
        &SHADER_16
    } else {
        &SHADER
    };
    let lanes = [("LANES", units.subgroup.into())];
    commands.dispatch(shader, &lanes, &parameters, &[Binding::F32(out)], out.len());
}

/// Computes the same on the CPU, whatever the matrices are of.
pub(super) fn on_cpu(rounds: usize, out: &Buffer<f32>) {
    let steps = (STEPS * rounds) as f32;
    out.host_slice_mut().fill(STEP * steps);
}

/// Plants no mistake, because no adapter at hand may have cooperative matrices.
pub(super) const MISTAKE: Option<Mistake> = None;

/// Lists cases of one subgroup and of several.
pub(super) fn cases() -> Vec<Case> {
    let cases = chain_cases(peak_cooperative).into_iter();
    cases
        .map(|case| case.on(|device| device.cooperative_units().is_some()))
        .collect()
}

/// Lists such cases of a kernel with these chains.
pub(super) fn chain_cases(kernel: fn(&mut Commands, usize, &Buffer<f32>)) -> [Case; 2] {
    [(1, 1), (3, 70)].map(|(subgroups, rounds)| {
        case(
            format!("{subgroups} subgroups, {rounds} rounds"),
            || (),
            move |commands, device, ()| {
                let out = device.zeros(subgroups);
                kernel(commands, rounds, &out);
                out
            },
        )
        .exact(move |()| {
            let step = |left: f32, right: f32| left * right;
            let chains = [
                step(1.0, 1.0),
                step(1.0, 3.0),
                step(2.0, 1.0),
                step(2.0, 3.0),
            ];
            vec![2.0 * rounds as f32 * chains.iter().sum::<f32>(); subgroups]
        })
    })
}
