//! Rotary positions: DINOv3's and EVA-02's.

use crate::graph::{Parameter, Turns};
use std::f64::consts::TAU;

/// Describes DINOv3's turns of a head's features. The grid's sides go from -1 to 1, and of the pairs one half turns by a
/// patch's row, the other by its column: each one full turn in 100^(4 i / head_dim), i from 0.
pub fn of_dinov3(grid: [usize; 2], head_dim: usize) -> Turns<Parameter> {
    let middle = move |place: usize, side: usize| (place as f64 + 0.5) / side as f64 * 2.0 - 1.0;
    let angle = move |place, side| TAU * middle(place, side);
    Turns {
        of_pairs: turns(grid, head_dim, 100.0, angle),
        apart: head_dim / 2,
    }
}

/// Describes EVA-02's turns, of features that are neighbours: by a patch's row and column, in patches of the grid that it was
/// trained with, of `trained` a side, one full turn in 2π · 10000^(4 i / head_dim) of them.
pub fn of_eva02(grid: [usize; 2], trained: usize, head_dim: usize) -> Turns<Parameter> {
    let place_there = move |place: usize, side: usize| place as f64 / side as f64 * trained as f64;
    Turns {
        of_pairs: turns(grid, head_dim, 10_000.0, place_there),
        apart: 1,
    }
}

/// Describes cosines and sines of `angle` of a patch's row among all rows, and then of its column among all, divided by
/// temperature^(4 i / head_dim): `[patches, head_dim / 2, 2]`.
fn turns(
    [rows, columns]: [usize; 2],
    head_dim: usize,
    temperature: f64,
    angle: impl Fn(usize, usize) -> f64 + Copy + Send + Sync + 'static,
) -> Parameter {
    Parameter::constant(move || {
        let frequencies = head_dim / 4;
        let frequency = |i: usize| libm::pow(temperature, -(i as f64) / frequencies as f64);
        let patches = (0..rows)
            .flat_map(|row| (0..columns).map(move |column| [(row, rows), (column, columns)]));
        let angles = patches.flat_map(|places| {
            let of = move |(place, side)| {
                (0..frequencies).map(move |i| angle(place, side) * frequency(i))
            };
            places.into_iter().flat_map(of)
        });
        let turns = angles.flat_map(|angle| [libm::cos(angle) as f32, libm::sin(angle) as f32]);
        turns.collect()
    })
}
