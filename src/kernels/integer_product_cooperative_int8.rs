//! Exact integer products by units for matrices of int8. The CPU version is that of
//! [`integer_product`](super::integer_product()), which chooses between them.

use super::catalogue::{Case, Mistake};
use super::integer_product::{self, Parameters};
use crate::device::{Binding, Commands, Shader, Strategy};
use crate::format::formats_wgsl;

macro_rules! source {
    ($side:literal) => {
        // What a text enables comes first.
        concat!(
            include_str!("../../shaders/integer_product_cooperative_int8.wgsl"),
            include_str!(concat!(
                "../../shaders/shared/int8_matrices/side_",
                $side,
                ".wgsl"
            )),
            formats_wgsl!(),
            include_str!("../../shaders/shared/gelu.wgsl"),
            include_str!("../../shaders/shared/integer_product.wgsl"),
            include_str!("../../shaders/shared/view.wgsl"),
        )
    };
}

pub(crate) static SHADER: Shader = Shader {
    name: "integer_product_cooperative_int8",
    source: source!("16"),
};

static SHADER_8: Shader = Shader {
    name: SHADER.name,
    source: source!("8"),
};

/// Describes the part of a product that a workgroup computes at once.
#[derive(Clone, Copy)]
struct Tile {
    /// Blocks down and across.
    blocks: [usize; 2],
    /// Matrices of a block, down.
    down: usize,
    /// Subgroups that share a block's sums.
    slices: usize,
    /// Quads of codes that are staged at once of each row, column and slice.
    quads: usize,
    /// The fewest workgroups that it is for: with fewer, a large device has nothing to do for most of its multiprocessors.
    enough: usize,
    /// The shortest sum that it is for: a shorter one is sooner computed than finished, and more workgroups finish sooner.
    shortest: usize,
}

/// Lists tiles from the one that reads least for its sums to the one that occupies a device soonest. Little workgroup memory
/// matters more than long stages, because more workgroups are resident then; with few of them, it is the other way round.
const TILES: [Tile; 4] = [
    Tile {
        blocks: [2, 2],
        down: 4,
        slices: 1,
        quads: 2,
        enough: 128,
        shortest: 129,
    },
    Tile {
        blocks: [4, 1],
        down: 2,
        slices: 1,
        quads: 4,
        enough: 128,
        shortest: 1,
    },
    Tile {
        blocks: [2, 1],
        down: 2,
        slices: 2,
        quads: 4,
        enough: 64,
        shortest: 1,
    },
    Tile {
        blocks: [1, 1],
        down: 2,
        slices: 4,
        quads: 4,
        enough: 1,
        shortest: 1,
    },
];

/// Counts the matrices of a block across, as in the shader.
const ACROSS: usize = 4;

/// Bounds the invocations that a subgroup is taken to have: with fewer, each would fetch more than the shader has room for,
/// and with more, a workgroup would have more than WebGPU allows by default. Larger subgroups take turns.
const LANES: [u32; 2] = [32, 64];

impl Tile {
    /// Counts the lines that are staged, rows and columns, with matrices of `side` rows and columns.
    fn lines(&self, side: usize) -> [usize; 2] {
        let [blocks_down, blocks_across] = self.blocks;
        [
            blocks_down * self.down * side,
            blocks_across * ACROSS * side,
        ]
    }

    fn subgroups(&self) -> usize {
        self.blocks[0] * self.blocks[1] * self.slices
    }

    /// Counts the workgroups for a matrix of `m` rows in so many ranges and `n` columns.
    fn workgroups(&self, side: usize, ranges: usize, [m, n]: [usize; 2]) -> usize {
        let [down, across] = self.lines(side);
        m.div_ceil(down / ranges) * n.div_ceil(across)
    }
}

/// Appends [`integer_product`](super::integer_product())'s dispatch for all `matrices`.
pub(super) fn dispatch(
    commands: &mut Commands,
    constants: &[(&'static str, f64)],
    is_twin: bool,
    parameters: &Parameters,
    bindings: &[Binding],
    matrices: usize,
) {
    let Some(units) = commands.device().int8_units() else {
        unreachable!("this strategy is only for devices with matrices of int8");
    };
    let side = units.side as usize;
    let lanes = units.subgroup.clamp(LANES[0], LANES[1]) as usize;
    let ranges = if is_twin { 2 } else { 1 };
    let sides = [parameters.m as usize, parameters.n as usize];
    let k = 4 * parameters.words as usize;
    let workgroups = |tile: &Tile| tile.workgroups(side, ranges, sides) * matrices;
    // Nor should half of a tile's columns be past the end.
    let suits = |tile: &&Tile| {
        let [_, across] = tile.lines(side);
        workgroups(tile) >= tile.enough && k >= tile.shortest && across < 2 * sides[1]
    };
    let tile = TILES.iter().find(suits).unwrap_or(&TILES[TILES.len() - 1]);
    let mut constants = constants.to_vec();
    constants.extend([
        ("BLOCKS_DOWN", tile.blocks[0] as f64),
        ("BLOCKS_ACROSS", tile.blocks[1] as f64),
        ("SLICES", tile.slices as f64),
        ("TALL", f64::from(u8::from(tile.down == 4))),
        ("QUADS", tile.quads as f64),
        ("LANES", (tile.subgroups() * lanes) as f64),
        ("DEPTH", units.depth.into()),
    ]);
    let shader = if side == 16 { &SHADER } else { &SHADER_8 };
    let entry_point = shader.on_int8_matrices();
    commands.dispatch(
        entry_point,
        &constants,
        parameters,
        bindings,
        workgroups(tile),
    );
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

/// Plants no mistake, because no adapter at hand may have such matrices.
pub(super) const MISTAKE: Option<Mistake> = None;

/// Lists cases of the same products, computed by units for matrices of int8.
pub(super) fn cases() -> Vec<Case> {
    let cases = integer_product::cases().into_iter();
    cases
        .map(|case| case.by(&[Strategy::CooperativeInt8]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No adapter at hand may have them.
    #[test]
    fn the_shader_for_smaller_matrices_is_valid() {
        super::super::layout_test::parse(SHADER_8.name, SHADER_8.source);
    }

    #[test]
    fn tiles_fit_the_shader_and_the_workgroup_memory_that_is_asked_for() {
        for tile in TILES {
            let [down, across] = tile.lines(16);
            let chunks = tile.slices * (down + across) / 4 * tile.quads;
            let lanes = LANES.map(|lanes| lanes as usize * tile.subgroups());
            assert!(chunks <= 4 * lanes[0], "an invocation fetches four chunks");
            assert!(lanes[1] <= 256, "{} invocations", lanes[1]);
            let staged = tile.slices * (down + across) * (tile.quads + 1);
            // Of a twin, which has two ranges.
            let exchanged = tile.subgroups() * 16 * (16 + 1);
            let of_columns = 2 * across / 4;
            let bytes = 16 * (staged.max(exchanged) + of_columns);
            assert!(bytes <= 32 << 10, "{bytes} bytes");
        }
    }
}
