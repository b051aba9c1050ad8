//! Products of floats, anywhere in a network.

use super::float_product;
use crate::kernels::catalogue::{Operands, Place, Timed, TimedCase, Variant, Work};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Matrix products in f32",
    cases,
};

fn cases(&place: &Place) -> Vec<TimedCase> {
    let prepare = move |device: &_| {
        let Operands { a, b, bias } = place.operands(device, None);
        let bias = bias.map(|bias| device.upload(&bias));
        let out = device.zeros(place.out_len());
        Box::new(move |commands: &mut _| {
            float_product(commands, &place.product, &a, &b, bias.as_ref(), &out);
        }) as _
    };
    vec![TimedCase::product(
        &place,
        Variant::default(),
        Work::Floats,
        prepare,
    )]
}
