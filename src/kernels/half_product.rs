//! Batched matrix products of operands in f16, summed in f32: a network to compare the quantized one with.

use super::WORKGROUP;
use super::catalogue::{Amount, Case, Exercise, Mistake, NetworkProduct, Timed, Variant, case};
use super::float_product;
use super::float_product::cases::{Operands, shapes};
use super::geometry::{Product, View};
use super::to_half::{ToHalf, to_half};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use half::f16;
use half::slice::HalfFloatSliceExt;

pub(crate) static SHADER: Shader = Shader {
    name: "half_product",
    source: concat!(
        // First, because it begins with what it enables.
        include_str!("../../shaders/half_product.wgsl"),
        include_str!("../../shaders/shared/view.wgsl"),
    ),
};

/// Sets the rows and columns of one invocation's tile, as in the shader.
const TILE: [usize; 2] = [8, 4];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    out: View,
    outer: u32,
    inner: u32,
    m: u32,
    n: u32,
    k: u32,
    has_bias: u32,
    unused: [u32; 2],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    out,
    outer,
    inner,
    m,
    n,
    k,
    has_bias
});

/// Computes `out = a · b + bias` for every matrix of the batch. `a` and `b` are as [`to_half`](super::to_half) leaves
/// the left and the right operand of `product`; `bias` is `[n]` and optional. Elements of `out` that the view doesn't
/// name keep their values.
pub fn half_product(
    commands: &mut Commands,
    product: &Product,
    a: &Buffer<f16>,
    b: &Buffer<f16>,
    bias: Option<&Buffer<f32>>,
    out: &Buffer<f32>,
) {
    match commands.device() {
        Device::Cpu(_) => cpu(
            product,
            &a.host_slice(),
            &b.host_slice(),
            bias.map(Buffer::host_slice).as_deref(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let tiles = product.m.div_ceil(TILE[0]) * product.n.div_ceil(TILE[1]);
            let parameters = Parameters {
                out: product.out,
                outer: product.batch[0] as u32,
                inner: product.batch[1] as u32,
                m: product.m as u32,
                n: product.n as u32,
                k: product.k as u32,
                has_bias: bias.is_some().into(),
                unused: [0; 2],
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[
                    Binding::F16(a),
                    Binding::F16(b),
                    // Never read without `has_bias`; a binding must be something.
                    bias.map_or(Binding::F16(a), Binding::F32),
                    Binding::F32(out),
                ],
                (tiles * product.problems()).div_ceil(WORKGROUP),
            );
        }
    }
}

/// Computes the f32 product of the same values, which f32 holds exactly: this is the oracle.
fn cpu(product: &Product, a: &[f16], b: &[f16], bias: Option<&[f32]>, out: &mut [f32]) {
    let [left, right] = [ToHalf::left(product), ToHalf::right(product)].map(|it| it.result());
    let product = Product {
        a: left,
        b: right,
        ..*product
    };
    float_product::cpu(&product, &a.to_f32_vec(), &b.to_f32_vec(), bias, out);
}

/// Describes how the kernel is timed.
pub(super) const TIMED: Timed = Timed {
    about: "Matrix products of operands in f16, on a device that has it",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let prepare = move |device: &Device| {
        let operands = at.operands(device, None);
        let commands = &mut Commands::new(device);
        let a = to_half(commands, &ToHalf::left(&at.product), &operands.a);
        let b = to_half(commands, &ToHalf::right(&at.product), &operands.b);
        let bias = operands.bias.map(|bias| device.upload(&bias));
        let out = device.zeros(at.out_len());
        Box::new(move |commands: &mut Commands| {
            half_product(commands, &at.product, &a, &b, bias.as_ref(), &out);
        }) as _
    };
    // Values in f16 are summed in f32.
    let exercise = Exercise::product(&at, Variant::default(), Amount::Floats, prepare);
    vec![exercise.in_f16()]
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "values.w * b_3",
    wrong: "values.w * b_2",
});

/// Lists cases whose operands are rounded to f16 without a device, so that the product alone is checked. Products of
/// two values in f16 are exact in f32.
pub(super) fn cases() -> Vec<Case> {
    let cases = shapes().into_iter().map(|shape| {
        let product = shape.product;
        let case = case(
            shape.title(),
            move || {
                let Operands { a, b, bias } = shape.operands();
                let [a, b] = [a, b].map(|operand| {
                    let rounded = operand.into_iter().map(|x| f16::from_f32(x).to_f32());
                    rounded.collect()
                });
                Operands { a, b, bias }
            },
            move |commands, device, Operands { a, b, bias }| {
                let cpu = Device::cpu();
                let half = |what: &ToHalf, values: &[f32]| {
                    let halves = to_half(&mut Commands::new(&cpu), what, &cpu.upload(values));
                    device.upload(&halves.host_slice())
                };
                let a = half(&ToHalf::left(&product), a);
                let b = half(&ToHalf::right(&product), b);
                let bias = bias.as_ref().map(|bias| device.upload(bias));
                let out = device.upload(&shape.untouched());
                half_product(commands, &product, &a, &b, bias.as_ref(), &out);
                out
            },
        );
        case.close(move |operands| shape.exact(operands))
            .on(Device::has_f16)
    });
    cases.collect()
}
