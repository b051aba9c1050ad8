//! The least time that a device's ceilings allow a network.

use super::ceilings::Ceilings;
use crate::device::Workload;
use serde::Serialize;
use std::collections::BTreeMap;

/// Names what bounds a network's time from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Launching its kernels.
    Launches,
    /// Reading and writing their buffers.
    Bytes,
    /// Its products of integers.
    Integers,
    /// Its products of floats.
    Floats,
}

impl Limit {
    /// Returns the limit's name, as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Launches => "launches",
            Self::Bytes => "bytes",
            Self::Integers => "integers",
            Self::Floats => "floats",
        }
    }
}

/// Counts the operations of a network's products; a multiply-add is two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Operations {
    /// Of products of integers.
    pub integer_operations: u64,
    /// Of products of floats. What isn't a product, a softmax say, doesn't count.
    pub float_operations: u64,
}

/// Holds what a network does in one batch, and the least time that the device's ceilings allow for it.
#[derive(Clone, Debug, Serialize)]
pub struct Roofline {
    /// What is launched and moved; `None` on the CPU, which launches no kernels.
    #[serde(flatten)]
    pub workload: Option<Workload>,
    /// What is computed.
    #[serde(flatten)]
    pub operations: Operations,
    /// How long each takes at the rate of its ceiling, in seconds.
    pub limit_seconds: BTreeMap<Limit, f64>,
    /// The longest of these, in seconds: nothing is faster, however well all else is hidden behind it.
    pub floor_seconds: f64,
    /// What that is the time of.
    pub bound_by: Limit,
    /// The floor's share of the time that the batch took.
    pub share: f64,
}

impl Roofline {
    /// Compares a batch that took `seconds` with `ceilings`.
    pub(super) fn new(
        workload: Option<Workload>,
        operations: Operations,
        ceilings: &Ceilings,
        seconds: f64,
    ) -> Self {
        let at = |amount: u64, rate: f64| amount as f64 / (1e9 * rate);
        let Operations {
            integer_operations,
            float_operations,
        } = operations;
        let mut limits = vec![
            (
                Limit::Integers,
                at(integer_operations, ceilings.integers().rate.rate),
            ),
            (Limit::Floats, at(float_operations, ceilings.f32.rate.rate)),
        ];
        if let Some(Workload { dispatches, bytes }) = workload {
            limits.push((Limit::Bytes, at(bytes, ceilings.copy.rate.rate)));
            let launch = ceilings.launch_seconds;
            limits.extend(launch.map(|launch| (Limit::Launches, dispatches as f64 * launch)));
        }
        let longest = limits
            .iter()
            .copied()
            .max_by(|(_, left), (_, right)| left.total_cmp(right));
        let (bound_by, floor_seconds) = longest.expect("products are among the limits");
        Self {
            workload,
            operations,
            limit_seconds: limits.into_iter().collect(),
            floor_seconds,
            bound_by,
            share: floor_seconds / seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ceilings::{Ceiling, Rate, Unit};
    use super::super::timing::Timing;
    use super::*;
    use crate::device::{Commands, adapters, open};
    use crate::kernels::{Format, Quantize, View, peak_copy, quantize, softmax};

    fn ceiling(rate: f64, unit: Unit) -> Ceiling {
        Ceiling {
            kernel: "",
            rate: Rate { rate, unit },
            timing: Timing {
                median_seconds: 1.0,
                quartiles_seconds: [1.0; 2],
                repetitions: 1,
            },
        }
    }

    #[test]
    fn the_floor_is_the_longest_of_all_limits() {
        let ceilings = |launch_seconds| Ceilings {
            f32: ceiling(2.0, Unit::Operations),
            int8: ceiling(4.0, Unit::Operations),
            cooperative: Some(ceiling(8.0, Unit::Operations)),
            cooperative_int8: None,
            copy: ceiling(1.0, Unit::Bytes),
            launch_seconds,
        };
        let operations = Operations {
            integer_operations: 16_000_000_000,
            float_operations: 3_000_000_000,
        };
        let of = |workload, launch| Roofline::new(workload, operations, &ceilings(launch), 10.0);
        let found = of(None, None);
        // By the faster of the two ceilings of integers.
        assert_eq!(
            (found.bound_by, found.floor_seconds),
            (Limit::Integers, 2.0)
        );
        assert_eq!(found.limit_seconds[&Limit::Floats], 1.5);
        let workload = Workload {
            dispatches: 100,
            bytes: 5_000_000_000,
        };
        let found = of(Some(workload), Some(0.01));
        assert_eq!((found.bound_by, found.floor_seconds), (Limit::Bytes, 5.0));
        assert_eq!(found.share, 0.5);
        let found = of(Some(workload), Some(0.06));
        assert_eq!(
            (found.bound_by, found.floor_seconds),
            (Limit::Launches, 6.0)
        );
    }

    #[test]
    fn bytes_are_those_that_kernels_must_touch() {
        for adapter in adapters() {
            let device = open(adapter.index.map(|index| index.to_string()).as_deref())
                .unwrap()
                .device;
            let bytes = |append: &dyn Fn(&mut Commands)| {
                let ((), recording) = Commands::record(&device, append).unwrap();
                let Workload { dispatches, bytes } = recording.workload();
                assert_eq!(dispatches, 1);
                bytes
            };
            let words = device.zeros::<u32>(64);
            let copy = device.zeros::<u32>(64);
            assert_eq!(bytes(&|commands| peak_copy(commands, &words, &copy)), 512);
            // The scores stand in the place of encoders too, which aren't read.
            let values = device.zeros::<f32>(4 * 24);
            let softmax = bytes(&|commands| drop(softmax(commands, 4, 24, 1.0, &values)));
            assert_eq!(softmax, 2 * 4 * 4 * 24);
            // A third of each row becomes codes, four to a word; an encoder is two words, of which buffers have four.
            let third = Quantize {
                source: View::new(8, [0, 0], 24, 1),
                batch: [1, 1],
                rows: 4,
                k: 8,
                jobs: 1,
                groups: 1,
                inner_groups: 0,
                group_rows: 4,
                bits: 8,
                format: Format::Uniform,
            };
            let encoders = device.upload(&[1f32.to_bits(); 2]);
            let quantize = bytes(&|commands| drop(quantize(commands, &third, &values, &encoders)));
            assert_eq!(quantize, 4 * 4 * 8 + 16 + 4 * 8);
        }
    }
}
