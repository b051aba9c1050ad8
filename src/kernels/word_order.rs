//! Codes on the CPU, row by row. Devices read words of neighbouring rows side by side, so an operand's lie
//! `[word][padded_rows]`; the CPU makes and multiplies the codes of one row after the other, `[row][word]`, in which the
//! first lane is the first byte.

use std::ops::Range;

/// Counts the words that are moved of each row before those behind them: a line of a core's cache.
pub(super) const WORDS_AT_ONCE: usize = 16;

/// Reads some rows of an operand into `[row][word]`, `change` made to each word.
pub(super) fn read_rows(
    codes: &[u32],
    padded_rows: usize,
    rows: &Range<usize>,
    change: impl Fn(u32) -> u32,
    to: &mut Vec<u32>,
) {
    let words = codes.len() / padded_rows;
    to.resize(rows.len() * words, 0);
    let lines: Vec<&[u32]> = codes.chunks_exact(padded_rows).collect();
    for (chunk, lines) in lines.chunks(WORDS_AT_ONCE).enumerate() {
        for (word, line) in lines.iter().enumerate() {
            let word = chunk * WORDS_AT_ONCE + word;
            for (row, &lanes) in to.chunks_exact_mut(words).zip(&line[rows.clone()]) {
                row[word] = change(lanes).to_le();
            }
        }
    }
}

/// Cuts an operand, `[word][padded_rows]`, into stretches of at most `at_once` of its `rows` rows: `[stretch][word]`.
pub(super) fn stretches(
    codes: &mut [u32],
    padded_rows: usize,
    rows: usize,
    at_once: usize,
) -> Vec<Vec<&mut [u32]>> {
    let words = codes.len() / padded_rows;
    let new = || Vec::with_capacity(words);
    let mut stretches: Vec<Vec<&mut [u32]>> = std::iter::repeat_with(new)
        .take(rows.div_ceil(at_once))
        .collect();
    for line in codes.chunks_exact_mut(padded_rows) {
        let parts = line[..rows].chunks_mut(at_once);
        stretches
            .iter_mut()
            .zip(parts)
            .for_each(|(stretch, part)| stretch.push(part));
    }
    stretches
}

/// Writes rows, `[row][word]`, to one of the [`stretches`] of an operand.
pub(super) fn write_rows(rows: &[u32], stretch: &mut [&mut [u32]]) {
    let words = stretch.len();
    for (chunk, lines) in stretch.chunks_mut(WORDS_AT_ONCE).enumerate() {
        for (word, line) in lines.iter_mut().enumerate() {
            let word = chunk * WORDS_AT_ONCE + word;
            for (place, row) in line.iter_mut().zip(rows.chunks_exact(words)) {
                *place = u32::from_le(row[word]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_row_by_row_is_read_so() {
        let [words, rows, padded_rows] = [37, 9, 12];
        let codes: Vec<u32> = (0..(words * rows) as u32).collect();
        let mut operand = vec![u32::MAX; words * padded_rows];
        let stretches = stretches(&mut operand, padded_rows, rows, 4);
        assert_eq!(stretches.len(), 3);
        for (mut stretch, rows) in stretches.into_iter().zip(codes.chunks(4 * words)) {
            write_rows(rows, &mut stretch);
        }
        for (word, line) in operand.chunks_exact(padded_rows).enumerate() {
            for (row, &lanes) in line.iter().enumerate() {
                let expected = codes.get(row * words + word).filter(|_| row < rows);
                assert_eq!(lanes, expected.map_or(u32::MAX, |&code| u32::from_le(code)));
            }
        }
        let mut found = Vec::new();
        read_rows(&operand, padded_rows, &(2..7), |lanes| !lanes, &mut found);
        let expected = codes[2 * words..7 * words].iter().map(|code| !code);
        assert!(found.iter().copied().eq(expected));
    }
}
