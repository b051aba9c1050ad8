//! What a search computes in a site's place: the products of its units.
//!
//! A site falls into *parts*, which have scales of B to themselves: the parts of qkv or kv, heads. Where every column of a
//! weight has a scale, they all are one part. A part falls into *units*, which are products by themselves: the rows of
//! a linear site, the windows of attention.

use crate::graph::{Attention, Site, SiteKind};
use crate::kernels::{Lines, Product, View};
use crate::quant::plan::{CodedProduct, Granularity, OperandGroups, OperandScheme, SitePlan};
use std::ops::Range;

/// Names a matrix of a product.
#[derive(Clone, Copy)]
pub(super) enum Matrix {
    A,
    B,
    Out,
}

/// Says where the values of a unit lie in a batch's tensor: in these rows of `dim` values.
pub(super) struct TensorRows {
    pub dim: usize,
    pub rows: Vec<u32>,
}

/// Describes a site as a search divides it.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub plan: &'a SitePlan,
}

impl Problem<'_> {
    fn site(&self) -> &Site {
        &self.plan.site
    }

    /// Counts the parts.
    pub fn parts(&self) -> usize {
        self.lines(1).groups()
    }

    /// Says how O's elements fall into parts.
    pub fn lines(&self, images: usize) -> Lines {
        self.plan.part_lines(images)
    }

    /// Counts the units of one image.
    pub fn units_of_an_image(&self) -> usize {
        match self.site().kind {
            SiteKind::Linear(linear) => linear.rows,
            SiteKind::Scores(attention) | SiteKind::Context(attention) => attention.windows,
        }
    }

    /// Counts the rows of a unit's O.
    pub fn unit_rows(&self) -> usize {
        match self.site().kind {
            SiteKind::Linear(_) => 1,
            SiteKind::Scores(attention) | SiteKind::Context(attention) => attention.queries(),
        }
    }

    /// Finds the rows of unit `index` of a part among the `[part][row]` of [`lines`](Self::lines).
    pub fn line_rows(&self, part: usize, index: usize, images: usize) -> Range<usize> {
        let rows = self.unit_rows();
        let first = match self.site().kind {
            SiteKind::Scores(attention) => (index * attention.heads + part) * rows,
            _ => part * self.lines(images).rows + index * rows,
        };
        first..first + rows
    }

    /// Describes the product of `units` units of one part, with `rows` rows of each. Their matrices lie one after the
    /// other, A `[rows, k]`, O `[rows, n]`.
    pub fn product(&self, rows: usize, units: usize) -> CodedProduct {
        let matrices = |n: usize, k: usize, b: View| Product {
            batch: [units, 1],
            m: rows,
            n,
            k,
            a: View::new(0, [rows * k, 0], k, 1),
            b,
            out: View::new(0, [rows * n, 0], n, 1),
        };
        let product = match self.site().kind {
            SiteKind::Linear(linear) => {
                Product::linear(units, linear.inputs, linear.outputs / self.parts())
            }
            SiteKind::Scores(Attention {
                tokens, head_dim, ..
            }) => {
                let b = View::new(0, [tokens * head_dim, 0], head_dim, 1);
                matrices(tokens, head_dim, b.transposed())
            }
            SiteKind::Context(Attention {
                tokens, head_dim, ..
            }) => {
                let b = View::new(0, [tokens * head_dim, 0], head_dim, 1);
                matrices(head_dim, tokens, b)
            }
        };
        let by_channel = self.plan.b.granularity == Granularity::Channel;
        let lines = Lines {
            rows: product.batch[0] * product.m,
            columns: product.n,
            group_columns: if by_channel { 1 } else { product.n },
            group_rows: product.batch[0] * product.m,
            row_groups: 1,
        };
        let one_scale = |scheme: OperandScheme| OperandGroups {
            scheme: OperandScheme {
                granularity: Granularity::Tensor,
                ..scheme
            },
            groups: 1,
        };
        let SitePlan { a, b, .. } = *self.plan;
        let b = match by_channel {
            true => OperandGroups {
                scheme: b,
                groups: product.n,
            },
            false => one_scale(b),
        };
        CodedProduct::new(product, lines, one_scale(a), b)
    }

    /// Says where unit `index` of a part lies in a batch's tensor, of A and O only its `live` rows.
    pub fn tensor_rows(
        &self,
        part: usize,
        matrix: Matrix,
        index: usize,
        live: &[usize],
    ) -> TensorRows {
        let of = |dim, rows: &mut dyn Iterator<Item = usize>| TensorRows {
            dim,
            rows: rows.map(|row| row as u32).collect(),
        };
        let one = |dim, row| of(dim, &mut std::iter::once(row));
        match (&self.site().kind, matrix) {
            (SiteKind::Linear(linear), Matrix::A) => one(linear.inputs, index),
            (SiteKind::Linear(linear), _) => {
                let parts = self.parts();
                one(linear.outputs / parts, index * parts + part)
            }
            (SiteKind::Scores(at) | SiteKind::Context(at), _) => {
                let live = || live.iter().copied();
                // A head's features of a query, of a token in qkv or kv, and of what comes out; its rows of the scores.
                let query = |row| (index * at.queries() + row) * at.query_parts() * at.heads + part;
                let token = |third: usize| {
                    move |token| {
                        ((index * at.tokens + token) * at.parts() + third) * at.heads + part
                    }
                };
                let context = |row| (index * at.queries() + row) * at.heads + part;
                let scores = |row| (index * at.heads + part) * at.queries() + row;
                let (keys, values) = (token(at.key_part()), token(at.key_part() + 1));
                let in_scores = matches!(self.site().kind, SiteKind::Scores(_));
                match (matrix, in_scores) {
                    (Matrix::A, true) => of(at.head_dim, &mut live().map(query)),
                    (Matrix::B, true) => of(at.head_dim, &mut (0..at.tokens).map(keys)),
                    (Matrix::B, false) => of(at.head_dim, &mut (0..at.tokens).map(values)),
                    (Matrix::Out, true) | (Matrix::A, false) => {
                        of(at.tokens, &mut live().map(scores))
                    }
                    (Matrix::Out, false) => of(at.head_dim, &mut live().map(context)),
                }
            }
        }
    }
}
