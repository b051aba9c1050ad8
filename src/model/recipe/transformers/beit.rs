//! transformers' `BeitConfig` and `Data2VecVisionConfig`, which have the same fields.

use super::fields::Fields;
use crate::model::config::{Architecture, GlobalPool, VitConfig};

/// Reads the network of `BeitForImageClassification`, or of `Data2VecVisionForImageClassification`, which is the same.
pub fn of_classes(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(sizes(fields)?))
}

/// Reads the network of `BeitModel`, which answers with the features that a classifier would read.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        classes: 0,
        ..sizes(fields)?
    }))
}

fn sizes(fields: &Fields) -> Result<VitConfig, String> {
    fields.only("use_shared_relative_position_bias", &[false.into()])?;
    let has = |name, untold| Ok::<_, String>(fields.truth(name)?.unwrap_or(untold));
    let rel_pos_bias = has("use_relative_position_bias", false)?;
    let has_pos_embed = has("use_absolute_position_embeddings", false)?;
    if rel_pos_bias == has_pos_embed {
        return Err(format!(
            "has use_relative_position_bias {rel_pos_bias} and use_absolute_position_embeddings {has_pos_embed}, where one of them is expected to be true"
        ));
    }
    let pools_mean = has("use_mean_pooling", true)?;
    Ok(VitConfig {
        image_size: fields.image_size()?.unwrap_or(224.into()),
        patch_size: fields.side("patch_size")?.unwrap_or(16),
        in_chans: fields.in_chans()?,
        dim: fields.number("hidden_size")?.unwrap_or(768),
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads: fields.number("num_attention_heads")?.unwrap_or(12),
        mlp_dim: fields.number("intermediate_size")?.unwrap_or(3072),
        // The tensors tell it.
        classes: 1,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        rel_pos_bias,
        layer_scale: fields.fraction("layer_scale_init_value")?.unwrap_or(0.1) > 0.0,
        global_pool: match pools_mean {
            true => GlobalPool::Avg,
            false => GlobalPool::Token,
        },
        fc_norm: pools_mean,
        act_layer: fields.gelu()?.unwrap_or_default(),
        ..VitConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipe_named;
    use serde_json::{Value, json};

    fn told(fields: Value) -> Result<Architecture, String> {
        of_classes(&Fields::of(fields.as_object().unwrap()))
    }

    #[test]
    fn what_is_not_told_is_as_in_beit_base() {
        let timms = &recipe_named("beit_base_patch16_224").unwrap().architecture;
        let Architecture::Vit(timms) = timms.clone() else {
            panic!("a ViT");
        };
        let expected = VitConfig {
            classes: 1,
            layer_norm_eps: 1e-12,
            ..timms
        };
        let found = told(json!({"use_relative_position_bias": true, "hidden_act": null}));
        assert_eq!(found, Ok(Architecture::Vit(expected)));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (fields, says) in [
            (
                json!({"use_shared_relative_position_bias": true}),
                "has use_shared_relative_position_bias true, where only false",
            ),
            (
                json!({}),
                "has use_relative_position_bias false and use_absolute_position_embeddings false",
            ),
            (
                json!({"use_relative_position_bias": true, "use_absolute_position_embeddings": true}),
                "where one of them is expected to be true",
            ),
        ] {
            let problem = told(fields).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }
}
