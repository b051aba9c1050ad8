//! The sum of two tensors: residual connections and their gradients.

use super::catalogue::{Case, Mistake, RAGGED, case};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "add",
    source: include_str!("../../shaders/add.wgsl"),
};

/// Counts the vectors that one invocation computes, as in the shader.
const STRIP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count });

/// Computes `a + b`, element by element, of two buffers of one length.
pub fn add(commands: &mut Commands, a: &Buffer<f32>, b: &Buffer<f32>) -> Buffer<f32> {
    assert_eq!(a.len(), b.len(), "the terms of a sum have one length");
    let out = commands.uninitialized(a.len());
    match commands.device() {
        Device::Cpu(_) => cpu(&a.host_slice(), &b.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let vectors = a.len().div_ceil(VECTOR);
            let parameters = Parameters {
                count: vectors as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(a), Binding::F32(b), Binding::F32(&out)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
    out
}

fn cpu(a: &[f32], b: &[f32], out: &mut [f32]) {
    out.par_iter_mut()
        .with_min_len(PER_TASK)
        .zip(a)
        .zip(b)
        .for_each(|((out, a), b)| *out = a + b);
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "a[at] + b[at]",
    wrong: "a[at] + b[at].xyzz",
});

/// Lists cases: many elements, which don't fill the last workgroup, and ragged sizes. Sums round once.
pub(super) fn cases() -> Vec<Case> {
    let lens = RAGGED.into_iter().chain([100_003]);
    let cases = lens.map(|len| {
        case(
            format!("{len}"),
            move || operands(len),
            |commands, device, [a, b]| add(commands, &device.upload(a), &device.upload(b)),
        )
        .exact(|[a, b]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>())
    });
    cases.collect()
}

pub(super) fn operands(len: usize) -> [Vec<f32>; 2] {
    [1, 577].map(|step| {
        let values = (0..len).map(|at| (at * step % 1013) as f32 * 1e-3);
        values.collect()
    })
}
