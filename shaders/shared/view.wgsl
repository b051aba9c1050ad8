// A batch of matrices inside a buffer: element (outer, inner, row, column) lies at `offset` plus the sum of each index times
// its stride.

struct View {
    offset: u32,
    outer: u32,
    inner: u32,
    row: u32,
    column: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}
