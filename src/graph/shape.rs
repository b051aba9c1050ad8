//! The shape of a value, per image.

/// Describes the shape of a value, per image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows: tokens, or rows of the scores.
    pub rows: usize,
    /// Elements of a row: features, or keys.
    pub width: usize,
}

impl Shape {
    /// Counts the elements of one image.
    pub fn elements(&self) -> usize {
        self.rows * self.width
    }
}
