//! Rotary positions: DINOv3's and EVA-02's.

use crate::graph::{Parameter, Turns};
use std::f64::consts::TAU;

/// Describes DINOv3's turns of a head's features. The grid's sides go from -1 to 1, and of the pairs one half turns by a
/// patch's row, the other by its column: each one full turn in 100^(4 i / head_dim), i from 0.
pub fn of_dinov3(grid: usize, head_dim: usize) -> Turns<Parameter> {
    let middle = move |place: usize| (place as f64 + 0.5) / grid as f64 * 2.0 - 1.0;
    Turns {
        of_pairs: turns(grid, head_dim, 100.0, move |place| TAU * middle(place)),
        apart: head_dim / 2,
    }
}

/// Describes EVA-02's turns, of features that are neighbours: by a patch's row and column, in patches of the grid that it was
/// trained with, of `trained` a side, one full turn in 2π · 10000^(4 i / head_dim) of them.
pub fn of_eva02(grid: usize, trained: usize, head_dim: usize) -> Turns<Parameter> {
    let place_there = move |place: usize| place as f64 / grid as f64 * trained as f64;
    Turns {
        of_pairs: turns(grid, head_dim, 10_000.0, place_there),
        apart: 1,
    }
}

/// Describes cosines and sines of `angle` of a patch's row, and then of its column, divided by temperature^(4 i / head_dim):
/// `[patches, head_dim / 2, 2]`.
fn turns(
    grid: usize,
    head_dim: usize,
    temperature: f64,
    angle: impl Fn(usize) -> f64 + Copy + Send + Sync + 'static,
) -> Parameter {
    Parameter::constant(move || {
        let frequencies = head_dim / 4;
        let frequency = |i: usize| libm::pow(temperature, -(i as f64) / frequencies as f64);
        let patches = (0..grid).flat_map(|row| (0..grid).map(move |column| [row, column]));
        let angles = patches.flat_map(|places| {
            let of = move |place| (0..frequencies).map(move |i| angle(place) * frequency(i));
            places.into_iter().flat_map(of)
        });
        let turns = angles.flat_map(|angle| [libm::cos(angle) as f32, libm::sin(angle) as f32]);
        turns.collect()
    })
}
