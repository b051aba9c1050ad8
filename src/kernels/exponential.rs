//! e^x for the CPU versions: rounded as exactly as can be, the same bits on every machine, and many at a time where the
//! loop that it stands in is compiled for vectors.

use std::f64::consts::{LN_2, LOG2_E};

/// Added to a number below 2^51, leaves its nearest integer in the lower bits of the sum.
const SHIFT: f64 = 1.5 * (1u64 << 52) as f64;
/// What a power of two's exponent is greater by in an f64's bits, and where these begin.
const EXPONENT_BIAS: u64 = 1023;
const EXPONENT_AT: u32 = 52;
/// Limits the exponent: e^x of what lies beyond is 0 or infinite in f32.
const LIMIT: f64 = 105.0;
/// Counts the terms of the series: up to ln 2 / 2, the first one left out is below 2^-47, so that nearly every f32 is
/// the one next to the exact value.
const TERMS: usize = 12;

/// Lists the series' coefficients 1 / i!, that of the highest power first.
const SERIES: [f64; TERMS] = {
    let mut series = [1.0; TERMS];
    let mut power = 1;
    while power < TERMS {
        let at = TERMS - 1 - power;
        series[at] = series[at + 1] / power as f64;
        power += 1;
    }
    series
};

/// Computes e^x.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons, unlike `clamp`, leave a NaN what it is and need no branch.
    let x = f64::from(x);
    let x = if x < -LIMIT { -LIMIT } else { x };
    let x = if x > LIMIT { LIMIT } else { x };
    let shifted = x * LOG2_E + SHIFT;
    let power_of_two = f64::from_bits(shifted.to_bits().wrapping_add(EXPONENT_BIAS) << EXPONENT_AT);
    let rest = x - (shifted - SHIFT) * LN_2;
    let series = SERIES[1..]
        .iter()
        .fold(SERIES[0], |sum, term| sum * rest + term);
    (series * power_of_two) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the f64 function, whose error is far below.
    #[test]
    fn it_is_rounded_as_the_exact_value_is() {
        let (mut count, mut rounded_otherwise) = (0, 0);
        for step in -2_200_000..=1_800_000 {
            let x = step as f32 * 5e-5;
            let (found, exact) = (exp(x), f64::from(x).exp());
            let off = (i64::from(found.to_bits()) - i64::from((exact as f32).to_bits())).abs();
            assert!(off <= 1, "e^{x} = {exact:e}, found {found:e}");
            count += 1;
            rounded_otherwise += off;
        }
        println!("{rounded_otherwise} of {count} rounded otherwise");
        assert!(rounded_otherwise * (1 << 18) <= count);
    }

    #[test]
    fn what_is_no_ordinary_number_stays_so() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-104.0), 0.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        // The smallest number there is, and the largest.
        assert_eq!(exp(-103.2), f32::from_bits(1));
        assert_eq!(exp(88.722_83), f64::from(88.722_83f32).exp() as f32);
    }
}
