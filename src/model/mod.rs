//! What networks there are: their sizes, their checkpoints, their recipes.

mod checkpoint;
pub mod config;
mod names;
mod positions;
pub mod recipe;

#[cfg(feature = "files")]
pub use checkpoint::open_checkpoint;
pub use checkpoint::with_todays_names;
pub use positions::interpolate_positions;
