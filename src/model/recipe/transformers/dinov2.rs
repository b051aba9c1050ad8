//! transformers' `Dinov2Config` and `Dinov2WithRegistersConfig`.

use super::fields::Fields;
use crate::model::config::{Architecture, GlobalPool, VitConfig, scaled};

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
    fields.check()?;
    fields.only("use_swiglu_ffn", &[false.into()])?;
    let dim = fields.number("hidden_size")?.unwrap_or(768);
    Ok(VitConfig {
        image_size: fields.side("image_size")?.unwrap_or(224),
        patch_size: fields.side("patch_size")?.unwrap_or(14),
        dim,
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads: fields.number("num_attention_heads")?.unwrap_or(12),
        mlp_dim: scaled(dim, fields.fraction("mlp_ratio")?.unwrap_or(4.0)),
        classes: 0,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(1e-6) as f32,
        layer_scale: true,
        act_layer: fields.gelu()?.unwrap_or_default(),
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
        let told = json!({"use_swiglu_ffn": true});
        let problem = of_classes(&Fields::of(told.as_object().unwrap())).unwrap_err();
        assert!(problem.contains("has use_swiglu_ffn true, where only false"));
    }
}
