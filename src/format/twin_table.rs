//! Levels of a table in two ranges of magnitudes.

use super::{CodeFormat, CodeRange, Encoder, Lanes, Place, ProductRule, Scale, Values};

/// Lets a code stand for one of a table's levels, whose lane is a range flag and a magnitude.
pub(crate) struct TwinTable;

impl CodeFormat for TwinTable {
    const NAME: &'static str = "twin_table";
    const IN_WORDS: &'static str = "twin table";
    const RULE: ProductRule = ProductRule::Ranges { r1_sign: 1 };
    const REACHES_NEGATIVE: bool = true;
    const LANES: Option<Lanes> = Some(Lanes::Ranges);

    fn is_for(_: Values) -> bool {
        true
    }

    #[inline(always)]
    fn encode(x: f32, encoder: Encoder, _: f32) -> u8 {
        encoder.lane(x, Lanes::Ranges)
    }

    fn places(encoder: Encoder, _: f32) -> impl Fn(f32) -> Place {
        let clips = encoder.clips(Lanes::Ranges);
        move |x| Place {
            clipped: clips(x),
            in_r2: encoder.lane(x, Lanes::Ranges) >= 0x80,
        }
    }

    fn ranges(_: i32, lanes: &[u8]) -> Vec<CodeRange> {
        [("R1", false), ("R2", true)]
            .map(|(name, second)| {
                let of_range = lanes.iter().filter(|&&lane| (lane >= 0x80) == second);
                CodeRange {
                    name,
                    multiples: of_range.map(|&lane| i32::from(lane & 0x7f)).collect(),
                    second,
                }
            })
            .into()
    }

    fn candidates(_: u32, _: Values, _: &mut dyn Iterator<Item = f64>) -> Vec<Scale> {
        Vec::new()
    }
}
