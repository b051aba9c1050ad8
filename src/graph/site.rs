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
    /// or of q and kv where it pools; O is `[images, W, H, M, N]`.
    Scores(Attention),
    /// Attention's result per head, p · v: A is the softmax `[images, W, H, M, N]`, B is a part of qkv, or of kv, O is
    /// `[images, W, M, H, D]`.
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
    /// The number of equal parts that the outputs are: 3 of q, k and v, 2 of k and v or before a gate, else 1.
    pub parts: usize,
    /// The form of GELU whose output the activation is, if it is one's.
    pub after_gelu: Option<Gelu>,
    /// Whether a bias `[outputs]` is added.
    pub has_bias: bool,
}

impl Linear {
    /// Describes a product with a bias whose left operand isn't a GELU's output and whose outputs are one part.
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            inputs,
            outputs,
            parts: 1,
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
    /// Whether it pools: a single query, `[images, 1, H, D]`, attends to the tokens, which have keys and values,
    /// kv `[images, N, 2, H, D]`. Otherwise each token has all three, qkv `[images, W, N, 3, H, D]`.
    pub is_pooling: bool,
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

    /// Counts M, the queries of one window.
    pub fn queries(&self) -> usize {
        match self.is_pooling {
            true => 1,
            false => self.tokens,
        }
    }

    /// Counts the queries of one image in all windows, padding included.
    pub fn image_queries(&self) -> usize {
        self.windows * self.queries()
    }

    /// Counts the parts of the value that keys and values are in: k and v, or q, k and v.
    pub fn parts(&self) -> usize {
        match self.is_pooling {
            true => 2,
            false => 3,
        }
    }

    /// Counts the parts of the value that queries are in.
    pub fn query_parts(&self) -> usize {
        match self.is_pooling {
            true => 1,
            false => 3,
        }
    }

    /// Says which of these parts keys are; values are the next one.
    pub fn key_part(&self) -> usize {
        self.parts() - 2
    }

    /// Returns part number `part` of `parts` of a value with `tokens` rows for each window, as matrices `[tokens, D]`
    /// whose outer batch are the windows and whose inner batch are the heads.
    fn part(&self, part: usize, parts: usize, tokens: usize) -> View {
        let (dim, row) = (self.dim(), parts * self.dim());
        View::new(part * dim, [tokens * row, self.head_dim], row, 1)
    }

    fn queries_view(&self) -> View {
        self.part(0, self.query_parts(), self.queries())
    }

    fn keys_view(&self) -> View {
        self.part(self.key_part(), self.parts(), self.tokens)
    }

    fn values_view(&self) -> View {
        self.part(self.key_part() + 1, self.parts(), self.tokens)
    }

    /// Returns `[images · W, H, M, N]` as matrices `[M, N]`.
    fn scores_view(&self) -> View {
        let matrix = self.queries() * self.tokens;
        View::new(0, [self.heads * matrix, matrix], self.tokens, 1)
    }

    /// Returns `[images · W, M, H, D]` as matrices `[M, D]`.
    fn context_view(&self) -> View {
        self.part(0, 1, self.queries())
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
                m: attention.queries(),
                n: attention.tokens,
                k: attention.head_dim,
                a: attention.queries_view(),
                b: attention.keys_view().transposed(),
                out: attention.scores_view(),
            },
            SiteKind::Context(attention) => Product {
                batch: [images * attention.windows, attention.heads],
                m: attention.queries(),
                n: attention.head_dim,
                k: attention.tokens,
                a: attention.scores_view(),
                b: attention.values_view(),
                out: attention.context_view(),
            },
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
