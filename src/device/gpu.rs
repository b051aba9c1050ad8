//! One opened wgpu device: pipelines, buffers, faults. Nothing in it is about work in flight.

use super::bound::Bound;
use super::buffer::Buffer;
use super::byte_len;
use super::dispatch::{DISPATCHES_PER_SUBMISSION, Dispatch};
use super::memory::MemoryUse;
use super::pipeline::{Compiler, Pipeline, Recipe};
use super::pool::Allocation;
use super::shader::{EntryPoint, Shader};
use super::staging::Staging;
use super::strategy::{CooperativeUnits, Strategy, Tile};
use super::uniforms::Uniforms;
use super::uploads::Uploads;
use crate::error::{Error, Result};
use bytemuck::Pod;
use half::f16;
use std::borrow::Cow;
use std::collections::HashMap;
#[cfg(not(target_arch = "wasm32"))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Passes a buffer to a dispatch. The order of the arguments is the order of `@binding` in the shader, from 1.
pub enum Binding<'a> {
    /// A buffer of floats.
    F32(&'a Buffer<f32>),
    /// The same, of which no more than so many are read.
    PartOfF32(&'a Buffer<f32>, usize),
    /// A buffer of floats of half the width, on a device that has them.
    F16(&'a Buffer<f16>),
    /// A buffer of words, for example packed codes.
    U32(&'a Buffer<u32>),
}

impl Binding<'_> {
    fn buffer(&self) -> &wgpu::Buffer {
        match self {
            Self::F32(buffer) | Self::PartOfF32(buffer, _) => buffer.gpu_buffer(),
            Self::F16(buffer) => buffer.gpu_buffer(),
            Self::U32(buffer) => buffer.gpu_buffer(),
        }
    }

    /// Counts the bytes that are read or written, each once.
    fn bytes(&self) -> u64 {
        match self {
            Self::PartOfF32(_, values) => (values * size_of::<f32>()) as u64,
            whole => whole.buffer().size(),
        }
    }
}

/// Counts the bytes of what is bound that a kernel must read or write: a buffer that is bound several times has each of its
/// bytes counted once at most.
fn bytes_of(bindings: &[Binding]) -> u64 {
    let of_buffer = |(at, binding): (usize, &Binding)| {
        let buffer = binding.buffer();
        let same = |other: &&Binding| other.buffer() == buffer;
        if bindings[..at].iter().any(|other| same(&other)) {
            return 0;
        }
        let bytes: u64 = bindings.iter().filter(same).map(Binding::bytes).sum();
        bytes.min(buffer.size())
    };
    bindings.iter().enumerate().map(of_buffer).sum()
}

/// Times dispatches by the device's own clock, on a device that has one.
pub(super) struct Clock {
    /// Room for the start and the end of every dispatch of a submission.
    pub(super) queries: wgpu::QuerySet,
    pub(super) nanoseconds_per_tick: f64,
}

impl Clock {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Self> {
        let offered = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        offered.then(|| Self {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2 * DISPATCHES_PER_SUBMISSION as u32,
            }),
            nanoseconds_per_tick: queue.get_timestamp_period().into(),
        })
    }
}

/// Says what a pipeline was specialised for: the kernel's name, its entry point and its override constants, values as
/// bits.
type PipelineKey = (&'static str, &'static str, Vec<(&'static str, u64)>);

/// Holds what is known of an adapter.
pub(super) struct Traits {
    pub(super) name: String,
    /// The name of wgpu's backend.
    pub(super) backend: String,
    /// The driver's name and version.
    pub(super) driver: String,
    /// Whether the adapter is a driver that computes on the CPU.
    pub(super) software: bool,
    /// The cooperative matrices that were asked for with the device: of f16 with f32 sums, and of int8 with i32 sums.
    pub(super) cooperative_units: Option<CooperativeUnits>,
    pub(super) int8_units: Option<CooperativeUnits>,
}

/// Runs kernels on a GPU.
pub struct Gpu {
    traits: Traits,
    strategies: RwLock<HashMap<&'static str, Strategy>>,
    shares_rows: AtomicBool,
    device: wgpu::Device,
    queue: wgpu::Queue,
    memory: Arc<MemoryUse>,
    staging: Staging,
    uploads: Uploads,
    compiler: Compiler,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    /// Parts of shaders' texts, and what stands in their place.
    replacements: RwLock<Vec<(&'static str, String)>>,
    clock: Option<Clock>,
    faults: Arc<Mutex<Faults>>,
}

/// Holds what went wrong on a device since the last read: of each kind the first, because the others follow from it.
#[derive(Default)]
struct Faults {
    /// Why the device is gone, now and for good. May follow from a lack of memory, and other faults from it.
    lost: Option<String>,
    out_of_memory: Option<String>,
    other: Option<String>,
}

impl Gpu {
    pub(super) fn new(traits: Traits, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let faults = Arc::<Mutex<Faults>>::default();
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let mut faults = on_error.lock().expect("the faults' lock");
            let slot = match error {
                wgpu::Error::OutOfMemory { .. } => &mut faults.out_of_memory,
                _ => &mut faults.other,
            };
            slot.get_or_insert(error.to_string());
        }));
        let on_lost = faults.clone();
        // Also called when the device is dropped, but then nobody reads any more.
        device.set_device_lost_callback(move |reason, message| {
            let mut faults = on_lost.lock().expect("the faults' lock");
            faults.lost = Some(match reason {
                wgpu::DeviceLostReason::Destroyed => "it was destroyed".to_owned(),
                _ => message,
            });
        });
        let memory = Arc::<MemoryUse>::default();
        Self {
            // On a software driver, what neighbours read needn't lie side by side, and a barrier costs more than it brings.
            shares_rows: AtomicBool::new(!traits.software),
            traits,
            strategies: RwLock::default(),
            clock: Clock::new(&device, &queue),
            compiler: Compiler::new(&device),
            device,
            queue,
            memory,
            staging: Staging::default(),
            uploads: Uploads::default(),
            pipelines: Mutex::default(),
            replacements: RwLock::default(),
            faults,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.traits.name
    }

    pub(super) fn backend(&self) -> &str {
        &self.traits.backend
    }

    pub(super) fn driver(&self) -> &str {
        &self.traits.driver
    }

    /// Says how `kernel` divides its work: as was set, else as suits adapters of this kind.
    pub fn strategy(&self, kernel: &'static str) -> Strategy {
        let strategies = self.strategies.read().expect("the strategies' lock");
        match strategies.get(kernel) {
            Some(&strategy) => strategy,
            // A barrier costs a software driver as much as the memory that it saves costs a GPU.
            None if self.traits.software => Strategy::Registers,
            None => Strategy::Tiled(Tile::DEFAULT),
        }
    }

    /// Describes the cooperative matrices, where there are some with f16 operands and f32 sums.
    pub fn cooperative_units(&self) -> Option<CooperativeUnits> {
        self.traits.cooperative_units
    }

    /// Describes the cooperative matrices of int8 with i32 sums, where there are some.
    pub fn int8_units(&self) -> Option<CooperativeUnits> {
        self.traits.int8_units
    }

    pub(super) fn set_strategy(&self, kernel: &'static str, strategy: Strategy) {
        let mut strategies = self.strategies.write().expect("the strategies' lock");
        strategies.insert(kernel, strategy);
    }

    /// Says whether several invocations share a row, in kernels that need all of a row for each of their results. This
    /// decides in which order floats are added up, so it follows from the kind of device alone.
    pub(super) fn is_software(&self) -> bool {
        self.traits.software
    }

    pub(super) fn shares_rows(&self) -> bool {
        self.shares_rows.load(Ordering::Relaxed)
    }

    pub(super) fn set_shares_rows(&self, shares: bool) {
        self.shares_rows.store(shares, Ordering::Relaxed);
    }

    /// Builds kernels that are dispatched from now on with `text` where their shader has `original`.
    pub(super) fn replace_text(&self, original: &'static str, text: String) {
        let mut replacements = self.replacements.write().expect("the replacements' lock");
        replacements.retain(|(replaced, _)| *replaced != original);
        replacements.push((original, text));
        let mut pipelines = self.pipelines.lock().expect("the pipeline cache's lock");
        pipelines.clear();
    }

    /// Returns the text that a shader is built from.
    fn source(&self, shader: &Shader) -> Cow<'static, str> {
        let replacements = self.replacements.read().expect("the replacements' lock");
        let mut source = Cow::Borrowed(shader.source);
        for (original, text) in replacements.iter() {
            if source.contains(original) {
                source = source.replace(original, text).into();
            }
        }
        source
    }

    pub(super) fn memory(&self) -> &Arc<MemoryUse> {
        &self.memory
    }

    pub(super) fn max_binding_bytes(&self) -> usize {
        self.device.limits().max_storage_buffer_binding_size as usize
    }

    fn report_fault(&self, problem: String) {
        let mut faults = self.faults.lock().expect("the faults' lock");
        faults.other.get_or_insert(problem);
    }

    pub(super) fn destroy(&self) {
        self.device.destroy();
    }

    /// Checks that nothing went wrong since the last call.
    pub(super) fn check(&self) -> Result<()> {
        let mut faults = self.faults.lock().expect("the faults' lock");
        let (out_of_memory, other) = (faults.out_of_memory.take(), faults.other.take());
        let device = self.name().to_owned();
        if let Some(problem) = out_of_memory {
            return Err(Error::OutOfMemory { device, problem });
        }
        if let Some(problem) = faults.lost.clone() {
            return Err(Error::DeviceLost { device, problem });
        }
        match other {
            Some(problem) => Err(Error::device(device, problem)),
            None => self.memory.check(&device),
        }
    }

    /// Makes `staging`, which `submission` writes, readable, or leaves in the faults why it isn't.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) async fn map(
        &self,
        staging: wgpu::BufferSlice<'_>,
        submission: Option<wgpu::SubmissionIndex>,
    ) {
        staging.map_async(wgpu::MapMode::Read, |_| {});
        self.wait(submission);
    }

    /// Makes `staging`, which has been submitted, readable, or leaves in the faults why it isn't.
    #[cfg(target_arch = "wasm32")]
    pub(super) async fn map(
        &self,
        staging: wgpu::BufferSlice<'_>,
        _submission: Option<wgpu::SubmissionIndex>,
    ) {
        let (answer, mapped) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, move |outcome| {
            // Fails if nobody waits for the answer any more.
            let _ = answer.send(outcome);
        });
        match mapped.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.report_fault(format!("reading back: {error}")),
            Err(_) => self.report_fault("reading back: the device gave no answer".to_owned()),
        }
    }

    /// Waits until `submission`, or else everything submitted, has been carried out, or can't be.
    #[cfg(not(target_arch = "wasm32"))]
    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) {
        let poll = |submission_index| {
            // wgpu panics where the driver loses the device meanwhile, after it has told the callback.
            catch_unwind(AssertUnwindSafe(|| {
                self.device.poll(wgpu::PollType::Wait {
                    submission_index,
                    timeout: None,
                })
            }))
        };
        let problem = match poll(submission) {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it failed".to_owned(),
        };
        self.report_fault(format!("waiting for the device: {problem}"));
        // A device that was lost earlier takes no submission, and tells the callback when what it had taken is done.
        let _ = poll(None);
    }

    pub(super) fn create(&self, bytes: u64, mapped_at_creation: bool) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation,
        })
    }

    pub(super) fn zeros<T: Pod>(&self, len: usize) -> Buffer<T> {
        let buffer = self.create(byte_len::<T>(len), false);
        Buffer::gpu(len, Allocation::single(self.memory.clone(), buffer))
    }

    pub(super) fn upload<T: Pod>(&self, data: &[T]) -> Buffer<T> {
        let buffer = self.create(byte_len::<T>(data.len()), true);
        let bytes: &[u8] = bytemuck::cast_slice(data);
        match buffer.get_mapped_range_mut(..) {
            Ok(mut mapped) => mapped.slice(..bytes.len()).copy_from_slice(bytes),
            Err(error) => self.report_fault(format!("uploading {} bytes: {error}", bytes.len())),
        }
        buffer.unmap();
        Buffer::gpu(data.len(), Allocation::single(self.memory.clone(), buffer))
    }

    /// Replaces the contents of `buffer` by `parts` before anything that is submitted from now on.
    pub(super) fn write<T: Pod>(&self, buffer: &Buffer<T>, parts: &[impl AsRef<[T]>]) {
        let parts = parts.iter().map(|part| bytemuck::cast_slice(part.as_ref()));
        let destination = buffer.gpu_buffer();
        let bytes = byte_len::<T>(buffer.len());
        let written = self
            .uploads
            .write(&self.device, &self.queue, destination, bytes, parts);
        if let Err(error) = written {
            self.report_fault(format!("writing {bytes} bytes: {error}"));
        }
    }

    /// Prepares what [`Commands::dispatch`](super::Commands::dispatch) appends. That is nothing where there are no
    /// workgroups, or where the adapter's limits are exceeded, which is then an error of the next read. The parameters
    /// join the `uniforms`, which have room for them.
    pub(super) fn prepare(
        &self,
        uniforms: &mut Uniforms,
        entry_point: EntryPoint,
        constants: &[(&'static str, f64)],
        parameters: &[u8],
        bindings: &[Binding],
        workgroups: usize,
    ) -> Option<Dispatch> {
        if workgroups == 0 {
            return None;
        }
        let shader = entry_point.shader;
        let limits = self.device.limits();
        let widest = limits.max_compute_workgroups_per_dimension as usize;
        let y = workgroups.div_ceil(widest);
        let x = workgroups.div_ceil(y);
        let largest = limits.max_storage_buffer_binding_size;
        if let Some(bytes) = bindings
            .iter()
            .map(|binding| binding.buffer().size())
            .find(|&bytes| bytes > largest)
        {
            self.report_fault(format!(
                "kernel {}: a buffer of {bytes} bytes exceeds the adapter's binding limit of {largest}",
                shader.name
            ));
            return None;
        }
        if y > widest {
            self.report_fault(format!(
                "kernel {}: {workgroups} workgroups exceed the adapter's limit of {widest} squared",
                shader.name
            ));
            return None;
        }
        let buffers = bindings.iter().map(|binding| Bound::from(binding.buffer()));
        let bound = std::iter::once(uniforms.push(parameters)).chain(buffers);
        Some(Dispatch::new(
            self.pipeline(entry_point, constants),
            bound.collect(),
            bytes_of(bindings),
            [x as u32, y as u32, 1],
        ))
    }

    /// Finds the pipeline of an entry point, or begins to compile it.
    fn pipeline(
        &self,
        entry_point: EntryPoint,
        constants: &[(&'static str, f64)],
    ) -> Arc<Pipeline> {
        let bits = |&(name, value): &(_, f64)| (name, value.to_bits());
        let key = (
            entry_point.shader.name,
            entry_point.name,
            constants.iter().map(bits).collect(),
        );
        let mut pipelines = self.pipelines.lock().expect("the pipeline cache's lock");
        let begin = || {
            let source = self.source(entry_point.shader);
            let recipe = Recipe {
                is_own: matches!(source, Cow::Borrowed(_)),
                source,
                constants: constants.into(),
                int8_units: self.int8_units().filter(|_| entry_point.has_int8_matrices),
            };
            self.compiler.begin(entry_point, recipe)
        };
        pipelines.entry(key).or_insert_with(begin).clone()
    }

    /// Creates a buffer for the parameters of dispatches.
    pub(super) fn uniforms(&self) -> Uniforms {
        Uniforms::new(&self.device)
    }

    /// Writes `uniforms` before anything that is submitted from now on.
    pub(super) fn write_uniforms(&self, uniforms: &mut Uniforms) {
        uniforms.write(&self.queue);
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&Default::default())
    }

    pub(super) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.queue.submit([encoder.finish()])
    }

    /// Returns a buffer of `bytes` or more to read back from.
    pub(super) fn staging(&self, bytes: u64) -> wgpu::Buffer {
        self.staging.take(bytes, |size| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read back"),
                size,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            })
        })
    }

    /// Takes back a `staging` buffer that was mapped and read.
    pub(super) fn unmap(&self, staging: wgpu::Buffer) {
        staging.unmap();
        self.staging.give_back(staging);
    }

    /// Creates a buffer for so many readings of the clock.
    pub(super) fn ticks(&self, readings: usize) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("ticks"),
            size: (readings * size_of::<u64>()) as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }

    /// Returns the device's own clock, where it has one.
    pub(super) fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    pub(super) fn has_f16(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }
}
