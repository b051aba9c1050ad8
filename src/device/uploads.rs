//! Memory through which the host writes what a device reads.
//!
//! A driver pins such memory and clears it, which takes longer than to carry the bytes over: so it's kept for later writes.

use std::sync::{Arc, Mutex};

/// Limits the bytes that are kept while nobody writes.
const MOST_KEPT: u64 = 256 << 20;

/// Holds the free buffers to write through, mapped; their sizes are powers of two.
#[derive(Default)]
pub(super) struct Uploads(Arc<Mutex<Vec<wgpu::Buffer>>>);

impl Uploads {
    /// Writes `parts`, which together have `bytes` bytes, to `destination`, which holds as many, before anything that is
    /// submitted from now on.
    ///
    /// # Errors
    /// Memory that can't be mapped.
    pub(super) fn write<'a>(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        destination: &wgpu::Buffer,
        bytes: u64,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), wgpu::MapRangeError> {
        let buffer = self.take(device, bytes.next_power_of_two());
        let mut mapped = buffer.get_mapped_range_mut(..)?;
        let mut offset = 0;
        for part in parts {
            mapped
                .slice(offset..)
                .slice(..part.len())
                .copy_from_slice(part);
            offset += part.len();
        }
        drop(mapped);
        buffer.unmap();
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&buffer, 0, destination, 0, bytes);
        queue.submit([encoder.finish()]);
        let free = self.0.clone();
        let written = buffer.clone();
        buffer.map_async(wgpu::MapMode::Write, .., move |outcome| {
            if outcome.is_ok() {
                keep(&mut free.lock().expect("the uploads' lock"), written);
            }
        });
        Ok(())
    }

    fn take(&self, device: &wgpu::Device, size: u64) -> wgpu::Buffer {
        let mut free = self.0.lock().expect("the uploads' lock");
        match free.iter().position(|buffer| buffer.size() == size) {
            Some(at) => free.swap_remove(at),
            None => device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("upload"),
                size,
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            }),
        }
    }
}

/// Keeps a mapped `buffer` for later writes, if that isn't too much.
fn keep(free: &mut Vec<wgpu::Buffer>, buffer: wgpu::Buffer) {
    let kept: u64 = free.iter().map(wgpu::Buffer::size).sum();
    if kept + buffer.size() <= MOST_KEPT {
        free.push(buffer);
    }
}
