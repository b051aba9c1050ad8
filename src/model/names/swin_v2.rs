//! transformers' `Swinv2Model`. A merging belongs to the stage before it, as in older timm.

use super::table::{FIRST_LAYER, Names};

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["swinv2"],
    shares_words: false,
    first_layer: FIRST_LAYER,
    telling: &["encoder.layers.0.blocks.0.attention.self.logit_scale"],
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
        ("attention.self.logit_scale", "attn.logit_scale"),
        (
            "attention.self.continuous_position_bias_mlp.0",
            "attn.cpb_mlp.0",
        ),
        (
            "attention.self.continuous_position_bias_mlp.2",
            "attn.cpb_mlp.2",
        ),
        (
            "attention.self.relative_coords_table",
            "attn.relative_coords_table",
        ),
        (
            "attention.self.relative_position_index",
            "attn.relative_position_index",
        ),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ],
    heads: &[("classifier", "head.fc")],
    unread: &[],
    unread_with_head: &[],
    beside: &[],
    transposed: &[],
};
