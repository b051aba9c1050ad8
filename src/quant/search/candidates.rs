//! The candidates that the search chooses from.

use crate::format::{Scale, Values, half_range};
use crate::quant::{OperandScheme, Settings};

/// Returns what the candidates are fractions of: `max`, or 1 where there is nothing to scale. A tensor of zeros (or of
/// values whose scale's inverse would leave f32's range) is represented exactly enough by any scale.
fn reach(max: f32) -> f64 {
    if max > 1e-30 { f64::from(max) } else { 1.0 }
}

/// Computes the scale that covers `max` with no value clipped but the largest: where the search starts.
pub(super) fn covering(max: f32, bits: u32) -> Scale {
    Scale::uniform((reach(max) / f64::from(half_range(bits))) as f32)
}

/// Lists the format's candidates for an operand of these `values`. Where they depend on `max`, the largest value that the scale has to reach, they are
/// Δ_c = (α + (β - α) c / n) · max / q, c = 1..=n.
pub(super) fn candidates(
    operand: &OperandScheme,
    values: Values,
    max: f32,
    settings: &Settings,
) -> Vec<Scale> {
    let OperandScheme { bits, format, .. } = *operand;
    let q = f64::from(half_range(bits));
    let spread = (1..=settings.candidates).map(|c| {
        let step = (settings.beta - settings.alpha) * c as f64 / settings.candidates as f64;
        (settings.alpha + step) * reach(max) / q
    });
    format.candidates(bits, values, spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Format, Gelu};
    use crate::quant::{Granularity, Preset};

    fn operand(format: Format, bits: u32) -> OperandScheme {
        OperandScheme {
            bits,
            format,
            granularity: Granularity::Tensor,
        }
    }

    #[test]
    fn uniform_candidates_follow_the_formula() {
        let settings = Settings::preset(Preset::BasePtq);
        let found = candidates(&operand(Format::Uniform, 8), Values::Any, 2.0, &settings);
        assert_eq!(found.len(), 100);
        let expected = |c: f64| ((0.5 + 0.7 * c / 100.0) * 2.0 / 128.0) as f32;
        assert_eq!(found[0], Scale::uniform(expected(1.0)));
        assert_eq!(found[99], Scale::uniform(expected(100.0)));
    }

    #[test]
    fn softmax_candidates_are_the_eleven_shifts() {
        let settings = Settings::preset(Preset::Ptq4vit);
        let values = Values::Probabilities;
        let found = candidates(&operand(Format::SoftmaxTwin, 6), values, 0.3, &settings);
        assert_eq!(found.len(), 11);
        for (index, scale) in found.iter().enumerate() {
            assert_eq!(scale.shift, index as u32 + 1);
            assert_eq!(scale.scale_2(), 1.0 / 32.0);
        }
    }

    #[test]
    fn a_tensor_of_zeros_gets_finite_positive_scales() {
        let settings = Settings::preset(Preset::Ptq4vit);
        for (format, values) in [
            (Format::Uniform, Values::Any),
            (Format::GeluTwin, Values::AfterGelu(Gelu::Exact)),
        ] {
            for max in [0.0, -0.1, f32::MIN_POSITIVE] {
                for scale in candidates(&operand(format, 8), values, max, &settings) {
                    assert!(scale.scale > 0.0 && scale.inverses()[0].is_finite());
                }
            }
        }
    }
}
