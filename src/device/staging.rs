//! Memory through which the host reads what a device wrote.
//!
//! A driver pins such memory and clears it, which takes longer than to carry the bytes over: so it's kept for later reads.

use std::sync::Mutex;

/// Limits the bytes that are kept while nobody reads.
const MOST_KEPT: u64 = 256 << 20;

/// Holds the free buffers to read back from; their sizes are powers of two.
#[derive(Default)]
pub(super) struct Staging(Mutex<Vec<wgpu::Buffer>>);

impl Staging {
    /// Returns a free buffer that holds `bytes`, or, if there is none, what `create` makes of the size that it is given.
    pub(super) fn take(
        &self,
        bytes: u64,
        create: impl FnOnce(u64) -> wgpu::Buffer,
    ) -> wgpu::Buffer {
        let size = bytes.next_power_of_two();
        let mut free = self.0.lock().expect("the staging buffers' lock");
        match free.iter().position(|buffer| buffer.size() == size) {
            Some(at) => free.swap_remove(at),
            None => create(size),
        }
    }

    /// Keeps a `buffer`, which is mapped no more, for later reads, if that isn't too much.
    pub(super) fn give_back(&self, buffer: wgpu::Buffer) {
        let mut free = self.0.lock().expect("the staging buffers' lock");
        let kept: u64 = free.iter().map(wgpu::Buffer::size).sum();
        if kept + buffer.size() <= MOST_KEPT {
            free.push(buffer);
        }
    }
}
