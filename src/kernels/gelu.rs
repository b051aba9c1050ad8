//! GELU, in each of its forms.

mod timed;
pub(super) use timed::TIMED;

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case};
use super::exponential::{Exponentials, STRETCH, exp};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::Gelu;
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;
use std::f64::consts::{FRAC_2_PI, SQRT_2};

pub(crate) static SHADER: Shader = Shader {
    name: "gelu",
    source: concat!(
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/gelu.wgsl"),
    ),
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

/// Returns the constant by which shaders know the form.
pub(super) fn form(form: Gelu) -> (&'static str, f64) {
    ("GELU_FORM", f64::from(form as u32))
}

/// Computes GELU of each element.
pub fn gelu(commands: &mut Commands, form: Gelu, input: &Buffer<f32>) -> Buffer<f32> {
    let out = commands.uninitialized(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(form, &input.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let vectors = input.len().div_ceil(VECTOR);
            let parameters = Parameters {
                count: vectors as u32,
            };
            commands.dispatch(
                &SHADER,
                &[self::form(form)],
                &parameters,
                &[Binding::F32(input), Binding::F32(&out)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
    out
}

/// Lists the coefficients of the shader's fit, highest power first.
const FIT: [f32; 10] = [
    -0.020_612_73,
    0.112_375_27,
    -0.228_066_37,
    0.191_580_24,
    -0.079_246_19,
    0.096_057_25,
    0.078_425_77,
    0.110_227_29,
    0.119_572_85,
    0.119_686_63,
];

/// Computes Φ(x) and exp(-x² / 2), by the shader's formula.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let exponential = exp(exponent(x));
    let cumulative = cumulative(x, exponential, fit_variable(x));
    (cumulative, exponential)
}

/// Returns |x| up to 16, from where on the tail is zero in f32.
#[inline(always)]
fn magnitude(x: f32) -> f32 {
    x.abs().min(16.0)
}

/// Computes -x² / 2.
#[inline(always)]
fn exponent(x: f32) -> f32 {
    let y = magnitude(x);
    -0.5 * y * y
}

/// Computes the variable of the shader's fit.
#[inline(always)]
fn fit_variable(x: f32) -> f32 {
    1.0 / (1.0 + 0.3 * magnitude(x))
}

/// Computes Φ(x) from exp(-x² / 2) and the fit's variable.
#[inline(always)]
fn cumulative(x: f32, exponential: f32, t: f32) -> f32 {
    let fit = FIT[1..].iter().fold(FIT[0], |p, c| p * t + c);
    let tail = exponential * (fit * t);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// Holds the share of x that the forms of the logistic function take.
pub(super) struct Share {
    /// σ(u)
    pub whole: f32,
    /// σ(-|u|)
    pub tail: f32,
    /// The derivative of u by x.
    pub slope: f32,
}

/// Equals 2 √(2/π).
const TANH_FACTOR: f32 = 1.595_769_2;
const TANH_CUBIC: f32 = 0.044_715;
const QUICK_FACTOR: f32 = 1.702;
/// Bounds |x| where the tail is zero in f32, in every form.
const NO_TAIL: f32 = 128.0;

/// Computes the share for u and its derivative.
#[inline(always)]
fn logistic(u: f32, slope: f32) -> Share {
    let exponential = exp(-u.abs());
    let whole = 1.0 / (1.0 + exponential);
    let tail = exponential * whole;
    Share {
        whole: if u < 0.0 { tail } else { whole },
        tail,
        slope,
    }
}

/// Computes the share of [`Gelu::Tanh`], by the shader's formula.
#[inline(always)]
pub(super) fn tanh_share(x: f32) -> Share {
    let y = x.clamp(-NO_TAIL, NO_TAIL);
    let cubic = TANH_CUBIC * y * y;
    let slope = TANH_FACTOR * (1.0 + 3.0 * cubic);
    logistic(TANH_FACTOR * y * (1.0 + cubic), slope)
}

/// Computes the share of [`Gelu::Quick`], by the shader's formula.
#[inline(always)]
pub(super) fn quick_share(x: f32) -> Share {
    logistic(QUICK_FACTOR * x.clamp(-NO_TAIL, NO_TAIL), QUICK_FACTOR)
}

/// Computes the share of [`Gelu::Silu`], by the shader's formula.
#[inline(always)]
pub(super) fn silu_share(x: f32) -> Share {
    logistic(x.clamp(-NO_TAIL, NO_TAIL), 1.0)
}

/// Replaces each value by its GELU; compiled for each instruction set.
#[multiversion(targets = "simd")]
pub(super) fn apply(form: Gelu, values: &mut [f32]) {
    match form {
        Gelu::Exact => exact_of_all(values),
        Gelu::Tanh => values.iter_mut().for_each(|x| *x *= tanh_share(*x).whole),
        Gelu::Quick => values.iter_mut().for_each(|x| *x *= quick_share(*x).whole),
        Gelu::Silu => values.iter_mut().for_each(|x| *x *= silu_share(*x).whole),
        Gelu::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
    }
}

/// Replaces each value x by x Φ(x), a stretch in several passes.
#[inline(always)]
fn exact_of_all(values: &mut [f32]) {
    let mut exponentials = Exponentials::new();
    let [mut powers, mut variables] = [[0.0; STRETCH]; 2];
    for values in values.chunks_mut(STRETCH) {
        let [powers, variables] = [&mut powers, &mut variables].map(|it| &mut it[..values.len()]);
        for ((power, t), x) in powers.iter_mut().zip(&mut *variables).zip(&*values) {
            (*power, *t) = (exponent(*x), fit_variable(*x));
        }
        exponentials.replace(powers);
        for (x, (power, t)) in values.iter_mut().zip(powers.iter().zip(&*variables)) {
            *x *= cumulative(*x, *power, *t);
        }
    }
}

fn cpu(form: Gelu, input: &[f32], out: &mut [f32]) {
    let tasks = out.par_chunks_mut(PER_TASK).zip(input.par_chunks(PER_TASK));
    tasks.for_each(|(out, input)| {
        out.copy_from_slice(input);
        apply(form, out);
    });
}

/// Lists values from one tail to the other, and the awkward inputs: zeros, tiny ones that a device may take for zero,
/// huge ones.
pub(super) fn inputs() -> Vec<f32> {
    let mut inputs: Vec<f32> = (-2_000..2_000).map(|step| step as f32 * 1e-2).collect();
    inputs.extend([
        0.0, -0.0, 1e-20, -1e-20, 1e-40, -1e-40, 100.0, -100.0, 1e20, -1e20,
    ]);
    inputs.extend(Random::new(5).bell(197, 0.0, 3.0));
    inputs
}

/// Computes the share of x that is its GELU: Φ(x), or what the form has in its place.
pub(super) fn share(form: Gelu, x: f64) -> f64 {
    match form {
        Gelu::Exact => 0.5 * libm::erfc(-x / SQRT_2),
        // (1 + tanh z) / 2, without a difference where z is far below zero.
        Gelu::Tanh => {
            let z = FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3));
            1.0 / (1.0 + (-2.0 * z).exp())
        }
        Gelu::Quick => 1.0 / (1.0 + (-1.702 * x).exp()),
        Gelu::Silu => 1.0 / (1.0 + (-x).exp()),
        Gelu::Relu if x > 0.0 => 1.0,
        Gelu::Relu => 0.0,
    }
}

/// Bounds the error of the tail, the share that a negative value has, in proportion to it. WGSL allows exp(z) an error of
/// 3 + 2 |z| epsilons, here z = x² / 2; the fit's steps are worth 4 more. A logistic function's z is the rounded product of
/// up to five factors, and its own division is worth 3 epsilons, a sum 1 and a product 1.
pub(super) fn tail_error(form: Gelu, x: f64) -> f64 {
    let z = match form {
        Gelu::Exact => return (7.0 + x * x) * EPSILON,
        Gelu::Tanh => 1.6 * (x + 0.044715 * x.powi(3)).abs(),
        Gelu::Quick => 1.702 * x.abs(),
        Gelu::Silu => x.abs(),
        Gelu::Relu => return 0.0,
    };
    (8.0 + (2.0 + 5.0) * z) * EPSILON
}

/// Bounds what a device's taking numbers for zero does to the share of x and to its GELU; beyond 128 there is no tail.
pub(super) fn flushed(x: f64) -> f64 {
    (1.0 + x.abs().min(128.0)) * SMALLEST
}

/// Computes GELU of `x` and a bound on its error. Where the tail is subtracted from 1, or added to it and divided by, only
/// its absolute error counts; the division is worth 3 epsilons, a sum and a product one each.
pub(super) fn exact(form: Gelu, x: f64) -> (f64, f64) {
    let value = x * share(form, x);
    let tail = x.abs() * share(form, -x.abs());
    let of_value = if form == Gelu::Exact { 1.0 } else { 5.0 };
    (
        value,
        tail * tail_error(form, x) + of_value * EPSILON * value.abs() + flushed(x),
    )
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "gelu(input[at])",
    wrong: "gelu(input[at]).xyzz",
});

pub(super) fn cases() -> Vec<Case> {
    let of_form = |form: Gelu| {
        let name = format!("both tails of {}", form.name());
        let both_tails = case(name, inputs, move |commands, device, inputs| {
            gelu(commands, form, &device.upload(inputs))
        });
        both_tails.close(move |inputs| inputs.iter().map(|&x| exact(form, x.into())).collect())
    };
    Gelu::ALL.map(of_form).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In epsilons (2^-23), against f64 in steps of 1e-4. Rounding x² / 2 costs the tail that many half-epsilons, the
    /// fit itself about 2.7: seen are 2.7 · (1 + x² / 2) for Φ; for GELU 4.3, of its magnitude or of 1e-3 where it is
    /// smaller.
    #[test]
    fn the_fit_is_as_good_as_f32() {
        let (mut worst_cumulative, mut worst_gelu) = (0.0f64, 0.0f64);
        for step in -130_000..=130_000 {
            let x = step as f32 * 1e-4;
            let wide = f64::from(x);
            let exact = 0.5 * libm::erfc(-wide / std::f64::consts::SQRT_2);
            let found = normal(x).0;
            let epsilons = |found: f32, exact: f64, size: f64| {
                (f64::from(found) - exact).abs() / (size * f64::from(f32::EPSILON))
            };
            // The smallest normal f32: what is below has fewer digits.
            let size = exact.max(f64::from(f32::MIN_POSITIVE)) * (1.0 + wide * wide / 2.0);
            worst_cumulative = worst_cumulative.max(epsilons(found, exact, size));
            let gelu = wide * exact;
            worst_gelu = worst_gelu.max(epsilons(x * found, gelu, gelu.abs().max(1e-3)));
        }
        println!("epsilons: {worst_cumulative:.2} for the cumulative, {worst_gelu:.2} for GELU");
        assert!(worst_cumulative < 3.0);
        assert!(worst_gelu < 5.0);
    }
}
