//! The block that ViT and Swin are made of (timm's `Block`, `SwinTransformerBlock` and `SwinTransformerV2Block`).

use crate::graph::{Arrangement, Attention, Parameter, Turns, Value, WindowBias};
use crate::model::config::Gelu;
use std::sync::Arc;

/// Describes a block.
pub struct Block {
    /// timm's name, as in `blocks.0`.
    pub name: String,
    /// Windows, heads, tokens, features.
    pub attention: Attention,
    /// The ε of both LayerNorms.
    pub eps: f32,
    /// What is between fc1 and fc2.
    pub mlp: Mlp,
    /// Whether qkv has a bias.
    pub has_qkv_bias: bool,
    /// What queries and keys are turned by, where positions are rotary.
    pub turns: Option<Turns<Parameter>>,
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

/// Describes an MLP (timm's `Mlp`, and where it is gated `GluMlp` and `SwiGLU`).
pub struct Mlp {
    /// Features that fc2 takes.
    pub hidden: usize,
    /// The form of its GELU.
    pub gelu: Gelu,
    /// Whether one half of what fc1 gives, through GELU, is multiplied by the other half.
    pub is_gated: bool,
    /// The ε of a LayerNorm before fc2, where there is one.
    pub norm_eps: Option<f32>,
}

impl Mlp {
    /// Describes fc2(gelu(fc1(x))) of the MLP called `name`, as in `blocks.0.mlp`, or where it is gated fc2(gelu(g) · h), g
    /// and h the halves of fc1(x). What fc2 takes may be normalised.
    pub fn of<'g>(&self, x: Value<'g>, name: &str) -> Value<'g> {
        let fc1 = format!("{name}.fc1");
        let hidden = match self.is_gated {
            false => x.linear(&fc1, self.hidden).gelu(self.gelu),
            true => x.linear(&fc1, 2 * self.hidden).gate(self.gelu),
        };
        let hidden = match self.norm_eps {
            None => hidden,
            Some(eps) => hidden.layer_norm(&format!("{name}.norm"), eps),
        };
        hidden.linear(&format!("{name}.fc2"), x.shape().width)
    }
}

impl Block {
    /// Describes x + attention(norm(x)), then x + mlp(norm(x)), with γ before each addition where there is a
    /// LayerScale; or, as Swin V2 has it, x + norm(attention(x)), then x + norm(mlp(x)).
    pub fn of<'g>(&self, x: Value<'g>) -> Value<'g> {
        let x = x + self.normed("norm1", x, |x| self.attended(x));
        let mlp = |x| self.mlp.of(x, &self.layer("mlp"));
        x + self.normed("norm2", x, |x| self.scaled(mlp(x), "ls2"))
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
