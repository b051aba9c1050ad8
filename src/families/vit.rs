//! ViT, DeiT and CLIP's image tower: timm's `VisionTransformer` with a class token and learned positions, with LayerScale,
//! register tokens and a norm before the blocks or without, and `VisionTransformerDistilled`. Their heads read the class
//! token, or the mean of the patches.

use super::block::Block;
use crate::graph::{Arrangement, Attention, Graph, Parameter, PatchGrid, Shape, Value};
use crate::model::config::{CHANNELS, GlobalPool, VitConfig};
use std::sync::Arc;

/// Describes the patch embedding, the blocks, the head. What is pooled for a head that there isn't is the last block's
/// part: every graph has products.
pub fn graphs(config: &VitConfig) -> Vec<Graph> {
    let pixels = Shape {
        rows: CHANNELS * config.image_size,
        width: config.image_size,
    };
    let tokens = Shape {
        rows: config.tokens(),
        width: config.dim,
    };
    let mut graphs = vec![Graph::of(pixels, |pixels| embedding(config, pixels))];
    graphs.extend((0..config.depth).map(|number| {
        let block = Block {
            name: format!("blocks.{number}"),
            attention: Attention {
                windows: 1,
                heads: config.heads,
                tokens: config.tokens(),
                head_dim: config.head_dim(),
            },
            mlp_dim: config.mlp_dim,
            eps: config.layer_norm_eps,
            gelu: config.act_layer,
            has_layer_scale: config.layer_scale,
        };
        let is_last = number + 1 == config.depth;
        Graph::of(tokens, |x| match block.of(x, None) {
            x if is_last && config.head_outputs() == 0 => features(config, x),
            x => x,
        })
    }));
    if config.head_outputs() > 0 {
        graphs.push(Graph::of(tokens, |x| head(config, x)));
    }
    graphs
}

/// Describes the patches' embeddings after the class token (and the distillation token), with positions; normalised before
/// the blocks where CLIP does that.
fn embedding<'g>(config: &VitConfig, pixels: Value<'g>) -> Value<'g> {
    let mut prefix = Parameter::tensor("cls_token");
    if config.distilled {
        prefix = prefix.then(Parameter::tensor("dist_token"));
    }
    if config.reg_tokens > 0 {
        prefix = prefix.then(Parameter::tensor("reg_token"));
    }
    // Tokens without a position of their own have zeros for it.
    let unembedded = (config.prefix() - config.embedded_prefix()) * config.dim;
    let positions =
        Parameter::constant(move || vec![0.0; unembedded]).then(Parameter::tensor("pos_embed"));
    let grid = PatchGrid {
        channels: CHANNELS,
        image_size: config.image_size,
        patch_size: config.patch_size,
    };
    let (patches, layer) = (pixels.patches(grid), "patch_embed.proj");
    match config.pre_norm {
        false => patches
            .linear(layer, config.dim)
            .embed(prefix, config.prefix(), positions),
        true => patches
            .linear_without_bias(layer, config.dim)
            .embed(prefix, config.prefix(), positions)
            .layer_norm("norm_pre", config.layer_norm_eps),
    }
}

/// Describes the logits of what is pooled, or its projection; of a distilled network the average of both tokens' logits, as
/// timm evaluates it.
fn head<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    match config.distilled {
        false if config.projection > 0 => {
            pooled(config, x).linear_without_bias("head", config.projection)
        }
        false => pooled(config, x).linear("head", config.classes),
        true => {
            let logits = |token, head| normed(config, x, token).linear(head, config.classes);
            logits(0, "head").average(logits(1, "head_dist"))
        }
    }
}

/// Describes what a network without a classifier answers.
fn features<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    match config.distilled {
        false => pooled(config, x),
        true => normed(config, x, 0).average(normed(config, x, 1)),
    }
}

/// Describes what is made of the tokens for a head: normalised before they are pooled, or after.
fn pooled<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    let pool = |x: Value<'g>| match config.global_pool {
        GlobalPool::Token => x.token(0),
        GlobalPool::Avg => mean_of_patches(config, x),
        GlobalPool::TokenAvg => x.token(0).beside(mean_of_patches(config, x)),
    };
    match (config.fc_norm, config.global_pool) {
        (true, _) => pool(x).layer_norm("fc_norm", config.layer_norm_eps),
        (false, GlobalPool::Token) => normed(config, x, 0),
        (false, _) => pool(x.layer_norm("norm", config.layer_norm_eps)),
    }
}

/// Describes one token, normalised. No other is read, so no other is normalised.
fn normed<'g>(config: &VitConfig, x: Value<'g>, token: usize) -> Value<'g> {
    x.token(token).layer_norm("norm", config.layer_norm_eps)
}

/// Describes the mean of the patches alone.
fn mean_of_patches<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    let patches = Arrangement {
        tokens: config.tokens(),
        from: (config.prefix()..config.tokens()).map(Some).collect(),
    };
    x.arrange(&Arc::new(patches)).mean()
}
