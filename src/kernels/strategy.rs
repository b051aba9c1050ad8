//! Holds what the products share of dividing their work.

use crate::device::{Gpu, Strategy, Tile};

/// Sets the rows and columns of one invocation of an entry point `tiled`, as in the shaders.
pub(super) const TILE: [usize; 2] = [8, 4];

/// Sets the number of rows below which most of a workgroup's tile would be empty.
const FEW_ROWS: usize = 16;

/// Chooses the strategy of a product with `rows` rows.
pub(super) fn strategy(gpu: &Gpu, name: &'static str, rows: usize) -> Strategy {
    if rows < FEW_ROWS {
        Strategy::Registers
    } else {
        gpu.strategy(name)
    }
}

/// Passes the tile as the override constants of an entry point `tiled`.
pub(super) fn constants(tile: Tile) -> [(&'static str, f64); 3] {
    [
        ("LANES_DOWN", tile.lanes[0].into()),
        ("LANES_ACROSS", tile.lanes[1].into()),
        ("STEP", tile.step.into()),
    ]
}

/// Counts the workgroups that cover a matrix of these sides.
pub(super) fn workgroups(tile: Tile, rows: usize, columns: usize) -> usize {
    let [down, across] = tile.lanes.map(|lanes| lanes as usize);
    rows.div_ceil(TILE[0] * down) * columns.div_ceil(TILE[1] * across)
}
