//! The matrix products of a network, O = A · B: the places that get quantized.

use crate::format::Gelu;
use crate::kernels::{Product, View};

/// Names and describes one matrix product of a network. The name is timm's for the layer (`blocks.0.attn.qkv`), or made
/// of the operands' where timm has no layer (`blocks.0.attn.qk`, `blocks.0.attn.pv`).
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The name that scales are stored under.
    pub name: String,
    /// What is multiplied.
    pub kind: SiteKind,
}

/// Describes the operands of a [`Site`].
#[derive(Clone, Debug, PartialEq)]
pub enum SiteKind {
    /// A is an activation `[images · rows, inputs]`, B is `weightᵀ` with `weight` `[outputs, inputs]`.
    Linear(Linear),
    /// Attention's scores per head, q · kᵀ before the factor 1/√d: A and B are parts of qkv `[images, W, N, 3, H, D]`,
    /// O is `[images, W, H, N, N]`.
    Scores(Attention),
    /// Attention's result per head, p · v: A is the softmax `[images, W, H, N, N]`, B is a part of qkv, O is
    /// `[images, W, N, H, D]`.
    Context(Attention),
}

/// Describes the sizes of a product with a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Rows of one image.
    pub rows: usize,
    /// Columns of the activation.
    pub inputs: usize,
    /// Columns of the result.
    pub outputs: usize,
    /// Whether the outputs are q, k and v, a third each.
    pub is_qkv: bool,
    /// The form of GELU whose output the activation is, if it is one's.
    pub after_gelu: Option<Gelu>,
    /// Whether a bias `[outputs]` is added.
    pub has_bias: bool,
}

impl Linear {
    /// Describes a product with a bias whose left operand isn't a GELU's output and whose outputs aren't q, k and v.
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            inputs,
            outputs,
            is_qkv: false,
            after_gelu: None,
            has_bias: true,
        }
    }
}

/// Describes the sizes of a multi-head attention, over all tokens of an image or within windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// W, windows of one image; 1 where there are none.
    pub windows: usize,
    /// H.
    pub heads: usize,
    /// N, tokens of one window.
    pub tokens: usize,
    /// D.
    pub head_dim: usize,
}

impl Attention {
    /// Counts the features of a token, all heads together.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Counts the tokens of one image in all windows, padding included.
    pub fn image_tokens(&self) -> usize {
        self.windows * self.tokens
    }

    /// Returns one of q, k, v (`part` 0, 1, 2) inside qkv, as matrices `[N, D]` whose outer batch are the windows and
    /// whose inner batch are the heads.
    fn part(&self, part: usize) -> View {
        let dim = self.dim();
        View::new(
            part * dim,
            [self.tokens * 3 * dim, self.head_dim],
            3 * dim,
            1,
        )
    }

    /// Returns `[images · W, H, N, N]` as matrices `[N, N]`.
    fn square(&self) -> View {
        let matrix = self.tokens * self.tokens;
        View::new(0, [self.heads * matrix, matrix], self.tokens, 1)
    }
}

impl Site {
    /// Describes a product with a weight.
    pub fn linear(name: impl Into<String>, linear: Linear) -> Self {
        Self {
            name: name.into(),
            kind: SiteKind::Linear(linear),
        }
    }

    /// Returns the product that computes this site for `images` images.
    pub fn product(&self, images: usize) -> Product {
        match self.kind {
            SiteKind::Linear(linear) => {
                Product::linear(images * linear.rows, linear.inputs, linear.outputs)
            }
            SiteKind::Scores(attention) => Product {
                batch: [images * attention.windows, attention.heads],
                m: attention.tokens,
                n: attention.tokens,
                k: attention.head_dim,
                a: attention.part(0),
                b: attention.part(1).transposed(),
                out: attention.square(),
            },
            SiteKind::Context(attention) => {
                let dim = attention.dim();
                Product {
                    batch: [images * attention.windows, attention.heads],
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

    /// Counts the elements of O of one image.
    pub fn out_len(&self) -> usize {
        let product = self.product(1);
        product.problems() * product.m * product.n
    }

    /// Returns the sizes of a site that has a weight.
    pub fn weight(&self) -> Option<Linear> {
        match self.kind {
            SiteKind::Linear(linear) => Some(linear),
            _ => None,
        }
    }

    /// Says whether B is a weight of the network, rather than an activation.
    pub fn has_weight(&self) -> bool {
        self.weight().is_some()
    }
}
