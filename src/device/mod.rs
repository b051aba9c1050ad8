//! Where kernels run: a GPU through wgpu, or the CPU versions of the same kernels.
//!
//! Only this folder speaks wgpu. A kernel sees [`Commands`], to which it appends its work, and typed [`Buffer`]s;
//! commands are carried out in order, at the latest when a result is read.

mod adapter;
mod bound;
#[cfg(target_arch = "wasm32")]
mod browser;
mod buffer;
mod commands;
mod dispatch;
mod gpu;
mod host;
mod int8_matrices;
mod memory;
mod pipeline;
mod pool;
mod self_test;
mod shader;
mod staging;
mod strategy;
mod uniforms;
mod uploads;
mod wait;

pub use adapter::{AdapterReport, Selection, adapters_async, cpu_report, open_async};
#[cfg(not(target_arch = "wasm32"))]
pub use adapter::{adapters, open};
pub use buffer::Buffer;
pub use commands::{Commands, Recording, Workload};
pub use gpu::{Binding, Gpu};
pub use host::Host;
pub use memory::MemoryUse;
pub use shader::{EntryPoint, Shader};
pub use strategy::{CooperativeUnits, Strategy, Tile};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use bytemuck::Pod;
use host::HostMemory;
use pool::Allocation;
use std::sync::Arc;

/// Counts the bytes of a buffer of `len` values: a binding can't be empty, copies go in words of four bytes, and some
/// kernels take vectors of four words.
fn byte_len<T>(len: usize) -> u64 {
    (len.max(1) * size_of::<T>()).next_multiple_of(16) as u64
}

/// Names a place where kernels run. Cheap to clone; clones share memory accounting, compiled kernels and strategies.
#[derive(Clone)]
pub enum Device {
    /// The CPU, which runs the CPU version of each kernel.
    Cpu(Arc<Host>),
    /// A GPU, or a software driver that acts as one.
    Gpu(Arc<Gpu>),
}

impl Device {
    /// Returns the device that needs no driver.
    pub fn cpu() -> Self {
        Self::Cpu(Arc::new(Host::new(false)))
    }

    /// Returns a CPU whose buffers hold no zeros before kernels write them, so that one that counts on those is found out.
    pub(crate) fn spoiling_cpu() -> Self {
        Self::Cpu(Arc::new(Host::new(true)))
    }

    /// Returns the name that reports print: `cpu`, or the adapter's own name.
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(gpu) => gpu.name(),
        }
    }

    /// Returns `vulkan`, `metal`, `dx12`, or `none` for the CPU.
    pub fn backend(&self) -> &str {
        match self {
            Self::Cpu(_) => adapter::CPU_BACKEND,
            Self::Gpu(gpu) => gpu.backend(),
        }
    }

    /// Returns the driver's name and version, as far as the backend tells them.
    pub fn driver(&self) -> &str {
        match self {
            Self::Cpu(_) => adapter::CPU_DRIVER,
            Self::Gpu(gpu) => gpu.driver(),
        }
    }

    /// Creates a buffer of `len` zeros.
    pub fn zeros<T: Pod>(&self, len: usize) -> Buffer<T> {
        match self {
            Self::Cpu(host) => {
                let zeros = HostMemory::zeros(byte_len::<T>(len));
                Buffer::host(len, Allocation::single(host.memory.clone(), zeros))
            }
            Self::Gpu(gpu) => gpu.zeros(len),
        }
    }

    /// Creates a buffer that holds a copy of `data`.
    pub fn upload<T: Pod>(&self, data: &[T]) -> Buffer<T> {
        match self {
            Self::Cpu(host) => {
                let copy = HostMemory::of(data);
                Buffer::host(data.len(), Allocation::single(host.memory.clone(), copy))
            }
            Self::Gpu(gpu) => gpu.upload(data),
        }
    }

    /// Replaces the contents of `buffer` by `parts`, one after the other and together as long, before anything that is
    /// submitted from now on. What was submitted before must have been carried out.
    pub fn write<T: Pod>(&self, buffer: &Buffer<T>, parts: &[impl AsRef<[T]>]) {
        let len: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        assert_eq!(buffer.len(), len, "a buffer is written whole");
        match self {
            Self::Cpu(_) => {
                let mut rest = &mut buffer.host_slice_mut()[..];
                for part in parts.iter().map(AsRef::as_ref) {
                    let place;
                    (place, rest) = rest.split_at_mut(part.len());
                    place.copy_from_slice(part);
                }
            }
            Self::Gpu(gpu) => gpu.write(buffer, parts),
        }
    }

    /// Returns the contents of `buffer`, which commands that were submitted have written.
    ///
    /// # Errors
    /// Those of [`Commands::read`].
    pub fn read<T: Pod>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        Commands::new(self).read(buffer)
    }

    /// Waits for `answer`, which this device gives. On wasm32 it must be there already, as the CPU's is.
    ///
    /// # Errors
    /// Those of `answer`; on wasm32, an answer that has to be awaited.
    pub(crate) fn wait<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        wait::wait(self.name(), answer)
    }

    /// Waits for everything that was submitted.
    ///
    /// # Errors
    /// Those of [`Commands::read`].
    pub fn synchronize(&self) -> Result<()> {
        Commands::new(self).synchronize()
    }

    /// Says whether the device has a clock of its own to time kernels by.
    pub fn has_clock(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            Self::Gpu(gpu) => gpu.clock().is_some(),
        }
    }

    /// Says whether the kernels on f16 run here: where an adapter's shaders can compute in it, and on the CPU.
    pub fn has_f16(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpu(gpu) => gpu.has_f16(),
        }
    }

    /// Says whether the kernels run on the host's processor: on the CPU, or by a software driver.
    pub fn is_software(&self) -> bool {
        match self {
            Self::Cpu(_) => true,
            Self::Gpu(gpu) => gpu.is_software(),
        }
    }

    /// Returns about how many multiply-adds of integers the device does while the host waits for it once: nothing to speak of
    /// where that is the host itself.
    pub fn multiply_adds_of_a_wait(&self) -> u64 {
        match (self.is_software(), self.int8_units()) {
            (true, _) => 0,
            (false, None) => 1 << 30,
            // An NVIDIA H200 did best with 10^10 of 10^9, 10^10, and 10^11.
            (false, Some(_)) => 1 << 33,
        }
    }

    /// Says whether kernels can divide their work in this way here. On the CPU there is no choice.
    pub fn offers(&self, strategy: Strategy) -> bool {
        match (self, strategy) {
            (Self::Cpu(_), _) => false,
            (Self::Gpu(_), Strategy::Registers) => true,
            (Self::Gpu(_), Strategy::Tiled(tile)) => tile.is_valid(),
            (Self::Gpu(gpu), Strategy::Cooperative) => gpu.cooperative_units().is_some(),
            (Self::Gpu(gpu), Strategy::CooperativeInt8) => gpu.int8_units().is_some(),
            (Self::Gpu(_), Strategy::Separate) => true,
            (Self::Gpu(_), Strategy::Fused { queries }) => {
                queries.is_power_of_two() && (4..=32).contains(&queries)
            }
        }
    }

    /// Describes the cooperative matrices, where there are some with f16 operands and f32 sums.
    pub fn cooperative_units(&self) -> Option<CooperativeUnits> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => gpu.cooperative_units(),
        }
    }

    /// Describes the cooperative matrices of int8 with i32 sums, where there are some.
    pub fn int8_units(&self) -> Option<CooperativeUnits> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => gpu.int8_units(),
        }
    }

    /// Sets how `kernel` divides its work from now on, instead of as suits adapters of this kind. The device must
    /// [offer](Self::offers) `strategy`.
    pub fn set_strategy(&self, kernel: &'static str, strategy: Strategy) {
        if let Self::Gpu(gpu) = self {
            gpu.set_strategy(kernel, strategy);
        }
    }

    /// Returns how `kernel` divides its work here; `None` on the CPU.
    pub fn strategy(&self, kernel: &'static str) -> Option<Strategy> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => Some(gpu.strategy(kernel)),
        }
    }

    /// Says whether several invocations share a row here, in kernels that need all of a row for each of their results:
    /// on GPUs, whose neighbouring invocations should read what lies side by side. On software drivers each has a row to
    /// itself. Floats are added up in another order then.
    pub fn shares_rows(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            Self::Gpu(gpu) => gpu.shares_rows(),
        }
    }

    /// Sets whether invocations share rows from now on, so that either way can be tested on every adapter.
    pub(crate) fn set_shares_rows(&self, shares: bool) {
        if let Self::Gpu(gpu) = self {
            gpu.set_shares_rows(shares);
        }
    }

    /// Builds kernels that are dispatched from now on with `text` where their shader has `original`, one of the files
    /// in `shaders`, so that an edited one can be tried without building the program anew. Invalid WGSL makes the next
    /// read an error. The CPU has no shaders.
    pub fn replace_shader_text(&self, original: &'static str, text: String) {
        if let Self::Gpu(gpu) = self {
            gpu.replace_text(original, text);
        }
    }

    /// Returns the most bytes that one buffer may hold and still be bound whole.
    pub fn max_buffer_bytes(&self) -> usize {
        match self {
            Self::Cpu(_) => usize::MAX,
            Self::Gpu(gpu) => gpu.max_binding_bytes(),
        }
    }

    /// Loses the device, as a driver that fails does: every read from now on is an [`Error::DeviceLost`]. The CPU can't
    /// be lost.
    pub fn destroy(&self) {
        if let Self::Gpu(gpu) = self {
            gpu.destroy();
        }
    }

    /// Returns the counter of the bytes held in this device's buffers, now and at the highest point so far.
    pub fn memory(&self) -> &MemoryUse {
        match self {
            Self::Cpu(host) => &host.memory,
            Self::Gpu(gpu) => gpu.memory(),
        }
    }
}
