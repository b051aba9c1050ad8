//! The gradient of layer normalisation's input.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::layer_norm::cases::{Normalised, Rows, shapes};
use super::layer_norm::{LayerNorm, statistics};
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "layer_norm_backward",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/layer_norm_backward.wgsl"),
    ),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    width: u32,
    input_offset: u32,
    input_stride: u32,
    eps: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    width,
    input_offset,
    input_stride,
    eps
});

/// Computes the gradient of `input`, given that of the output (`grad`, `[rows, width]`). Laid out as `input` is; zero
/// wherever no row was normalised.
pub fn layer_norm_backward(
    commands: &mut Commands,
    norm: &LayerNorm,
    input: &Buffer<f32>,
    weight: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.device().zeros(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            norm,
            &input.host_slice(),
            &weight.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: norm.rows as u32,
                width: norm.width as u32,
                input_offset: norm.input_offset as u32,
                input_stride: norm.input_stride as u32,
                eps: norm.eps,
            };
            rows::dispatch(
                commands,
                rows::LANES,
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(input),
                    Binding::F32(weight),
                    Binding::F32(grad),
                    Binding::F32(&out),
                ],
                norm.rows,
            );
        }
    }
    out
}

fn cpu(norm: &LayerNorm, input: &[f32], weight: &[f32], grad: &[f32], out: &mut [f32]) {
    let width = norm.width as f32;
    out.par_chunks_mut(norm.input_stride)
        .take(norm.rows)
        .enumerate()
        .for_each(|(row, out)| {
            let x = &input[norm.input_offset + row * norm.input_stride..][..norm.width];
            let grad = &grad[row * norm.width..][..norm.width];
            let [(mean, inverse_deviation)] = statistics([x], norm.eps);
            let normalised = |i: usize| (x[i] - mean) * inverse_deviation;
            let (mut sum_h, mut sum_hn) = (0.0, 0.0);
            for i in 0..norm.width {
                let h = grad[i] * weight[i];
                sum_h += h;
                sum_hn += h * normalised(i);
            }
            let (mean_h, mean_hn) = (sum_h / width, sum_hn / width);
            for (i, out) in out[norm.input_offset..][..norm.width]
                .iter_mut()
                .enumerate()
            {
                let h = grad[i] * weight[i];
                *out = inverse_deviation * (h - mean_h - normalised(i) * mean_hn);
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "- normalised * mean_hn",
    wrong: "+ normalised * mean_hn",
});

pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().into_iter().map(|(name, norm)| {
        case(
            name,
            move || {
                let grad = Random::new(2).bell(norm.rows * norm.width, 0.0, 1.0);
                (Rows::new(&norm), grad)
            },
            move |commands, device, (Rows { input, weight, .. }, grad)| {
                let (input, weight) = (device.upload(input), device.upload(weight));
                layer_norm_backward(commands, &norm, &input, &weight, &device.upload(grad))
            },
        )
        .close(move |(Rows { input, weight, .. }, grad)| {
            // What no row names has no gradient.
            let mut expected = vec![(0.0, 0.0); input.len()];
            for (row, grad) in grad.chunks(norm.width).enumerate() {
                let start = norm.input_offset + row * norm.input_stride;
                let row = Normalised::new(&wide(&input[start..][..norm.width]));
                let pairs = wide(grad).into_iter().zip(wide(weight));
                let h: Vec<f64> = pairs.map(|(grad, weight)| grad * weight).collect();
                expected[start..][..norm.width].copy_from_slice(&exact(&row, &h));
            }
            expected
        })
    });
    cases.flat_map(Case::by_row_division).collect()
}

/// Computes (h - mean of h - n · mean of h · n) / deviation, h the gradient times the weight, n the normalised
/// elements, of which every one errs by no more than the largest.
fn exact(row: &Normalised, h: &[f64]) -> Vec<(f64, f64)> {
    let (n, width) = (&row.elements, h.len() as f64);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / width;
    let size = |values: &[f64]| values.iter().map(|x| x.abs()).sum::<f64>() / width;
    let hn: Vec<f64> = h.iter().zip(n).map(|(h, n)| h * n).collect();
    let (mean_h, mean_hn) = (mean(h), mean(&hn));
    let (h_size, hn_size) = (size(h), size(&hn));
    let n_error = row.error(n.iter().fold(0.0, |a, n| n.abs().max(a)));
    let elements = (0..h.len()).map(|at| {
        let exact = (h[at] - mean_h - n[at] * mean_hn) / row.deviation;
        let sums = (width / 2.0 + 4.0) * EPSILON * (h_size + n[at].abs() * hn_size);
        let elements = n_error * (h_size * n[at].abs() + hn_size);
        let steps = 4.0 * EPSILON * (h[at].abs() + mean_h.abs() + (n[at] * mean_hn).abs());
        let scale = ((width / 4.0 + 6.0) * EPSILON + n_error) * exact.abs();
        (
            exact,
            (sums + elements + steps) / row.deviation + scale + SMALLEST,
        )
    });
    elements.collect()
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::gradient;
    use super::*;

    #[test]
    fn the_formula_is_the_gradient() {
        let mut random = Random::new(3);
        for (mean, deviation) in [(0.1, 2.0), (10.0, 1.0), (0.0, 1e-3)] {
            let x = wide(&random.bell(65, mean, deviation));
            let h = wide(&random.bell(65, 0.0, 1.0));
            let row = Normalised::new(&x);
            let slopes = gradient(|x| Normalised::new(x).elements, &x, &h);
            // A step of 1e-5 is short beside a deviation of 1e-3.
            let largest = h.iter().fold(0.0, |a, h| h.abs().max(a)) / row.deviation;
            for (found, slope) in exact(&row, &h).iter().zip(slopes) {
                assert!(
                    (found.0 - slope).abs() < 1e-3 * largest,
                    "{found:?} {slope}"
                );
            }
        }
    }
}
