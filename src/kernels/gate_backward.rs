//! The gradient of the gate of a gated MLP.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::gate::{SIZES, inputs, pairs};
use super::gelu::{apply, exact, form};
use super::gelu_backward::{self, multiply_by_slopes};
use super::{PER_TASK, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::Gelu;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "gate_backward",
    source: concat!(
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/shared/gelu_slope.wgsl"),
        include_str!("../../shaders/gate_backward.wgsl"),
    ),
};

/// Counts the pairs of elements that one invocation computes, as in the shader.
const STRIP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    width: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count, width });

/// Computes `grad · y · GELU'(x)` and `grad · GELU(x)`, side by side, `[rows, 2 · width]`, of an input whose rows are x and
/// then y, and the gradient `[rows, width]` of what [`gate`](super::gate()) makes of it.
pub fn gate_backward(
    commands: &mut Commands,
    of: Gelu,
    width: usize,
    input: &Buffer<f32>,
    grad: &Buffer<f32>,
) -> Buffer<f32> {
    assert_eq!(input.len(), 2 * grad.len(), "a gradient for each pair");
    let out = commands.uninitialized(input.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            of,
            width,
            &input.host_slice(),
            &grad.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: grad.len() as u32,
                width: width as u32,
            };
            commands.dispatch(
                &SHADER,
                &[form(of)],
                &parameters,
                &[Binding::F32(input), Binding::F32(grad), Binding::F32(&out)],
                grad.len().div_ceil(STRIP * WORKGROUP),
            );
        }
    }
    out
}

fn cpu(of: Gelu, width: usize, input: &[f32], grad: &[f32], out: &mut [f32]) {
    let rows = input.par_chunks(2 * width).zip(grad.par_chunks(width));
    let tasks = out.par_chunks_mut(2 * width).zip(rows);
    tasks
        .with_min_len(PER_TASK.div_ceil(width))
        .for_each(|(out, (row, grad))| {
            let (x, y) = row.split_at(width);
            let (of_x, of_y) = out.split_at_mut(width);
            let through: Vec<f32> = grad.iter().zip(y).map(|(grad, y)| grad * y).collect();
            multiply_by_slopes(of, x, &through, of_x);
            of_y.copy_from_slice(x);
            apply(of, of_y);
            of_y.iter_mut()
                .zip(grad)
                .for_each(|(out, grad)| *out *= grad);
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "grad[at] * input[second] * gelu_slope(x).x",
    wrong: "grad[at] * gelu_slope(x).x",
});

/// Lists all forms of GELU, in rows of each size.
pub(super) fn cases() -> Vec<Case> {
    let cases = SIZES
        .into_iter()
        .flat_map(|sizes| Gelu::ALL.map(|of| case_of(sizes, of)));
    cases.collect()
}

fn case_of(sizes: [usize; 2], of: Gelu) -> Case {
    let [rows, width] = sizes;
    let described = case(
        format!("{rows}x{width} {}", of.name()),
        move || [inputs(sizes), Random::new(7).bell(rows * width, 0.0, 1.0)],
        move |commands, device, [input, grad]| {
            let (input, grad) = (device.upload(input), device.upload(grad));
            gate_backward(commands, of, width, &input, &grad)
        },
    );
    described.close(move |[input, grad]| {
        let (input, grad) = (wide(input), wide(grad));
        let mut out = vec![(0.0, 0.0); input.len()];
        for ((first, second), grad) in pairs(sizes).zip(grad) {
            let (x, y) = (input[first], input[second]);
            for (place, (value, bound), others) in [
                (first, gelu_backward::exact(of, x), grad * y),
                (second, exact(of, x), grad),
            ] {
                let value_of = value * others;
                // Two products more.
                let bound = bound * others.abs() + 2.0 * EPSILON * value_of.abs() + SMALLEST;
                out[place] = (value_of, bound);
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::gradient;
    use super::super::gelu::share;
    use super::*;

    #[test]
    fn the_formula_is_the_derivative() {
        // Beside ReLU's step.
        let x: Vec<f64> = (-30..30)
            .map(|step| (f64::from(step) + 0.5) / 5.0)
            .collect();
        let sizes = [2, x.len() / 4];
        for of in Gelu::ALL {
            let gated = |x: &[f64]| -> Vec<f64> {
                let pairs = pairs(sizes);
                pairs
                    .map(|(first, second)| x[first] * share(of, x[first]) * x[second])
                    .collect()
            };
            let found = gradient(gated, &x, &vec![1.0; x.len() / 2]);
            for (first, second) in pairs(sizes) {
                let expected = [
                    gelu_backward::exact(of, x[first]).0 * x[second],
                    exact(of, x[first]).0,
                ];
                for (found, expected) in [found[first], found[second]].into_iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-7, "{of:?}: {first}");
                }
            }
        }
    }
}
