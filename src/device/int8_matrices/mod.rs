//! Cooperative matrices of int8 with sums in i32, which WGSL and naga don't have, where Vulkan offers them.
//!
//! Kernels are written with matrices of f32 in their place, multiplied and moved and nothing else. Naga makes SPIR-V of them
//! (with the usual checks of indices), in which two kinds of instructions tell them apart: the matrices' types, and the
//! product, which has to say that its operands are signed. Those are changed, and the result is given to the driver as it
//! is. A matrix's bits are moved as they are, so what lies in memory as floats is read as codes.

#[cfg(any(target_arch = "wasm32", target_vendor = "apple"))]
mod elsewhere;
#[cfg(not(any(target_arch = "wasm32", target_vendor = "apple")))]
mod spirv;
#[cfg(not(any(target_arch = "wasm32", target_vendor = "apple")))]
mod vulkan;

#[cfg(any(target_arch = "wasm32", target_vendor = "apple"))]
pub(super) use elsewhere::{compile, offered};
#[cfg(not(any(target_arch = "wasm32", target_vendor = "apple")))]
pub(super) use vulkan::{compile, offered};

/// Describes a kernel with such matrices.
#[cfg_attr(
    any(target_arch = "wasm32", target_vendor = "apple"),
    expect(dead_code, reason = "none is compiled there")
)]
pub(super) struct Kernel<'a> {
    pub(super) name: &'static str,
    pub(super) source: &'a str,
    /// Whether all loops are known to end.
    pub(super) loops_end: bool,
    /// The override constants.
    pub(super) constants: &'a [(&'static str, f64)],
    /// The columns of a left matrix and rows of a right one.
    pub(super) depth: u32,
}
