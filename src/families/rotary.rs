//! DINOv3's rotary positions.

use crate::graph::Parameter;
use std::f64::consts::TAU;

/// Sets the longest period of a turn, and with it all of them.
const TEMPERATURE: f64 = 100.0;

/// Describes the cosines and sines of the angles by which a head's features of each patch turn, `[patches, head_dim / 2, 2]`.
/// The grid's sides go from -1 to 1. Of the pairs one half turns by a patch's row, the other by its column: each one full turn
/// in 100^(4 i / head_dim), i from 0.
pub fn turns(grid: usize, head_dim: usize) -> Parameter {
    Parameter::constant(move || {
        let frequencies = head_dim / 4;
        let frequency = |i: usize| libm::pow(TEMPERATURE, -(i as f64) / frequencies as f64);
        let middle = |place: usize| (place as f64 + 0.5) / grid as f64 * 2.0 - 1.0;
        let patches = (0..grid).flat_map(|row| (0..grid).map(move |column| [row, column]));
        let angles = patches.flat_map(|places| {
            let of = move |place| (0..frequencies).map(move |i| TAU * middle(place) * frequency(i));
            places.into_iter().flat_map(of)
        });
        let turns = angles.flat_map(|angle| [libm::cos(angle) as f32, libm::sin(angle) as f32]);
        turns.collect()
    })
}
