//! transformers' `DINOv3ViTModel`.

use super::table::Names;

pub const NAMES: Names = Names {
    origin: "transformers",
    networks: &[],
    shares_words: false,
    first_layer: "embeddings.patch_embeddings.weight",
    telling: &["embeddings.register_tokens"],
    around: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.register_tokens", "reg_token"),
        ("embeddings.patch_embeddings", "patch_embed.proj"),
        ("norm", "norm"),
    ],
    blocks: &[("layer.*", "blocks.*"), ("model.layer.*", "blocks.*")],
    block: &[
        ("norm1", "norm1"),
        ("attention.q_proj", "attn.q"),
        ("attention.k_proj", "attn.k"),
        ("attention.v_proj", "attn.v"),
        ("attention.o_proj", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("norm2", "norm2"),
        ("mlp.gate_proj", "mlp.fc1_g"),
        ("mlp.up_proj", "mlp.fc1"),
        ("mlp.down_proj", "mlp.fc2"),
        ("layer_scale2.lambda1", "ls2.gamma"),
    ],
    heads: &[],
    unread: &[],
    unread_with_head: &[],
    beside: &[],
    transposed: &[],
};
