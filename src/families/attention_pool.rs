//! The pooling of SigLIP's image tower (timm's `AttentionPoolLatent`).

use super::block::Mlp;
use crate::graph::{Attention, Parameter, Shape, Value};
use crate::model::config::VitConfig;

/// Describes x + mlp(norm(x)) of x = proj(softmax(q kᵀ / √d) v), where k and v are of the tokens in `x`, and q, the same for
/// every image, is no product at all: checkpoints are opened with it in the place of timm's latent, which it is projected
/// from.
pub fn attention_pool<'g>(config: &VitConfig, x: Value<'g>) -> Value<'g> {
    let Shape { rows, width } = x.shape();
    let attention = Attention {
        windows: 1,
        heads: config.heads,
        tokens: rows,
        head_dim: config.head_dim(),
        is_pooling: true,
    };
    let layer = |name: &str| format!("attn_pool.{name}");
    let kv = x.linear(&layer("kv"), 2 * width);
    let query = x.constant(Parameter::tensor(layer("latent")), Shape { rows: 1, width });
    let probabilities = query
        .scores(layer("qk"), attention, kv)
        .softmax(attention, None);
    let context = probabilities.context(layer("pv"), attention, kv);
    let pooled = context.linear(&layer("proj"), width);
    let normed = pooled.layer_norm(&layer("norm"), config.layer_norm_eps);
    let mlp = Mlp {
        hidden: config.mlp_dim,
        gelu: config.act_layer,
        is_gated: false,
        norm_eps: None,
    };
    pooled + mlp.of(normed, &layer("mlp"))
}
