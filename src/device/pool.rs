//! Buffers that nobody holds any more, kept for the next one who needs their size.
//!
//! A new buffer costs an allocation and is cleared before its first use, on the CPU page by page, which takes as long as a
//! kernel takes to write it. Commands are carried out in their order, and have a pool to themselves, so a buffer may be handed
//! on while the dispatches that use it still wait.

use super::memory::MemoryUse;
use std::sync::{Arc, Mutex};

/// Says how many bytes some memory has, of a GPU or of the host.
pub(super) trait Pooled {
    fn bytes(&self) -> u64;
}

impl Pooled for wgpu::Buffer {
    fn bytes(&self) -> u64 {
        self.size()
    }
}

/// Holds the free buffers of one [`Commands`](super::Commands), or of a recording.
pub(super) struct Pool<B: Pooled> {
    memory: Arc<MemoryUse>,
    /// The buffers, oldest first.
    free: Mutex<Vec<B>>,
    /// Whether buffers of this pool stay in use until it is dropped, free or not: a recording refers to all of them.
    pinned: bool,
}

impl<B: Pooled> Pool<B> {
    /// Creates a pool that keeps free buffers only as far as the device then holds no more than was in use at once
    /// before.
    pub(super) fn new(memory: Arc<MemoryUse>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            free: Mutex::default(),
            pinned: false,
        })
    }

    /// Creates the pool of a recording.
    pub(super) fn pinned(memory: Arc<MemoryUse>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            free: Mutex::default(),
            pinned: true,
        })
    }

    /// Returns a free buffer of `bytes`, or, if there is none, what `create` makes.
    pub(super) fn take(self: &Arc<Self>, bytes: u64, create: impl FnOnce() -> B) -> Allocation<B> {
        let mut free = self.free.lock().expect("the pool's lock");
        let found = free.iter().rposition(|buffer| buffer.bytes() == bytes);
        let buffer = match found {
            Some(at) => {
                if !self.pinned {
                    self.memory.take(bytes);
                }
                free.remove(at)
            }
            None => {
                if !self.pinned {
                    let spare = self
                        .memory
                        .peak()
                        .saturating_sub(self.memory.current() + bytes);
                    let mut held: u64 = free.iter().map(B::bytes).sum();
                    let excess = free
                        .iter()
                        .take_while(|buffer| {
                            let too_many = held > spare;
                            held -= buffer.bytes();
                            too_many
                        })
                        .count();
                    free.drain(..excess);
                }
                self.memory.take(bytes);
                create()
            }
        };
        Allocation {
            buffer: Some(buffer),
            memory: self.memory.clone(),
            home: Some(self.clone()),
        }
    }
}

impl<B: Pooled> Drop for Pool<B> {
    fn drop(&mut self) {
        if self.pinned {
            let free = self.free.get_mut().expect("the pool's lock");
            for buffer in free.iter() {
                self.memory.release(buffer.bytes());
            }
        }
    }
}

/// Holds a buffer in use; when it is dropped, the buffer goes back to its pool.
pub(super) struct Allocation<B: Pooled> {
    /// There until it is dropped.
    buffer: Option<B>,
    memory: Arc<MemoryUse>,
    home: Option<Arc<Pool<B>>>,
}

impl<B: Pooled> Allocation<B> {
    /// Holds a buffer that goes back to no pool.
    pub(super) fn single(memory: Arc<MemoryUse>, buffer: B) -> Self {
        memory.take(buffer.bytes());
        Self {
            buffer: Some(buffer),
            memory,
            home: None,
        }
    }

    pub(super) fn buffer(&self) -> &B {
        self.buffer.as_ref().expect("it is in use")
    }
}

impl<B: Pooled> Drop for Allocation<B> {
    fn drop(&mut self) {
        let buffer = self.buffer.take().expect("it is dropped once");
        match &self.home {
            Some(pool) => {
                if !pool.pinned {
                    self.memory.release(buffer.bytes());
                }
                pool.free.lock().expect("the pool's lock").push(buffer);
            }
            None => self.memory.release(buffer.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::device::{Commands, Device};

    #[test]
    fn what_came_free_on_the_cpu_is_handed_on_and_no_more_is_kept_than_was_in_use() {
        let device = Device::cpu();
        let commands = Commands::new(&device);
        let take = |len: usize| commands.uninitialized::<f32>(len);
        let buffer = take(1000);
        buffer.host_slice_mut().fill(2.5);
        drop(buffer);
        let again = commands.uninitialized::<u32>(1000);
        assert_eq!(again.host_slice()[..], [2.5f32.to_bits(); 1000]);
        assert_eq!(device.memory().current(), 4000);
        drop(again);
        // There is room for one of both.
        drop(take(500));
        assert_eq!(take(1000).host_slice()[..], [0.0; 1000]);
        assert_eq!(device.memory().peak(), 4000);
    }
}
