//! The matrix products of a network, O = A · B: the places that get quantized.

use crate::kernels::{Lines, Product, View};

/// One matrix product of a network, named as timm names the layer (`blocks.0.attn.qkv`), or after the operands where
/// timm has no layer (`blocks.0.attn.qk`, `blocks.0.attn.pv`).
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The name that scales are stored under.
    pub name: String,
    /// What is multiplied.
    pub kind: SiteKind,
}

/// The operands of a [`Site`].
#[derive(Clone, Debug, PartialEq)]
pub enum SiteKind {
    /// A is an activation `[images · rows, inputs]`, B is `weightᵀ` with `weight` `[outputs, inputs]`.
    Linear {
        /// Rows of one image.
        rows: usize,
        /// Columns of the activation.
        inputs: usize,
        /// Columns of the result.
        outputs: usize,
        /// Equal parts of the outputs that have a weight scale each: 3 for qkv, else 1.
        weight_groups: usize,
        /// Whether the activation is a GELU's output.
        after_gelu: bool,
    },
    /// Attention's scores per head, q · kᵀ before the factor 1/√d: A and B are parts of qkv `[images, N, 3, H, D]`, O is
    /// `[images, H, N, N]`.
    Scores(Attention),
    /// Attention's result per head, p · v: A is the softmax `[images, H, N, N]`, B is a part of qkv, O is
    /// `[images, N, H, D]`.
    Context(Attention),
}

/// The sizes of a multi-head attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// H.
    pub heads: usize,
    /// N.
    pub tokens: usize,
    /// D.
    pub head_dim: usize,
}

impl Attention {
    /// One of q, k, v (`part` 0, 1, 2) inside qkv, as matrices `[N, D]` of outer batch image and inner batch head.
    fn part(&self, part: usize) -> View {
        let dim = self.heads * self.head_dim;
        View::new(
            part * dim,
            [self.tokens * 3 * dim, self.head_dim],
            3 * dim,
            1,
        )
    }

    /// `[images, H, N, N]` as matrices `[N, N]`.
    fn square(&self) -> View {
        let matrix = self.tokens * self.tokens;
        View::new(0, [self.heads * matrix, matrix], self.tokens, 1)
    }

    /// Elements of qkv of one image.
    pub fn qkv_len(&self) -> usize {
        3 * self.tokens * self.heads * self.head_dim
    }
}

impl Site {
    /// The product that computes this site for `images` images.
    pub fn product(&self, images: usize) -> Product {
        match self.kind {
            SiteKind::Linear {
                rows,
                inputs,
                outputs,
                ..
            } => Product::linear(images * rows, inputs, outputs),
            SiteKind::Scores(attention) => Product {
                batch: [images, attention.heads],
                m: attention.tokens,
                n: attention.tokens,
                k: attention.head_dim,
                a: attention.part(0),
                b: attention.part(1).transposed(),
                out: attention.square(),
            },
            SiteKind::Context(attention) => {
                let dim = attention.heads * attention.head_dim;
                Product {
                    batch: [images, attention.heads],
                    m: attention.tokens,
                    n: attention.head_dim,
                    k: attention.tokens,
                    a: attention.square(),
                    b: attention.part(2),
                    out: View::new(0, [attention.tokens * dim, attention.head_dim], dim, 1),
                }
            }
        }
    }

    /// How O's elements fall into groups that are scored apart.
    pub fn lines(&self, images: usize) -> Lines {
        match self.kind {
            SiteKind::Linear {
                rows,
                outputs,
                weight_groups,
                ..
            } => Lines {
                rows: images * rows,
                columns: outputs,
                group_columns: outputs / weight_groups,
                group_rows: images * rows,
                row_groups: 1,
            },
            SiteKind::Scores(attention) => Lines {
                rows: images * attention.heads * attention.tokens,
                columns: attention.tokens,
                group_columns: attention.tokens,
                group_rows: attention.tokens,
                row_groups: attention.heads,
            },
            SiteKind::Context(attention) => Lines {
                rows: images * attention.tokens,
                columns: attention.heads * attention.head_dim,
                group_columns: attention.head_dim,
                group_rows: images * attention.tokens,
                row_groups: 1,
            },
        }
    }

    /// Elements of O of one image.
    pub fn out_len(&self) -> usize {
        self.lines(1).elements()
    }

    /// Groups that O is scored in, which are also B's scales: thirds of qkv, heads of attention.
    pub fn groups(&self) -> usize {
        self.lines(1).groups()
    }

    /// Whether B is a weight of the network, rather than an activation.
    pub fn has_weight(&self) -> bool {
        matches!(self.kind, SiteKind::Linear { .. })
    }
}
