//! Shares of the images, one for each of several machines.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Counts the images that are decoded at once, between two runs of the networks.
///
/// Shards begin at multiples of it, so that a sharded evaluation decodes the same images together, and runs them in the
/// same batches, as one that isn't sharded: a device's floats may depend on the batch. An image that can't be read moves
/// those behind it in its own stretch of images alone, wherever that is evaluated. Part files rely on this number: with
/// another one, another version of the format.
pub(super) const IMAGES_AT_ONCE: usize = 64;

/// Names one of `count` contiguous shares of the images, which differ in length by at most one stretch of 64. There may
/// be more shares than stretches; some are empty then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "StoredShard")]
pub struct Shard {
    index: usize,
    count: usize,
}

/// Holds a [`Shard`] as it is stored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredShard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Stands for all images.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Makes the shard number `index` of `count`, counted from 0.
    ///
    /// # Errors
    /// An index that is not below the count.
    pub fn new(index: usize, count: usize) -> Result<Self, String> {
        if index < count {
            return Ok(Self { index, count });
        }
        Err(format!(
            "shards count from 0: of {count} there is no {index}"
        ))
    }

    /// Returns the shard's number, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// Returns how many shards there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// Returns the range of the shard's images among `images`.
    pub fn range(self, images: usize) -> Range<usize> {
        let stretches = images.div_ceil(IMAGES_AT_ONCE) as u128;
        let start = |index: usize| {
            let stretch = index as u128 * stretches / self.count as u128;
            // At most `stretches`, which was a usize.
            (stretch as usize)
                .saturating_mul(IMAGES_AT_ONCE)
                .min(images)
        };
        start(self.index)..start(self.index + 1)
    }
}

impl TryFrom<StoredShard> for Shard {
    type Error = String;

    fn try_from(form: StoredShard) -> Result<Self, String> {
        Self::new(form.index, form.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    /// Parses `i/n`.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected I/N as in 0/4, found {text:?}");
        let (index, count) = text.split_once('/').ok_or_else(expected)?;
        let number = |digits: &str| digits.parse().map_err(|_| expected());
        Self::new(number(index)?, number(count)?)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_a_file_claims_overflow_nothing() {
        assert_eq!(Shard::WHOLE.range(usize::MAX), 0..usize::MAX);
        let last = Shard::new(usize::MAX - 1, usize::MAX).unwrap();
        assert_eq!(last.range(usize::MAX).end, usize::MAX);
    }

    #[test]
    fn shards_tile_the_images_on_the_grid() {
        for images in [0, 1, 63, 64, 65, 500, 50_000] {
            for count in [1, 2, 3, 4, 7, 16, 1000] {
                let ranges: Vec<Range<usize>> = (0..count)
                    .map(|index| Shard::new(index, count).unwrap().range(images))
                    .collect();
                let mut next = 0;
                for range in &ranges {
                    assert_eq!(range.start, next);
                    assert!(range.start.is_multiple_of(IMAGES_AT_ONCE) || range.is_empty());
                    next = range.end;
                }
                assert_eq!(next, images);
                let stretches = || {
                    ranges
                        .iter()
                        .map(|range| range.len().div_ceil(IMAGES_AT_ONCE))
                };
                let (most, least) = (stretches().max().unwrap(), stretches().min().unwrap());
                assert!(most - least <= 1, "{images} in {count}: {least} to {most}");
            }
        }
        assert_eq!(Shard::new(2, 4).unwrap().range(500), 256..384);
        assert_eq!(Shard::new(3, 4).unwrap().range(500), 384..500);
        let last = Shard::new(usize::MAX - 1, usize::MAX).unwrap();
        assert_eq!(last.range(500), 448..500);
    }

    #[test]
    fn shards_are_read_as_they_are_written() {
        let shard: Shard = "1/4".parse().unwrap();
        assert_eq!((shard.index(), shard.count()), (1, 4));
        assert_eq!(shard.to_string(), "1/4");
        for wrong in ["", "1", "4/4", "0/0", "-1/4", "1/4/4", "a/4", "1/ 4"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong:?}");
        }
        let problem = "4/4".parse::<Shard>().unwrap_err();
        assert_eq!(problem, "shards count from 0: of 4 there is no 4");
    }
}
