//! Levels of a table in one range of signed integers.

use super::{CodeFormat, CodeRange, Encoder, Lanes, Place, ProductRule, Scale, Values};

/// Lets a code stand for one of a table's levels, whose lane is a signed integer.
pub(crate) struct SignedTable;

impl CodeFormat for SignedTable {
    const NAME: &'static str = "table";
    const IN_WORDS: &'static str = "table";
    const RULE: ProductRule = ProductRule::Signed;
    const REACHES_NEGATIVE: bool = true;
    const LANES: Option<Lanes> = Some(Lanes::Signed);

    fn is_for(_: Values) -> bool {
        true
    }

    #[inline(always)]
    fn encode(x: f32, encoder: Encoder, _: f32) -> u8 {
        encoder.lane(x, Lanes::Signed)
    }

    fn places(encoder: Encoder, _: f32) -> impl Fn(f32) -> Place {
        let clips = encoder.clips(Lanes::Signed);
        move |x| Place {
            clipped: clips(x),
            in_r2: false,
        }
    }

    fn ranges(_: i32, lanes: &[u8]) -> Vec<CodeRange> {
        vec![CodeRange {
            name: "levels",
            multiples: lanes.iter().map(|&lane| i32::from(lane as i8)).collect(),
            second: false,
        }]
    }

    fn candidates(_: u32, _: Values, _: &mut dyn Iterator<Item = f64>) -> Vec<Scale> {
        Vec::new()
    }
}
