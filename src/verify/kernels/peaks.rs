//! The kernels that measure ceilings, on integers that an f32 holds: exact on every device.

use super::super::random::Random;
use super::Case;
use crate::kernels::{PeakF32, PeakInt8, peak_copy, peak_f32, peak_int8};

/// Fills no workgroup and no vector evenly.
const COUNT: usize = 1003;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // x grows by the steps; x · -1 + 3 leads back to x after an even number of them.
    for (rounds, factor, term) in [(1, 1.0, 1.0), (2, 1.0, 0.5), (2, -1.0, 3.0)] {
        let what = PeakF32 {
            rounds,
            factor,
            term,
        };
        let name = format!("{rounds} rounds of x · {factor} + {term}");
        cases.push(Case::exact("peak_f32", name, move |commands, device| {
            let out = device.zeros(COUNT);
            peak_f32(commands, &what, &out);
            out
        }));
    }
    for (rounds, operand) in [(1, [1, 0, 0, 0]), (2, [-128, 127, -1, 3]), (70, [127; 4])] {
        let what = PeakInt8 {
            rounds,
            operand: u32::from_le_bytes(operand.map(|byte: i8| byte as u8)),
        };
        let name = format!("{rounds} rounds of {operand:?}");
        cases.push(Case::exact("peak_int8", name, move |commands, device| {
            let out = device.zeros(COUNT);
            peak_int8(commands, &what, &out);
            out
        }));
    }
    // One vector; no whole strip; more strips than one.
    for vectors in [1, 65, 1024, 2500] {
        let name = format!("{vectors} vectors");
        cases.push(Case::exact("peak_copy", name, move |commands, device| {
            let bytes = Random::new(vectors).bytes(16 * vectors as usize);
            let words = bytes.as_chunks::<4>().0.iter();
            let words: Vec<u32> = words.map(|word| u32::from_le_bytes(*word)).collect();
            let out = device.zeros(words.len());
            peak_copy(commands, &device.upload(&words), &out);
            out
        }));
    }
    cases
}
