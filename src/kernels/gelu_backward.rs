//! The gradient of GELU's input.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::gelu::{
    Share, flushed, form, inputs, normal, quick_share, share, silu_share, tail_error, tanh_share,
};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::Gelu;
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;
use std::f64::consts::{FRAC_2_PI, PI};

pub(crate) static SHADER: Shader = Shader {
    name: "gelu_backward",
    source: concat!(
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/shared/gelu_slope.wgsl"),
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

/// Computes `grad · GELU'(x)` of each element x of `input`; of the exact form `grad · (Φ(x) + x · φ(x))`, φ the normal
/// distribution's density.
pub fn gelu_backward(
    commands: &mut Commands,
    of: Gelu,
    input: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    assert_eq!(input.len(), grad.len(), "a gradient for each input");
    let out = commands.uninitialized(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            of,
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
                &[form(of)],
                &parameters,
                &[Binding::F32(input), Binding::F32(grad), Binding::F32(&out)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
    out
}

fn cpu(of: Gelu, input: &[f32], grad: &[f32], out: &mut [f32]) {
    let inputs = input.par_chunks(PER_TASK).zip(grad.par_chunks(PER_TASK));
    let tasks = out.par_chunks_mut(PER_TASK).zip(inputs);
    tasks.for_each(|(out, (input, grad))| multiply_by_slopes(of, input, grad, out));
}

/// Multiplies each gradient by the slope at its input; compiled for each instruction set.
#[multiversion(targets = "simd")]
pub(super) fn multiply_by_slopes(of: Gelu, input: &[f32], grad: &[f32], out: &mut [f32]) {
    let values = out.iter_mut().zip(input).zip(grad);
    match of {
        Gelu::Exact => values.for_each(|((out, &x), grad)| {
            let (cumulative, exponential) = normal(x);
            *out = grad * (cumulative + x * (exponential * DENSITY));
        }),
        Gelu::Tanh => values.for_each(|((out, &x), grad)| *out = grad * slope(x, tanh_share(x))),
        Gelu::Quick => values.for_each(|((out, &x), grad)| *out = grad * slope(x, quick_share(x))),
        Gelu::Silu => values.for_each(|((out, &x), grad)| *out = grad * slope(x, silu_share(x))),
        Gelu::Relu => values.for_each(|((out, &x), grad)| *out = if x > 0.0 { *grad } else { 0.0 }),
    }
}

/// Computes the derivative of x · σ(u), by the shader's formula.
#[inline(always)]
fn slope(x: f32, share: Share) -> f32 {
    let Share { whole, tail, slope } = share;
    whole + x * (slope * (tail * (1.0 - tail)))
}

/// Computes the derivative of GELU, and a bound on its error: the two terms cancel near -0.75, so each one's counts. The
/// second one's factors beside the tail err by 6 epsilons.
pub(super) fn exact(of: Gelu, x: f64) -> (f64, f64) {
    // The derivative of what the logistic function is taken of.
    let inner = match of {
        Gelu::Exact | Gelu::Silu | Gelu::Relu => 1.0,
        Gelu::Tanh => 2.0 * FRAC_2_PI.sqrt() * (1.0 + 3.0 * 0.044715 * x * x),
        Gelu::Quick => 1.702,
    };
    let density = match of {
        Gelu::Exact => (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
        _ => inner * share(of, x) * share(of, -x),
    };
    let inexact = share(of, -x.abs()) + x.abs() * density;
    let (of_factors, of_share) = match of {
        Gelu::Exact => (0.0, 2.0),
        _ => (6.0, 6.0),
    };
    // Whether a device takes for zero what is smaller decides on which side of ReLU's step it lies.
    let of_step = f64::from(of == Gelu::Relu && x.abs() < SMALLEST);
    let bound = inexact * (tail_error(of, x) + of_factors * EPSILON)
        + of_share * EPSILON * share(of, x)
        + flushed(x) * inner.min(1e3)
        + of_step;
    (share(of, x) + x * density, bound)
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "gelu_slope(input[at])",
    wrong: "gelu_slope(input[at]).xyzz",
});

pub(super) fn cases() -> Vec<Case> {
    Gelu::ALL.map(case_of).into()
}

fn case_of(of: Gelu) -> Case {
    let both_tails = case(
        format!("both tails of {}", of.name()),
        || {
            let inputs = inputs();
            let grad = Random::new(6).bell(inputs.len(), 0.0, 1.0);
            [inputs, grad]
        },
        move |commands, device, [inputs, grad]| {
            gelu_backward(commands, of, &device.upload(inputs), &device.upload(grad))
        },
    );
    both_tails.close(move |[inputs, grad]| {
        let pairs = wide(inputs).into_iter().zip(wide(grad));
        pairs
            .map(|(x, grad)| {
                let (slope, bound) = exact(of, x);
                (grad * slope, grad.abs() * bound + SMALLEST)
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::gradient;
    use super::*;

    #[test]
    fn the_formula_is_the_derivative() {
        // Beside ReLU's step.
        let x: Vec<f64> = (-60..60)
            .map(|step| (f64::from(step) + 0.5) / 10.0)
            .collect();
        for of in Gelu::ALL {
            let gelu = |x: &[f64]| x.iter().map(|&x| x * share(of, x)).collect();
            let slopes = gradient(gelu, &x, &vec![1.0; x.len()]);
            for (x, slope) in x.iter().zip(slopes) {
                assert!((exact(of, *x).0 - slope).abs() < 1e-8, "{of:?}: {x}");
            }
        }
    }
}
