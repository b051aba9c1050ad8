//! A network as data: stretches of operations that know their values, their gradients and what joins a matrix product.
//!
//! A family describes each stretch forward only ([`Graph::of`]). Loaded onto a device it is a [`Segment`], which
//! computes it in floats or integers, fused ([`Segment::forward`]), or operation by operation for gradients
//! ([`Segment::record`]).

mod activation;
mod builder;
mod fusion;
mod half_products;
mod layer_scale;
mod network;
mod norm;
mod norm_readers;
mod operation;
mod order;
mod parameter;
mod products;
mod segment;
mod shape;
mod site;
mod softmax;
mod tape;

pub use activation::{Activation, Addition, Output, Then};
pub use builder::{Graph, Value};
pub use half_products::HalfProducts;
pub use layer_scale::LayerScale;
pub use network::Network;
pub use norm::Normed;
pub use norm_readers::NormReaders;
pub use operation::{Described, PatchGrid, Turns};
pub use order::{Arrangement, Order};
pub use parameter::Parameter;
pub use products::{FloatProducts, FloatingProducts, LinearWeights, Products, SelfAttention};
pub use segment::Segment;
pub use shape::Shape;
pub use site::{Attention, Linear, Site, SiteKind};
pub use softmax::{Probabilities, WindowBias};
pub use tape::{Record, SiteGradients, Tape};
