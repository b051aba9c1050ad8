//! Reads what stands in the cells of a table, of many at once.

use super::table::TABLE_BYTES;
use multiversion::multiversion;
use multiversion::target::match_target;

/// Reads what stands in some cells, by permuting bytes where the processor has an instruction for it.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vbmi"))]
pub(super) fn read_cells(table: &[u8; TABLE_BYTES], cells: &[u16], found: &mut [u8]) {
    match_target! {
        "x86_64+avx512f+avx512bw+avx512vbmi" => permute::read_cells(table, cells, found),
        _ => read_each(table, cells, found),
    }
}

/// Reads one cell after the other. Inlined it would be compiled to vectors, of which each element is taken out, and slower.
#[inline(never)]
fn read_each(table: &[u8; TABLE_BYTES], cells: &[u16], found: &mut [u8]) {
    // No cell is beyond the table; so the compiler sees it.
    let lane = |cell: u16| table[usize::from(cell) % TABLE_BYTES];
    let (words, rest) = found.as_chunks_mut();
    let (cells_of_words, cells_of_rest) = cells.as_chunks::<4>();
    let words = words.iter_mut().zip(cells_of_words);
    words.for_each(|(word, &cells)| *word = cells.map(lane));
    let rest = rest.iter_mut().zip(cells_of_rest);
    rest.for_each(|(found, &cell)| *found = lane(cell));
}

/// Reads as many cells at once as a register of AVX-512 has bytes.
#[cfg(target_arch = "x86_64")]
mod permute {
    use super::TABLE_BYTES;
    use std::arch::x86_64::*;

    const AT_ONCE: usize = size_of::<__m512i>();
    const PARTS: usize = TABLE_BYTES / AT_ONCE;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub(super) fn read_cells(table: &[u8; TABLE_BYTES], cells: &[u16], found: &mut [u8]) {
        let parts: [__m512i; PARTS] = bytemuck::cast(*table);
        let (found, rest) = found.as_chunks_mut::<AT_ONCE>();
        let (cells, cells_of_rest) = cells.as_chunks();
        for (found, cells) in found.iter_mut().zip(cells) {
            *found = read(parts, cells);
        }
        let mut cells = [0; AT_ONCE];
        cells[..rest.len()].copy_from_slice(cells_of_rest);
        rest.copy_from_slice(&read(parts, &cells)[..rest.len()]);
    }

    /// Finds each cell's byte among those of two parts, by the lower 7 bits of its number, for all pairs of parts; the upper
    /// 2 bits choose from these.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn read(parts: [__m512i; PARTS], cells: &[u16; AT_ONCE]) -> [u8; AT_ONCE] {
        let cells: [__m512i; 2] = bytemuck::cast(*cells);
        let low: __m512i = bytemuck::cast(cells.map(|cells| _mm512_cvtepi16_epi8(cells)));
        let bit_7 = _mm512_movepi8_mask(low);
        let bit_8: u64 = bytemuck::cast(
            cells.map(|cells| _mm512_test_epi16_mask(cells, _mm512_set1_epi16(1 << 8))),
        );
        let [a, b, c, d, e, f, g, h] = parts;
        let ab = _mm512_permutex2var_epi8(a, low, b);
        let cd = _mm512_permutex2var_epi8(c, low, d);
        let ef = _mm512_permutex2var_epi8(e, low, f);
        let gh = _mm512_permutex2var_epi8(g, low, h);
        let abcd = _mm512_mask_blend_epi8(bit_7, ab, cd);
        let efgh = _mm512_mask_blend_epi8(bit_7, ef, gh);
        bytemuck::cast(_mm512_mask_blend_epi8(bit_8, abcd, efgh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_reads_what_stands_in_the_cells() {
        let table = std::array::from_fn(|cell| (cell * cell / 7) as u8);
        for count in [0, 1, 3, 63, 64, 65, 130, 1024] {
            let cells: Vec<u16> = (0..count).map(|at| (at * 389 % 512) as u16).collect();
            let expected: Vec<u8> = cells.iter().map(|&cell| table[usize::from(cell)]).collect();
            for read in [read_cells, read_each] {
                let mut found = vec![0; count];
                read(&table, &cells, &mut found);
                assert_eq!(found, expected, "of {count}");
            }
        }
    }
}
