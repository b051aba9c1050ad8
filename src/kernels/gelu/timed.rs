//! What the second product of an MLP reads, before it is a GELU's.

use super::gelu;
use crate::format::{Format, Gelu};
use crate::kernels::catalogue::{Exercise, NetworkProduct, Role, Timed};

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "GELU",
    exercises,
};

fn exercises(&at: &NetworkProduct) -> Vec<Exercise> {
    let is_here = at.role == Role::Alone || at.twin == Some(Format::GeluTwin);
    let exercise = Exercise::of_rows(&at, None, move |device| {
        let a = at.operands(device, None).a;
        Box::new(move |commands| drop(gelu(commands, Gelu::Exact, &a)))
    });
    is_here.then_some(exercise).into_iter().collect()
}
