//! transformers' `CLIPVisionModel`, alone or within a `CLIPModel`.

use super::table::Names;

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["vision_model"],
    shares_words: true,
    first_layer: "embeddings.patch_embedding.weight",
    // Spelled so.
    telling: &["pre_layrnorm.weight"],
    around: &[
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("pre_layrnorm", "norm_pre"),
        ("post_layernorm", "norm"),
    ],
    blocks: &[("encoder.layers.*", "blocks.*")],
    block: &[
        ("layer_norm1", "norm1"),
        ("self_attn.q_proj", "attn.q"),
        ("self_attn.k_proj", "attn.k"),
        ("self_attn.v_proj", "attn.v"),
        ("self_attn.out_proj", "attn.proj"),
        ("layer_norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    heads: &[("visual_projection", "head")],
    unread: &["embeddings.position_ids"],
    unread_with_head: &[],
    beside: &["text_model.", "text_projection.", "logit_scale"],
    transposed: &[],
};
