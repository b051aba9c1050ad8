//! transformers' `BeitModel` and `Data2VecVisionModel`, which are the same.

use super::table::{FIRST_LAYER, Names};

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["beit", "data2vec_vision"],
    shares_words: false,
    first_layer: FIRST_LAYER,
    telling: &["embeddings.cls_token", "pooler.layernorm.weight"],
    around: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        (
            "encoder.relative_position_bias.relative_position_bias_table",
            "rel_pos_bias.relative_position_bias_table",
        ),
        ("layernorm", "norm"),
        ("pooler.layernorm", "fc_norm"),
        // transformers 5
        (
            "shared_position_bias.relative_position_bias_table",
            "rel_pos_bias.relative_position_bias_table",
        ),
    ],
    blocks: &[("encoder.layer.*", "blocks.*"), ("layers.*", "blocks.*")],
    block: &[
        ("layernorm_before", "norm1"),
        ("attention.attention.query", "attn.q"),
        ("attention.attention.key", "attn.k"),
        ("attention.attention.value", "attn.v"),
        (
            "attention.attention.relative_position_bias.relative_position_bias_table",
            "attn.relative_position_bias_table",
        ),
        (
            "attention.attention.relative_position_bias.relative_position_index",
            "attn.relative_position_index",
        ),
        ("attention.output.dense", "attn.proj"),
        ("lambda_1", "ls1.gamma"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("lambda_2", "ls2.gamma"),
        // transformers 5
        ("attention.q_proj", "attn.q"),
        ("attention.k_proj", "attn.k"),
        ("attention.v_proj", "attn.v"),
        (
            "relative_position_bias.relative_position_bias_table",
            "attn.relative_position_bias_table",
        ),
        ("attention.o_proj", "attn.proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    heads: &[("classifier", "head")],
    unread: &[],
    unread_with_head: &[],
    beside: &[],
    transposed: &[],
};
