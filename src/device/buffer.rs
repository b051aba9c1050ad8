//! Typed memory of a device.

use super::host::HostMemory;
use super::pool::{Allocation, Pooled};
use bytemuck::Pod;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};

#[derive(Clone)]
enum Storage {
    Host(Arc<Allocation<HostMemory>>),
    Gpu(Arc<Allocation<wgpu::Buffer>>),
}

/// Holds `len` values of type `T` in a device's memory. A clone is another handle to the same memory.
#[derive(Clone)]
pub struct Buffer<T> {
    len: usize,
    storage: Storage,
    of: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    pub(super) fn host(len: usize, allocation: Allocation<HostMemory>) -> Self {
        Self {
            len,
            storage: Storage::Host(Arc::new(allocation)),
            of: PhantomData,
        }
    }

    pub(super) fn gpu(len: usize, allocation: Allocation<wgpu::Buffer>) -> Self {
        Self {
            len,
            storage: Storage::Gpu(Arc::new(allocation)),
            of: PhantomData,
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
            Storage::Host(allocation) => {
                (Arc::as_ptr(allocation).addr(), allocation.buffer().bytes())
            }
            Storage::Gpu(allocation) => {
                (Arc::as_ptr(allocation).addr(), allocation.buffer().bytes())
            }
        }
    }

    /// Gives a kernel's CPU version the values to read.
    ///
    /// # Panics
    /// If the buffer belongs to a GPU: a kernel was given buffers of two devices.
    pub(crate) fn host_slice(&self) -> HostSlice<'_, T> {
        match &self.storage {
            Storage::Host(allocation) => {
                let words = allocation.buffer().words.read();
                HostSlice {
                    words: words.expect("a kernel panicked while writing"),
                    len: self.len,
                    of: PhantomData,
                }
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
            host.buffer()
                .derived
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
            Storage::Host(allocation) => {
                let memory = allocation.buffer();
                let words = memory.words.write();
                let words = words.expect("a kernel panicked while writing");
                let derived = memory.derived.lock();
                *derived.expect("nothing panics with the lock held") = None;
                HostSliceMut {
                    words,
                    len: self.len,
                    of: PhantomData,
                }
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
pub(crate) struct HostSlice<'a, T> {
    words: RwLockReadGuard<'a, Vec<u64>>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Deref for HostSlice<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

/// Gives write access to a CPU buffer.
pub(crate) struct HostSliceMut<'a, T> {
    words: RwLockWriteGuard<'a, Vec<u64>>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Deref for HostSliceMut<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl<T: Pod> DerefMut for HostSliceMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
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
