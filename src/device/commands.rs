//! Work for a device, as a value: kernels append to it, and it runs in that order.

use super::buffer::Buffer;
use super::dispatch::{DISPATCHES_AT_FIRST, DISPATCHES_PER_SUBMISSION, Dispatch};
use super::gpu::{Binding, Clock, Gpu};
use super::host::HostPool;
use super::pool::{Allocation, Pool};
use super::shader::EntryPoint;
use super::uniforms::Uniforms;
use super::{Device, byte_len};
use crate::error::{Error, Result};
use bytemuck::Pod;
use rayon::prelude::*;
use serde::Serialize;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

/// Sets how many bytes of what is read back one task copies.
const BYTES_PER_TASK: usize = 1 << 20;

/// Collects commands for one device, which are carried out in the order in which they were appended. On the CPU they
/// are carried out at once.
///
/// Each thread appends to commands of its own. Before some commands read what other commands wrote, those must have
/// been submitted: by a read, by [`submit`](Self::submit), or by dropping them.
pub struct Commands {
    device: Device,
    queue: Queue,
}

/// Says what becomes of commands, and holds the buffers that come free between them.
enum Queue {
    /// They are carried out at once.
    Host(HostPool),
    /// They wait.
    Gpu(Queued),
}

struct Queued {
    gpu: Arc<Gpu>,
    dispatches: Vec<Dispatch>,
    /// How many dispatches are submitted at once.
    limit: usize,
    /// The parameters of these dispatches, if there are any.
    uniforms: Option<Uniforms>,
    pool: Arc<Pool<wgpu::Buffer>>,
    mode: Mode,
}

/// Says what becomes of the dispatches.
enum Mode {
    /// They are submitted, many at once.
    Submit,
    /// They are kept for a [`Recording`].
    Record,
    /// They are submitted, each between two readings of the device's clock.
    Time(Vec<Timed>),
}

/// Holds dispatches that can be carried out again and again, on the same buffers.
pub struct Recording {
    dispatches: Box<[Dispatch]>,
    /// The pool of the buffers between the dispatches: nothing else may write them while the recording lives.
    _pool: Arc<Pool<wgpu::Buffer>>,
}

/// Counts what is asked of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Kernels that are launched.
    pub dispatches: usize,
    /// Bytes that they must read and write: of the buffers that each is given, once.
    pub bytes: u64,
}

impl AddAssign for Workload {
    fn add_assign(&mut self, other: Self) {
        self.dispatches += other.dispatches;
        self.bytes += other.bytes;
    }
}

impl Recording {
    /// Counts what carrying it out once asks of the device.
    pub fn workload(&self) -> Workload {
        Workload {
            dispatches: self.dispatches.len(),
            bytes: self.dispatches.iter().map(Dispatch::bytes).sum(),
        }
    }
}

/// Holds a submission whose dispatches were timed.
struct Timed {
    kernels: Vec<&'static str>,
    /// When each dispatch started and ended, `[kernels][2]`.
    ticks: Buffer<u64>,
}

impl Commands {
    /// Starts without any commands.
    pub fn new(device: &Device) -> Self {
        Self::in_mode(device, Mode::Submit)
    }

    fn in_mode(device: &Device, mode: Mode) -> Self {
        let queue = match device {
            Device::Cpu(host) => Queue::Host(host.pool()),
            Device::Gpu(gpu) => Queue::Gpu(Queued {
                pool: match mode {
                    Mode::Record => Pool::pinned(gpu.memory().clone()),
                    Mode::Submit | Mode::Time(_) => Pool::new(gpu.memory().clone()),
                },
                gpu: gpu.clone(),
                dispatches: Vec::new(),
                limit: DISPATCHES_AT_FIRST,
                uniforms: None,
                mode,
            }),
        };
        Self {
            device: device.clone(),
            queue,
        }
    }

    /// Returns what waits; `None` on the CPU, where nothing does.
    fn queued(&mut self) -> Option<&mut Queued> {
        match &mut self.queue {
            Queue::Host(_) => None,
            Queue::Gpu(queued) => Some(queued),
        }
    }

    /// Returns the device that the commands are for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Creates a buffer of `len` values for a kernel that writes them all. Until then its contents are arbitrary, for
    /// instance those of another buffer of these commands that is no longer in use.
    pub fn uninitialized<T: Pod>(&self, len: usize) -> Buffer<T> {
        let bytes = byte_len::<T>(len);
        match &self.queue {
            Queue::Host(pool) => Buffer::host(len, pool.take(bytes)),
            Queue::Gpu(Queued { gpu, pool, .. }) => {
                Buffer::gpu(len, pool.take(bytes, || gpu.create(bytes, false)))
            }
        }
    }

    /// Appends one dispatch of a shader's `main`, or of another of its entry points, specialised by the override
    /// `constants`.
    ///
    /// `parameters` is bound as a uniform at binding 0, `bindings` follow. `workgroups` are laid out over two
    /// dimensions where one can't hold them; the shader numbers them `y * num_workgroups.x + x` and must ignore the
    /// surplus.
    ///
    /// # Panics
    /// On the CPU, which runs no shaders.
    pub fn dispatch<P: Pod>(
        &mut self,
        entry_point: impl Into<EntryPoint>,
        constants: &[(&'static str, f64)],
        parameters: &P,
        bindings: &[Binding],
        workgroups: usize,
    ) {
        let queued = self.queued().expect("the CPU runs no shaders");
        let parameters = bytemuck::bytes_of(parameters);
        let gpu = queued.gpu.clone();
        let uniforms = queued.uniforms_for(parameters);
        let dispatch = gpu.prepare(
            uniforms,
            entry_point.into(),
            constants,
            parameters,
            bindings,
            workgroups,
        );
        queued.dispatches.extend(dispatch);
        queued.submit_if_many();
    }

    /// Appends everything in `recording`, which is of the same device, once more.
    ///
    /// # Panics
    /// On the CPU, where nothing is recorded.
    pub fn replay(&mut self, recording: &Recording) {
        let queued = self.queued().expect("the CPU has no recordings");
        for dispatch in &recording.dispatches {
            queued.dispatches.push(dispatch.clone());
            queued.submit_if_many();
        }
    }

    /// Hands what was appended so far to the device, without waiting for it.
    pub fn submit(&mut self) {
        if let Queue::Gpu(queued) = &mut self.queue
            && !matches!(queued.mode, Mode::Record)
        {
            queued.submit(None);
        }
    }

    /// Carries out everything appended so far and returns the contents of `buffer`.
    ///
    /// # Errors
    /// The first thing that went wrong on the device since the last read: a lost device, memory that could not be
    /// had or is beyond the limit, a binding over the adapter's limit.
    pub fn read<T: Pod>(&mut self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        self.device.clone().wait(self.read_async(buffer))
    }

    /// Does what [`read`](Self::read) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_async<T: Pod>(&mut self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        let mut all = self.read_all_async(std::slice::from_ref(buffer)).await?;
        Ok(all.swap_remove(0))
    }

    /// Carries out everything appended so far and returns the contents of several buffers, with a single wait.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_all<T: Pod>(&mut self, buffers: &[Buffer<T>]) -> Result<Vec<Vec<T>>> {
        self.device.clone().wait(self.read_all_async(buffers))
    }

    /// Does what [`read_all`](Self::read_all) does, without waiting, as a browser needs it. On a native target it
    /// blocks the thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_all_async<T: Pod>(&mut self, buffers: &[Buffer<T>]) -> Result<Vec<Vec<T>>> {
        match (&mut self.queue, &self.device) {
            (Queue::Gpu(queued), _) => queued.read_all(buffers).await,
            (Queue::Host(_), device) => {
                device.memory().check(device.name())?;
                let contents = buffers.iter().map(|buffer| buffer.host_slice().to_vec());
                Ok(contents.collect())
            }
        }
    }

    /// Carries out everything appended so far and waits for it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn synchronize(&mut self) -> Result<()> {
        self.device.clone().wait(self.synchronize_async())
    }

    /// Does what [`synchronize`](Self::synchronize) does, without waiting, as a browser needs it. On a native target it
    /// blocks the thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn synchronize_async(&mut self) -> Result<()> {
        let nothing = self.device.zeros::<u32>(1);
        self.read_async(&nothing).await.map(drop)
    }

    /// Keeps what `append` appends, to be carried out again and again on the same buffers; `None` on the CPU, where it
    /// isn't called. It may not read anything back.
    pub fn record<T>(
        device: &Device,
        append: impl FnOnce(&mut Self) -> T,
    ) -> Option<(T, Recording)> {
        if let Device::Cpu(_) = device {
            return None;
        }
        let mut commands = Self::in_mode(device, Mode::Record);
        let result = append(&mut commands);
        let queued = commands.queued()?;
        queued.write_uniforms();
        let recording = Recording {
            dispatches: std::mem::take(&mut queued.dispatches).into(),
            _pool: queued.pool.clone(),
        };
        Some((result, recording))
    }

    /// Carries out what `append` appends and returns the kernel of each dispatch and the time that it took by the
    /// device's own clock, in order. Empty on a device without a clock, where `append` isn't called.
    ///
    /// # Errors
    /// As [`read`](Self::read); and a clock that goes back.
    pub fn profile(
        device: &Device,
        append: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Vec<(&'static str, Duration)>> {
        device.wait(Self::profile_async(device, async |commands: &mut Self| {
            append(commands)
        }))
    }

    /// Does what [`profile`](Self::profile) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// As [`profile`](Self::profile).
    pub async fn profile_async(
        device: &Device,
        append: impl AsyncFnOnce(&mut Self) -> Result<()>,
    ) -> Result<Vec<(&'static str, Duration)>> {
        let mut commands = Self::in_mode(device, Mode::Time(Vec::new()));
        let Some(clock) = commands.queued().and_then(|queued| queued.gpu.clock()) else {
            return Ok(Vec::new());
        };
        let nanoseconds_per_tick = clock.nanoseconds_per_tick;
        append(&mut commands).await?;
        commands.synchronize_async().await?;
        let queued = commands.queued();
        let mode = queued.map(|queued| std::mem::replace(&mut queued.mode, Mode::Submit));
        let Some(Mode::Time(submissions)) = mode else {
            return Ok(Vec::new());
        };
        let mut times = Vec::new();
        for Timed { kernels, ticks } in submissions {
            let ticks = commands.read_async(&ticks).await?;
            for (kernel, ticks) in kernels.into_iter().zip(ticks.as_chunks::<2>().0) {
                let [start, end] = *ticks;
                if end < start {
                    let problem =
                        format!("its clock went back from {start} to {end} during {kernel}");
                    return Err(Error::device(device.name(), problem));
                }
                let nanoseconds = (end - start) as f64 * nanoseconds_per_tick;
                times.push((kernel, Duration::from_secs_f64(nanoseconds * 1e-9)));
            }
        }
        Ok(times)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.submit();
    }
}

impl Queued {
    /// Returns uniforms with room for `parameters`. What was written to others stays as it is.
    fn uniforms_for(&mut self, parameters: &[u8]) -> &mut Uniforms {
        if self
            .uniforms
            .as_ref()
            .is_some_and(|uniforms| !uniforms.hold(parameters))
        {
            self.write_uniforms();
            self.uniforms = None;
        }
        self.uniforms.get_or_insert_with(|| self.gpu.uniforms())
    }

    fn write_uniforms(&mut self) {
        if let Some(uniforms) = &mut self.uniforms {
            self.gpu.write_uniforms(uniforms);
        }
    }

    fn submit_if_many(&mut self) {
        if self.dispatches.len() >= self.limit && !matches!(self.mode, Mode::Record) {
            self.submit(None);
            self.limit = DISPATCHES_PER_SUBMISSION.min(2 * self.limit);
        }
    }

    /// Submits what waits in one pass (in one pass each where it is timed), then `copy`: sources, which lie one after
    /// the other in the destination. `None` where there is nothing to submit.
    fn submit(
        &mut self,
        copy: Option<(&[&wgpu::Buffer], &wgpu::Buffer)>,
    ) -> Option<wgpu::SubmissionIndex> {
        if self.dispatches.is_empty() && copy.is_none() {
            return None;
        }
        self.write_uniforms();
        let dispatches = std::mem::take(&mut self.dispatches);
        let mut encoder = self.gpu.encoder();
        match (&mut self.mode, self.gpu.clock()) {
            _ if dispatches.is_empty() => {}
            (Mode::Time(submissions), Some(clock)) => {
                submissions.push(encode_timed(&self.gpu, &mut encoder, clock, &dispatches));
            }
            _ => {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for dispatch in &dispatches {
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
        Some(self.gpu.submit(encoder))
    }

    async fn read_all<T: Pod>(&mut self, buffers: &[Buffer<T>]) -> Result<Vec<Vec<T>>> {
        let size = |buffer: &Buffer<T>| buffer.gpu_buffer().size();
        let bytes = buffers.iter().map(size).sum();
        let staging = self.gpu.staging(bytes);
        let sources: Vec<_> = buffers.iter().map(Buffer::gpu_buffer).collect();
        let submission = self.submit(Some((&sources, &staging)));
        self.gpu.map(staging.slice(..bytes), submission).await;
        self.limit = DISPATCHES_AT_FIRST;
        // A fault explains a failed mapping better than the mapping's own error does.
        self.gpu.check()?;
        let mapped = staging
            .get_mapped_range(..bytes)
            .map_err(|error| Error::device(self.gpu.name(), format!("reading back: {error}")))?;
        let mut rest = &mapped[..];
        let contents = buffers.iter().map(|buffer| {
            let bytes;
            (bytes, rest) = rest.split_at(size(buffer) as usize);
            copied(&bytes[..buffer.len() * size_of::<T>()])
        });
        let contents = contents.collect();
        drop(mapped);
        self.gpu.unmap(staging);
        Ok(contents)
    }
}

/// Copies `bytes`, which need not be aligned for `T`. Several threads share it, because much of the time goes into
/// memory that is touched for the first time.
fn copied<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut values = bytemuck::zeroed_vec(bytes.len() / size_of::<T>());
    bytemuck::cast_slice_mut(&mut values)
        .par_chunks_mut(BYTES_PER_TASK)
        .zip(bytes.par_chunks(BYTES_PER_TASK))
        .for_each(|(values, bytes): (&mut [u8], &[u8])| values.copy_from_slice(bytes));
    values
}

/// Encodes each dispatch in a pass of its own, between two readings of the clock.
fn encode_timed(
    gpu: &Gpu,
    encoder: &mut wgpu::CommandEncoder,
    clock: &Clock,
    dispatches: &[Dispatch],
) -> Timed {
    for (index, dispatch) in dispatches.iter().enumerate() {
        let first = 2 * index as u32;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(dispatch.kernel()),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &clock.queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        });
        dispatch.encode(&mut pass);
    }
    let readings = 2 * dispatches.len();
    let buffer = gpu.ticks(readings);
    encoder.resolve_query_set(&clock.queries, 0..readings as u32, &buffer, 0);
    Timed {
        kernels: dispatches.iter().map(Dispatch::kernel).collect(),
        ticks: Buffer::gpu(readings, Allocation::single(gpu.memory().clone(), buffer)),
    }
}
