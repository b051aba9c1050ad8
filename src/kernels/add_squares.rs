//! Squares, added to sums: how much the loss's gradients vary.

use super::catalogue::{Case, EPSILON, Mistake, RAGGED, Random, case};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "add_squares",
    source: include_str!("../../shaders/add_squares.wgsl"),
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

/// Adds the square of each of `values` to the one of `sums` at the same place. Both have one length.
pub fn add_squares(commands: &mut Commands, values: &Buffer<f32>, sums: &Buffer<f32>) {
    assert_eq!(values.len(), sums.len(), "each value has a sum");
    match commands.device() {
        Device::Cpu(_) => cpu(&values.host_slice(), &mut sums.host_slice_mut()),
        Device::Gpu(_) => {
            let vectors = values.len().div_ceil(VECTOR);
            let parameters = Parameters {
                count: vectors as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(values), Binding::F32(sums)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
}

fn cpu(values: &[f32], sums: &mut [f32]) {
    sums.par_iter_mut()
        .with_min_len(PER_TASK)
        .zip(values)
        .for_each(|(sum, value)| *sum += value * value);
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "sums[at] += values[at] * values[at]",
    wrong: "sums[at] += values[at] * values[at].xyzz",
});

/// Lists cases: many elements, which don't fill the last workgroup, and ragged sizes. A square and the sum are rounded
/// once each, or both at once.
pub(super) fn cases() -> Vec<Case> {
    let lens = RAGGED.into_iter().chain([100_003]);
    let cases = lens.map(|len| {
        case(
            format!("{len}"),
            move || {
                let mut random = Random::new(len as u64);
                let sums: Vec<f32> = random.bell(len, 0.0, 1.0).iter().map(|x| x.abs()).collect();
                [random.bell(len, 0.0, 1.0), sums]
            },
            |commands, device, [values, sums]| {
                let sums = device.upload(sums);
                add_squares(commands, &device.upload(values), &sums);
                sums
            },
        )
        .close(|[values, sums]| {
            let pairs = values.iter().zip(sums);
            pairs
                .map(|(&value, &sum)| {
                    let sum = f64::from(sum) + f64::from(value).powi(2);
                    (sum, EPSILON * sum)
                })
                .collect()
        })
    });
    cases.collect()
}
