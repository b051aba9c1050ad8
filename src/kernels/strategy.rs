//! Holds what the products share of dividing their work.

use crate::device::{Gpu, Strategy, Tile};

/// Sets the number of rows below which most of a workgroup's tile would be empty.
const FEW_ROWS: usize = 16;

/// Divides a product of few rows, as a head's, among workgroups of eight rows by 32 columns: otherwise too few of them
/// would have something to do.
const TILE_OF_FEW_ROWS: Tile = Tile {
    lanes: [1, 8],
    step: 16,
    ..Tile::DEFAULT
};

/// Chooses the strategy of a product with `rows` rows.
pub(super) fn strategy(gpu: &Gpu, name: &'static str, rows: usize) -> Strategy {
    match gpu.strategy(name) {
        Strategy::Tiled(_) if rows < FEW_ROWS => Strategy::Tiled(TILE_OF_FEW_ROWS),
        strategy => strategy,
    }
}

/// Passes the tile as the override constants that entry points `tiled` have in common.
pub(super) fn constants(tile: Tile) -> [(&'static str, f64); 6] {
    [
        ("LANES_DOWN", tile.lanes[0].into()),
        ("LANES_ACROSS", tile.lanes[1].into()),
        ("DOWN", tile.row_vectors.into()),
        ("ACROSS", tile.column_vectors.into()),
        ("STEP", tile.step.into()),
        ("STAGES", tile.stages.into()),
    ]
}

/// Counts the workgroups that cover a matrix of these sides.
pub(super) fn workgroups(tile: Tile, rows: usize, columns: usize) -> usize {
    let [tile_rows, tile_columns] = tile.sides().map(|side| side as usize);
    rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns)
}
