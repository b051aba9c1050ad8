//! Architectures and their weights: configuration, recipes, and the networks themselves, forward and backward.

mod block;
mod checkpoint;
pub mod config;
mod half_products;
mod layer_scale;
mod network;
mod norm;
mod order;
mod positions;
mod products;
pub mod recipe;
mod site;
mod swin;
mod vit;

pub use block::Probabilities;
#[cfg(feature = "files")]
pub use checkpoint::open_checkpoint;
pub use checkpoint::with_todays_names;
pub use half_products::HalfProducts;
pub use layer_scale::LayerScale;
pub use network::{Network, Segment, sites};
pub use norm::Normed;
pub use order::Order;
pub use positions::interpolate_positions;
pub use products::{
    Activation, Addition, FloatProducts, FloatingProducts, LinearWeights, Output, Products, Record,
    Recorder, Then,
};
pub use site::{Attention, Linear, Matrices, Site, SiteKind};
