//! transformers' `Swinv2Model`: `SwinModel`'s names but for those of its attention.

use super::swin;
use super::table::Names;

pub const NAMES: Names = Names {
    networks: &["swinv2"],
    telling: &["encoder.layers.0.blocks.0.attention.self.logit_scale"],
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
    ..swin::NAMES
};
