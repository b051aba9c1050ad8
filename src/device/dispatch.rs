//! A kernel with its bindings, ready to run.

/// Limits the dispatches in one submission: enough that submission costs nothing beside the work, few enough that
/// buffers which only these commands still hold are freed soon.
pub(super) const DISPATCHES_PER_SUBMISSION: usize = 128;

/// Holds a dispatch that waits to be submitted.
#[derive(Clone)]
pub(super) struct Dispatch {
    pub(super) kernel: &'static str,
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) grid: [u32; 3],
}

impl Dispatch {
    /// Appends it to a pass.
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        let [x, y, z] = self.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}
