//! A ceiling that `bench` measures: products of cooperative matrices, int8 with sums in i32.

use super::catalogue::{Case, Mistake};
use super::peak_cooperative::{chain_cases, on_cpu};
use crate::device::{Binding, Buffer, Commands, Shader};
use bytemuck::{Pod, Zeroable};

macro_rules! source {
    ($side:literal) => {
        // What a text enables comes first.
        concat!(
            include_str!("../../shaders/peak_cooperative_int8.wgsl"),
            include_str!(concat!(
                "../../shaders/shared/int8_matrices/side_",
                $side,
                ".wgsl"
            )),
        )
    };
}

pub(crate) static SHADER: Shader = Shader {
    name: "peak_cooperative_int8",
    source: source!("16"),
};

static SHADER_8: Shader = Shader {
    name: SHADER.name,
    source: source!("8"),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    rounds: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, rounds });

/// Computes chains of products, each subgroup the same: `out` has an element of each subgroup's sum of its chains, per row
/// of a right matrix. The chains are those of [`peak_cooperative`](super::peak_cooperative()).
pub fn peak_cooperative_int8(commands: &mut Commands, rounds: usize, out: &Buffer<f32>) {
    let Some(units) = commands.device().int8_units() else {
        return on_cpu(rounds, out);
    };
    let parameters = Parameters {
        count: out.len() as u32,
        rounds: rounds as u32,
    };
    let shader = if units.side == 16 { &SHADER } else { &SHADER_8 };
    let constants = [
        ("LANES", units.subgroup.into()),
        ("DEPTH", units.depth.into()),
    ];
    let entry_point = shader.on_int8_matrices();
    let bindings = [Binding::F32(out)];
    commands.dispatch(entry_point, &constants, &parameters, &bindings, out.len());
}

/// Plants no mistake, because no adapter at hand may have such matrices.
pub(super) const MISTAKE: Option<Mistake> = None;

/// Lists cases of one subgroup and of several.
pub(super) fn cases() -> Vec<Case> {
    let cases = chain_cases(peak_cooperative_int8).into_iter();
    cases
        .map(|case| case.on(|device| device.int8_units().is_some()))
        .collect()
}
