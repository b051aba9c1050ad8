//! How far codes are from each other.

use crate::kernels::Format;
use crate::kernels::catalogue::codes::worth;

/// Measures how far two codes are from each other. Within a range a step is a step. From one range of a twin to the
/// other it is what the codes stand for that counts, in units of the coarser scale: neighbouring values on either side
/// of the border are no more than that apart.
pub(super) fn step(format: Format, ratio: f64, one: u8, other: u8) -> f64 {
    let distance = (worth(format, ratio, one) - worth(format, ratio, other)).abs();
    let in_r2 = |code: u8| format.is_twin() && code >= 0x80;
    match (in_r2(one), in_r2(other)) {
        (false, false) => distance,
        (true, true) => distance / ratio,
        _ => distance / ratio.max(1.0),
    }
}

/// Measures how far two codes are from each other among the `lanes` of a table's levels: further than any two levels
/// where only one of them is a level.
pub(super) fn levels_apart(lanes: &[u8], one: u8, other: u8) -> f64 {
    let level = |code: u8| lanes.iter().position(|&lane| lane == code);
    match (level(one), level(other)) {
        (Some(one), Some(other)) => one.abs_diff(other) as f64,
        (None, None) if one == other => 0.0,
        _ => lanes.len() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_as_far_apart_as_there_are_steps_between_them() {
        let lanes = [0x80, 0xf0, 0x00, 0x7f];
        for (one, other, expected) in [
            (0x80, 0xf0, 1.0),
            (0x80, 0x7f, 3.0),
            (0x00, 0x00, 0.0),
            (0x00, 0x01, 4.0),
            // What pads a row needn't be a level.
            (0x01, 0x01, 0.0),
        ] {
            assert_eq!(levels_apart(&lanes, one, other), expected);
            assert_eq!(levels_apart(&lanes, other, one), expected);
        }
    }

    #[test]
    fn a_step_between_a_twins_ranges_is_one_of_the_coarser_scale() {
        use Format::{GeluTwin, SoftmaxTwin, Uniform};
        for (format, one, other, expected) in [
            (Uniform, 0x80, 0x81, 1.0),
            (Uniform, 0xff, 0x01, 2.0),
            (SoftmaxTwin, 0x7e, 0x7f, 1.0),
            (SoftmaxTwin, 0x83, 0x84, 1.0),
            // 127 units of R1, and 16 and 17 of R2, which are 8 each.
            (SoftmaxTwin, 0x7f, 0x90, 1.0 / 8.0),
            (SoftmaxTwin, 0x7f, 0x91, 9.0 / 8.0),
            // Zeros of either range.
            (GeluTwin, 0x00, 0x80, 0.0),
            (GeluTwin, 0x01, 0x80, 1.0 / 8.0),
            (GeluTwin, 0x00, 0x81, 1.0),
        ] {
            assert_eq!(
                step(format, 8.0, one, other),
                expected,
                "{format:?} {one:x} {other:x}"
            );
            assert_eq!(step(format, 8.0, other, one), expected);
        }
    }
}
