//! The left operands of a network's products, as they become codes.

use super::{Quantize, quantize};
use crate::kernels::catalogue::{BITS, Place, Timed, TimedCase, encoders};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Floats to packed codes",
    cases,
};

fn cases(&place: &Place) -> Vec<TimedCase> {
    let in_format = |format| {
        TimedCase::of_rows(&place, Some(format), move |device| {
            let groups = place.groups();
            let quantizer = Quantize {
                source: place.product.a,
                batch: place.product.batch,
                rows: place.product.m,
                k: place.product.k,
                jobs: 1,
                groups,
                inner_groups: (!place.has_weight()).into(),
                group_rows: place.product.m,
                bits: BITS,
                format,
            };
            let a = place.operands(device, format).a;
            let encoders = device.upload(&encoders(format, 2.0, groups));
            Box::new(move |commands| drop(quantize(commands, &quantizer, &a, &encoders)))
        })
    };
    place.formats().into_iter().map(in_format).collect()
}
