//! Where the operands of a batched matrix product lie in their buffers.

use bytemuck::{Pod, Zeroable};

/// Describes a batch of matrices inside a buffer: element (`outer`, `inner`, `row`, `column`) lies at `offset` plus the
/// sum of each index times its stride. Attention's heads are the inner batch, its images the outer one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct View {
    /// Index of the first element.
    pub offset: u32,
    /// Stride from one outer batch entry to the next.
    pub outer: u32,
    /// Stride from one inner batch entry to the next.
    pub inner: u32,
    /// Stride from row to row.
    pub row: u32,
    /// Stride from column to column.
    pub column: u32,
    /// Padding, because a uniform's structures are aligned to 16 bytes.
    unused: [u32; 3],
}

impl View {
    /// Describes a single matrix with contiguous rows of `columns` elements.
    pub fn rows(columns: usize) -> Self {
        Self::new(0, [0, 0], columns, 1)
    }

    /// Describes a view with every stride given; `batch` is the outer and the inner stride.
    pub fn new(offset: usize, batch: [usize; 2], row: usize, column: usize) -> Self {
        Self {
            offset: offset as u32,
            outer: batch[0] as u32,
            inner: batch[1] as u32,
            row: row as u32,
            column: column as u32,
            unused: [0; 3],
        }
    }

    /// Describes the same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }

    /// Describes the rest of the view, from matrix (`outer`, `inner`) and from `row` on.
    pub(crate) fn from(self, batch: [usize; 2], row: usize) -> Self {
        Self {
            offset: self.at(batch, row, 0) as u32,
            ..self
        }
    }

    /// Returns the index of the first element of matrix (`outer`, `inner`).
    pub(crate) fn matrix(&self, outer: usize, inner: usize) -> usize {
        self.offset as usize + outer * self.outer as usize + inner * self.inner as usize
    }

    /// Returns the index of one element.
    pub(crate) fn at(&self, [outer, inner]: [usize; 2], row: usize, column: usize) -> usize {
        self.matrix(outer, inner) + row * self.row as usize + column * self.column as usize
    }
}

/// Describes a batch of products `out = a · b`: `a` is `[m, k]`, `b` is `[k, n]`, `out` is `[m, n]`, once for each of
/// `batch[0] · batch[1]` matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of `a` and `out`.
    pub m: usize,
    /// Columns of `b` and `out`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// Where `a` lies.
    pub a: View,
    /// Where `b` lies.
    pub b: View,
    /// Where `out` lies.
    pub out: View,
}

impl Product {
    /// Describes `out[rows, outputs] = a[rows, inputs] · weightᵀ`, with timm's `weight[outputs, inputs]`.
    pub fn linear(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            batch: [1, 1],
            m: rows,
            n: outputs,
            k: inputs,
            a: View::rows(inputs),
            b: View::rows(inputs).transposed(),
            out: View::rows(outputs),
        }
    }

    /// Counts the matrices in the batch.
    pub fn problems(&self) -> usize {
        self.batch[0] * self.batch[1]
    }

    /// Counts the multiply-adds of the whole batch.
    pub fn multiply_adds(&self) -> u64 {
        self.problems() as u64 * self.m as u64 * self.n as u64 * self.k as u64
    }

    /// Describes the product that computes the gradient of `a`, given that of `out`: `grad_a = grad_out · bᵀ`.
    pub fn backward_a(&self) -> Self {
        Self {
            batch: self.batch,
            m: self.m,
            n: self.k,
            k: self.n,
            a: self.out,
            b: self.b.transposed(),
            out: self.a,
        }
    }

    /// Describes the product that computes the gradient of `b`, given that of `out`: `grad_b = aᵀ · grad_out`.
    pub fn backward_b(&self) -> Self {
        Self {
            batch: self.batch,
            m: self.k,
            n: self.n,
            k: self.m,
            a: self.a.transposed(),
            b: self.out,
            out: self.b,
        }
    }
}

/// Says how the elements of a product's output `[rows, columns]` fall into groups that are scored apart. A line is a
/// group's stretch of one row. Either rows are grouped (attention heads, stacked in rows) or columns are (thirds of
/// qkv, heads side by side); one of `row_groups` and `columns / group_columns` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// Rows of the output.
    pub rows: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Columns of one group.
    pub group_columns: usize,
    /// Consecutive rows of one group.
    pub group_rows: usize,
    /// Groups that take turns along the rows.
    pub row_groups: usize,
}

impl Lines {
    /// Counts the elements of one output.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// Counts the groups along the columns.
    pub fn column_groups(&self) -> usize {
        self.columns / self.group_columns
    }

    /// Counts the groups in all.
    pub fn groups(&self) -> usize {
        self.row_groups * self.column_groups()
    }

    /// Counts the lines of one group.
    pub fn lines(&self) -> usize {
        self.rows / self.row_groups
    }

    /// Finds the elements of one line of one group, in an output.
    pub(crate) fn line(&self, group: usize, line: usize) -> std::ops::Range<usize> {
        let (row_group, column_group) = (group % self.row_groups, group / self.row_groups);
        let block = line / self.group_rows * self.row_groups + row_group;
        let row = block * self.group_rows + line % self.group_rows;
        let start = row * self.columns + column_group * self.group_columns;
        start..start + self.group_columns
    }
}
