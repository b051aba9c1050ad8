//! Devices that have none.

use super::Kernel;

/// Finds none.
pub(in crate::device) fn offered(_adapter: &wgpu::Adapter) -> Option<[u32; 2]> {
    None
}

/// Compiles nothing, and isn't asked, because none are offered.
pub(in crate::device) fn compile(
    _device: &wgpu::Device,
    _kernel: &Kernel,
) -> Option<(wgpu::ComputePipeline, wgpu::BindGroupLayout)> {
    None
}
