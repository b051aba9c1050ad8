//! One opened wgpu device: pipelines, recorded dispatches, transfers.

use super::buffer::{Buffer, MemoryUse};
use super::pool::{Allocation, Pool};
use super::strategy::{Strategy, Tile};
use crate::error::{Error, Result};
use bytemuck::Pod;
use half::f16;
use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// A kernel's WGSL. Its entry point is `main`; a kernel that can divide its work in several ways has one for each, and all of
/// them use the same bindings.
pub struct Shader {
    /// The file's name without its ending; names the kernel in errors.
    pub name: &'static str,
    /// The text of its own file and of the pieces in `shaders/shared` that it uses.
    pub source: &'static str,
}

impl Shader {
    /// Another entry point than `main`.
    pub const fn entry_point(&'static self, name: &'static str) -> EntryPoint {
        EntryPoint { shader: self, name }
    }
}

/// What a dispatch runs.
#[derive(Clone, Copy)]
pub struct EntryPoint {
    shader: &'static Shader,
    name: &'static str,
}

impl From<&'static Shader> for EntryPoint {
    fn from(shader: &'static Shader) -> Self {
        shader.entry_point("main")
    }
}

/// An argument of a dispatch; the order of the arguments is the order of `@binding` in the shader, from 1.
pub enum Binding<'a> {
    /// A buffer of floats.
    F32(&'a Buffer<f32>),
    /// A buffer of floats of half the width, on a device that has them.
    F16(&'a Buffer<f16>),
    /// A buffer of words, for example packed codes.
    U32(&'a Buffer<u32>),
}

impl Binding<'_> {
    fn buffer(&self) -> &wgpu::Buffer {
        match self {
            Self::F32(buffer) => buffer.gpu_buffer(),
            Self::F16(buffer) => buffer.gpu_buffer(),
            Self::U32(buffer) => buffer.gpu_buffer(),
        }
    }
}

/// A dispatch that waits to be submitted.
#[derive(Clone)]
struct Recorded {
    kernel: &'static str,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
}

impl Recorded {
    fn encode(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        let [x, y, z] = self.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Dispatches that can be carried out again and again, on the same buffers.
pub struct Recording {
    dispatches: Box<[Recorded]>,
    /// The buffers between the dispatches are its own: nothing else may write them while the recording lives.
    _pool: Arc<Pool>,
}

/// The device's own clock, on a device that has one.
struct Clock {
    /// Room for the start and the end of every dispatch of a submission.
    queries: wgpu::QuerySet,
    nanoseconds_per_tick: f64,
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

/// A submission whose dispatches were timed.
struct Timed {
    kernels: Vec<&'static str>,
    /// `[kernels][2]`: start and end.
    ticks: Buffer<u64>,
}

/// What a pipeline was specialised for: the kernel's name, its entry point and its override constants, values as bits.
type PipelineKey = (&'static str, &'static str, Vec<(&'static str, u64)>);

/// What is known of an adapter.
pub(super) struct Traits {
    pub(super) name: String,
    /// The name of wgpu's backend.
    pub(super) backend: String,
    /// The driver's name and version.
    pub(super) driver: String,
    /// Whether it is a driver that computes on the CPU.
    pub(super) software: bool,
    /// Rows and columns of the cooperative matrices that were asked for with the device: f16 operands, f32 sums.
    pub(super) cooperative_side: Option<u32>,
}

/// A GPU that kernels are recorded for.
pub struct Gpu {
    traits: Traits,
    strategies: RwLock<HashMap<&'static str, Strategy>>,
    device: wgpu::Device,
    queue: wgpu::Queue,
    memory: Arc<MemoryUse>,
    pool: Arc<Pool>,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    /// Parts of shaders' texts, and what stands in their place.
    replacements: RwLock<Vec<(&'static str, String)>>,
    recorded: Mutex<Vec<Recorded>>,
    /// The pool of the recording that is being made.
    recording: Mutex<Option<Arc<Pool>>>,
    clock: Option<Clock>,
    /// The submissions of a profile, while one is being made.
    profile: Mutex<Option<Vec<Timed>>>,
    faults: Arc<Mutex<Faults>>,
}

/// What went wrong on a device since the last read: of each kind the first, the others follow from it.
#[derive(Default)]
struct Faults {
    /// The device is gone, now and for good. May follow from a lack of memory, and other faults from it.
    lost: Option<String>,
    out_of_memory: Option<String>,
    other: Option<String>,
}

/// Dispatches in one submission. Enough that submission costs nothing beside the work, few enough that buffers which
/// only the recording still holds are freed soon.
const DISPATCHES_PER_SUBMISSION: usize = 128;

/// Bytes of a buffer of `len` values: a binding can't be empty, copies go in words of four bytes, and some kernels take
/// vectors of four words.
fn byte_len<T>(len: usize) -> u64 {
    (len.max(1) * size_of::<T>()).next_multiple_of(16) as u64
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
        // Called too when the device is dropped, but then nobody reads any more.
        device.set_device_lost_callback(move |reason, message| {
            let mut faults = on_lost.lock().expect("the faults' lock");
            faults.lost = Some(match reason {
                wgpu::DeviceLostReason::Destroyed => "it was destroyed".to_owned(),
                _ => message,
            });
        });
        let memory = Arc::<MemoryUse>::default();
        Self {
            traits,
            strategies: RwLock::default(),
            clock: Clock::new(&device, &queue),
            profile: Mutex::default(),
            device,
            queue,
            pool: Pool::new(memory.clone()),
            memory,
            pipelines: Mutex::default(),
            replacements: RwLock::default(),
            recorded: Mutex::default(),
            recording: Mutex::default(),
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

    /// How `kernel` divides its work: as was set, else as suits adapters of this kind.
    pub fn strategy(&self, kernel: &'static str) -> Strategy {
        let strategies = self.strategies.read().expect("the strategies' lock");
        match strategies.get(kernel) {
            Some(&strategy) => strategy,
            // A barrier costs a software driver as much as the memory that it saves costs a GPU.
            None if self.traits.software => Strategy::Registers,
            None => Strategy::Tiled(Tile::DEFAULT),
        }
    }

    /// Rows and columns of the cooperative matrices, 8 or 16, where there are some with f16 operands and f32 sums.
    pub fn cooperative_side(&self) -> Option<u32> {
        self.traits.cooperative_side
    }

    pub(super) fn set_strategy(&self, kernel: &'static str, strategy: Strategy) {
        let mut strategies = self.strategies.write().expect("the strategies' lock");
        strategies.insert(kernel, strategy);
    }

    /// Has kernels that are recorded from now on be built with `text` where their shader has `original`.
    pub(super) fn replace_text(&self, original: &'static str, text: String) {
        let mut replacements = self.replacements.write().expect("the replacements' lock");
        replacements.retain(|(replaced, _)| *replaced != original);
        replacements.push((original, text));
        let mut pipelines = self.pipelines.lock().expect("the pipeline cache's lock");
        pipelines.clear();
    }

    /// The text that a shader is built from.
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

    pub(super) fn memory(&self) -> &MemoryUse {
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

    /// Finds out whether anything went wrong since the last call.
    fn check(&self) -> Result<()> {
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

    /// Waits until `submission` has been carried out, or can't be.
    fn wait(&self, submission: wgpu::SubmissionIndex) {
        let poll = |submission_index| {
            // wgpu panics where the driver loses the device meanwhile, after it has told the callback.
            catch_unwind(AssertUnwindSafe(|| {
                self.device.poll(wgpu::PollType::Wait {
                    submission_index,
                    timeout: None,
                })
            }))
        };
        let problem = match poll(Some(submission)) {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it failed".to_owned(),
        };
        self.report_fault(format!("waiting for the device: {problem}"));
        // A device that was lost earlier takes no submission, and tells the callback when what it had taken is done.
        let _ = poll(None);
    }

    fn create(&self, bytes: u64, mapped_at_creation: bool) -> wgpu::Buffer {
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

    pub(super) fn uninitialized<T: Pod>(&self, len: usize) -> Buffer<T> {
        let bytes = byte_len::<T>(len);
        let pool = self.recording_pool().unwrap_or_else(|| self.pool.clone());
        Buffer::gpu(len, pool.take(bytes, || self.create(bytes, false)))
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

    /// Replaces the contents of `buffer` before anything that is submitted from now on.
    pub(super) fn write<T: Pod>(&self, buffer: &Buffer<T>, data: &[T]) {
        let bytes = bytemuck::cast_slice(data);
        self.queue.write_buffer(buffer.gpu_buffer(), 0, bytes);
    }

    fn recording_pool(&self) -> Option<Arc<Pool>> {
        let recording = self.recording.lock().expect("the recording's lock");
        recording.clone()
    }

    /// What `record` records, to be carried out by [`replay`](Self::replay).
    pub(super) fn record<T>(&self, record: impl FnOnce() -> T) -> (T, Recording) {
        let pending = std::mem::take(&mut *self.recorded.lock().expect("the recording's lock"));
        self.submit(pending, None);
        let pool = Pool::pinned(self.memory.clone());
        let slot = || self.recording.lock().expect("the recording's lock");
        *slot() = Some(pool.clone());
        let result = record();
        *slot() = None;
        let dispatches = std::mem::take(&mut *self.recorded.lock().expect("the recording's lock"));
        let recording = Recording {
            dispatches: dispatches.into(),
            _pool: pool,
        };
        (result, recording)
    }

    /// Records everything in `recording` once more.
    pub(super) fn replay(&self, recording: &Recording) {
        for dispatch in &recording.dispatches {
            self.push(dispatch.clone());
        }
    }

    /// Records one dispatch of a shader's `main`, or of another of its entry points, specialised by the override `constants`.
    ///
    /// `parameters` is bound as a uniform at binding 0, `bindings` follow. `workgroups` are laid out over two
    /// dimensions where one can't hold them; the shader numbers them `y * num_workgroups.x + x` and must ignore the
    /// surplus.
    pub fn dispatch<P: Pod>(
        &self,
        entry_point: impl Into<EntryPoint>,
        constants: &[(&'static str, f64)],
        parameters: &P,
        bindings: &[Binding],
        workgroups: usize,
    ) {
        if workgroups == 0 {
            return;
        }
        let entry_point = entry_point.into();
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
            return self.report_fault(format!(
                "kernel {}: a buffer of {bytes} bytes exceeds the adapter's binding limit of {largest}",
                shader.name
            ));
        }
        if y > widest {
            return self.report_fault(format!(
                "kernel {}: {workgroups} workgroups exceed the adapter's limit of {widest} squared",
                shader.name
            ));
        }
        let pipeline = self.pipeline(entry_point, constants);
        let uniform = self.uniform(parameters);
        let entries: Vec<_> = std::iter::once(&uniform)
            .chain(bindings.iter().map(Binding::buffer))
            .enumerate()
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(shader.name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        self.push(Recorded {
            kernel: shader.name,
            pipeline,
            bind_group,
            grid: [x as u32, y as u32, 1],
        });
    }

    /// Adds a dispatch to those that wait, and submits them when they are many.
    fn push(&self, dispatch: Recorded) {
        let mut recorded = self.recorded.lock().expect("the recording's lock");
        recorded.push(dispatch);
        if recorded.len() >= DISPATCHES_PER_SUBMISSION && self.recording_pool().is_none() {
            self.submit(std::mem::take(&mut *recorded), None);
        }
    }

    fn uniform<P: Pod>(&self, parameters: &P) -> wgpu::Buffer {
        let bytes = bytemuck::bytes_of(parameters);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.len().next_multiple_of(16) as u64,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        match buffer.get_mapped_range_mut(..) {
            Ok(mut mapped) => mapped.slice(..bytes.len()).copy_from_slice(bytes),
            Err(error) => self.report_fault(format!("writing kernel parameters: {error}")),
        }
        buffer.unmap();
        buffer
    }

    fn pipeline(
        &self,
        EntryPoint { shader, name }: EntryPoint,
        constants: &[(&'static str, f64)],
    ) -> wgpu::ComputePipeline {
        let key = (
            shader.name,
            name,
            constants
                .iter()
                .map(|&(name, value)| (name, value.to_bits()))
                .collect(),
        );
        let mut pipelines = self.pipelines.lock().expect("the pipeline cache's lock");
        pipelines
            .entry(key)
            .or_insert_with(|| {
                let module = self
                    .device
                    .create_shader_module(wgpu::ShaderModuleDescriptor {
                        label: Some(shader.name),
                        source: wgpu::ShaderSource::Wgsl(self.source(shader)),
                    });
                self.device
                    .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                        label: Some(shader.name),
                        layout: None,
                        module: &module,
                        entry_point: Some(name),
                        compilation_options: wgpu::PipelineCompilationOptions {
                            constants,
                            // No kernel reads workgroup memory that it hasn't written.
                            zero_initialize_workgroup_memory: false,
                        },
                        cache: None,
                    })
            })
            .clone()
    }

    /// Submits `recorded` in one pass (in one pass each while a profile is being made), then `copy`: sources, which
    /// lie one after the other in the destination.
    fn submit(
        &self,
        recorded: Vec<Recorded>,
        copy: Option<(&[&wgpu::Buffer], &wgpu::Buffer)>,
    ) -> wgpu::SubmissionIndex {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut profile = self.profile.lock().expect("the profile's lock");
        match (&self.clock, profile.as_mut()) {
            _ if recorded.is_empty() => {}
            (Some(clock), Some(profile)) => {
                profile.push(self.encode_timed(&mut encoder, clock, &recorded));
            }
            _ => {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for dispatch in &recorded {
                    dispatch.encode(&mut pass);
                }
            }
        }
        if let Some((sources, destination)) = copy {
            let mut offset = 0;
            for source in sources {
                encoder.copy_buffer_to_buffer(source, 0, destination, offset, source.size());
                offset += source.size();
            }
        }
        self.queue.submit([encoder.finish()])
    }

    /// Encodes each dispatch in a pass of its own, between two readings of the clock.
    fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        clock: &Clock,
        recorded: &[Recorded],
    ) -> Timed {
        for (index, dispatch) in recorded.iter().enumerate() {
            let first = 2 * index as u32;
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(dispatch.kernel),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &clock.queries,
                    beginning_of_pass_write_index: Some(first),
                    end_of_pass_write_index: Some(first + 1),
                }),
            });
            dispatch.encode(&mut pass);
        }
        let readings = 2 * recorded.len();
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("ticks"),
            size: (readings * size_of::<u64>()) as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        encoder.resolve_query_set(&clock.queries, 0..readings as u32, &buffer, 0);
        Timed {
            kernels: recorded.iter().map(|dispatch| dispatch.kernel).collect(),
            ticks: Buffer::gpu(readings, Allocation::single(self.memory.clone(), buffer)),
        }
    }

    pub(super) fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    pub(super) fn has_f16(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Carries out what was recorded so far, then what `record` records, and returns the kernel and the time of each of
    /// its dispatches, in order. Nothing without a clock.
    pub(super) fn profile(&self, record: impl FnOnce()) -> Result<Vec<(&'static str, Duration)>> {
        let Some(clock) = &self.clock else {
            return Ok(Vec::new());
        };
        self.synchronize()?;
        let slot = || self.profile.lock().expect("the profile's lock");
        *slot() = Some(Vec::new());
        record();
        let carried_out = self.synchronize();
        let submissions = slot().take().unwrap_or_default();
        carried_out?;
        let mut times = Vec::new();
        for Timed { kernels, ticks } in submissions {
            let ticks = self.read(&ticks)?;
            for (kernel, ticks) in kernels.into_iter().zip(ticks.as_chunks::<2>().0) {
                let [start, end] = *ticks;
                if end < start {
                    let problem =
                        format!("its clock went back from {start} to {end} during {kernel}");
                    return Err(Error::device(self.name(), problem));
                }
                let nanoseconds = (end - start) as f64 * clock.nanoseconds_per_tick;
                times.push((kernel, Duration::from_secs_f64(nanoseconds * 1e-9)));
            }
        }
        Ok(times)
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.read(&self.zeros::<u32>(1)).map(drop)
    }

    pub(super) fn read<T: Pod>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        let mut all = self.read_all(std::slice::from_ref(buffer))?;
        Ok(all.swap_remove(0))
    }

    /// The contents of several buffers, for one wait.
    pub(super) fn read_all<T: Pod>(&self, buffers: &[Buffer<T>]) -> Result<Vec<Vec<T>>> {
        let size = |buffer: &Buffer<T>| buffer.gpu_buffer().size();
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read back"),
            size: buffers.iter().map(size).sum(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let submission = {
            // Held until submission, so that what another thread records meanwhile can't overtake it.
            let mut recorded = self.recorded.lock().expect("the recording's lock");
            let sources: Vec<_> = buffers.iter().map(Buffer::gpu_buffer).collect();
            let copy = Some((&sources[..], &staging));
            self.submit(std::mem::take(&mut *recorded), copy)
        };
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.wait(submission);
        // A fault explains a failed mapping better than the mapping's own error does.
        self.check()?;
        let mapped = staging
            .get_mapped_range(..)
            .map_err(|error| Error::device(self.name(), format!("reading back: {error}")))?;
        let mut rest = &mapped[..];
        let contents = buffers.iter().map(|buffer| {
            let bytes;
            (bytes, rest) = rest.split_at(size(buffer) as usize);
            // The mapping need not be aligned for `T`, so this copies rather than casts.
            bytemuck::pod_collect_to_vec(&bytes[..buffer.len() * size_of::<T>()])
        });
        Ok(contents.collect())
    }
}
