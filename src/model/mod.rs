//! Architectures and their weights: configuration, recipes, and the networks themselves, forward and backward.

pub mod config;
mod network;
mod products;
pub mod recipe;
mod site;
mod vit;
pub mod weights;

pub use network::Network;
pub use products::{FloatProducts, LinearWeights, Products, Record, Recorder};
pub use site::{Attention, Site, SiteKind};
pub use vit::Vit;
