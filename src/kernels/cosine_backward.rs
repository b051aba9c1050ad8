//! The gradient of cosine attention's queries and keys.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::cosine::cases::{Direction, Heads, shapes};
use super::cosine::{Cosine, LEAST_SQUARE, Part, inverse_length, square};
use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "cosine_backward",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/cosine_backward.wgsl"),
    ),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    heads: u32,
    head_dim: u32,
    least_square: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    heads,
    head_dim,
    least_square
});

/// Computes the gradient of `qkv`, given that of what [`cosine`](super::cosine::cosine) makes of it (`grad`). Queries and
/// keys without length have none: torch's is as large as its least length is small.
pub fn cosine_backward(
    commands: &mut Commands,
    shape: &Cosine,
    qkv: &Buffer<f32>,
    scales: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(qkv.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            shape,
            &qkv.host_slice(),
            &scales.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: shape.rows() as u32,
                heads: shape.heads as u32,
                head_dim: shape.head_dim as u32,
                least_square: LEAST_SQUARE,
            };
            rows::dispatch(
                commands,
                rows::LANES,
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F32(qkv),
                    Binding::F32(scales),
                    Binding::F32(grad),
                    Binding::F32(&out),
                ],
                shape.rows(),
            );
        }
    }
    out
}

fn cpu(shape: &Cosine, qkv: &[f32], scales: &[f32], grad: &[f32], out: &mut [f32]) {
    let width = shape.head_dim;
    out.par_chunks_mut(width)
        .zip(qkv.par_chunks(width).zip(grad.par_chunks(width)))
        .enumerate()
        .for_each(|(row, (out, (x, grad)))| {
            let Some(scale) = shape.part(row).scale(scales) else {
                return out.copy_from_slice(grad);
            };
            let square = square(x);
            let inverse_length = inverse_length(square);
            let terms = x.iter().zip(grad);
            let along: f32 = terms.map(|(x, grad)| x * inverse_length * grad).sum();
            let factor = match square > LEAST_SQUARE {
                true => inverse_length * scale,
                false => 0.0,
            };
            for ((out, x), grad) in out.iter_mut().zip(x).zip(grad) {
                *out = (grad - x * inverse_length * along) * factor;
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "inverse_length * along) * factor",
    wrong: "along) * factor",
});

pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().into_iter().map(|(name, shape)| {
        case(
            name,
            move || {
                let grad = Random::new(2).bell(shape.rows() * shape.head_dim, 0.0, 1.0);
                (Heads::new(&shape), grad)
            },
            move |commands, device, (Heads { qkv, scales }, grad)| {
                let (qkv, scales) = (device.upload(qkv), device.upload(scales));
                cosine_backward(commands, &shape, &qkv, &scales, &device.upload(grad))
            },
        )
        .close(move |(Heads { qkv, scales }, grad)| {
            let width = shape.head_dim;
            let rows = qkv.chunks(width).zip(grad.chunks(width)).enumerate();
            let exact = rows.flat_map(|(row, (x, grad))| {
                let grad = wide(grad);
                match shape.part(row) {
                    Part::Value => grad.into_iter().map(|grad| (grad, 0.0)).collect(),
                    _ if x.iter().all(|&x| x == 0.0) => vec![(0.0, 0.0); width],
                    Part::Query(head) => exact(&wide(x), f64::from(scales[head]), &grad),
                    Part::Key => exact(&wide(x), 1.0, &grad),
                }
            });
            exact.collect()
        })
    });
    cases.flat_map(Case::by_row_division).collect()
}

/// Computes (g - n (n · g)) s / |x|, n the direction of x.
fn exact(x: &[f64], scale: f64, grad: &[f64]) -> Vec<(f64, f64)> {
    let direction = Direction::new(x);
    let (factor, share) = (scale / direction.length, direction.error());
    let terms = || direction.elements.iter().zip(grad);
    let along: f64 = terms().map(|(n, grad)| n * grad).sum();
    let sizes: f64 = terms().map(|(n, grad)| (n * grad).abs()).sum();
    // Each term errs as its direction does, and their sum by as many half-epsilons as there are.
    let of_along = (share + (x.len() + 1) as f64 / 2.0 * EPSILON) * sizes;
    let elements = terms().map(|(n, grad)| {
        let exact = (grad - n * along) * factor;
        let of_steps = EPSILON * (grad.abs() + 2.0 * (n * along).abs());
        let of_difference = n.abs() * (of_along + share * along.abs()) + of_steps;
        let bound = of_difference * factor.abs() + share * exact.abs();
        (exact, bound + SMALLEST)
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
        for (mean, deviation) in [(0.1, 2.0), (10.0, 1.0), (0.0, 1e-2)] {
            let x = wide(&random.bell(33, mean, deviation));
            let grad = wide(&random.bell(33, 0.0, 1.0));
            let scaled = |x: &[f64]| {
                let direction = Direction::new(x).elements.into_iter();
                direction.map(|n| 3.0 * n).collect::<Vec<f64>>()
            };
            let slopes = gradient(scaled, &x, &grad);
            let length = Direction::new(&x).length;
            let largest = 3.0 * grad.iter().fold(0.0, |a, g| g.abs().max(a)) / length;
            for (found, slope) in exact(&x, 3.0, &grad).iter().zip(slopes) {
                // A step of 1e-5 is short beside a length of 0.06.
                let error = (found.0 - slope).abs();
                assert!(error < 1e-3 * largest, "{found:?} {slope}");
            }
        }
    }
}
