//! Typed memory of a device, and how much of it is in use.

use super::pool::Allocation;
use crate::error::{Error, Result};
use bytemuck::Pod;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes held in a device's buffers. Counted by us, because a software driver never reports that memory ran out.
#[derive(Debug)]
pub struct MemoryUse {
    current: AtomicU64,
    peak: AtomicU64,
    limit: AtomicU64,
    /// What an allocation beyond the limit made of `current`; 0 if there was none since the last
    /// [`check`](Self::check).
    overdrawn: AtomicU64,
}

impl Default for MemoryUse {
    fn default() -> Self {
        Self {
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            overdrawn: AtomicU64::new(0),
        }
    }
}

impl MemoryUse {
    /// Bytes held now.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// The most bytes held at once since the device was opened or [`reset_peak`](Self::reset_peak) was called.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Starts the measurement of the peak anew, from what is held now.
    pub fn reset_peak(&self) {
        self.peak.store(self.current(), Ordering::Relaxed);
    }

    /// Treats buffers beyond so many bytes as memory that can't be had: the next read says that it ran out.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn take(&self, bytes: u64) {
        let current = self.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(current, Ordering::Relaxed);
        if current > self.limit.load(Ordering::Relaxed) {
            self.overdrawn.fetch_max(current, Ordering::Relaxed);
        }
    }

    /// Finds out whether the limit has been kept since the last call.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] of `device` if it has not.
    pub(super) fn check(&self, device: &str) -> Result<()> {
        match self.overdrawn.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            bytes => Err(Error::OutOfMemory {
                device: device.to_owned(),
                problem: format!(
                    "buffers of {bytes} bytes, where {} are allowed",
                    self.limit.load(Ordering::Relaxed)
                ),
            }),
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        self.current.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Values in host memory.
struct HostAllocation<T> {
    values: RwLock<Vec<T>>,
    memory: Arc<MemoryUse>,
    bytes: u64,
}

impl<T> Drop for HostAllocation<T> {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
    }
}

#[derive(Clone)]
enum Storage<T> {
    Host(Arc<HostAllocation<T>>),
    Gpu(Arc<Allocation>),
}

/// `len` values of type `T` in a device's memory. A clone is another handle to the same memory.
#[derive(Clone)]
pub struct Buffer<T> {
    len: usize,
    storage: Storage<T>,
}

impl<T: Pod> Buffer<T> {
    pub(super) fn host(memory: Arc<MemoryUse>, data: Vec<T>) -> Self {
        let bytes = size_of_val(&data[..]) as u64;
        memory.take(bytes);
        Self {
            len: data.len(),
            storage: Storage::Host(Arc::new(HostAllocation {
                values: RwLock::new(data),
                memory,
                bytes,
            })),
        }
    }

    pub(super) fn gpu(len: usize, allocation: Allocation) -> Self {
        Self {
            len,
            storage: Storage::Gpu(Arc::new(allocation)),
        }
    }

    /// The number of values, not bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer holds no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What tells this buffer's memory from that of others, and its bytes.
    pub fn allocation(&self) -> (usize, u64) {
        match &self.storage {
            Storage::Host(values) => (Arc::as_ptr(values).addr(), values.bytes),
            Storage::Gpu(allocation) => {
                (Arc::as_ptr(allocation).addr(), allocation.buffer().size())
            }
        }
    }

    /// The values, for a kernel's CPU version.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn host_slice(&self) -> HostSlice<'_, T> {
        match &self.storage {
            Storage::Host(data) => {
                HostSlice(data.values.read().expect("a kernel panicked while writing"))
            }
            Storage::Gpu(_) => panic!("a GPU's buffer was handed to a kernel on the CPU"),
        }
    }

    /// The values to write, for a kernel's CPU version.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn host_slice_mut(&self) -> HostSliceMut<'_, T> {
        match &self.storage {
            Storage::Host(data) => HostSliceMut(
                data.values
                    .write()
                    .expect("a kernel panicked while writing"),
            ),
            Storage::Gpu(_) => panic!("a GPU's buffer was handed to a kernel on the CPU"),
        }
    }

    /// The wgpu buffer behind this one.
    ///
    /// # Panics
    /// If the buffer belongs to the CPU: a kernel was given buffers of two devices.
    pub(super) fn gpu_buffer(&self) -> &wgpu::Buffer {
        match &self.storage {
            Storage::Gpu(allocation) => allocation.buffer(),
            Storage::Host(_) => panic!("a CPU buffer was handed to a kernel on a GPU"),
        }
    }
}

/// Read access to a CPU buffer.
pub(crate) struct HostSlice<'a, T>(RwLockReadGuard<'a, Vec<T>>);

impl<T> Deref for HostSlice<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// Write access to a CPU buffer.
pub(crate) struct HostSliceMut<'a, T>(RwLockWriteGuard<'a, Vec<T>>);

impl<T> Deref for HostSliceMut<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for HostSliceMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}
