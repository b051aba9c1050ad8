//! ViT, DeiT, DINOv2 and the image towers of CLIP and SigLIP: timm's `VisionTransformer` with learned positions, with a
//! class token, LayerScale, register tokens and a norm before the blocks or without, and `VisionTransformerDistilled`;
//! DINOv3 and EVA-02, which are timm's `Eva` with rotary positions; BEiT, timm's `Beit`, with relative ones. Their heads
//! read the class token, the mean of the patches, or what
//! attention makes of these.

use super::attention_pool::attention_pool;
use super::block::{Block, Mlp};
use super::relative_positions::bias;
use super::rotary::{of_dinov3, of_eva02};
use crate::graph::{
    Arrangement, Attention, Graph, Parameter, PatchGrid, Shape, Turns, Value, WindowBias,
};
use crate::model::config::{GlobalPool, VitConfig};
use std::sync::Arc;

/// Describes the patch embedding, the blocks, the head. What is pooled without products for a head that there isn't is the
/// last block's part: every graph has products.
pub fn graphs(config: &VitConfig) -> Vec<Graph> {
    let pixels = Shape {
        rows: config.in_chans * config.image_size.height,
        width: config.image_size.width,
    };
    let tokens = Shape {
        rows: config.tokens(),
        width: config.dim,
    };
    let has_products = config.head_outputs() > 0 || config.global_pool == GlobalPool::Map;
    let mut graphs = vec![Graph::of(pixels, |pixels| embedding(config, pixels))];
    graphs.extend((0..config.depth).map(|number| {
        let name = format!("blocks.{number}");
        let block = Block {
            attention: Attention {
                windows: 1,
                heads: config.heads,
                tokens: config.tokens(),
                head_dim: config.head_dim(),
                is_pooling: false,
            },
            eps: config.layer_norm_eps,
            mlp: Mlp {
                hidden: config.mlp_dim,
                gelu: config.act_layer,
                is_gated: config.gated_mlp,
                norm_eps: config.scale_mlp.then_some(config.layer_norm_eps),
            },
            has_qkv_bias: config.qkv_bias,
            turns: turns(config),
            bias: config
                .rel_pos_bias
                .then(|| relative_positions(config, &name)),
            cosine_scales: None,
            windows: None,
            has_layer_scale: config.layer_scale,
            has_post_norms: config.post_norm,
            name,
        };
        let is_last = number + 1 == config.depth;
        Graph::of(tokens, |x| match block.of(x) {
            x if is_last && !has_products => answer(config, x),
            x => x,
        })
    }));
    if has_products {
        graphs.push(Graph::of(tokens, |x| answer(config, x)));
    }
    graphs
}

/// Describes what relative positions add to the scores of a block: all tokens are one window, and nothing keeps them apart.
fn relative_positions(config: &VitConfig, block: &str) -> WindowBias<Parameter> {
    let (grid, class_tokens, scores) = (config.grid(), config.prefix(), config.tokens().pow(2));
    WindowBias {
        bias: bias(block, grid, class_tokens, config.heads),
        mask: Parameter::constant(move || vec![0.0; scores]),
    }
}

/// Describes what queries and keys are turned by: where patches lie, instead of learned positions, or besides them.
fn turns(config: &VitConfig) -> Option<Turns<Parameter>> {
    let (grid, head_dim) = (config.grid(), config.head_dim());
    match (config.rotary, config.ref_feat_shape) {
        (true, _) => Some(of_dinov3(grid, head_dim)),
        (false, 0) => None,
        (false, trained) => Some(of_eva02(grid, trained, head_dim)),
    }
}

/// Describes the patches' embeddings after the tokens that come before them, with positions; normalised before the blocks
/// where CLIP does that.
fn embedding<'g>(config: &VitConfig, pixels: Value<'g>) -> Value<'g> {
    let prefix = [
        ("cls_token", config.class_token),
        ("dist_token", config.distilled),
        ("reg_token", config.reg_tokens > 0),
    ];
    let prefix = prefix.into_iter().filter(|(_, is_there)| *is_there);
    let prefix = prefix.fold(Parameter::none(), |before, (name, _)| {
        before.then(Parameter::tensor(name))
    });
    // Tokens without a position of their own have zeros for it.
    let zeros = |tokens: usize| {
        let values = tokens * config.dim;
        Parameter::constant(move || vec![0.0; values])
    };
    let positions = match config.has_pos_embed() {
        false => zeros(config.tokens()),
        true => {
            zeros(config.prefix() - config.embedded_prefix()).then(Parameter::tensor("pos_embed"))
        }
    };
    let grid = PatchGrid {
        channels: config.in_chans,
        image_size: config.image_size.into(),
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

/// Describes the logits of what is pooled, its projection, or where there is no head what is pooled itself; of a distilled
/// network the average of both tokens', as timm evaluates it.
fn answer<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    let head = |pooled: Value<'g>, name| match (config.classes, config.projection) {
        (0, 0) => pooled,
        (0, features) => pooled.linear_without_bias(name, features),
        (classes, _) => pooled.linear(name, classes),
    };
    match config.distilled && config.global_pool == GlobalPool::Token {
        false => head(pooled(config, x), "head"),
        true => {
            let of = |token, name| head(normed(config, x, token), name);
            of(0, "head").average(of(1, "head_dist"))
        }
    }
}

/// Describes what is made of the tokens for a head: normalised before they are pooled, or after.
fn pooled<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    let pool = |x: Value<'g>| match config.global_pool {
        GlobalPool::Token => x.token(0),
        GlobalPool::Avg => patches(config, x).mean(),
        GlobalPool::TokenAvg => x.token(0).beside(patches(config, x).mean()),
        GlobalPool::Map => attention_pool(config, patches(config, x)),
        GlobalPool::Unpooled => x,
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

/// Describes the patches without the tokens before them.
fn patches<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    if config.prefix() == 0 {
        return x;
    }
    let patches = Arrangement {
        tokens: config.tokens(),
        from: (config.prefix()..config.tokens()).map(Some).collect(),
    };
    x.arrange(&Arc::new(patches))
}
