//! Where kernels run: a GPU through wgpu, or the CPU versions of the same kernels.
//!
//! Only this folder speaks wgpu. A kernel sees a [`Device`] and typed [`Buffer`]s; work is recorded in order and
//! carried out when a result is read.

mod adapter;
mod buffer;
mod gpu;
mod pool;
mod self_test;
mod strategy;

pub use adapter::{AdapterReport, Selection, adapters, cpu_report, open};
pub use buffer::{Buffer, MemoryUse};
pub use gpu::{Binding, EntryPoint, Gpu, Recording, Shader};
pub use strategy::{Strategy, Tile};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use bytemuck::Pod;
use std::sync::Arc;
use std::time::Duration;

/// A place where kernels run. Cheap to clone; clones share memory accounting and recorded work.
#[derive(Clone)]
pub enum Device {
    /// The CPU version of each kernel.
    Cpu(Arc<MemoryUse>),
    /// A GPU, or a software driver that acts as one.
    Gpu(Arc<Gpu>),
}

impl Device {
    /// The device that needs no driver.
    pub fn cpu() -> Self {
        Self::Cpu(Arc::default())
    }

    /// The name that reports print: `cpu`, or the adapter's own name.
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(gpu) => gpu.name(),
        }
    }

    /// `vulkan`, `metal`, `dx12`, or `none` for the CPU.
    pub fn backend(&self) -> &str {
        match self {
            Self::Cpu(_) => adapter::CPU_BACKEND,
            Self::Gpu(gpu) => gpu.backend(),
        }
    }

    /// The driver's name and version, as far as the backend tells them.
    pub fn driver(&self) -> &str {
        match self {
            Self::Cpu(_) => adapter::CPU_DRIVER,
            Self::Gpu(gpu) => gpu.driver(),
        }
    }

    /// A buffer of `len` zeros.
    pub fn zeros<T: Pod>(&self, len: usize) -> Buffer<T> {
        match self {
            Self::Cpu(memory) => Buffer::host(memory.clone(), vec![T::zeroed(); len]),
            Self::Gpu(gpu) => gpu.zeros(len),
        }
    }

    /// A buffer of `len` values for a kernel that writes them all: until then they are anything, for instance what another
    /// buffer held that is no longer in use.
    pub fn uninitialized<T: Pod>(&self, len: usize) -> Buffer<T> {
        match self {
            Self::Cpu(_) => self.zeros(len),
            Self::Gpu(gpu) => gpu.uninitialized(len),
        }
    }

    /// A buffer that holds a copy of `data`.
    pub fn upload<T: Pod>(&self, data: &[T]) -> Buffer<T> {
        match self {
            Self::Cpu(memory) => Buffer::host(memory.clone(), data.to_vec()),
            Self::Gpu(gpu) => gpu.upload(data),
        }
    }

    /// Replaces the contents of `buffer`, which is as long as `data`, before anything that is recorded from now on. What
    /// was recorded before must have been carried out.
    pub fn write<T: Pod>(&self, buffer: &Buffer<T>, data: &[T]) {
        assert_eq!(buffer.len(), data.len(), "a buffer is written whole");
        match self {
            Self::Cpu(_) => buffer.host_slice_mut().copy_from_slice(data),
            Self::Gpu(gpu) => gpu.write(buffer, data),
        }
    }

    /// Carries out everything recorded so far and returns the contents of `buffer`.
    ///
    /// # Errors
    /// The first thing that went wrong on the device since the last read: a lost device, memory that could not be
    /// had or is beyond the limit, a binding over the adapter's limit.
    pub fn read<T: Pod>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        match self {
            Self::Cpu(memory) => {
                memory.check(self.name())?;
                Ok(buffer.host_slice().to_vec())
            }
            Self::Gpu(gpu) => gpu.read(buffer),
        }
    }

    /// [`read`](Self::read) for several buffers, with a single wait.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_all<T: Pod>(&self, buffers: &[Buffer<T>]) -> Result<Vec<Vec<T>>> {
        match self {
            Self::Cpu(_) => buffers.iter().map(|buffer| self.read(buffer)).collect(),
            Self::Gpu(gpu) => gpu.read_all(buffers),
        }
    }

    /// Carries out everything recorded so far and waits for it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(memory) => memory.check(self.name()),
            Self::Gpu(gpu) => gpu.synchronize(),
        }
    }

    /// What `record` records, kept to be carried out again and again on the same buffers; `None` on the CPU, which computes
    /// at once. `record` reads nothing back.
    pub fn record<T>(&self, record: impl FnOnce() -> T) -> Option<(T, Recording)> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => Some(gpu.record(record)),
        }
    }

    /// Records everything in `recording`, which is this device's, once more.
    pub fn replay(&self, recording: &Recording) {
        match self {
            Self::Cpu(_) => unreachable!("nothing is recorded on the CPU"),
            Self::Gpu(gpu) => gpu.replay(recording),
        }
    }

    /// Whether the device has a clock of its own to time kernels by.
    pub fn has_clock(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            Self::Gpu(gpu) => gpu.has_clock(),
        }
    }

    /// Whether the kernels on f16 run here: where an adapter's shaders can compute in it, and on the CPU.
    pub fn has_f16(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpu(gpu) => gpu.has_f16(),
        }
    }

    /// Carries out everything recorded so far, then what `record` records, and returns the kernel of each of its
    /// dispatches and the time that it took by the device's own clock, in order. Empty on a device without a clock, where
    /// `record` isn't called.
    ///
    /// # Errors
    /// As [`read`](Self::read); and a clock that goes back.
    pub fn profile(&self, record: impl FnOnce()) -> Result<Vec<(&'static str, Duration)>> {
        match self {
            Self::Cpu(_) => Ok(Vec::new()),
            Self::Gpu(gpu) => gpu.profile(record),
        }
    }

    /// Whether kernels can divide their work like this here. Nothing is to be chosen on the CPU.
    pub fn offers(&self, strategy: Strategy) -> bool {
        match (self, strategy) {
            (Self::Cpu(_), _) => false,
            (Self::Gpu(_), Strategy::Registers) => true,
            (Self::Gpu(_), Strategy::Tiled(tile)) => tile.is_valid(),
            (Self::Gpu(gpu), Strategy::Cooperative) => gpu.cooperative_side().is_some(),
        }
    }

    /// Has `kernel` divide its work like this from now on, which the device must [offer](Self::offers), instead of how
    /// suits adapters of its kind.
    pub fn set_strategy(&self, kernel: &'static str, strategy: Strategy) {
        if let Self::Gpu(gpu) = self {
            gpu.set_strategy(kernel, strategy);
        }
    }

    /// How `kernel` divides its work here; `None` on the CPU.
    pub fn strategy(&self, kernel: &'static str) -> Option<Strategy> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => Some(gpu.strategy(kernel)),
        }
    }

    /// Has kernels that are recorded from now on be built with `text` where their shader has `original`, one of the files
    /// in `shaders`: to try an edited one without building the program anew. What of it isn't WGSL shows at the next read.
    /// The CPU has no shaders.
    pub fn replace_shader_text(&self, original: &'static str, text: String) {
        if let Self::Gpu(gpu) = self {
            gpu.replace_text(original, text);
        }
    }

    /// The most bytes that one buffer may hold and still be bound whole.
    pub fn max_buffer_bytes(&self) -> usize {
        match self {
            Self::Cpu(_) => usize::MAX,
            Self::Gpu(gpu) => gpu.max_binding_bytes(),
        }
    }

    /// Loses the device, as a driver that fails does: every read from now on is an [`Error::DeviceLost`]. The CPU can't be
    /// lost.
    pub fn destroy(&self) {
        if let Self::Gpu(gpu) = self {
            gpu.destroy();
        }
    }

    /// Bytes held in buffers of this device: now, and at the highest point so far.
    pub fn memory(&self) -> &MemoryUse {
        match self {
            Self::Cpu(memory) => memory,
            Self::Gpu(gpu) => gpu.memory(),
        }
    }
}
