//! From levels at any places to those that a product can have: integers, a scale and an offset.

use super::histogram::Histogram;
use crate::format::{Format, MAX_SHIFT, Scale, Table, Values};
use std::ops::RangeInclusive;

/// Limits the integer of the level that lies farthest from the offset, in the narrowest grid that is tried.
const TOPS: RangeInclusive<i32> = 60..=127;
/// Counts the scales that are tried for codes without a table, up to [`WIDEST`] times the one that covers all values.
const SCALES: usize = 120;
/// Sets the largest of these scales.
const WIDEST: f64 = 1.2;

/// Holds what stands for the values of one group.
#[derive(Clone, Debug)]
pub(super) struct Fitted {
    pub scale: Scale,
    /// The levels, where codes are looked up in a table.
    pub table: Option<Table>,
    /// The weighted squared error on the histogram.
    pub error: f64,
}

impl Fitted {
    /// Returns the one with the least error, the first of equals.
    fn best(candidates: impl IntoIterator<Item = Self>) -> Option<Self> {
        candidates.into_iter().reduce(|best, other| {
            if other.error < best.error {
                other
            } else {
                best
            }
        })
    }

    /// Takes `integers` that rise, in units of `step`, above `offset`.
    fn new(
        histogram: &Histogram,
        integers: &[i32],
        lane: impl Fn(i32) -> u8,
        step: f64,
        shift: u32,
        offset: f64,
    ) -> Self {
        let (step, offset) = (step as f32, offset as f32);
        let level = |&integer: &i32| f64::from(integer) * f64::from(step) + f64::from(offset);
        let levels: Vec<f64> = integers.iter().map(level).collect();
        Self {
            error: histogram.error(&levels),
            scale: Scale { scale: step, shift },
            table: Some(Table {
                offset,
                lanes: integers.iter().map(|&integer| lane(integer)).collect(),
            }),
        }
    }
}

/// Brings levels onto a grid of 8-bit integers about their middle, or about zero where there can be no offset.
pub(super) fn signed(histogram: &Histogram, levels: &[f64], has_offset: bool) -> Fitted {
    let [low, high] = ends(levels);
    let offset = if has_offset { low.midpoint(high) } else { 0.0 };
    let reach = (high - offset).abs().max((low - offset).abs());
    let fitted = TOPS.map(|top| {
        let step = positive(reach / f64::from(top));
        let integer = |level: &f64| ((level - offset) / step).round_ties_even() as i32;
        let mut integers: Vec<i32> = levels.iter().map(integer).collect();
        integers.dedup();
        Fitted::new(
            histogram,
            &integers,
            |integer| integer as i8 as u8,
            step,
            0,
            offset,
        )
    });
    Fitted::best(fitted).expect("there are several grids")
}

/// Brings levels onto integers of two ranges above the smallest level, or above zero where there can be no offset.
pub(super) fn ranges(histogram: &Histogram, levels: &[f64], has_offset: bool) -> Fitted {
    let [low, high] = ends(levels);
    let offset = if has_offset { low } else { 0.0 };
    let fitted = (0..=MAX_SHIFT).flat_map(|shift| {
        TOPS.map(move |top| {
            let step = positive((high - offset) / f64::from(top << shift));
            let mut integers: Vec<i32> = levels
                .iter()
                .map(|level| nearest_in_ranges(((level - offset) / step).max(0.0), shift))
                .collect();
            integers.dedup();
            let lane = |integer: i32| lane_in_ranges(integer, shift);
            Fitted::new(histogram, &integers, lane, step, shift, offset)
        })
    });
    Fitted::best(fitted).expect("there are several grids")
}

/// Finds the scale and the shift with which all 8-bit lanes of two ranges fit best, above the smallest value or a little
/// more, or above zero where there can be no offset.
pub(super) fn all_ranges(histogram: &Histogram, has_offset: bool) -> Fitted {
    let [low, high] = histogram.ends();
    let offsets: &[f64] = if has_offset {
        &[low, 0.98 * low, 0.95 * low, 0.9 * low]
    } else {
        &[0.0]
    };
    let fitted = (0..=MAX_SHIFT).flat_map(|shift| {
        let coarse = (1..=127).map(|magnitude| magnitude << shift);
        let integers: Vec<i32> = (0..=127)
            .chain(coarse.filter(|&integer| integer > 127))
            .collect();
        let shares = (10..=35).map(|part| f64::from(part) * 0.03);
        let tried =
            shares.flat_map(move |share| offsets.iter().map(move |&offset| (share, offset)));
        tried.map(move |(share, offset)| {
            let step = positive(share * (high - offset) / f64::from(127 << shift));
            let lane = |integer: i32| lane_in_ranges(integer, shift);
            Fitted::new(histogram, &integers, lane, step, shift, offset)
        })
    });
    Fitted::best(fitted).expect("there are several grids")
}

/// Returns the lane of an integer that one of two ranges has.
fn lane_in_ranges(integer: i32, shift: u32) -> u8 {
    match integer <= 127 {
        true => integer as u8,
        false => 0x80 | (integer >> shift) as u8,
    }
}

/// Finds the integer that is nearest to `x` among 0 to 127 and their multiples by 2^shift.
fn nearest_in_ranges(x: f64, shift: u32) -> i32 {
    let fine = x.round_ties_even().min(127.0);
    let unit = f64::from(1 << shift);
    let coarse = (x / unit).round_ties_even().min(127.0) * unit;
    let nearest = if (x - fine).abs() <= (x - coarse).abs() {
        fine
    } else {
        coarse
    };
    nearest as i32
}

/// Finds the 8-bit codes at equal distances that fit best: all lanes, with an offset. The values are of so many `rows`:
/// the fewer, the less they tell how far others reach, so that the codes reach farther by a share of 1/√rows.
pub(super) fn asymmetric(histogram: &Histogram, rows: usize) -> Fitted {
    let [low, high] = histogram.ends();
    let bins = histogram.centres.iter().zip(&histogram.weights);
    let middle: f64 = bins.map(|(x, weight)| x * weight).sum();
    let lanes: Vec<i32> = (-128..=127).collect();
    let fitted = |[below, above]: [f64; 2]| {
        let (low, high) = (
            middle + (low - middle) * below,
            middle + (high - middle) * above,
        );
        let step = positive((high - low) / 255.0);
        Fitted::new(
            histogram,
            &lanes,
            |lane| lane as i8 as u8,
            step,
            0,
            low + 128.0 * step,
        )
    };
    let search = |[below, above]: [Vec<f64>; 2]| {
        let pairs = below
            .iter()
            .flat_map(|&below| above.iter().map(move |&above| [below, above]));
        pairs
            .map(|shares| (shares, fitted(shares)))
            .reduce(|best, other| {
                if other.1.error < best.1.error {
                    other
                } else {
                    best
                }
            })
            .expect("there are shares")
    };
    let coarse: Vec<f64> = (2..=21).map(|part| f64::from(part) / 20.0).collect();
    let (shares, _) = search([coarse.clone(), coarse]);
    let finer = shares.map(|share| {
        (-5..=5)
            .map(|part| share + f64::from(part) / 100.0)
            .collect()
    });
    let (shares, _) = search(finer);
    let wider = 1.0 + 1.0 / (rows as f64).sqrt();
    fitted(shares.map(|share| share * wider))
}

/// Finds the scale of a format without a table that fits best.
pub(super) fn scaled(histogram: &Histogram, format: Format, bits: u32, values: Values) -> Fitted {
    let [low, high] = histogram.ends();
    let reach = if format.reaches_negative() {
        high.max(-low)
    } else {
        high
    };
    let covering = positive(reach / f64::from(1 << (bits - 1)));
    let spread = (1..=SCALES).map(|part| covering * WIDEST * part as f64 / SCALES as f64);
    let fitted = format
        .candidates(bits, values, spread)
        .into_iter()
        .map(|scale| {
            let unit = f64::from(scale.scale);
            let mut levels: Vec<f64> = format
                .ranges(bits, &[])
                .iter()
                .flat_map(|range| {
                    let unit = if range.second {
                        f64::from(scale.scale_2())
                    } else {
                        unit
                    };
                    range
                        .multiples
                        .clone()
                        .into_iter()
                        .map(move |multiple| f64::from(multiple) * unit)
                })
                .collect();
            levels.sort_by(f64::total_cmp);
            Fitted {
                scale,
                table: None,
                error: histogram.error(&levels),
            }
        });
    Fitted::best(fitted).expect("a format has candidates")
}

fn ends(levels: &[f64]) -> [f64; 2] {
    [levels.first(), levels.last()].map(|end| end.copied().unwrap_or(0.0))
}

/// Returns a step that codes can have: 1 where all values are alike, so that any will do.
fn positive(step: f64) -> f64 {
    match step > f64::from(f32::MIN_POSITIVE) {
        true => step,
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake_quantizer::FakeQuantizer;
    use super::super::histogram::Power;
    use super::super::levels::optimal_levels;
    use super::*;
    use crate::format::Lanes;
    use crate::quant::plan::{Granularity, OperandScheme};

    /// Values as GELU gives them: many near its minimum and zero, few large ones.
    fn skewed() -> Vec<f32> {
        (0..20_000)
            .map(|at| (at as f32 / 20_000.0).powi(6) * 8.0 - 0.17)
            .collect()
    }

    fn histogram(values: &[f32]) -> Histogram {
        Histogram::of(values, Power::Half, |_| 1.0)
    }

    /// The mean squared distance of the values from what their lanes stand for.
    fn error(values: &[f32], fitted: &Fitted, lanes: Lanes) -> f64 {
        let scheme = OperandScheme {
            bits: 8,
            format: match lanes {
                Lanes::Signed => Format::Table,
                Lanes::Ranges => Format::TwinTable,
            },
            granularity: Granularity::Tensor,
        };
        let fake_quantizer = FakeQuantizer::new(&scheme, fitted.scale, fitted.table.as_ref());
        let pairs = values.iter().zip(fake_quantizer.round(values));
        let errors = pairs.map(|(x, rounded)| f64::from(rounded - x).powi(2));
        errors.sum::<f64>() / values.len() as f64
    }

    #[test]
    fn two_ranges_reach_what_levels_anywhere_do() {
        let values = skewed();
        let histogram = histogram(&values);
        for bits in [3, 4, 6] {
            let levels = optimal_levels(&histogram, 1 << bits);
            let free = histogram.error(&levels);
            let fitted = ranges(&histogram, &levels, true);
            let table = fitted.table.as_ref().unwrap();
            assert_eq!(table.check(Lanes::Ranges, fitted.scale.shift, bits), Ok(()));
            let found = error(&values, &fitted, Lanes::Ranges);
            // The estimate is of bins, the error of values; the grids are fine where levels are close.
            assert!(
                (found / fitted.error - 1.0).abs() < 0.05,
                "{found} {}",
                fitted.error
            );
            assert!(found < 1.1 * free, "{bits} bits: {found} for {free}");
            let signed = signed(&histogram, &levels, true);
            assert_eq!(
                signed.table.as_ref().unwrap().check(Lanes::Signed, 0, bits),
                Ok(())
            );
            assert!((error(&values, &signed, Lanes::Signed) / signed.error - 1.0).abs() < 0.05);
            assert!(signed.error >= free);
        }
    }

    #[test]
    fn codes_at_equal_distances_leave_out_what_is_rare() {
        let mut values: Vec<f32> = (0..10_000).map(|at| at as f32 / 10_000.0 + 3.0).collect();
        values.push(8.0);
        let weight = |at| if at < 10_000 { 1.0 } else { 1e-3 };
        let fitted = asymmetric(&Histogram::of(&values, Power::Half, weight), 10_001);
        let table = fitted.table.as_ref().unwrap();
        assert_eq!(table.lanes.len(), 256);
        // 1/255 would cover all but the last.
        assert!(fitted.scale.scale < 1.6 / 255.0, "{}", fitted.scale.scale);
        assert!((error(&values[..10_000], &fitted, Lanes::Signed)) < 1e-5);
    }

    #[test]
    fn all_lanes_of_two_ranges_do_better_than_some() {
        let values = skewed();
        let histogram = histogram(&values);
        let levels = optimal_levels(&histogram, 128);
        let fitted = all_ranges(&histogram, true);
        let table = fitted.table.as_ref().unwrap();
        assert_eq!(table.check(Lanes::Ranges, fitted.scale.shift, 8), Ok(()));
        assert!((error(&values, &fitted, Lanes::Ranges) / fitted.error - 1.0).abs() < 0.05);
        assert!(fitted.error < ranges(&histogram, &levels, true).error);
    }

    #[test]
    fn values_that_are_all_alike_have_one_level() {
        for value in [0.0, 2.5] {
            let histogram = histogram(&[value; 50]);
            let levels = optimal_levels(&histogram, 16);
            for fitted in [
                ranges(&histogram, &levels, true),
                signed(&histogram, &levels, true),
            ] {
                assert_eq!(fitted.table.as_ref().unwrap().lanes, [0]);
                assert_eq!(fitted.error, 0.0);
            }
            assert_eq!(asymmetric(&histogram, 50).error, 0.0);
        }
    }
}
