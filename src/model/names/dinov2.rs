//! transformers' `Dinov2Model` and `Dinov2WithRegistersModel`.

use super::table::{FIRST_LAYER, Names};

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["dinov2", "dinov2_with_registers"],
    shares_words: false,
    first_layer: FIRST_LAYER,
    telling: &["encoder.layer.0.layer_scale1.lambda1"],
    around: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.register_tokens", "register_tokens"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm", "norm"),
    ],
    blocks: &[("encoder.layer.*", "blocks.*")],
    block: &[
        ("norm1", "norm1"),
        ("attention.attention.query", "attn.q"),
        ("attention.attention.key", "attn.k"),
        ("attention.attention.value", "attn.v"),
        ("attention.output.dense", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        ("mlp.weights_in", "mlp.fc1"),
        ("mlp.weights_out", "mlp.fc2"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        // transformers 5
        ("attention.q_proj", "attn.q"),
        ("attention.k_proj", "attn.k"),
        ("attention.v_proj", "attn.v"),
        ("attention.o_proj", "attn.proj"),
        ("mlp.gate_proj", "mlp.fc1_g"),
        ("mlp.up_proj", "mlp.fc1_x"),
        ("mlp.down_proj", "mlp.fc2"),
    ],
    heads: &[("classifier", "head")],
    unread: &[],
    unread_with_head: &[],
    beside: &[],
    transposed: &[],
};
