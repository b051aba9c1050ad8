//! The CPU as a device: its memory.

use super::memory::MemoryUse;
use super::pool::{Allocation, Pool, Pooled};
use bytemuck::Pod;
use std::any::Any;
use std::sync::{Arc, Mutex, RwLock};

/// Holds what clones of a CPU device share.
pub struct Host {
    pub(super) memory: Arc<MemoryUse>,
    /// Whether buffers that a kernel is to write are filled before with what isn't a number.
    spoils: bool,
}

impl Host {
    pub(super) fn new(spoils: bool) -> Self {
        Self {
            memory: Arc::default(),
            spoils,
        }
    }

    /// Creates the pool of some commands.
    pub(super) fn pool(&self) -> HostPool {
        HostPool {
            pool: Pool::new(self.memory.clone()),
            spoils: self.spoils,
        }
    }
}

/// Holds the buffers that came free between commands. One for all commands of a device would hand on memory that has left the
/// caches long ago.
pub(super) struct HostPool {
    pool: Arc<Pool<HostMemory>>,
    spoils: bool,
}

impl HostPool {
    /// Takes room for so many bytes, which hold anything.
    pub fn take(&self, bytes: u64) -> Allocation<HostMemory> {
        let allocation = self.pool.take(bytes, || HostMemory::zeros(bytes));
        if self.spoils {
            allocation.buffer().spoil();
        }
        allocation
    }
}

/// Holds values in host memory, of any type: words are aligned for all.
pub(super) struct HostMemory {
    pub words: RwLock<Vec<u64>>,
    bytes: u64,
    /// What a kernel made of the values, until they are written to.
    pub derived: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

impl HostMemory {
    fn new(words: Vec<u64>) -> Self {
        Self {
            bytes: size_of_val(&words[..]) as u64,
            words: RwLock::new(words),
            derived: Mutex::new(None),
        }
    }

    /// Takes room for so many bytes, all zeros.
    pub fn zeros(bytes: u64) -> Self {
        Self::new(vec![0; bytes.div_ceil(size_of::<u64>() as u64) as usize])
    }

    fn spoil(&self) {
        self.words.write().expect("nobody else has it").fill(!0);
    }

    /// Copies values.
    pub fn of<T: Pod>(data: &[T]) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let (words, rest) = bytes.as_chunks();
        let mut last = [0; size_of::<u64>()];
        last[..rest.len()].copy_from_slice(rest);
        let rest = (!rest.is_empty()).then_some(last);
        let words = words.iter().copied().chain(rest);
        Self::new(words.map(u64::from_ne_bytes).collect())
    }
}

impl Pooled for HostMemory {
    fn bytes(&self) -> u64 {
        self.bytes
    }
}
