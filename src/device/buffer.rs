//! Typed memory of a device.

use super::memory::MemoryUse;
use super::pool::Allocation;
use bytemuck::Pod;
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Holds values in host memory.
struct HostAllocation<T> {
    values: RwLock<Vec<T>>,
    /// What a kernel made of the values, until they are written to.
    derived: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
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

/// Holds `len` values of type `T` in a device's memory. A clone is another handle to the same memory.
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
                derived: Mutex::new(None),
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

    /// Counts the values, not bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether the buffer holds no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns a number that tells this buffer's memory from that of others, and its bytes.
    pub fn allocation(&self) -> (usize, u64) {
        match &self.storage {
            Storage::Host(values) => (Arc::as_ptr(values).addr(), values.bytes),
            Storage::Gpu(allocation) => {
                (Arc::as_ptr(allocation).addr(), allocation.buffer().size())
            }
        }
    }

    /// Gives a kernel's CPU version the values to read.
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

    /// Returns what `derive` makes of the values for a kernel's CPU version. It is kept for the next call that it `fits`,
    /// until the values are written to, and doesn't count as the device's memory.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn derived<D: Send + Sync + 'static>(
        &self,
        fits: impl Fn(&D) -> bool,
        derive: impl FnOnce(&[T]) -> D,
    ) -> Arc<D> {
        // Nobody writes while this is read.
        let values = self.host_slice();
        let Storage::Host(host) = &self.storage else {
            unreachable!("its values are in host memory");
        };
        let kept = || {
            host.derived
                .lock()
                .expect("nothing panics with the lock held")
        };
        let last = kept().clone().and_then(|any| any.downcast().ok());
        if let Some(derived) = last.filter(|derived| fits(derived)) {
            return derived;
        }
        // Deriving may put this thread to other work, so the lock isn't held.
        let derived = Arc::new(derive(&values));
        *kept() = Some(derived.clone());
        derived
    }

    /// Gives a kernel's CPU version the values to write.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn host_slice_mut(&self) -> HostSliceMut<'_, T> {
        match &self.storage {
            Storage::Host(data) => {
                let values = data.values.write();
                let values = values.expect("a kernel panicked while writing");
                let derived = data.derived.lock();
                *derived.expect("nothing panics with the lock held") = None;
                HostSliceMut(values)
            }
            Storage::Gpu(_) => panic!("a GPU's buffer was handed to a kernel on the CPU"),
        }
    }

    /// Returns the wgpu buffer behind this one.
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

/// Gives read access to a CPU buffer.
pub(crate) struct HostSlice<'a, T>(RwLockReadGuard<'a, Vec<T>>);

impl<T> Deref for HostSlice<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// Gives write access to a CPU buffer.
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

#[cfg(test)]
mod tests {
    use crate::device::Device;

    #[test]
    fn what_was_derived_is_kept_until_the_values_are_written_or_it_fits_no_more() {
        let device = Device::cpu();
        let buffer = device.upload(&[1u32, 2, 3]);
        let sum = |factor: u32| {
            let derived = buffer.derived(
                |&(of, _): &(u32, u32)| of == factor,
                |values| (factor, factor * values.iter().sum::<u32>()),
            );
            derived.1
        };
        let unwanted = |_: &[u32]| -> (u32, u32) { panic!("it is kept") };
        assert_eq!(sum(1), 6);
        assert_eq!(buffer.derived(|_| true, unwanted).1, 6);
        assert_eq!(sum(10), 60);
        device.write(&buffer, &[[4], [5], [6]]);
        assert_eq!(sum(10), 150);
    }
}
