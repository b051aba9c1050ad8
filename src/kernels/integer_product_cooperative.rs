//! Exact integer products by units for matrices of floats. The CPU version is that of
//! [`integer_product`](super::integer_product()), which chooses between them.

use super::catalogue::{Case, Mistake};
use super::integer_product::{self, Parameters};
use crate::device::{Binding, Commands, Shader};
use crate::format::formats_wgsl;
use std::sync::LazyLock;

static SHADER: Shader = Shader {
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
static SOURCE_16: LazyLock<String> = LazyLock::new(|| {
    let source = SHADER.source.replace("coop_mat8x8", "coop_mat16x16");
    source.replace("const SIDE: u32 = 8u;", "const SIDE: u32 = 16u;")
});

static SHADER_16: LazyLock<Shader> = LazyLock::new(|| Shader {
    name: SHADER.name,
    source: &SOURCE_16,
});

/// Sets the rows and columns of a workgroup's tile, as in the shader.
pub(super) const TILE: usize = 64;

/// Appends [`integer_product`](super::integer_product())'s dispatch for all `matrices`.
pub(super) fn dispatch(
    commands: &mut Commands,
    constants: &[(&'static str, f64)],
    parameters: &Parameters,
    bindings: &[Binding],
    matrices: usize,
) {
    let shader = match commands.device().cooperative_side() {
        Some(16) => &SHADER_16,
        _ => &SHADER,
    };
    let tiles = (parameters.m as usize).div_ceil(TILE) * (parameters.n as usize).div_ceil(TILE);
    commands.dispatch(shader, constants, parameters, bindings, tiles * matrices);
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
    cases.map(Case::by_cooperative_matrices).collect()
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
