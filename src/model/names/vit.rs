//! transformers' `ViTModel`, `DeiTModel` and `ViTMAEModel`.

use super::table::{FIRST_LAYER, Names};

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["vit", "deit"],
    shares_words: false,
    first_layer: FIRST_LAYER,
    telling: &[
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "layernorm.weight",
    ],
    around: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.distillation_token", "dist_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm", "norm"),
    ],
    blocks: &[("encoder.layer.*", "blocks.*"), ("layers.*", "blocks.*")],
    block: &[
        ("layernorm_before", "norm1"),
        ("attention.attention.query", "attn.q"),
        ("attention.attention.key", "attn.k"),
        ("attention.attention.value", "attn.v"),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        // transformers 5
        ("attention.q_proj", "attn.q"),
        ("attention.k_proj", "attn.k"),
        ("attention.v_proj", "attn.v"),
        ("attention.o_proj", "attn.proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    heads: &[
        ("classifier", "head"),
        ("cls_classifier", "head"),
        ("distillation_classifier", "head_dist"),
    ],
    unread: &["pooler."],
    unread_with_head: &[],
    // A masked autoencoder's.
    beside: &["decoder."],
    transposed: &[],
};
