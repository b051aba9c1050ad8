//! transformers' `Dinov2Config` and `Dinov2WithRegistersConfig`.

use super::fields::Fields;
use crate::model::config::{Architecture, Gelu, GlobalPool, VitConfig, scaled};

/// Reads the network of `Dinov2Model`, which answers with the class token's features.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(sizes(fields)?))
}

/// Reads the network of `Dinov2ForImageClassification`, whose head reads the class token and the mean of the patches.
pub fn of_classes(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(with_head(sizes(fields)?)))
}

/// Reads the network of `Dinov2WithRegistersModel`.
pub fn of_features_with_registers(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(with_registers(fields)?))
}

/// Reads the network of `Dinov2WithRegistersForImageClassification`.
pub fn of_classes_with_registers(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(with_head(with_registers(fields)?)))
}

fn with_head(sizes: VitConfig) -> VitConfig {
    VitConfig {
        // The tensors tell it.
        classes: 1,
        global_pool: GlobalPool::TokenAvg,
        ..sizes
    }
}

/// Adds the register tokens. Like them, the class token has no position left once the file is read.
fn with_registers(fields: &Fields) -> Result<VitConfig, String> {
    Ok(VitConfig {
        reg_tokens: fields.number("num_register_tokens")?.unwrap_or(4),
        no_embed_class: true,
        ..sizes(fields)?
    })
}

fn sizes(fields: &Fields) -> Result<VitConfig, String> {
    let dim = fields.number("hidden_size")?.unwrap_or(768);
    let hidden = scaled(dim, fields.fraction("mlp_ratio")?.unwrap_or(4.0));
    let gated_mlp = fields.truth("use_swiglu_ffn")?.unwrap_or(false);
    Ok(VitConfig {
        image_size: fields.image_size()?.unwrap_or(224.into()),
        patch_size: fields.side("patch_size")?.unwrap_or(14),
        in_chans: fields.in_chans()?,
        dim,
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads: fields.number("num_attention_heads")?.unwrap_or(12),
        mlp_dim: match gated_mlp {
            false => hidden,
            // As many weights as without a gate, so two thirds of the features, and of these a multiple of eight.
            true => scaled(hidden, 2.0 / 3.0).div_ceil(8).saturating_mul(8),
        },
        gated_mlp,
        classes: 0,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(1e-6) as f32,
        layer_scale: true,
        act_layer: match gated_mlp {
            false => fields.gelu()?.unwrap_or_default(),
            // Whatever `hidden_act` says.
            true => Gelu::Silu,
        },
        qkv_bias: fields.truth("qkv_bias")?.unwrap_or(true),
        ..VitConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipe_named;
    use serde_json::json;

    #[test]
    fn what_is_not_told_is_as_in_dinov2_base() {
        for (read, name) in [
            (of_features as fn(&Fields) -> _, "vit_base_patch14_dinov2"),
            (of_features_with_registers, "vit_base_patch14_reg4_dinov2"),
        ] {
            let timms = &recipe_named(name).unwrap().architecture;
            let told = json!({"image_size": 518, "mlp_ratio": null});
            let found: Result<_, String> = read(&Fields::of(told.as_object().unwrap()));
            assert_eq!(found, Ok(timms.clone()));
        }
    }

    #[test]
    fn a_gated_mlp_has_two_thirds_of_the_features() {
        let timms = &recipe_named("vit_giant_patch14_dinov2").unwrap();
        let told = json!({"image_size": 518, "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24,
            "hidden_act": "gelu", "use_swiglu_ffn": true});
        let found: Result<_, String> = of_features(&Fields::of(told.as_object().unwrap()));
        assert_eq!(found.as_ref(), Ok(&timms.architecture));
    }
}
