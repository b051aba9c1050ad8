//! Exact integer products by units for matrices of f16. The CPU version is that of
//! [`integer_product`](super::integer_product()), which chooses between them.

use super::catalogue::{Case, Mistake};
use super::integer_product::{self, Parameters};
use crate::device::{Binding, Commands, Shader, Strategy};
use crate::format::formats_wgsl;
use std::sync::LazyLock;

pub(crate) static SHADER: Shader = Shader {
    name: "integer_product_cooperative",
    // What a text enables comes first.
    source: concat!(
        include_str!("../../shaders/integer_product_cooperative.wgsl"),
        formats_wgsl!(),
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/shared/integer_product.wgsl"),
        include_str!("../../shaders/shared/view.wgsl"),
    ),
};

/// Holds the shader's text for matrices of 16 by 16. Their type is no value that a constant could stand for.
static SOURCE_16: LazyLock<String> = LazyLock::new(|| with_side_16(SHADER.source));

/// Makes a shader for cooperative matrices of 8 by 8 one for those of 16 by 16.
pub(super) fn with_side_16(source: &str) -> String {
    let source = source.replace("coop_mat8x8", "coop_mat16x16");
    source.replace("const SIDE: u32 = 8u;", "const SIDE: u32 = 16u;")
}

static SHADER_16: LazyLock<Shader> = LazyLock::new(|| Shader {
    name: SHADER.name,
    source: &SOURCE_16,
});

/// Lists the blocks of a workgroup, down and across, from the most to the fewest.
const BLOCKS: [[usize; 2]; 4] = [[2, 4], [2, 2], [1, 2], [1, 1]];

/// Counts the workgroups that occupy a device: fewer blocks to a workgroup where there would be less than that.
const ENOUGH_WORKGROUPS: usize = 256;

/// Limits a workgroup's invocations, as WebGPU does by default.
const MOST_INVOCATIONS: usize = 256;

/// Counts the codes from one staged row to the next, as in the shader.
const PITCH: usize = 40;

/// Limits a sum that needs no division on the way, as in the shader.
const SHORT: u32 = 1024;

/// Appends [`integer_product`](super::integer_product())'s dispatch for all `matrices`.
pub(super) fn dispatch(
    commands: &mut Commands,
    constants: &[(&'static str, f64)],
    is_twin: bool,
    parameters: &Parameters,
    bindings: &[Binding],
    matrices: usize,
) {
    let Some(units) = commands.device().cooperative_units() else {
        unreachable!("this strategy is only for devices with cooperative matrices");
    };
    let side = units.side as usize;
    let lanes = (units.subgroup as usize).max(2 * side);
    let is_long = 4 * parameters.words > SHORT;
    let ranges = if is_twin { 2 } else { 1 };
    let workgroups = |[down, across]: [usize; 2]| {
        let rows = (parameters.m as usize).div_ceil(4 * side * down / ranges);
        rows * (parameters.n as usize).div_ceil(2 * side * across) * matrices
    };
    let fits = |[down, across]: [usize; 2]| {
        let staged = 2 * PITCH * (4 * side * down + 2 * side * across);
        let slots = if is_long { 2 * ranges } else { ranges };
        let exchanged = 4 * slots * down * across * side * side;
        down * across * lanes <= MOST_INVOCATIONS
            && staged + exchanged <= units.workgroup_bytes as usize
    };
    let fitting: Vec<_> = BLOCKS.into_iter().filter(|&blocks| fits(blocks)).collect();
    let occupying = fitting
        .iter()
        .find(|&&blocks| workgroups(blocks) >= ENOUGH_WORKGROUPS);
    let &blocks = occupying.or(fitting.last()).expect("a block alone fits");
    let mut constants = constants.to_vec();
    constants.extend([
        ("BLOCKS_DOWN", blocks[0] as f64),
        ("BLOCKS_ACROSS", blocks[1] as f64),
        ("LANES", (blocks[0] * blocks[1] * lanes) as f64),
        ("LONG", f64::from(u8::from(is_long))),
    ]);
    let shader = if side == 16 { &SHADER_16 } else { &SHADER };
    commands.dispatch(shader, &constants, parameters, bindings, workgroups(blocks));
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    out,
    outer,
    inner,
    m,
    n,
    words,
    jobs,
    a_per_job,
    b_per_job,
    job_stride,
    groups,
    inner_groups,
    group_columns,
    has_affine,
    r1_sign,
    has_residual,
    order_rows,
    image_rows,
    has_weight,
    q,
});

/// Plants no mistake, because no adapter at hand may have cooperative matrices.
pub(super) const MISTAKE: Option<Mistake> = None;

/// Lists cases of the same products, computed by units for matrices.
pub(super) fn cases() -> Vec<Case> {
    let cases = integer_product::cases().into_iter();
    cases
        .map(|case| case.by(&[Strategy::Cooperative]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No adapter at hand may have them.
    #[test]
    fn the_shader_for_larger_matrices_is_valid() {
        let pairs = SHADER.source.lines().zip(SHADER_16.source.lines());
        assert_eq!(pairs.filter(|(one, other)| one != other).count(), 4);
        super::super::layout_test::parse(SHADER_16.name, SHADER_16.source);
    }
}
