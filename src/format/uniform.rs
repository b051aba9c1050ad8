//! Signed codes of one scale.

use super::{CodeFormat, CodeRange, Place, ProductRule, Scale, Values, rounded};

/// Lets code `c` in `-q..q` stand for `c · scale`.
pub(crate) struct Uniform;

impl CodeFormat for Uniform {
    const NAME: &'static str = "uniform";
    const IN_WORDS: &'static str = "uniform";
    const FOR: Values = Values::Any;
    const RULE: ProductRule = ProductRule::Signed;
    const REACHES_NEGATIVE: bool = true;

    #[inline(always)]
    fn encode(x: f32, [inverse, _]: [f32; 2], q: f32) -> u8 {
        rounded((x * inverse).clamp(-q, q - 1.0))
    }

    fn value_of_code(x: f32, scale: [f32; 4], q: f32) -> f32 {
        (x * scale[2]).round_ties_even().clamp(-q, q - 1.0) * scale[0]
    }

    fn place(x: f32, [inverse, _]: [f32; 2], q: f32) -> Place {
        let x = x * inverse;
        Place {
            clipped: x >= q - 0.5 || x < -q - 0.5,
            in_r2: false,
        }
    }

    fn ranges(q: i32) -> Vec<CodeRange> {
        vec![CodeRange {
            name: "codes",
            multiples: -q..q,
            second: false,
        }]
    }

    fn candidates(_: u32, spread: &mut dyn Iterator<Item = f64>) -> Vec<Scale> {
        spread.map(|scale| Scale::uniform(scale as f32)).collect()
    }
}
