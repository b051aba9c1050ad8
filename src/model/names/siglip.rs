//! transformers' `SiglipVisionModel`, alone or within a `SiglipModel` or a `SiglipForImageClassification`.

use super::table::Names;

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &["vision_model"],
    shares_words: true,
    first_layer: "embeddings.patch_embedding.weight",
    telling: &["head.probe"],
    around: &[
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("post_layernorm", "norm"),
        ("head.probe", "attn_pool.latent"),
        ("head.attention.in_proj_weight", "attn_pool.qkv.weight"),
        ("head.attention.in_proj_bias", "attn_pool.qkv.bias"),
        ("head.attention.out_proj", "attn_pool.proj"),
        ("head.layernorm", "attn_pool.norm"),
        ("head.mlp.fc1", "attn_pool.mlp.fc1"),
        ("head.mlp.fc2", "attn_pool.mlp.fc2"),
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
    heads: &[("classifier", "head")],
    unread: &["embeddings.position_ids"],
    // Its classifier reads the mean of the patches.
    unread_with_head: &["head."],
    beside: &["text_model.", "logit_scale", "logit_bias"],
    transposed: &[],
};
