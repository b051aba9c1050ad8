//! What networks there are: their sizes, their checkpoints, their recipes.

mod checkpoint;
pub mod config;
mod positions;
pub mod recipe;
pub mod shards;
pub mod weights;

pub use checkpoint::{open_checkpoint, with_todays_names};
pub use positions::interpolate_positions;

pub use crate::families::{graphs, sites};
pub use crate::graph::*;
