//! The left operands of a network's products, as they become codes.

use super::{Quantize, quantize};
use crate::kernels::catalogue::{BITS, Exercise, NetworkProduct, Timed, encoders};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Floats to packed codes",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let in_format = |format| {
        Exercise::of_rows(&at, Some(format), move |device| {
            let groups = at.groups();
            let quantizer = Quantize {
                source: at.product.a,
                batch: at.product.batch,
                rows: at.product.m,
                k: at.product.k,
                jobs: 1,
                groups,
                inner_groups: (!at.has_weight()).into(),
                group_rows: at.product.m,
                bits: BITS,
                format,
            };
            let a = at.operands(device, format).a;
            let encoders = device.upload(&encoders(format, 2.0, groups));
            Box::new(move |commands| drop(quantize(commands, &quantizer, &a, &encoders)))
        })
    };
    at.formats().into_iter().map(in_format).collect()
}
