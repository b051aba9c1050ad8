//! Buffers that nobody holds any more, kept for the next one who needs their size.
//!
//! A new buffer costs an allocation and is cleared before its first use, which takes as long as a kernel takes to write
//! it. Commands are carried out in their order, and have a pool to themselves, so a buffer may be handed on while the
//! dispatches that use it still wait.

use super::memory::MemoryUse;
use std::sync::{Arc, Mutex};

/// Holds the free buffers of one [`Commands`](super::Commands), or of a recording.
pub(super) struct Pool {
    memory: Arc<MemoryUse>,
    /// The buffers, oldest first.
    free: Mutex<Vec<wgpu::Buffer>>,
    /// Whether buffers of this pool stay in use until it is dropped, free or not: a recording refers to all of them.
    pinned: bool,
}

impl Pool {
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
    pub(super) fn take(
        self: &Arc<Self>,
        bytes: u64,
        create: impl FnOnce() -> wgpu::Buffer,
    ) -> Allocation {
        let mut free = self.free.lock().expect("the pool's lock");
        let found = free.iter().rposition(|buffer| buffer.size() == bytes);
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
                    let mut held: u64 = free.iter().map(wgpu::Buffer::size).sum();
                    let excess = free
                        .iter()
                        .take_while(|buffer| {
                            let too_many = held > spare;
                            held -= buffer.size();
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
            buffer,
            memory: self.memory.clone(),
            home: Some(self.clone()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.pinned {
            let free = self.free.get_mut().expect("the pool's lock");
            for buffer in free.iter() {
                self.memory.release(buffer.size());
            }
        }
    }
}

/// Holds a wgpu buffer in use; when it is dropped, the buffer goes back to its pool.
pub(super) struct Allocation {
    buffer: wgpu::Buffer,
    memory: Arc<MemoryUse>,
    home: Option<Arc<Pool>>,
}

impl Allocation {
    /// Holds a buffer that goes back to no pool.
    pub(super) fn single(memory: Arc<MemoryUse>, buffer: wgpu::Buffer) -> Self {
        memory.take(buffer.size());
        Self {
            buffer,
            memory,
            home: None,
        }
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        match &self.home {
            Some(pool) => {
                if !pool.pinned {
                    self.memory.release(self.buffer.size());
                }
                let mut free = pool.free.lock().expect("the pool's lock");
                free.push(self.buffer.clone());
            }
            None => self.memory.release(self.buffer.size()),
        }
    }
}
