//! How workgroups divide rows, in kernels that need all elements of a row for each of their results; the other half is
//! `shaders/shared/rows.wgsl`.

use super::WORKGROUP;
use crate::device::{Binding, Commands, Shader};
use bytemuck::Pod;

/// Counts the invocations that share a row of usual length, where a device shares rows: what a GPU carries out in step.
/// Eight rows are a workgroup then, and as many of their codes as lie side by side are what a GPU writes at once.
pub(super) const LANES: usize = 32;

/// Counts the invocations of a workgroup that shares rows, WebGPU's default limit: all of them can share one long row.
pub(super) const MOST_LANES: usize = 256;

/// Appends a dispatch of a shader that is joined to `rows.wgsl`, for so many `rows`; `lanes` invocations share a row if
/// the device shares rows.
pub(super) fn dispatch<P: Pod>(
    commands: &mut Commands,
    lanes: usize,
    shader: &'static Shader,
    constants: &[(&'static str, f64)],
    parameters: &P,
    bindings: &[Binding],
    rows: usize,
) {
    let (workgroup_rows, lanes) = match commands.device().shares_rows() {
        true if lanes > 1 => (MOST_LANES / lanes, lanes),
        _ => (WORKGROUP, 1),
    };
    let division = [("ROWS", workgroup_rows as f64), ("LANES", lanes as f64)];
    commands.dispatch(
        shader,
        &[constants, &division].concat(),
        parameters,
        bindings,
        rows.div_ceil(workgroup_rows),
    );
}
