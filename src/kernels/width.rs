//! Weights of few bits, stored in little more than that and unpacked as an integer product reads them.

use std::borrow::Cow;

/// Says in how many bits a code of the right operand is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One lane, as [`quantize`](super::quantize) gives it.
    Eight,
    /// Four words of lanes in three.
    Six,
    /// Two words of lanes in one.
    Four,
}

impl Width {
    /// Chooses the least width that holds codes of `bits` bits.
    pub fn holding(bits: u32) -> Self {
        match bits {
            ..=4 => Self::Four,
            5..=6 => Self::Six,
            _ => Self::Eight,
        }
    }

    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Eight => 8,
            Self::Six => 6,
            Self::Four => 4,
        }
    }

    /// Counts the bits of a lane that its code leaves over.
    fn spare(self) -> u32 {
        8 - self.bits()
    }

    /// Counts the words of lanes in a group, and the words that they are stored in.
    fn group(self) -> [usize; 2] {
        match self {
            Self::Eight => [1, 1],
            Self::Six => [4, 3],
            Self::Four => [2, 1],
        }
    }

    /// Counts the words that `words` words of lanes are stored in.
    pub(super) fn stored(self, words: usize) -> usize {
        let [lanes, stored] = self.group();
        words.div_ceil(lanes) * stored
    }

    /// Packs `codes` `[n][k]` as the right operand of an integer product: `[word][n]`, n padded to a multiple of four
    /// with zeros. Below 8 bits a lane holds its code in its upper bits. The last word of a group isn't stored: its
    /// lanes are cut into pieces of the spare bits, and the others hold these in their lower bits, the first the
    /// uppermost.
    pub fn pack(self, codes: &[i8], k: usize) -> Vec<u32> {
        let rows: Vec<&[i8]> = codes.chunks_exact(k).collect();
        let word = |word: usize, column: usize| {
            let lane = |lane| {
                let code = rows.get(column).and_then(|row| row.get(4 * word + lane));
                (code.copied().unwrap_or(0) as u8) << self.spare()
            };
            u32::from_le_bytes([0, 1, 2, 3].map(lane))
        };
        let [lanes, stored] = self.group();
        let below = EVERY_LANE * (0xff >> self.bits());
        let mut words = Vec::new();
        for first in (0..k.div_ceil(4)).step_by(lanes) {
            for part in 0..stored {
                let place = self.bits() - self.spare() * part as u32;
                words.extend((0..rows.len().next_multiple_of(4)).map(|column| {
                    let missing = word(first + lanes - 1, column);
                    word(first + part, column) | (missing >> place & below)
                }));
            }
        }
        words
    }

    /// Unpacks the stored words to words of 8-bit lanes, `[word][columns]`.
    pub(super) fn unpack(self, stored: &[u32], words: usize, columns: usize) -> Cow<'_, [u32]> {
        if self.spare() == 0 {
            return Cow::Borrowed(&stored[..words * columns]);
        }
        let [lanes, per_group] = self.group();
        let upper = EVERY_LANE * ((0xff << self.bits()) & 0xff);
        let row = |at: usize| &stored[at * columns..][..columns];
        let mut unpacked = Vec::with_capacity(words * columns);
        for word in 0..words {
            let (first, part) = (word / lanes * per_group, word % lanes);
            unpacked.extend((0..columns).map(|column| {
                let in_upper_bits = if part < per_group {
                    row(first + part)[column]
                } else {
                    (0..per_group).fold(0, |missing, part| {
                        let piece = self.spare() * part as u32;
                        let place = self.bits() - piece;
                        missing | ((row(first + part)[column] << place) & (upper >> piece))
                    })
                };
                let lanes = in_upper_bits.to_le_bytes();
                u32::from_le_bytes(lanes.map(|lane| (lane as i8 >> self.spare()) as u8))
            }));
        }
        Cow::Owned(unpacked)
    }
}

/// Repeats a byte that it is multiplied by in every lane.
pub(super) const EVERY_LANE: u32 = 0x0101_0101;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_every_width_survives_packing() {
        for (width, q) in [(Width::Eight, 128), (Width::Six, 32), (Width::Four, 8)] {
            for k in [1, 4, 5, 12, 13, 16, 17, 67] {
                // Every code in every lane of every word of a group, beside all kinds of others.
                let codes: Vec<i8> = (0..7 * k * 2 * q as usize)
                    .map(|at| ((at * 37 + at / k) as i32 % (2 * q) - q) as i8)
                    .collect();
                let (n, words) = (codes.len() / k, k.div_ceil(4));
                let packed = width.pack(&codes, k);
                assert_eq!(packed.len(), width.stored(words) * n.next_multiple_of(4));
                let unpacked = width.unpack(&packed, words, n.next_multiple_of(4));
                for (at, &code) in codes.iter().enumerate() {
                    let word = unpacked[at % k / 4 * n.next_multiple_of(4) + at / k];
                    assert_eq!(word.to_le_bytes()[at % k % 4] as i8, code, "{width:?} {k}");
                }
            }
        }
    }
}
