//! Scales, and the candidates that the search chooses from.

use crate::kernels::Format;
use crate::quant::{OperandScheme, Settings};
use serde::{Deserialize, Serialize};

/// Minus the smallest value of GELU: what R1 of the GELU twin has to reach.
pub const GELU_MINIMUM: f64 = 0.169_971_242_547_035_22;

/// The largest left shift m of a twin (paper: Δ1 down to 1/2^(k+10)).
pub const MAX_SHIFT: u32 = 11;

/// What a code's unit is worth. A twin's R2 is worth `scale · 2^shift`; uniform formats have no shift.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Δ of a uniform format, Δ1 of a twin.
    pub scale: f32,
    /// m of a twin, 0 otherwise.
    pub shift: u32,
}

impl Scale {
    /// A uniform format's scale.
    pub fn uniform(scale: f32) -> Self {
        Self { scale, shift: 0 }
    }

    /// Δ2 of a twin.
    pub fn scale_2(self) -> f32 {
        self.scale * (1u32 << self.shift) as f32
    }

    /// 1/Δ1 and 1/Δ2, which the quantizers multiply by.
    pub fn inverses(self) -> [f32; 2] {
        [1.0 / self.scale, 1.0 / self.scale_2()]
    }
}

/// q = 2^(bits - 1).
fn half_range(bits: u32) -> f64 {
    f64::from(1u32 << (bits - 1))
}

/// What the candidates are fractions of: `max`, or 1 where there is nothing to scale. A tensor of zeros (or of values
/// whose scale's inverse would leave f32's range) is represented exactly enough by any scale.
fn reach(max: f32) -> f64 {
    if max > 1e-30 { f64::from(max) } else { 1.0 }
}

/// The scale that covers `max` with no value clipped but the largest: where the search starts.
pub(super) fn covering(max: f32, bits: u32) -> Scale {
    Scale::uniform((reach(max) / half_range(bits)) as f32)
}

/// Δ_c = (α + (β - α) c / n) · max / q for c = 1..=n, in the form that the operand's format needs; `max` is the largest magnitude, or
/// the largest value for the GELU twin. The softmax twin's candidates don't depend on it: Δ2 = 1/q, and m is 1..=11.
pub(super) fn candidates(operand: &OperandScheme, max: f32, settings: &Settings) -> Vec<Scale> {
    let OperandScheme { bits, format, .. } = *operand;
    let q = half_range(bits);
    let spread = (1..=settings.candidates).map(|c| {
        let step = (settings.beta - settings.alpha) * c as f64 / settings.candidates as f64;
        (settings.alpha + step) * reach(max) / q
    });
    match format {
        Format::Uniform => spread.map(|scale| Scale::uniform(scale as f32)).collect(),
        Format::SoftmaxTwin => (1..=MAX_SHIFT).map(|shift| twin(1.0 / q, shift)).collect(),
        Format::GeluTwin => spread
            .map(|scale_2| twin(scale_2, gelu_shift(scale_2, bits)))
            .collect(),
    }
}

/// The largest m for which R1, with Δ1 = Δ2 / 2^m, still reaches GELU's minimum; 0 if none does.
fn gelu_shift(scale_2: f64, bits: u32) -> u32 {
    let reaches =
        |shift: u32| scale_2 / f64::from(1u32 << shift) * (half_range(bits) - 1.0) >= GELU_MINIMUM;
    (0..=MAX_SHIFT).rev().find(|&m| reaches(m)).unwrap_or(0)
}

fn twin(scale_2: f64, shift: u32) -> Scale {
    Scale {
        scale: (scale_2 / f64::from(1u32 << shift)) as f32,
        shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let found = candidates(&operand(Format::Uniform, 8), 2.0, &settings);
        assert_eq!(found.len(), 100);
        let expected = |c: f64| ((0.5 + 0.7 * c / 100.0) * 2.0 / 128.0) as f32;
        assert_eq!(found[0], Scale::uniform(expected(1.0)));
        assert_eq!(found[99], Scale::uniform(expected(100.0)));
    }

    #[test]
    fn softmax_candidates_are_the_eleven_shifts() {
        let settings = Settings::preset(Preset::Ptq4vit);
        let found = candidates(&operand(Format::SoftmaxTwin, 6), 0.3, &settings);
        assert_eq!(found.len(), 11);
        for (index, scale) in found.iter().enumerate() {
            assert_eq!(scale.shift, index as u32 + 1);
            assert_eq!(scale.scale_2(), 1.0 / 32.0);
        }
    }

    #[test]
    fn gelu_r1_just_reaches_the_minimum() {
        for bits in [4, 6, 8] {
            for scale_2 in [1e-4, 0.003, 0.02, 0.5] {
                let m = gelu_shift(scale_2, bits);
                let r1 = |m: u32| scale_2 / 2f64.powi(m as i32) * (half_range(bits) - 1.0);
                if m > 0 {
                    assert!(r1(m) >= GELU_MINIMUM, "{bits} bits, scale {scale_2}, m {m}");
                }
                if m < MAX_SHIFT {
                    assert!(
                        r1(m + 1) < GELU_MINIMUM,
                        "{bits} bits, scale {scale_2}, m {m}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_tensor_of_zeros_gets_finite_positive_scales() {
        let settings = Settings::preset(Preset::Ptq4vit);
        for format in [Format::Uniform, Format::GeluTwin] {
            for max in [0.0, -0.1, f32::MIN_POSITIVE] {
                for scale in candidates(&operand(format, 8), max, &settings) {
                    assert!(scale.scale > 0.0 && scale.inverses()[0].is_finite());
                }
            }
        }
    }
}
