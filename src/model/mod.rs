//! Architectures and their weights: configuration, recipes, and the networks themselves, forward and backward.

mod block;
mod checkpoint;
pub mod config;
mod network;
mod norm;
mod positions;
mod products;
pub mod recipe;
mod site;
mod swin;
mod vit;
pub mod weights;

pub use checkpoint::open_checkpoint;
pub use network::{Network, Segment, sites};
pub use positions::interpolate_positions;
pub use products::{FloatProducts, LinearWeights, Products, Record, Recorder};
pub use site::{Attention, Linear, Matrices, Site, SiteKind};
