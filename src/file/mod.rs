//! Files: read within bounds, written whole or not at all; and the containers of weights.

#[cfg(feature = "files")]
pub(crate) mod input;
#[cfg(feature = "files")]
pub mod interrupt;
#[cfg(feature = "files")]
pub(crate) mod npy;
#[cfg(feature = "files")]
pub mod output;
pub mod shards;
mod unique;
pub mod weights;
