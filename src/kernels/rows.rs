//! How workgroups divide rows, in kernels that need all elements of a row for each of their results; the other half is
//! `shaders/shared/rows.wgsl`.

use super::WORKGROUP;
use crate::device::{Binding, Commands, Shader};
use bytemuck::Pod;

/// Counts the invocations that share a row, where a device shares rows: what a GPU carries out in step.
const LANES: usize = 32;

/// Counts the invocations of a workgroup that shares rows: WebGPU's default limit. The codes of its eight rows that lie
/// side by side are as much as a GPU writes at once.
const SHARING_WORKGROUP: usize = 256;

/// Appends a dispatch of a shader that is joined to `rows.wgsl`, for so many `rows`. The device says whether
/// invocations share them.
pub(super) fn dispatch<P: Pod>(
    commands: &mut Commands,
    shader: &'static Shader,
    constants: &[(&'static str, f64)],
    parameters: &P,
    bindings: &[Binding],
    rows: usize,
) {
    let (workgroup, lanes) = match commands.device().shares_rows() {
        true => (SHARING_WORKGROUP, LANES),
        false => (WORKGROUP, 1),
    };
    let workgroup_rows = workgroup / lanes;
    let division = [("ROWS", workgroup_rows as f64), ("LANES", lanes as f64)];
    commands.dispatch(
        shader,
        &[constants, &division].concat(),
        parameters,
        bindings,
        rows.div_ceil(workgroup_rows),
    );
}
