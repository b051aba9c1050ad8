//! Signed codes of one scale.

use super::{CodeFormat, CodeRange, Encoder, Place, ProductRule, Scale, Values, rounded};

/// Lets code `c` in `-q..q` stand for `c · scale`.
pub(crate) struct Uniform;

impl CodeFormat for Uniform {
    const NAME: &'static str = "uniform";
    const IN_WORDS: &'static str = "uniform";
    const RULE: ProductRule = ProductRule::Signed;
    const REACHES_NEGATIVE: bool = true;

    fn is_for(_: Values) -> bool {
        true
    }

    #[inline(always)]
    fn encode(x: f32, encoder: Encoder, q: f32) -> u8 {
        let [inverse, _] = encoder.inverses();
        rounded((x * inverse).clamp(-q, q - 1.0))
    }

    fn places(encoder: Encoder, q: f32) -> impl Fn(f32) -> Place {
        let [inverse, _] = encoder.inverses();
        move |x: f32| {
            let x = x * inverse;
            Place {
                clipped: x >= q - 0.5 || x < -q - 0.5,
                in_r2: false,
            }
        }
    }

    fn ranges(q: i32, _: &[u8]) -> Vec<CodeRange> {
        vec![CodeRange {
            name: "codes",
            multiples: (-q..q).collect(),
            second: false,
        }]
    }

    fn candidates(_: u32, _: Values, spread: &mut dyn Iterator<Item = f64>) -> Vec<Scale> {
        spread.map(|scale| Scale::uniform(scale as f32)).collect()
    }
}
