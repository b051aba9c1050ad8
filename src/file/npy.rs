//! NumPy's .npy files: a header, then the values.

/// Begins a file of version 1.0.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// Divides the place where the values begin.
const ALIGNMENT: usize = 64;

/// Returns a file of `values`, an array of this shape, of two dimensions at least, in the order of the last one.
pub fn bytes(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let sizes = sizes.join(", ");
    let told = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}");
    // The header's length comes before it, and a line feed ends it.
    let before = MAGIC.len() + size_of::<u16>();
    let end = (before + told.len() + 1).next_multiple_of(ALIGNMENT);
    let width = end - before - 1;
    let header = format!("{told:width$}\n");
    let mut bytes = MAGIC.to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_numpys() {
        // As NumPy 2 writes np.array([[1, 2, 3]], dtype=np.float32).
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }";
        let mut expected = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        expected.extend(format!("{header:117}\n").as_bytes());
        expected.extend([0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64]);
        assert_eq!(bytes(&[1, 3], &[1.0, 2.0, 3.0]), expected);
    }
}
