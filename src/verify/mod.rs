//! Whether a device computes what the CPU versions compute.

mod kernels;
mod random;
mod report;
mod shaders;

pub use kernels::Suite;
pub use report::*;
pub use shaders::{SHADERS, kernel_names, text_of};
