//! transformers' `SwinModel`. A merging belongs to the stage before it, as in older timm.

use super::table::{FIRST_LAYER, Names};

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["swin"],
    shares_words: false,
    first_layer: FIRST_LAYER,
    telling: &["embeddings.norm.weight", "layernorm.weight"],
    around: &[
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("embeddings.norm", "patch_embed.norm"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.position_embeddings", "absolute_pos_embed"),
        (
            "encoder.layers.*.downsample.norm",
            "layers.*.downsample.norm",
        ),
        (
            "encoder.layers.*.downsample.reduction",
            "layers.*.downsample.reduction",
        ),
        ("layernorm", "norm"),
    ],
    blocks: &[("encoder.layers.*.blocks.*", "layers.*.blocks.*")],
    block: &[
        ("layernorm_before", "norm1"),
        ("attention.self.query", "attn.q"),
        ("attention.self.key", "attn.k"),
        ("attention.self.value", "attn.v"),
        (
            "attention.self.relative_position_bias_table",
            "attn.relative_position_bias_table",
        ),
        (
            "attention.self.relative_position_index",
            "attn.relative_position_index",
        ),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        // transformers 5
        ("attention.q_proj", "attn.q"),
        ("attention.k_proj", "attn.k"),
        ("attention.v_proj", "attn.v"),
        (
            "attention.relative_position_bias.relative_position_bias_table",
            "attn.relative_position_bias_table",
        ),
        (
            "attention.relative_position_bias.relative_position_index",
            "attn.relative_position_index",
        ),
        ("attention.o_proj", "attn.proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    heads: &[("classifier", "head.fc")],
    unread: &[],
    unread_with_head: &[],
    beside: &[],
    transposed: &[],
};
