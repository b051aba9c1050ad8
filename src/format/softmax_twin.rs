//! Two ranges of positive values: a fine one for those of a softmax that are small, and one that reaches 1.

use super::{
    CodeFormat, CodeRange, Encoder, MAX_SHIFT, Place, ProductRule, ROUNDER, Scale, Values, in_r2,
    second_range,
};

/// Lets magnitude `u` in `0..q` stand for `u · scale_1` in R1 and for `u · scale_2` in R2. A value is in R1 if its code
/// fits.
pub(crate) struct SoftmaxTwin;

impl CodeFormat for SoftmaxTwin {
    const NAME: &'static str = "softmax_twin";
    const IN_WORDS: &'static str = "softmax twin";
    const RULE: ProductRule = ProductRule::Ranges { r1_sign: 1 };
    const REACHES_NEGATIVE: bool = true;

    fn is_for(values: Values) -> bool {
        values == Values::Probabilities
    }

    #[inline(always)]
    fn encode(x: f32, encoder: Encoder, q: f32) -> u8 {
        let [inverse_1, inverse_2] = encoder.inverses();
        // Both are computed, so that no branch keeps the loop from taking many at once.
        let (low, high) = (
            (x.abs() * inverse_1).min(q) + ROUNDER,
            in_r2(x, inverse_2, q),
        );
        if low < ROUNDER + q {
            low.to_bits() as u8
        } else {
            high
        }
    }

    fn places(encoder: Encoder, q: f32) -> impl Fn(f32) -> Place {
        let [inverse_1, inverse_2] = encoder.inverses();
        move |x: f32| {
            let in_r1 = x.abs() * inverse_1 < q - 0.5;
            Place {
                clipped: !in_r1 && x * inverse_2 >= q - 0.5,
                in_r2: !in_r1,
            }
        }
    }

    fn ranges(q: i32, _: &[u8]) -> Vec<CodeRange> {
        let first = CodeRange {
            name: "R1",
            multiples: (0..q).collect(),
            second: false,
        };
        vec![first, second_range(q)]
    }

    /// Lists the scales with Δ2 = 1/q and m from 1 to 11, whatever the values are.
    fn candidates(bits: u32, _: Values, _: &mut dyn Iterator<Item = f64>) -> Vec<Scale> {
        let q = f64::from(1u32 << (bits - 1));
        (1..=MAX_SHIFT)
            .map(|shift| Scale::twin(1.0 / q, shift))
            .collect()
    }
}
