//! A kernel with its bindings, ready to run.

use super::bound::Bound;
use super::pipeline::Pipeline;
use std::sync::{Arc, OnceLock};

/// Limits the dispatches in one submission: enough that submission costs nothing beside the work, few enough that
/// buffers which only these commands still hold are freed soon.
pub(super) const DISPATCHES_PER_SUBMISSION: usize = 128;

/// Limits the dispatches in the first submission after a wait, when the device has nothing to do. Later ones are twice as
/// long each time.
pub(super) const DISPATCHES_AT_FIRST: usize = 16;

/// Holds a dispatch that waits to be submitted.
#[derive(Clone)]
pub(super) struct Dispatch(Arc<Parts>);

struct Parts {
    pipeline: Arc<Pipeline>,
    /// What is bound, in the order of the bindings.
    bound: Vec<Bound>,
    /// The same as the pipeline wants it, once that is compiled.
    bind_group: OnceLock<wgpu::BindGroup>,
    bytes: u64,
    grid: [u32; 3],
}

impl Dispatch {
    /// Makes one that must read and write `bytes`.
    pub(super) fn new(
        pipeline: Arc<Pipeline>,
        bound: Vec<Bound>,
        bytes: u64,
        grid: [u32; 3],
    ) -> Self {
        Self(Arc::new(Parts {
            pipeline,
            bound,
            bind_group: OnceLock::new(),
            bytes,
            grid,
        }))
    }

    /// Returns the kernel's name.
    pub(super) fn kernel(&self) -> &'static str {
        self.0.pipeline.kernel()
    }

    /// Counts the bytes of buffers that it must read or write.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Appends it to a pass, once its kernel is compiled.
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass) {
        let Parts {
            pipeline,
            bound,
            bind_group,
            grid: [x, y, z],
            ..
        } = &*self.0;
        pass.set_pipeline(pipeline.compiled());
        let bind_group = bind_group.get_or_init(|| pipeline.bind_group(bound));
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(*x, *y, *z);
    }
}
