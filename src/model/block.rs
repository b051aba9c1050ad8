//! The block that ViT and Swin are made of: x + attention(norm(x)), then x + mlp(norm(x)). LayerScale, where a block has it,
//! multiplies what is added.
//!
//! A ViT's attention sees all tokens of an image at once. Swin's sees one window of them at a time: its block brings the
//! tokens into the order of the windows before qkv and back after proj, and adds a bias to the scores.

use super::layer_scale::LayerScale;
use super::network::{Parameters, Segment};
use super::norm::Norm;
use super::order::Order;
use super::products::{Activation, Addition, Products, Recorder, Then};
use super::site::{Attention, Linear, Site, SiteKind};
use crate::device::{Buffer, Commands};
use crate::error::Result;
use crate::kernels::{
    Format, RowCodes, WindowSoftmax, add, gelu_backward, softmax, softmax_backward, softmax_codes,
    window_softmax, window_softmax_codes,
};

/// A block's name and sizes.
pub struct BlockShape {
    /// timm's name, as in `blocks.0`.
    pub name: String,
    /// Tokens of an image.
    pub tokens: usize,
    /// Windows, heads, tokens, features.
    pub attention: Attention,
    /// Hidden features of the MLP.
    pub mlp_dim: usize,
    /// Whether there is a LayerScale before each of the two additions.
    pub layer_scale: bool,
}

impl BlockShape {
    /// The block's matrix products: qkv, scores, context, proj, fc1, fc2.
    pub fn sites(&self) -> [Site; 6] {
        let (dim, mlp_dim) = (self.attention.dim(), self.mlp_dim);
        // Padding is in the windows only. What qkv makes of it, the biases, is attended to and belongs to the range of q, k
        // and v, as in timm's tensors.
        let in_windows =
            |inputs, outputs| Linear::new(self.attention.image_tokens(), inputs, outputs);
        let qkv = Linear {
            is_qkv: true,
            ..in_windows(dim, 3 * dim)
        };
        let fc1 = Linear::new(self.tokens, dim, mlp_dim);
        let fc2 = Linear {
            after_gelu: true,
            ..Linear::new(self.tokens, mlp_dim, dim)
        };
        [
            ("attn.qkv", SiteKind::Linear(qkv)),
            ("attn.qk", SiteKind::Scores(self.attention)),
            ("attn.pv", SiteKind::Context(self.attention)),
            ("attn.proj", SiteKind::Linear(in_windows(dim, dim))),
            ("mlp.fc1", SiteKind::Linear(fc1)),
            ("mlp.fc2", SiteKind::Linear(fc2)),
        ]
        .map(|(layer, kind)| Site {
            name: format!("{}.{layer}", self.name),
            kind,
        })
    }
}

/// How a block's attention is kept to windows.
pub struct Windows {
    /// The tokens, window by window, with padding where an image doesn't fill them.
    pub order: Order,
    /// What is added to the scores, `[heads, tokens, tokens]`.
    pub bias: Buffer<f32>,
    /// What else is added: `[windows, tokens, tokens]`, or `[1, tokens, tokens]` for all windows.
    pub mask: Buffer<f32>,
}

/// softmax(q kᵀ / √d) of each head, with the windows' bias and mask.
#[derive(Clone, Copy)]
pub struct Probabilities<'a> {
    attention: Attention,
    windows: Option<&'a Windows>,
    /// q kᵀ, `[images, W, H, N, N]`.
    scores: &'a Buffer<f32>,
}

impl Probabilities<'_> {
    /// `[images, W, H, N, N]` in floats.
    pub fn values(&self, commands: &mut Commands, images: usize) -> Buffer<f32> {
        match self.windows {
            None => {
                let rows = score_rows(&self.attention, images);
                let factor = factor(&self.attention);
                softmax(commands, rows, self.attention.tokens, factor, self.scores)
            }
            Some(windows) => {
                let shape = self.in_windows(windows, images);
                window_softmax(commands, &shape, self.scores, &windows.bias, &windows.mask)
            }
        }
    }

    /// Their codes, a matrix for each head of each window: the left operand of an integer product. `inverses` `[groups, 2]`
    /// are those of one scale, or of one per head.
    pub fn codes(
        &self,
        commands: &mut Commands,
        images: usize,
        format: Format,
        bits: u32,
        inverses: &Buffer<f32>,
    ) -> Buffer<u32> {
        let tokens = self.attention.tokens;
        let codes = RowCodes {
            format,
            bits,
            inverse_scales: inverses,
            matrix_rows: tokens,
            groups: inverses.len() / 2,
        };
        match self.windows {
            None => {
                let rows = score_rows(&self.attention, images);
                let factor = factor(&self.attention);
                softmax_codes(commands, rows, tokens, factor, self.scores, &codes)
            }
            Some(windows) => {
                let shape = self.in_windows(windows, images);
                let Windows { bias, mask, .. } = windows;
                window_softmax_codes(commands, &shape, self.scores, bias, mask, &codes)
            }
        }
    }

    fn in_windows(&self, windows: &Windows, images: usize) -> WindowSoftmax {
        let Attention { heads, tokens, .. } = self.attention;
        let masks = windows.mask.len() / (tokens * tokens);
        WindowSoftmax {
            images: images * self.attention.windows / masks,
            windows: masks,
            heads,
            tokens,
            factor: factor(&self.attention),
        }
    }
}

/// What the scores are multiplied by: 1/√d.
fn factor(attention: &Attention) -> f32 {
    1.0 / (attention.head_dim as f32).sqrt()
}

/// Rows of attention's scores.
fn score_rows(attention: &Attention, images: usize) -> usize {
    images * attention.image_tokens() * attention.heads
}

/// A block on a device.
pub struct Block {
    tokens: usize,
    attention: Attention,
    sites: [Site; 6],
    norm1: Norm,
    norm2: Norm,
    scale1: Option<LayerScale>,
    scale2: Option<LayerScale>,
    windows: Option<Windows>,
}

impl Block {
    /// Loads the norms and the layer scales of the block of this shape.
    ///
    /// # Errors
    /// Those of `parameters`.
    pub fn load(
        shape: &BlockShape,
        eps: f32,
        windows: Option<Windows>,
        parameters: &Parameters,
    ) -> Result<Self> {
        let norm = |layer: &str| Norm::load(parameters, &format!("{}.{layer}", shape.name), eps);
        let scale = |layer: &str| {
            let load = || LayerScale::load(parameters, &format!("{}.{layer}", shape.name));
            shape.layer_scale.then(load).transpose()
        };
        Ok(Self {
            tokens: shape.tokens,
            attention: shape.attention,
            sites: shape.sites(),
            norm1: norm("norm1")?,
            norm2: norm("norm2")?,
            scale1: scale("ls1")?,
            scale2: scale("ls2")?,
            windows,
        })
    }

    /// The tokens' order within the block's attention, where it isn't that of the image.
    fn order(&self) -> Option<&Order> {
        self.windows.as_ref().map(|windows| &windows.order)
    }
}

impl Block {
    /// Tokens of the attention, in the order of the image.
    fn in_image_order(&self, commands: &mut Commands, tokens: Buffer<f32>) -> Buffer<f32> {
        match self.order() {
            None => tokens,
            Some(order) => order.undo(commands, self.attention.dim(), &tokens),
        }
    }

    /// How attention's result joins `stream`.
    fn attention_added_to<'a>(&'a self, stream: &'a Buffer<f32>) -> Addition<'a> {
        Addition {
            stream,
            order: self.order(),
            scale: self.scale1.as_ref(),
        }
    }

    /// How the MLP's result joins `stream`.
    fn mlp_added_to<'a>(&'a self, stream: &'a Buffer<f32>) -> Addition<'a> {
        Addition {
            stream,
            order: None,
            scale: self.scale2.as_ref(),
        }
    }
}

impl Segment for Block {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn input_len(&self) -> usize {
        self.tokens * self.attention.dim()
    }

    fn forward(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        x: &Buffer<f32>,
    ) -> Buffer<f32> {
        let [qkv, scores, context, proj, fc1, fc2] = &self.sites;
        let order = self.order();
        let normed = Activation::Norm(self.norm1.of(x).in_order(order));
        let qkv = products.product(commands, qkv, images, normed, None, Then::Keep);
        let query = Activation::Output(&qkv);
        let scores = products.product(commands, scores, images, query, Some(&qkv), Then::Keep);
        let probabilities = Activation::Probabilities(Probabilities {
            attention: self.attention,
            windows: self.windows.as_ref(),
            scores: scores.values(),
        });
        let then = Then::Feed(proj);
        let context = products.product(commands, context, images, probabilities, Some(&qkv), then);
        let context = Activation::Output(&context);
        let then = Then::Add(self.attention_added_to(x));
        let x = products.product(commands, proj, images, context, None, then);
        let x = x.values();

        let normed = Activation::Norm(self.norm2.of(x));
        let hidden = products.product(commands, fc1, images, normed, None, Then::Gelu(fc2));
        let hidden = Activation::Output(&hidden);
        let then = Then::Add(self.mlp_added_to(x));
        let out = products.product(commands, fc2, images, hidden, None, then);
        out.into_values()
    }

    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let [qkv, scores, context, proj, fc1, fc2] = &self.sites;
        let dim = self.attention.dim();
        let attended = recorder.record(proj).out.clone();
        let addition = self.attention_added_to(x);
        let after_attention = addition.sum(commands, dim, attended);
        let grad_mlp = self.mlp_added_to(&after_attention);
        let grad_mlp = grad_mlp.gradient(commands, dim, grad.clone());
        let grad_gelu = recorder.backward(commands, fc2, images, grad_mlp, None, None);
        let hidden = &recorder.record(fc1).out;
        let grad_hidden = gelu_backward(commands, hidden, &grad_gelu);
        let grad_normed = recorder.backward(commands, fc1, images, grad_hidden, None, None);
        let through = self
            .norm2
            .backward(commands, &after_attention, &grad_normed);
        let grad = add(commands, &grad, &through);

        let grad_attended = addition.gradient(commands, dim, grad.clone());
        let grad_context = recorder.backward(commands, proj, images, grad_attended, None, None);
        let grad_qkv = commands.device().zeros(recorder.record(qkv).out.len());
        let grad_probabilities = recorder.backward(
            commands,
            context,
            images,
            grad_context,
            None,
            Some(&grad_qkv),
        );
        let grad_scores = softmax_backward(
            commands,
            score_rows(&self.attention, images),
            self.attention.tokens,
            factor(&self.attention),
            &recorder.record(context).a,
            &grad_probabilities,
        );
        recorder.backward(
            commands,
            scores,
            images,
            grad_scores,
            Some(&grad_qkv),
            Some(&grad_qkv),
        );
        let grad_normed = recorder.backward(commands, qkv, images, grad_qkv, None, None);
        let grad_normed = self.in_image_order(commands, grad_normed);
        let through = self.norm1.backward(commands, x, &grad_normed);
        Some(add(commands, &grad, &through))
    }
}
