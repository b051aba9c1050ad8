//! Which tiles to try: all that a device can have, in the order of what a model says that they cost.

use crate::device::{Strategy, Tile};
use crate::kernels::suits;

/// Lists the invocations along a side.
const LANES: [u32; 4] = [2, 4, 8, 16];
/// Lists the vectors of an invocation, down and across.
const VECTORS: [[u32; 2]; 4] = [[1, 1], [2, 1], [1, 2], [2, 2]];
/// Lists the words of a step.
const STEPS: [u32; 3] = [4, 8, 16];
/// Lists the slices of a sum.
const SLICES: [u32; 3] = [1, 2, 4];
/// Counts the invocations that a tile has at least: fewer leave places of a subgroup empty.
const FEWEST_INVOCATIONS: u64 = 32;

/// Limits the tiles that differ in nothing but how operands are staged: the others would have no turn.
const MOST_ALIKE: usize = 2;

/// Lists tiles for the products of this name, the best ones first: those of the least product of costs at these shapes,
/// `[matrices, M, N, words]`, of sums that take so many accumulators.
pub(super) fn best_tiles(name: &str, shapes: &[[usize; 4]], accumulators: u32) -> Vec<Tile> {
    let of_all = |tile| -> f64 {
        let costs = shapes.iter().map(|&shape| cost(tile, shape, accumulators));
        costs.product()
    };
    let mut tiles: Vec<(f64, Tile)> = all()
        .filter(|&tile| suits(name, Strategy::Tiled(tile)))
        .map(|tile| (of_all(tile), tile))
        .collect();
    // Equal costs keep the order of the list, so that the same tiles are tried everywhere.
    tiles.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let mut best: Vec<Tile> = Vec::new();
    for (_, tile) in tiles {
        let is_alike = |other: &&Tile| differs_in_stages(**other, tile);
        if best.iter().filter(is_alike).count() < MOST_ALIKE {
            best.push(tile);
        }
    }
    best
}

/// Says whether two tiles divide the work alike, and differ at most in how operands are staged.
fn differs_in_stages(one: Tile, other: Tile) -> bool {
    let staged_alike = Tile {
        step: one.step,
        stages: one.stages,
        ..other
    };
    staged_alike == one
}

/// Lists every tile of these sizes that is valid.
fn all() -> impl Iterator<Item = Tile> {
    let lanes = LANES
        .into_iter()
        .flat_map(|down| LANES.map(|across| [down, across]));
    let sides = lanes.flat_map(|lanes| VECTORS.map(|vectors| (lanes, vectors)));
    let stages = STEPS
        .into_iter()
        .flat_map(|step| [1, 2].map(|stages| (step, stages)));
    let passages = stages.flat_map(|(step, stages)| SLICES.map(|slices| (step, stages, slices)));
    let passages: Vec<_> = passages.collect();
    sides
        .flat_map(move |(lanes, [row_vectors, column_vectors])| {
            passages
                .clone()
                .into_iter()
                .map(move |(step, stages, slices)| Tile {
                    lanes,
                    row_vectors,
                    column_vectors,
                    step,
                    stages,
                    slices,
                })
        })
        .filter(|tile| tile.is_valid() && tile.invocations() >= FEWEST_INVOCATIONS)
}

/// Says what things cost an invocation, in units of what four dot products of a word or multiply-adds cost it. These, and the sizes
/// below, are of no device: they need only bring the likely tiles before the others, whose times then decide.
mod unit {
    /// A vector read from workgroup memory.
    pub const READ: f64 = 2.0;
    /// A vector brought there from global memory.
    pub const STAGED: f64 = 8.0;
    /// A barrier.
    pub const BARRIER: f64 = 16.0;
    /// A vector of sums handed to another slice and added there.
    pub const EXCHANGED: f64 = 8.0;
}

/// Counts the invocations that a device runs at once, at least.
const AT_ONCE: f64 = 8192.0;
/// Counts the registers of a core, and its bytes of workgroup memory, which bound how many workgroups it holds.
const REGISTERS: f64 = 65_536.0;
const WORKGROUP_BYTES: f64 = 65_536.0;
/// Counts the registers of an invocation beside sums and operands.
const OTHER_REGISTERS: f64 = 24.0;
/// Counts the invocations of a core that hide half of the waiting of one.
const HALF_HIDDEN: f64 = 128.0;

/// Estimates the time of a product by a tile, where a sum takes so many accumulators.
fn cost(tile: Tile, [matrices, m, n, words]: [usize; 4], accumulators: u32) -> f64 {
    let [rows, columns] = tile.sides();
    let workgroups =
        matrices as f64 * (m as u64).div_ceil(rows) as f64 * (n as u64).div_ceil(columns) as f64;
    let (invocations, slices) = (tile.invocations() as f64, f64::from(tile.slices));
    let vectors = f64::from(tile.row_vectors + tile.column_vectors);
    let sums = f64::from(4 * tile.row_vectors * tile.column_vectors);

    let steps = words.div_ceil(tile.step as usize) as f64;
    let staged_words = steps * f64::from(tile.step);
    let multiplied = staged_words / slices * (sums + unit::READ * vectors);
    let staged = staged_words * unit::STAGED * (rows + columns) as f64 / 4.0 / invocations;
    let barriers = steps * unit::BARRIER * f64::from(3 - tile.stages);
    let exchanged = (slices - 1.0) * f64::from(accumulators) * unit::EXCHANGED * sums;
    let of_invocation = multiplied + staged + barriers + exchanged;

    let registers = 4.0 * (sums * f64::from(accumulators) + vectors) + OTHER_REGISTERS;
    let resident = (REGISTERS / (registers * invocations))
        .min(WORKGROUP_BYTES / tile.bytes() as f64)
        .floor();
    let waiting = 1.0 + HALF_HIDDEN / (resident * invocations);
    of_invocation * waiting * (workgroups * invocations / AT_ONCE).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &str = "integer_product";

    #[test]
    fn all_are_valid_and_differ() {
        let tiles: Vec<Tile> = all().collect();
        // As ARCHITECTURE.md says.
        assert_eq!(tiles.len(), 687);
        assert!(tiles.contains(&Tile::DEFAULT));
        for (at, tile) in tiles.iter().enumerate() {
            assert!(tile.is_valid(), "{tile}");
            assert!(!tiles[..at].contains(tile), "{tile} is there twice");
        }
    }

    #[test]
    fn few_are_alike() {
        let tiles = best_tiles(CODES, &[[1, 1576, 1152, 96]], 1);
        for &tile in &tiles {
            let alike = tiles.iter().filter(|&&it| differs_in_stages(it, tile));
            assert!(alike.count() <= MOST_ALIKE, "{tile}");
        }
        assert!(tiles.len() > 100);
    }

    #[test]
    fn large_products_have_large_tiles_and_small_ones_share_their_sums() {
        let large = best_tiles(CODES, &[[1, 6304, 3072, 192]], 1)[0];
        let [rows, columns] = large.sides();
        assert!(rows * columns >= 64 * 64, "{large}");
        assert_eq!(large.slices, 1, "{large}");
        let small = best_tiles(CODES, &[[1, 17, 40, 768]], 1)[0];
        assert!(small.slices > 1, "{small}");
        let floats = best_tiles("float_product", &[[1, 17, 40, 768]], 1);
        assert!(floats.iter().all(|tile| tile.slices == 1));
    }

    #[test]
    fn the_usual_tile_is_not_far_behind() {
        for (shape, accumulators) in [([1, 1576, 1152, 96], 1), ([48, 197, 64, 50], 2)] {
            let best = best_tiles(CODES, &[shape], accumulators)[0];
            let [best, usual] = [best, Tile::DEFAULT].map(|tile| cost(tile, shape, accumulators));
            assert!(usual < 2.0 * best, "{usual} instead of {best}");
        }
    }
}
