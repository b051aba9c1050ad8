//! The image towers of OpenAI's and OpenCLIP's models, alone or with the text's beside them.

use super::table::Names;

pub const NAMES: Names = Names {
    origin: "OpenCLIP",
    networks: &["visual"],
    shares_words: true,
    first_layer: "conv1.weight",
    telling: &["class_embedding"],
    around: &[
        ("class_embedding", "cls_token"),
        ("positional_embedding", "pos_embed"),
        ("conv1", "patch_embed.proj"),
        ("ln_pre", "norm_pre"),
        ("ln_post", "norm"),
        ("proj", "head.weight"),
    ],
    blocks: &[("transformer.resblocks.*", "blocks.*")],
    block: &[
        ("ln_1", "norm1"),
        ("attn.in_proj_weight", "attn.qkv.weight"),
        ("attn.in_proj_bias", "attn.qkv.bias"),
        ("attn.out_proj", "attn.proj"),
        ("ln_2", "norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ],
    heads: &[],
    unread: &[],
    unread_with_head: &[],
    beside: TEXT,
    transposed: &["head.weight"],
};

/// A tower that is timm's network, with its names.
pub const TRUNK: Names = Names {
    origin: "OpenCLIP",
    networks: &["visual"],
    shares_words: false,
    first_layer: "trunk.patch_embed.proj.weight",
    telling: &[],
    around: &[],
    blocks: &[],
    block: &[],
    heads: &[],
    unread: &[],
    unread_with_head: &[],
    beside: TEXT,
    transposed: &[],
};

const TEXT: &[&str] = &[
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "text.",
    "logit_scale",
    "logit_bias",
];
