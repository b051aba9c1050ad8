//! The block that ViT and Swin are made of (timm's `Block`, `SwinTransformerBlock` and `SwinTransformerV2Block`).

use crate::graph::{Arrangement, Attention, Parameter, Value, WindowBias};
use crate::model::config::Gelu;
use std::sync::Arc;

/// Describes a block.
pub struct Block {
    /// timm's name, as in `blocks.0`.
    pub name: String,
    /// Windows, heads, tokens, features.
    pub attention: Attention,
    /// Hidden features of the MLP.
    pub mlp_dim: usize,
    /// The ε of both LayerNorms.
    pub eps: f32,
    /// The form of the MLP's GELU.
    pub gelu: Gelu,
    /// Whether qkv has a bias.
    pub has_qkv_bias: bool,
    /// What queries and keys are turned by, where positions are rotary.
    pub turns: Option<Parameter>,
    /// What each head's cosines of queries and keys are multiplied by, where these are the scores.
    pub cosine_scales: Option<Parameter>,
    /// What is added to the scores, where positions are relative.
    pub bias: Option<WindowBias<Parameter>>,
    /// The tokens, window by window, with padding where an image doesn't fill the windows; where attention keeps to them.
    pub windows: Option<Arc<Arrangement>>,
    /// Whether there is a LayerScale before each of the two additions.
    pub has_layer_scale: bool,
    /// Whether the LayerNorms come after attention and MLP, before the additions.
    pub has_post_norms: bool,
}

/// Describes fc2(gelu(fc1(x))) of the MLP called `name`, as in `blocks.0.mlp`, with so many hidden features.
pub fn mlp<'g>(x: Value<'g>, name: &str, hidden: usize, gelu: Gelu) -> Value<'g> {
    let activated = x.linear(&format!("{name}.fc1"), hidden).gelu(gelu);
    activated.linear(&format!("{name}.fc2"), x.shape().width)
}

impl Block {
    /// Describes x + attention(norm(x)), then x + mlp(norm(x)), with γ before each addition where there is a
    /// LayerScale; or, as Swin V2 has it, x + norm(attention(x)), then x + norm(mlp(x)).
    pub fn of<'g>(&self, x: Value<'g>) -> Value<'g> {
        let x = x + self.normed("norm1", x, |x| self.attended(x));
        let hidden = |x| mlp(x, &self.layer("mlp"), self.mlp_dim, self.gelu);
        x + self.normed("norm2", x, |x| self.scaled(hidden(x), "ls2"))
    }

    /// Describes a part of the block and its norm.
    fn normed<'g>(
        &self,
        norm: &str,
        x: Value<'g>,
        part: impl Fn(Value<'g>) -> Value<'g>,
    ) -> Value<'g> {
        let norm = self.layer(norm);
        match self.has_post_norms {
            false => part(x.layer_norm(&norm, self.eps)),
            true => part(x).layer_norm(&norm, self.eps),
        }
    }

    /// Describes attention: a ViT's sees all tokens of an image at once, Swin's one window of them at a time.
    fn attended<'g>(&self, x: Value<'g>) -> Value<'g> {
        match &self.windows {
            None => self.scaled(self.attention(x), "ls1"),
            Some(order) => {
                // Padding is in the windows only. What qkv makes of it, the biases, is attended to and belongs to the
                // range of q, k and v, as in timm's tensors.
                let attended = self.attention(x.arrange(order));
                self.scaled(attended, "ls1").restore(order)
            }
        }
    }

    /// Describes proj(softmax(q kᵀ / √d + bias) v) of each head.
    fn attention<'g>(&self, x: Value<'g>) -> Value<'g> {
        let (attention, dim) = (self.attention, x.shape().width);
        let layer = self.layer("attn.qkv");
        let qkv = match self.has_qkv_bias {
            true => x.linear(&layer, 3 * dim),
            false => x.linear_without_bias(&layer, 3 * dim),
        };
        let qkv = match &self.turns {
            None => qkv,
            Some(turns) => qkv.rotary(attention, turns.clone()),
        };
        let qkv = match &self.cosine_scales {
            None => qkv,
            Some(scales) => qkv.cosine(attention, scales.clone()),
        };
        let scores = qkv.scores(self.layer("attn.qk"), attention, qkv);
        let probabilities = scores.softmax(attention, self.bias.clone());
        let context = probabilities.context(self.layer("attn.pv"), attention, qkv);
        context.linear(&self.layer("attn.proj"), dim)
    }

    fn scaled<'g>(&self, x: Value<'g>, scale: &str) -> Value<'g> {
        match self.has_layer_scale {
            true => x.layer_scale(&self.layer(scale)),
            false => x,
        }
    }

    fn layer(&self, layer: &str) -> String {
        format!("{}.{layer}", self.name)
    }
}
