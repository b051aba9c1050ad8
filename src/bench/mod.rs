//! Measured speed: ceilings of a device, its kernels against them, whole networks.
//!
//! Everything here is a measurement of this device at this moment; nothing comes from data sheets.

mod ceilings;
#[cfg(feature = "files")]
pub mod kept_strategies;
mod kernels;
mod measurements;
mod networks;
mod random;
mod roofline;
mod scan;
mod tiles;
mod timing;
mod tuning;

pub use crate::kernels::catalogue::{Epilogue, Prepared};
pub use ceilings::{Ceiling, Ceilings, Rate, Unit};
pub use kernels::{KernelFigure, TimedCase, TimedKernel, cases_of, cases_of_shape};
pub use measurements::{DEFAULT_MODEL, KernelFigures, Measurements, NetworkFigures};
pub use networks::{BATCHES, BenchNetwork, NetworkFigure, Precision, covering};
pub use random::{random_checkpoint, random_images};
pub use roofline::{Limit, Operations, Roofline};
pub use timing::{Clock, Timing};
pub use tuning::{Trial, tune};
