//! Codes at their true width: k-bit two's complement, one after the other, lowest bit first, no padding between rows.

/// Counts the bytes that `count` codes of `bits` bits take.
pub fn packed_len(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(8)
}

/// Packs codes, each in `-2^(bits-1)..2^(bits-1)`. The last byte is filled up with zeros.
pub fn pack(codes: &[i8], bits: u32) -> Vec<u8> {
    let mut packed = vec![0u8; packed_len(codes.len(), bits)];
    let mask = u16::MAX >> (16 - bits);
    for (index, &code) in codes.iter().enumerate() {
        let at = index * bits as usize;
        // At most 8 bits at an offset of at most 7 fit two bytes.
        let [low, high] = ((code as u16 & mask) << (at % 8)).to_le_bytes();
        packed[at / 8] |= low;
        if high != 0 {
            packed[at / 8 + 1] |= high;
        }
    }
    packed
}

/// Returns the first `count` codes of `packed`.
///
/// # Panics
/// If `packed` is shorter than [`packed_len`] says.
pub fn unpack(packed: &[u8], count: usize, bits: u32) -> Vec<i8> {
    (0..count)
        .map(|index| {
            let at = index * bits as usize;
            let low = packed[at / 8];
            let high = packed.get(at / 8 + 1).copied().unwrap_or(0);
            let bits_up = u16::from_le_bytes([low, high]) >> (at % 8) << (16 - bits);
            (bits_up as i16 >> (16 - bits)) as i8
        })
        .collect()
}

/// Says whether the bits of the last byte that belong to no code are zero, as [`pack`] leaves them.
pub fn is_padded_with_zeros(packed: &[u8], count: usize, bits: u32) -> bool {
    match (packed.last(), count * bits as usize % 8) {
        (Some(last), used @ 1..) => last >> used == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_every_width_survives() {
        for bits in 2..=8 {
            let half = 1i32 << (bits - 1);
            let codes: Vec<i8> = (0..1000)
                .map(|i| ((i * 7 + i / 3) % (2 * half) - half) as i8)
                .collect();
            for count in [0, 1, 3, 7, 8, 9, 1000] {
                let packed = pack(&codes[..count], bits);
                assert_eq!(packed.len(), packed_len(count, bits));
                assert_eq!(unpack(&packed, count, bits), &codes[..count], "{bits} bits");
                assert!(is_padded_with_zeros(&packed, count, bits));
            }
        }
    }

    #[test]
    fn bits_behind_the_last_code_are_seen() {
        let packed = pack(&[-1; 3], 6);
        assert_eq!(packed, [0xFF, 0xFF, 0b11]);
        for bit in 2..8 {
            assert!(!is_padded_with_zeros(&[0xFF, 0xFF, 0b11 | 1 << bit], 3, 6));
        }
        assert!(is_padded_with_zeros(&[0xFF; 3], 4, 6));
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        // 0b000001, 0b111111 (-1), 0b100000 (-32), 0b011111 (31), lowest bit first.
        assert_eq!(
            pack(&[1, -1, -32, 31], 6),
            [0b11000001, 0b00001111, 0b01111110]
        );
    }
}
