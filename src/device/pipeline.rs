//! A kernel, compiled for a device. That happens in the background: a driver may take a tenth of a second, and several compile
//! side by side while the host goes on to append their dispatches.

use super::bound::Bound;
use super::int8_matrices;
use super::shader::EntryPoint;
use super::strategy::CooperativeUnits;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use web_time::Instant;

/// Holds a kernel that is compiled, or will be.
pub(super) struct Pipeline {
    device: wgpu::Device,
    entry_point: EntryPoint,
    compiled: OnceLock<Compiled>,
}

/// Holds a compiled kernel, and how its buffers are bound.
struct Compiled {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// Says what a kernel is compiled from.
pub(super) struct Recipe {
    /// The text of the entry point's shader.
    pub(super) source: Cow<'static, str>,
    /// Whether that is the kernel's own, and not one that the user put in its place.
    pub(super) is_own: bool,
    /// The override constants.
    pub(super) constants: Box<[(&'static str, f64)]>,
    /// The matrices of int8 that the shader's stand for, where they do.
    pub(super) int8_units: Option<CooperativeUnits>,
}

/// Compiles the kernels of one device.
pub(super) struct Compiler {
    device: wgpu::Device,
    /// Whether nobody waits any more.
    is_abandoned: Arc<AtomicBool>,
}

impl Compiler {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        Self {
            device: device.clone(),
            is_abandoned: Arc::default(),
        }
    }

    /// Begins to compile an entry point.
    pub(super) fn begin(&self, entry_point: EntryPoint, recipe: Recipe) -> Arc<Pipeline> {
        let pipeline = Arc::new(Pipeline {
            device: self.device.clone(),
            entry_point,
            compiled: OnceLock::new(),
        });
        let (begun, is_abandoned) = (pipeline.clone(), self.is_abandoned.clone());
        background::run(move || {
            if !is_abandoned.load(Ordering::Relaxed) {
                let start = Instant::now();
                begun.compiled.get_or_init(|| begun.compile(&recipe));
                // A browser has only begun by now.
                if cfg!(not(target_arch = "wasm32")) {
                    let (constants, time) = (&recipe.constants, start.elapsed());
                    log::trace!("compiled {} {constants:?} in {time:.1?}", begun.kernel());
                }
            }
        });
        pipeline
    }
}

/// Leaves out what hasn't begun and waits for the rest: no driver likes to be unloaded while it compiles.
impl Drop for Compiler {
    fn drop(&mut self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        background::finish();
    }
}

impl Pipeline {
    /// Returns the kernel's name.
    pub(super) fn kernel(&self) -> &'static str {
        self.entry_point.shader.name
    }

    /// Returns it compiled, for which it waits.
    pub(super) fn compiled(&self) -> &wgpu::ComputePipeline {
        &self.compiled.wait().pipeline
    }

    /// Makes a bind group of what is `bound`, in the order of the bindings. Waits until the kernel is compiled.
    pub(super) fn bind_group(&self, bound: &[Bound]) -> wgpu::BindGroup {
        let entries = bound.iter().enumerate();
        let entries = entries.map(|(binding, bound)| wgpu::BindGroupEntry {
            binding: binding as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &bound.buffer,
                offset: bound.offset,
                size: bound.size,
            }),
        });
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.kernel()),
            layout: &self.compiled.wait().layout,
            entries: &entries.collect::<Vec<_>>(),
        })
    }

    fn compile(&self, recipe: &Recipe) -> Compiled {
        let Recipe {
            source,
            is_own,
            constants,
            int8_units,
        } = recipe;
        let of_int8 = int8_units.and_then(|units| {
            let kernel = int8_matrices::Kernel {
                name: self.kernel(),
                source,
                loops_end: *is_own,
                constants,
                depth: units.depth,
            };
            int8_matrices::compile(&self.device, &kernel)
        });
        if let Some((pipeline, layout)) = of_int8 {
            return Compiled { pipeline, layout };
        }
        // Also what naga doesn't take above: here wgpu says why.
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(self.kernel()),
                layout: None,
                module: &self.module(source, *is_own),
                entry_point: Some(self.entry_point.name),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants,
                    // No kernel reads workgroup memory that it hasn't written.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
        Compiled {
            layout: pipeline.get_bind_group_layout(0),
            pipeline,
        }
    }

    fn module(&self, source: &str, is_own: bool) -> wgpu::ShaderModule {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(self.kernel()),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        if !is_own {
            return self.device.create_shader_module(descriptor);
        }
        let checks = wgpu::ShaderRuntimeChecks {
            force_loop_bounding: false,
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        // SAFETY: every loop of the kernels counts towards a bound that doesn't change meanwhile, by steps above zero, so all
        // of them end. Indices are still checked. A counter in each loop keeps drivers from unrolling it and sums from
        // staying in registers: an NVIDIA H200 took 2.3 times as long for products of cooperative matrices.
        unsafe { self.device.create_shader_module_trusted(descriptor, checks) }
    }
}

/// Threads that are for compiling alone: whoever waits for what they do may be a task of all others.
#[cfg(not(target_arch = "wasm32"))]
mod background {
    use rayon::{ThreadPool, ThreadPoolBuilder};
    use std::sync::OnceLock;

    /// Holds the threads from the first task on, unless the system gives none.
    static THREADS: OnceLock<Option<ThreadPool>> = OnceLock::new();

    pub(super) fn run(task: impl FnOnce() + Send + 'static) {
        match THREADS.get_or_init(|| ThreadPoolBuilder::new().build().ok()) {
            Some(threads) => threads.spawn(task),
            None => task(),
        }
    }

    /// Waits for every task.
    pub(super) fn finish() {
        if let Some(Some(threads)) = THREADS.get() {
            threads.broadcast(|_| ());
        }
    }
}

/// Does the same at once: a browser gives no threads, and compiles in the background by itself.
#[cfg(target_arch = "wasm32")]
mod background {
    pub(super) fn run(task: impl FnOnce()) {
        task();
    }

    pub(super) fn finish() {}
}
