//! What a value has of one image.

/// Counts what a value has of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows: tokens, or rows of the scores.
    pub rows: usize,
    /// Elements of a row: features, or keys.
    pub width: usize,
}

impl Shape {
    /// Elements of one image.
    pub fn elements(&self) -> usize {
        self.rows * self.width
    }
}
