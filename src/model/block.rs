//! The block that ViT and Swin are made of: x + attention(norm(x)), then x + mlp(norm(x)).
//!
//! A ViT's attention sees all tokens of an image at once. Swin's sees one window of them at a time: its block brings the
//! tokens into the order of the windows before qkv and back after proj, and adds a bias to the scores.

use super::network::{Parameters, Segment};
use super::norm::Norm;
use super::products::{Products, Recorder};
use super::site::{Attention, Linear, Site, SiteKind};
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::kernels::{
    WindowSoftmax, add, gelu, gelu_backward, permute_tokens, softmax, softmax_backward,
    window_softmax,
};

/// The sites of a block, in the order of the forward pass.
const QKV: usize = 0;
const SCORES: usize = 1;
const CONTEXT: usize = 2;
const PROJ: usize = 3;
const FC1: usize = 4;
const FC2: usize = 5;

/// A block's name and sizes.
pub struct BlockShape {
    /// timm's name, as in `blocks.0`.
    pub name: String,
    /// Windows, heads, tokens, features.
    pub attention: Attention,
    /// Hidden features of the MLP.
    pub mlp_dim: usize,
}

impl BlockShape {
    /// The block's matrix products.
    pub fn sites(&self) -> Vec<Site> {
        let (dim, mlp_dim) = (self.attention.dim(), self.mlp_dim);
        let linear = |inputs, outputs| Linear::new(self.attention.image_tokens(), inputs, outputs);
        let qkv = Linear {
            weight_groups: 3,
            ..linear(dim, 3 * dim)
        };
        let fc2 = Linear {
            after_gelu: true,
            ..linear(mlp_dim, dim)
        };
        [
            ("attn.qkv", SiteKind::Linear(qkv)),
            ("attn.qk", SiteKind::Scores(self.attention)),
            ("attn.pv", SiteKind::Context(self.attention)),
            ("attn.proj", SiteKind::Linear(linear(dim, dim))),
            ("mlp.fc1", SiteKind::Linear(linear(dim, mlp_dim))),
            ("mlp.fc2", SiteKind::Linear(fc2)),
        ]
        .map(|(layer, kind)| Site {
            name: format!("{}.{layer}", self.name),
            kind,
        })
        .into()
    }
}

/// How a block's attention is kept to windows.
pub struct Windows {
    /// Per token in the order of the windows, which token of the image it is.
    pub order: Buffer<u32>,
    /// Per token of the image, where the windows have it.
    pub inverse: Buffer<u32>,
    /// What is added to the scores, `[heads, tokens, tokens]`.
    pub bias: Buffer<f32>,
    /// What else is added: `[windows, tokens, tokens]`, or `[1, tokens, tokens]` for all windows.
    pub mask: Buffer<f32>,
}

/// A block on a device.
pub struct Block {
    attention: Attention,
    sites: Vec<Site>,
    norm1: Norm,
    norm2: Norm,
    windows: Option<Windows>,
}

impl Block {
    /// Loads the norms of the block of this shape.
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
        Ok(Self {
            attention: shape.attention,
            sites: shape.sites(),
            norm1: norm("norm1")?,
            norm2: norm("norm2")?,
            windows,
        })
    }

    /// What the scores are multiplied by: 1/√d.
    fn factor(&self) -> f32 {
        1.0 / (self.attention.head_dim as f32).sqrt()
    }

    /// Rows of attention's scores.
    fn score_rows(&self, images: usize) -> usize {
        images * self.attention.image_tokens() * self.attention.heads
    }

    /// softmax(q kᵀ / √d), with the windows' bias and mask.
    fn probabilities(&self, device: &Device, images: usize, scores: &Buffer<f32>) -> Buffer<f32> {
        let Attention {
            windows,
            heads,
            tokens,
            ..
        } = self.attention;
        match &self.windows {
            None => softmax(
                device,
                self.score_rows(images),
                tokens,
                self.factor(),
                scores,
            ),
            Some(Windows { bias, mask, .. }) => {
                let masks = mask.len() / (tokens * tokens);
                let shape = WindowSoftmax {
                    images: images * windows / masks,
                    windows: masks,
                    heads,
                    tokens,
                    factor: self.factor(),
                };
                window_softmax(device, &shape, scores, bias, mask)
            }
        }
    }

    /// Tokens from the order of the image to that of the windows.
    fn to_windows(&self, device: &Device, tokens: Buffer<f32>) -> Buffer<f32> {
        match &self.windows {
            None => tokens,
            Some(windows) => permute_tokens(device, self.attention.dim(), &windows.order, &tokens),
        }
    }

    /// Tokens from the order of the windows to that of the image.
    fn to_image(&self, device: &Device, tokens: Buffer<f32>) -> Buffer<f32> {
        match &self.windows {
            None => tokens,
            Some(windows) => {
                permute_tokens(device, self.attention.dim(), &windows.inverse, &tokens)
            }
        }
    }
}

impl Segment for Block {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn input_len(&self) -> usize {
        self.attention.image_tokens() * self.attention.dim()
    }

    fn forward(
        &self,
        device: &Device,
        products: &mut dyn Products,
        images: usize,
        x: &Buffer<f32>,
    ) -> Buffer<f32> {
        let sites = &self.sites;
        let normed = self.to_windows(device, self.norm1.forward(device, x));
        let qkv = products.product(&sites[QKV], images, &normed, None);
        let scores = products.product(&sites[SCORES], images, &qkv, Some(&qkv));
        let probabilities = self.probabilities(device, images, &scores);
        let context = products.product(&sites[CONTEXT], images, &probabilities, Some(&qkv));
        let attended = products.product(&sites[PROJ], images, &context, None);
        let x = add(device, x, &self.to_image(device, attended));

        let normed = self.norm2.forward(device, &x);
        let hidden = products.product(&sites[FC1], images, &normed, None);
        let hidden = gelu(device, &hidden);
        let mlp = products.product(&sites[FC2], images, &hidden, None);
        add(device, &x, &mlp)
    }

    fn backward(
        &self,
        device: &Device,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let sites = &self.sites;
        let attended = recorder.record(&sites[PROJ]).out.clone();
        let after_attention = add(device, x, &self.to_image(device, attended));
        let grad_gelu = recorder.backward(&sites[FC2], images, grad.clone(), None, None);
        let hidden = &recorder.record(&sites[FC1]).out;
        let grad_hidden = gelu_backward(device, hidden, &grad_gelu);
        let grad_normed = recorder.backward(&sites[FC1], images, grad_hidden, None, None);
        let through = self.norm2.backward(device, &after_attention, &grad_normed);
        let grad = add(device, &grad, &through);

        let grad_attended = self.to_windows(device, grad.clone());
        let grad_context = recorder.backward(&sites[PROJ], images, grad_attended, None, None);
        let grad_qkv = device.zeros(recorder.record(&sites[QKV]).out.len());
        let grad_probabilities =
            recorder.backward(&sites[CONTEXT], images, grad_context, None, Some(&grad_qkv));
        let grad_scores = softmax_backward(
            device,
            self.score_rows(images),
            self.attention.tokens,
            self.factor(),
            &recorder.record(&sites[CONTEXT]).a,
            &grad_probabilities,
        );
        recorder.backward(
            &sites[SCORES],
            images,
            grad_scores,
            Some(&grad_qkv),
            Some(&grad_qkv),
        );
        let grad_normed = recorder.backward(&sites[QKV], images, grad_qkv, None, None);
        let grad_normed = self.to_image(device, grad_normed);
        let through = self.norm1.backward(device, x, &grad_normed);
        Some(add(device, &grad, &through))
    }
}
