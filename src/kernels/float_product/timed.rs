//! Products of floats, anywhere in a network.

use super::float_product;
use crate::kernels::catalogue::{Amount, Exercise, NetworkProduct, Operands, Timed, Variant};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Matrix products in f32",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let prepare = move |device: &_| {
        let Operands { a, b, bias } = at.operands(device, None);
        let bias = bias.map(|bias| device.upload(&bias));
        let out = device.zeros(at.out_len());
        Box::new(move |commands: &mut _| {
            float_product(commands, &at.product, &a, &b, bias.as_ref(), &out);
        }) as _
    };
    vec![Exercise::product(
        &at,
        Variant::default(),
        Amount::Floats,
        prepare,
    )]
}
