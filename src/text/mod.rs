//! Text for people: what it may show, and how it says things briefly.

mod abridged;
#[cfg(feature = "files")]
mod differences;
pub(crate) mod printable;

pub(crate) use abridged::abridged;
#[cfg(feature = "files")]
pub(crate) use differences::differences;
