//! transformers' `DINOv3ViTConfig`.

use super::fields::Fields;
use crate::model::config::{Architecture, VitConfig};

/// Reads the network of `DINOv3ViTModel`, which answers with the class token's features.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    fields.only("rope_theta", &[100.into()])?;
    fields.only("proj_bias", &[true.into()])?;
    fields.only("mlp_bias", &[true.into()])?;
    Ok(Architecture::Vit(VitConfig {
        image_size: fields.image_size()?.unwrap_or(224.into()),
        patch_size: fields.side("patch_size")?.unwrap_or(16),
        in_chans: fields.in_chans()?,
        dim: fields.number("hidden_size")?.unwrap_or(384),
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads: fields.number("num_attention_heads")?.unwrap_or(6),
        mlp_dim: fields.number("intermediate_size")?.unwrap_or(1536),
        classes: 0,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(1e-5) as f32,
        qkv_bias: qkv_bias(fields)?,
        rotary: true,
        layer_scale: true,
        reg_tokens: fields.number("num_register_tokens")?.unwrap_or(0),
        gated_mlp: fields.truth("use_gated_mlp")?.unwrap_or(false),
        act_layer: fields.gelu()?.unwrap_or_default(),
        ..VitConfig::default()
    }))
}

/// Reads whether queries and values have biases; where they do, keys may have one.
fn qkv_bias(fields: &Fields) -> Result<bool, String> {
    let has = |name, untold| Ok::<_, String>(fields.truth(name)?.unwrap_or(untold));
    let query = has("query_bias", true)?;
    let key = has("key_bias", false)?;
    let value = has("value_bias", true)?;
    match (query, key, value) {
        (true, _, true) => Ok(true),
        (false, false, false) => Ok(false),
        _ => Err(format!(
            "has query_bias {query}, key_bias {key} and value_bias {value}, where both queries and values are expected to have one, or none"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::GlobalPool;
    use crate::model::recipe::recipe_named;
    use serde_json::{Value, json};

    fn told(fields: Value) -> Result<Architecture, String> {
        of_features(&Fields::of(fields.as_object().unwrap()))
    }

    #[test]
    fn what_is_not_told_is_as_in_dinov3_small() {
        let timms = &recipe_named("vit_small_patch16_dinov3")
            .unwrap()
            .architecture;
        let Architecture::Vit(timms) = timms.clone() else {
            panic!("a ViT");
        };
        let expected = VitConfig {
            image_size: 224.into(),
            qkv_bias: true,
            reg_tokens: 0,
            // timm pools the mean by default.
            global_pool: GlobalPool::Token,
            ..timms
        };
        let expected = Ok(Architecture::Vit(expected));
        assert_eq!(told(json!({"rope_theta": null})), expected);
        assert_eq!(told(json!({"key_bias": true})), expected);
    }

    #[test]
    fn a_gate_has_the_form_that_is_told() {
        let timms = &recipe_named("vit_small_plus_patch16_dinov3").unwrap();
        let found = told(
            json!({"image_size": 256, "query_bias": false, "value_bias": false, "num_register_tokens": 4,
            "use_gated_mlp": true, "hidden_act": "silu"}),
        );
        let Architecture::Vit(timms) = timms.architecture.clone() else {
            panic!("a ViT");
        };
        let expected = VitConfig {
            global_pool: GlobalPool::Token,
            ..timms
        };
        assert_eq!(found, Ok(Architecture::Vit(expected)));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (fields, says) in [
            (
                json!({"rope_theta": 10000}),
                "has rope_theta 10000, where only 100",
            ),
            (
                json!({"value_bias": false}),
                "has query_bias true, key_bias false and value_bias false",
            ),
        ] {
            let problem = told(fields).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }
}
