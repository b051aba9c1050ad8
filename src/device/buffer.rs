//! Typed memory of a device, and how much of it is in use.

use bytemuck::Pod;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes held in a device's buffers. Counted by us, because a software driver never reports that memory ran out.
#[derive(Debug, Default)]
pub struct MemoryUse {
    current: AtomicU64,
    peak: AtomicU64,
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

    fn take(&self, bytes: u64) {
        let current = self.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(current, Ordering::Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.current.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The share of a [`MemoryUse`] that one allocation holds until its last clone is dropped.
pub(super) struct Lease {
    memory: Arc<MemoryUse>,
    bytes: u64,
}

impl Lease {
    fn new(memory: Arc<MemoryUse>, bytes: u64) -> Arc<Self> {
        memory.take(bytes);
        Arc::new(Self { memory, bytes })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.release(self.bytes);
    }
}

#[derive(Clone)]
enum Storage<T> {
    Host(Arc<RwLock<Vec<T>>>),
    Gpu(wgpu::Buffer),
}

/// `len` values of type `T` in a device's memory. A clone is another handle to the same memory.
#[derive(Clone)]
pub struct Buffer<T> {
    len: usize,
    storage: Storage<T>,
    lease: Arc<Lease>,
}

impl<T: Pod> Buffer<T> {
    pub(super) fn host(memory: Arc<MemoryUse>, data: Vec<T>) -> Self {
        Self {
            len: data.len(),
            lease: Lease::new(memory, size_of_val(&data[..]) as u64),
            storage: Storage::Host(Arc::new(RwLock::new(data))),
        }
    }

    pub(super) fn gpu(memory: Arc<MemoryUse>, len: usize, buffer: wgpu::Buffer) -> Self {
        Self {
            len,
            lease: Lease::new(memory, buffer.size()),
            storage: Storage::Gpu(buffer),
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
        (Arc::as_ptr(&self.lease).addr(), self.lease.bytes)
    }

    /// Its share of the memory that is counted, for work that may outlast the buffer.
    pub(super) fn lease(&self) -> Arc<Lease> {
        self.lease.clone()
    }

    /// The values, for a kernel's CPU version.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn host_slice(&self) -> HostSlice<'_, T> {
        match &self.storage {
            Storage::Host(data) => HostSlice(data.read().expect("a kernel panicked while writing")),
            Storage::Gpu(_) => panic!("a GPU's buffer was handed to a kernel on the CPU"),
        }
    }

    /// The values to write, for a kernel's CPU version.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn host_slice_mut(&self) -> HostSliceMut<'_, T> {
        match &self.storage {
            Storage::Host(data) => {
                HostSliceMut(data.write().expect("a kernel panicked while writing"))
            }
            Storage::Gpu(_) => panic!("a GPU's buffer was handed to a kernel on the CPU"),
        }
    }

    /// The wgpu buffer behind this one.
    ///
    /// # Panics
    /// If the buffer belongs to the CPU: a kernel was given buffers of two devices.
    pub(super) fn gpu_buffer(&self) -> &wgpu::Buffer {
        match &self.storage {
            Storage::Gpu(buffer) => buffer,
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
