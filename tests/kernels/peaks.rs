//! The kernels that measure ceilings, on integers that an f32 holds: exact on every device.

use crate::harness::{Everywhere, Random};
use ptq4vit_gpu::kernels::{PeakF32, PeakInt8, peak_copy, peak_f32, peak_int8};

/// Fills no workgroup and no vector evenly.
const COUNT: usize = 1003;

#[test]
fn every_multiply_add_is_carried_out() {
    let everywhere = Everywhere::new();
    // 16 and 32 steps: x grows by the steps; x · -1 + 3 leads back to x after an even number of them.
    for (rounds, factor, term, expected) in [
        (1, 1.0, 1.0, 16.0),
        (2, 1.0, 0.5, 16.0),
        (2, -1.0, 3.0, 0.0),
    ] {
        let what = PeakF32 {
            rounds,
            factor,
            term,
        };
        assert_eq!(what.multiply_adds(COUNT), (COUNT * 8 * 16 * rounds) as u64);
        let expected: Vec<f32> = (0..COUNT)
            .map(|index| {
                (0..8)
                    .map(|chain| (index % 16 + chain) as f32 + expected)
                    .sum()
            })
            .collect();
        everywhere.equal(&format!("{what:?}"), &expected, |commands, device| {
            let out = device.zeros(COUNT);
            peak_f32(commands, &what, &out);
            out
        });
    }
}

#[test]
fn every_dot_product_is_carried_out() {
    let everywhere = Everywhere::new();
    for (rounds, operand) in [(1, [1, 0, 0, 0]), (2, [-128, 127, -1, 3]), (70, [127; 4])] {
        let what = PeakInt8 {
            rounds,
            operand: u32::from_le_bytes(operand.map(|byte: i8| byte as u8)),
        };
        assert_eq!(what.multiply_adds(COUNT), (COUNT * 8 * 16 * rounds) as u64);
        let chain = |start: u32| {
            (0..4 * rounds).fold(start as i32, |x, _| {
                let bytes = x.to_le_bytes().into_iter().zip(operand);
                let dot = bytes.map(|(byte, operand)| i32::from(byte as i8) * i32::from(operand));
                x.wrapping_add(dot.sum())
            })
        };
        let expected: Vec<u32> = (0..COUNT as u32)
            .map(|index| {
                let chains = (0..8).map(|offset| chain(index + offset) as u32);
                chains.fold(0, u32::wrapping_add)
            })
            .collect();
        everywhere.equal(&format!("{what:?}"), &expected, |commands, device| {
            let out = device.zeros(COUNT);
            peak_int8(commands, &what, &out);
            out
        });
    }
}

#[test]
fn copies_are_complete() {
    let everywhere = Everywhere::new();
    // One vector; no whole strip; more strips than one.
    for vectors in [1, 65, 1024, 2500] {
        let bytes = Random::new(vectors as u64).bytes(16 * vectors);
        let words: Vec<u32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect();
        everywhere.equal(
            &format!("peak_copy {vectors}"),
            &words,
            |commands, device| {
                let out = device.zeros(words.len());
                peak_copy(commands, &device.upload(&words), &out);
                out
            },
        );
    }
}
