//! How alike a tensor and an estimate of it are, image by image.

use super::WORKGROUP;
use super::catalogue::{Case, EPSILON, Mistake, RAGGED, Random, case};
use super::sum_rows::sum_rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "similarity",
    source: include_str!("../../shaders/similarity.wgsl"),
};

/// Counts the elements that one invocation adds up, as in the shader.
const ELEMENTS_PER_INVOCATION: usize = 128;
/// Counts the sums of a group.
const SUMS: usize = 4;
/// Counts the elements that one task of the CPU version adds up.
const BLOCK: usize = 1 << 14;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    groups: u32,
    length: u32,
    parts: u32,
    has_weight: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    groups,
    length,
    parts,
    has_weight,
});

/// Computes `[4][groups]`: Σ out², Σ estimate², Σ (estimate - out)² and Σ (weight · (estimate - out))² over each of the
/// `groups` that the elements make one after the other, all of one size. Without a `weight` the last ones are 0.
pub fn similarity(
    commands: &mut Commands,
    groups: usize,
    out: &Buffer<f32>,
    estimate: &Buffer<f32>,
    weight: Option<&Buffer<f32>>,
) -> Buffer<f32> {
    assert_eq!(out.len(), estimate.len(), "an estimate has the same length");
    let length = out.len() / groups;
    match commands.device() {
        Device::Cpu(_) => {
            let sums = commands.device().zeros(SUMS * groups);
            cpu(
                length,
                &out.host_slice(),
                &estimate.host_slice(),
                weight.map(Buffer::host_slice).as_deref(),
                &mut sums.host_slice_mut(),
            );
            sums
        }
        Device::Gpu(_) => {
            let parts = length.div_ceil(ELEMENTS_PER_INVOCATION * WORKGROUP);
            let partial = commands.uninitialized(SUMS * groups * parts * WORKGROUP);
            let parameters = Parameters {
                groups: groups as u32,
                length: length as u32,
                parts: parts as u32,
                has_weight: weight.is_some().into(),
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(out),
                    Binding::F32(estimate),
                    // Never read without `has_weight`; a binding must be something.
                    Binding::F32(weight.unwrap_or(out)),
                    Binding::F32(&partial),
                ],
                groups * parts,
            );
            sum_rows(commands, SUMS * groups, parts * WORKGROUP, &partial)
        }
    }
}

fn cpu(length: usize, out: &[f32], estimate: &[f32], weight: Option<&[f32]>, sums: &mut [f32]) {
    let groups = out.len() / length;
    let of_groups: Vec<[f64; SUMS]> = (0..groups)
        .into_par_iter()
        .map(|group| {
            let blocks: Vec<[f64; SUMS]> = (0..length)
                .into_par_iter()
                .step_by(BLOCK)
                .map(|first| {
                    let start = group * length + first;
                    let block = start..start + BLOCK.min(length - first);
                    let weight = weight.map(|weight| &weight[block.clone()]);
                    block_sums(&out[block.clone()], &estimate[block], weight)
                })
                .collect();
            blocks.iter().fold([0.0; SUMS], add)
        })
        .collect();
    for (group, of_group) in of_groups.iter().enumerate() {
        for (sum, value) in of_group.iter().enumerate() {
            sums[sum * groups + group] = *value as f32;
        }
    }
}

fn add(mut sums: [f64; SUMS], others: &[f64; SUMS]) -> [f64; SUMS] {
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum += other;
    }
    sums
}

fn block_sums(out: &[f32], estimate: &[f32], weight: Option<&[f32]>) -> [f64; SUMS] {
    let mut sums = [0.0; SUMS];
    for (at, (&out, &estimate)) in out.iter().zip(estimate).enumerate() {
        let (out, estimate) = (f64::from(out), f64::from(estimate));
        let error = estimate - out;
        let weighted = weight.map_or(0.0, |weight| f64::from(weight[at]) * error);
        let terms = [
            out * out,
            estimate * estimate,
            error * error,
            weighted * weighted,
        ];
        sums = add(sums, &terms);
    }
    sums
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "place < p.length",
    wrong: "place + 1u < p.length",
});

/// Lists groups of ragged sizes, and of more elements than one workgroup takes, with weights and without.
pub(super) fn cases() -> Vec<Case> {
    let lens = RAGGED.into_iter().chain([100_003]);
    let cases = lens.flat_map(|length| {
        let groups = 3;
        [(false, "unweighted"), (true, "weighted")].map(|(weighted, what)| {
            case(
                format!("{groups} of {length}, {what}"),
                move || {
                    let mut random = Random::new(length as u64);
                    let out = random.bell(groups * length, 0.5, 1.0);
                    let noise = random.bell(groups * length, 0.0, 0.1);
                    let estimate = out.iter().zip(noise).map(|(out, noise)| out + noise);
                    let estimate: Vec<f32> = estimate.collect();
                    let weight = random.bell(groups * length, 0.0, 1e-3);
                    [out, estimate, weight]
                },
                move |commands, device, [out, estimate, weight]| {
                    let weight = weighted.then(|| device.upload(weight));
                    let (out, estimate) = (device.upload(out), device.upload(estimate));
                    similarity(commands, groups, &out, &estimate, weight.as_ref())
                },
            )
            .close(move |[out, estimate, weight]| {
                let sums = (0..SUMS * groups).map(|at| {
                    let (sum, group) = (at / groups, at % groups);
                    let terms = (group * length..(group + 1) * length).map(|at| {
                        let [out, estimate] = [out[at], estimate[at]].map(f64::from);
                        let error = estimate - out;
                        match sum {
                            0 => out * out,
                            1 => estimate * estimate,
                            2 => error * error,
                            _ if weighted => (f64::from(weight[at]) * error).powi(2),
                            _ => 0.0,
                        }
                    });
                    let terms: Vec<f64> = terms.collect();
                    let total: f64 = terms.iter().sum();
                    // An element is rounded at most five times, its error before it is squared; then come the sums.
                    let steps = 6.0 + length as f64;
                    (total, steps / 2.0 * EPSILON * total)
                });
                sums.collect()
            })
        })
    });
    cases.collect()
}
