//! The gradient of GELU's input.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::gelu::normal;
use super::gelu::{cumulative, exponential_error, flushed, inputs};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;
use std::f64::consts::PI;

pub(crate) static SHADER: Shader = Shader {
    name: "gelu_backward",
    source: concat!(
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/gelu_backward.wgsl"),
    ),
};

/// Equals 1 / √(2π).
const DENSITY: f32 = 0.398_942_3;

/// Counts the vectors that one invocation computes, as in the shader.
const STRIP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count });

/// Computes `grad · (Φ(x) + x · φ(x))` of each element x of `input`, φ the normal distribution's density.
pub fn gelu_backward(
    commands: &mut Commands,
    input: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    assert_eq!(input.len(), grad.len(), "a gradient for each input");
    let out = commands.uninitialized(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            &input.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let vectors = input.len().div_ceil(VECTOR);
            let parameters = Parameters {
                count: vectors as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(input), Binding::F32(grad), Binding::F32(&out)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
    out
}

fn cpu(input: &[f32], grad: &[f32], out: &mut [f32]) {
    let inputs = input.par_chunks(PER_TASK).zip(grad.par_chunks(PER_TASK));
    let tasks = out.par_chunks_mut(PER_TASK).zip(inputs);
    tasks.for_each(|(out, (input, grad))| slopes(input, grad, out));
}

/// Computes some of the gradients; compiled for each instruction set.
#[multiversion(targets = "simd")]
fn slopes(input: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), grad) in out.iter_mut().zip(input).zip(grad) {
        let (cumulative, exponential) = normal(x);
        *out = grad * (cumulative + x * (exponential * DENSITY));
    }
}

/// Computes the derivative of x · Φ(x), and a bound on its error: the two terms cancel near -0.75, so each one's
/// counts.
fn exact(x: f64) -> (f64, f64) {
    let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
    let inexact = cumulative(-x.abs()) + x.abs() * density;
    let bound = inexact * exponential_error(x) + 2.0 * EPSILON * cumulative(x) + flushed(x);
    (cumulative(x) + x * density, bound)
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "x * (exponential * DENSITY)",
    wrong: "x * (exponential * 0.39891)",
});

pub(super) fn cases() -> Vec<Case> {
    let both_tails = case(
        "both tails",
        || {
            let inputs = inputs();
            let grad = Random::new(6).bell(inputs.len(), 0.0, 1.0);
            [inputs, grad]
        },
        |commands, device, [inputs, grad]| {
            gelu_backward(commands, &device.upload(inputs), &device.upload(grad))
        },
    );
    let case = both_tails.close(|[inputs, grad]| {
        let pairs = wide(inputs).into_iter().zip(wide(grad));
        pairs
            .map(|(x, grad)| {
                let (slope, bound) = exact(x);
                (grad * slope, grad.abs() * bound + SMALLEST)
            })
            .collect()
    });
    vec![case]
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::gradient;
    use super::*;

    #[test]
    fn the_formula_is_the_derivative() {
        let x: Vec<f64> = (-60..60).map(|step| f64::from(step) / 10.0).collect();
        let gelu = |x: &[f64]| x.iter().map(|&x| x * cumulative(x)).collect();
        let slopes = gradient(gelu, &x, &vec![1.0; x.len()]);
        for (x, slope) in x.iter().zip(slopes) {
            assert!((exact(*x).0 - slope).abs() < 1e-8, "{x}");
        }
    }
}
