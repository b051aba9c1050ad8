//! A range for the negative values of GELU, which are small, and one for the positive ones.

use super::{
    CodeFormat, CodeRange, Encoder, MAX_SHIFT, Place, ProductRule, Scale, Values, in_r2, rounded,
    second_range,
};

/// Lets magnitude `u` in `0..q` stand for `-u · scale_1` in R1 and for `u · scale_2` in R2.
pub(crate) struct GeluTwin;

impl CodeFormat for GeluTwin {
    const NAME: &'static str = "gelu_twin";
    const IN_WORDS: &'static str = "gelu twin";
    const RULE: ProductRule = ProductRule::Ranges { r1_sign: -1 };
    /// Negative values have R1, whose range doesn't depend on them.
    const REACHES_NEGATIVE: bool = false;

    fn is_for(values: Values) -> bool {
        // ReLU leaves nothing negative, for which R1 would be.
        matches!(values, Values::AfterGelu(gelu) if gelu.minimum() < 0.0)
    }

    #[inline(always)]
    fn encode(x: f32, encoder: Encoder, q: f32) -> u8 {
        let [inverse_1, inverse_2] = encoder.inverses();
        if x < 0.0 {
            rounded((x.abs() * inverse_1).min(q - 1.0))
        } else {
            in_r2(x, inverse_2, q)
        }
    }

    fn places(encoder: Encoder, q: f32) -> impl Fn(f32) -> Place {
        let [inverse_1, inverse_2] = encoder.inverses();
        move |x: f32| {
            let in_r1 = x < 0.0;
            let magnitude = if in_r1 { -x * inverse_1 } else { x * inverse_2 };
            Place {
                clipped: magnitude >= q - 0.5,
                in_r2: !in_r1,
            }
        }
    }

    fn ranges(q: i32, _: &[u8]) -> Vec<CodeRange> {
        let first = CodeRange {
            name: "R1",
            multiples: (1 - q..1).collect(),
            second: false,
        };
        vec![first, second_range(q)]
    }

    fn candidates(bits: u32, values: Values, spread: &mut dyn Iterator<Item = f64>) -> Vec<Scale> {
        spread
            .map(|scale_2| Scale::twin(scale_2, shift(scale_2, bits, values)))
            .collect()
    }
}

/// Finds the largest m for which R1, with Δ1 = Δ2 / 2^m, still reaches the smallest of the values; 0 if none does.
fn shift(scale_2: f64, bits: u32, values: Values) -> u32 {
    let largest = f64::from((1u32 << (bits - 1)) - 1);
    let reach = -values.minimum();
    let reaches = |shift: u32| scale_2 / f64::from(1u32 << shift) * largest >= reach;
    (0..=MAX_SHIFT).rev().find(|&m| reaches(m)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Gelu;

    #[test]
    fn r1_just_reaches_the_minimum() {
        let forms = Gelu::ALL
            .into_iter()
            .filter(|&gelu| GeluTwin::is_for(Values::AfterGelu(gelu)));
        let cases: Vec<_> = forms
            .flat_map(|gelu| [4, 6, 8].map(|bits| (gelu, bits)))
            .collect();
        assert_eq!(cases.len(), 3 * 4, "all but ReLU");
        for (gelu, bits) in cases {
            for scale_2 in [1e-4, 0.003, 0.02, 0.5] {
                let m = shift(scale_2, bits, Values::AfterGelu(gelu));
                let r1 =
                    |m: u32| scale_2 / 2f64.powi(m as i32) * (f64::from(1u32 << (bits - 1)) - 1.0);
                let what = format!("{gelu:?}, {bits} bits, scale {scale_2}, m {m}");
                if m > 0 {
                    assert!(r1(m) >= -gelu.minimum(), "{what}");
                }
                if m < MAX_SHIFT {
                    assert!(r1(m + 1) < -gelu.minimum(), "{what}");
                }
            }
        }
    }
}
