//! What a dispatch binds.

use std::num::NonZeroU64;

/// Holds the part of a buffer that is bound.
pub(super) struct Bound {
    pub(super) buffer: wgpu::Buffer,
    pub(super) offset: u64,
    /// Its bytes; `None` for all that follow.
    pub(super) size: Option<NonZeroU64>,
}

impl From<&wgpu::Buffer> for Bound {
    fn from(whole: &wgpu::Buffer) -> Self {
        Self {
            buffer: whole.clone(),
            offset: 0,
            size: None,
        }
    }
}
