//! The parameters of dispatches, many in one buffer.
//!
//! A buffer for each would take the host longer to create and fill than all the rest of a dispatch.

use super::bound::Bound;
use std::num::NonZeroU64;

/// Sets the bytes of one buffer: as many parameters as there are dispatches in a submission.
const BYTES: usize = 64 << 10;

/// Holds the parameters of the dispatches that wait.
pub(super) struct Uniforms {
    buffer: wgpu::Buffer,
    /// What the buffer is to hold.
    bytes: Vec<u8>,
    /// Where parameters may begin: at multiples of this.
    alignment: usize,
}

impl Uniforms {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        Self {
            buffer: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: BYTES as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            bytes: Vec::new(),
            alignment: device.limits().min_uniform_buffer_offset_alignment as usize,
        }
    }

    /// Says whether `parameters` still fit.
    pub(super) fn hold(&self, parameters: &[u8]) -> bool {
        self.bytes.len() + parameters.len().next_multiple_of(self.alignment) <= BYTES
    }

    /// Appends `parameters`, which fit, and returns where they will be.
    pub(super) fn push(&mut self, parameters: &[u8]) -> Bound {
        let offset = self.bytes.len();
        self.bytes.extend(parameters);
        let end = self.bytes.len().next_multiple_of(self.alignment);
        self.bytes.resize(end, 0);
        Bound {
            buffer: self.buffer.clone(),
            offset: offset as u64,
            // Uniforms are whole vectors.
            size: NonZeroU64::new(parameters.len().next_multiple_of(16) as u64),
        }
    }

    /// Writes what was appended to the buffer, before anything that is submitted from now on, and starts anew.
    pub(super) fn write(&mut self, queue: &wgpu::Queue) {
        if !self.bytes.is_empty() {
            queue.write_buffer(&self.buffer, 0, &self.bytes);
            self.bytes.clear();
        }
    }
}
