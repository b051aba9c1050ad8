//! The gradient of softmax's scores.

use super::catalogue::{Case, EPSILON, Mistake, ROWS, Random, SMALLEST, case, wide};
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "softmax_backward",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/softmax_backward.wgsl"),
    ),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    factor: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    factor
});

/// Computes the gradient of the scores, `[rows, width]`, given softmax's result `probabilities` and that result's
/// gradient `grad`: `factor · p · (grad - Σ p · grad)`.
pub fn softmax_backward(
    commands: &mut Commands,
    rows: usize,
    width: usize,
    factor: f32,
    probabilities: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(rows * width);
    match commands.device() {
        Device::Cpu(_) => cpu(
            width,
            factor,
            &probabilities.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: rows as u32,
                width: width as u32,
                factor,
            };
            rows::dispatch(
                commands,
                rows::LANES,
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(probabilities),
                    Binding::F32(grad),
                    Binding::F32(&out),
                ],
                rows,
            );
        }
    }
    out
}

fn cpu(width: usize, factor: f32, probabilities: &[f32], grad: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(width)
        .zip(probabilities.par_chunks(width))
        .zip(grad.par_chunks(width))
        .for_each(|((out, probabilities), grad)| {
            let sum: f32 = probabilities.iter().zip(grad).map(|(p, g)| p * g).sum();
            for ((out, p), g) in out.iter_mut().zip(probabilities).zip(grad) {
                *out = factor * p * (g - sum);
            }
        });
}

/// Computes factor · p · (g - Σ p · g) of a row. A sum of so many products, then four steps.
fn exact(factor: f64, p: &[f64], grad: &[f64]) -> Vec<(f64, f64)> {
    let sum: f64 = p.iter().zip(grad).map(|(p, g)| p * g).sum();
    let magnitude: f64 = p.iter().zip(grad).map(|(p, g)| p * g.abs()).sum();
    let of_sum = (p.len() as f64 + 1.0) / 2.0 * EPSILON * magnitude;
    let pairs = p.iter().zip(grad);
    pairs
        .map(|(p, g)| {
            let steps = of_sum + 4.0 * EPSILON * (g.abs() + magnitude);
            (factor * p * (g - sum), factor * p * steps + SMALLEST)
        })
        .collect()
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "i < width; i += LANES) {\n        own_sum +=",
    wrong: "i + 1u < width; i += LANES) {\n        own_sum +=",
});

pub(super) fn cases() -> Vec<Case> {
    const FACTOR: f32 = 0.125;
    let cases = ROWS.into_iter().map(|[rows, width]| {
        case(
            format!("{rows}x{width}"),
            move || {
                let mut random = Random::new(width as u64);
                // Any rows that sum to about 1 will do; nothing here depends on how they came about.
                let given = random.unit(rows * width).into_iter();
                let given = given.map(|p| p * 2.0 / width as f32).collect::<Vec<_>>();
                [given, random.bell(rows * width, 0.0, 1.0)]
            },
            move |commands, device, [given, grad]| {
                let (given, grad) = (device.upload(given), device.upload(grad));
                softmax_backward(commands, rows, width, FACTOR, &given, &grad)
            },
        )
        .close(move |[given, grad]| {
            let (given, grad) = (wide(given), wide(grad));
            let rows = given.chunks(width).zip(grad.chunks(width));
            rows.flat_map(|(given, grad)| exact(FACTOR.into(), given, grad))
                .collect()
        })
    });
    cases.flat_map(Case::by_row_division).collect()
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::gradient;
    use super::super::softmax::cases::probabilities;
    use super::*;

    #[test]
    fn the_formula_is_the_gradient() {
        const FACTOR: f64 = 0.125;
        let mut random = Random::new(1);
        let scores = wide(&random.bell(65, 0.0, 16.0));
        let grad = wide(&random.bell(65, 0.0, 1.0));
        let softmax = |scores: &[f64]| {
            let scaled: Vec<f64> = scores.iter().map(|x| FACTOR * x).collect();
            probabilities(&scaled)
        };
        let slopes = gradient(softmax, &scores, &grad);
        for (found, slope) in exact(FACTOR, &softmax(&scores), &grad).iter().zip(slopes) {
            assert!((found.0 - slope).abs() < 1e-9, "{found:?} {slope}");
        }
    }
}
