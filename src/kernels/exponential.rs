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
    let (rest, power_of_two) = reduced(x);
    let series = horner(SERIES[0], &SERIES[1..], rest);
    (series * power_of_two) as f32
}

/// Takes e^x apart into a power of two and what is left of x, ln 2 / 2 at most.
#[inline(always)]
fn reduced(x: f32) -> (f64, f64) {
    // Comparisons, unlike `clamp`, leave a NaN what it is and need no branch.
    let x = f64::from(x);
    let x = if x < -LIMIT { -LIMIT } else { x };
    let x = if x > LIMIT { LIMIT } else { x };
    let shifted = x * LOG2_E + SHIFT;
    let power_of_two = f64::from_bits(shifted.to_bits().wrapping_add(EXPONENT_BIAS) << EXPONENT_AT);
    (x - (shifted - SHIFT) * LN_2, power_of_two)
}

#[inline(always)]
fn horner(sum: f64, terms: &[f64], x: f64) -> f64 {
    terms.iter().fold(sum, |sum, term| sum * x + term)
}

/// Counts the values that go through [`Exponentials`] at once: what it holds of them stays in a core's first cache.
pub(super) const STRETCH: usize = 128;

/// Computes [`exp`] of a stretch of values in several passes. Each term of a value's series waits for the one before; the shorter
/// these chains, the more values a processor has in hand at once.
pub(super) struct Exponentials {
    rests: [f64; STRETCH],
    powers_of_two: [f64; STRETCH],
    sums: [f64; STRETCH],
}

impl Exponentials {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            rests: [0.0; STRETCH],
            powers_of_two: [0.0; STRETCH],
            sums: [0.0; STRETCH],
        }
    }

    /// Replaces at most [`STRETCH`] exponents by their exponentials; inlined where it is compiled for an instruction set.
    #[inline(always)]
    pub(super) fn replace(&mut self, values: &mut [f32]) {
        let [rests, powers_of_two, sums] =
            [&mut self.rests, &mut self.powers_of_two, &mut self.sums]
                .map(|each| &mut each[..values.len()]);
        let reductions = rests.iter_mut().zip(&mut *powers_of_two);
        for ((rest, power_of_two), x) in reductions.zip(&*values) {
            (*rest, *power_of_two) = reduced(*x);
        }
        let (first, last) = SERIES.split_at(TERMS / 2);
        for (sum, rest) in sums.iter_mut().zip(&*rests) {
            *sum = horner(first[0], &first[1..], *rest);
        }
        let series = sums.iter().zip(&*rests).zip(&*powers_of_two);
        for (value, ((sum, rest), power_of_two)) in values.iter_mut().zip(series) {
            *value = (horner(*sum, last, *rest) * power_of_two) as f32;
        }
    }
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
    #[test]
    fn many_are_the_same_as_one_by_one() {
        for count in [0, 1, 17, STRETCH] {
            let mut values: Vec<f32> = (0..count).map(|at| at as f32 * 0.37 - 20.0).collect();
            if let Some(last) = values.last_mut() {
                *last = f32::NEG_INFINITY;
            }
            let expected: Vec<f32> = values.iter().copied().map(exp).collect();
            Exponentials::new().replace(&mut values);
            assert_eq!(values, expected);
        }
    }
}
