//! ViT and DeiT: timm's `VisionTransformer` with a class token and learned positions, with LayerScale and register tokens or
//! without, and `VisionTransformerDistilled`.

use super::block::Block;
use crate::graph::{Attention, Graph, Parameter, PatchGrid, Shape, Value};
use crate::model::config::{CHANNELS, VitConfig};

/// Describes the patch embedding, the blocks, the head.
pub fn graphs(config: &VitConfig) -> Vec<Graph> {
    let pixels = Shape {
        rows: CHANNELS * config.image_size,
        width: config.image_size,
    };
    let tokens = Shape {
        rows: config.tokens(),
        width: config.dim,
    };
    let blocks = (0..config.depth).map(|block| {
        let block = Block {
            name: format!("blocks.{block}"),
            attention: Attention {
                windows: 1,
                heads: config.heads,
                tokens: config.tokens(),
                head_dim: config.head_dim(),
            },
            mlp_dim: config.mlp_dim,
            eps: config.layer_norm_eps,
            has_layer_scale: config.layer_scale,
        };
        Graph::of(tokens, |x| block.of(x, None))
    });
    std::iter::once(Graph::of(pixels, |pixels| embedding(config, pixels)))
        .chain(blocks)
        .chain([Graph::of(tokens, |x| head(config, x))])
        .collect()
}

/// Describes the patches' embeddings after the class token (and the distillation token), with positions.
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
    let patches = pixels.patches(grid).linear("patch_embed.proj", config.dim);
    patches.embed(prefix, config.prefix(), positions)
}

/// Describes the class token's logits; of a distilled network their average with the distillation token's, as timm
/// evaluates it.
fn head<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    // The heads look at no other token, so no other is normalised.
    let logits = |token, head| {
        let normed = x.token(token).layer_norm("norm", config.layer_norm_eps);
        normed.linear(head, config.classes)
    };
    match config.distilled {
        false => logits(0, "head"),
        true => logits(0, "head").average(logits(1, "head_dist")),
    }
}
