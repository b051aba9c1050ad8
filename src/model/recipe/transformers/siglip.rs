//! transformers' `SiglipVisionConfig`, and `SiglipConfig` around one.

use super::fields::Fields;
use crate::model::config::{Architecture, Gelu, GlobalPool, VitConfig};

/// Reads the network of `SiglipVisionModel`, which answers with what attention pools.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    fields.only("vision_use_head", &[true.into()])?;
    Ok(Architecture::Vit(sizes(fields)?))
}

/// Reads the image tower of `SiglipModel`.
pub fn of_image_tower(fields: &Fields) -> Result<Architecture, String> {
    of_features(&Fields::of(&fields.tower()?))
}

/// Reads the network of `SiglipForImageClassification`, whose head reads the mean of the patches.
pub fn of_classes(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        // The tensors tell it.
        classes: 1,
        global_pool: GlobalPool::Avg,
        ..sizes(&Fields::of(&fields.tower()?))?
    }))
}

fn sizes(fields: &Fields) -> Result<VitConfig, String> {
    Ok(VitConfig {
        image_size: fields.image_size()?.unwrap_or(224.into()),
        patch_size: fields.side("patch_size")?.unwrap_or(16),
        in_chans: fields.in_chans()?,
        dim: fields.number("hidden_size")?.unwrap_or(768),
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads: fields.number("num_attention_heads")?.unwrap_or(12),
        mlp_dim: fields.number("intermediate_size")?.unwrap_or(3072),
        classes: 0,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(1e-6) as f32,
        class_token: false,
        global_pool: GlobalPool::Map,
        act_layer: fields.gelu()?.unwrap_or(Gelu::Tanh),
        ..VitConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipe_named;
    use serde_json::{Value, json};

    fn read(
        read: fn(&Fields) -> Result<Architecture, String>,
        told: &Value,
    ) -> Result<Architecture, String> {
        read(&Fields::of(told.as_object().unwrap()))
    }

    #[test]
    fn what_is_not_told_is_as_in_base_16() {
        let timms = &recipe_named("vit_base_patch16_siglip_224")
            .unwrap()
            .architecture;
        let Architecture::Vit(timms) = timms.clone() else {
            panic!("a ViT");
        };
        let features = VitConfig {
            act_layer: Gelu::Tanh,
            ..timms
        };
        let classes = VitConfig {
            classes: 1,
            global_pool: GlobalPool::Avg,
            ..features.clone()
        };
        let told = json!({"vision_config": {"model_type": "siglip_vision_model"}});
        let features = Ok(Architecture::Vit(features));
        assert_eq!(read(of_features, &told), features);
        assert_eq!(read(of_image_tower, &told), features);
        assert_eq!(read(of_classes, &told), Ok(Architecture::Vit(classes)));
    }

    #[test]
    fn a_tower_without_its_head_is_refused() {
        let told = json!({"vision_config": {"vision_use_head": false}});
        let problem = read(of_image_tower, &told).unwrap_err();
        assert!(
            problem.contains("has vision_use_head false, where only true"),
            "{problem}"
        );
    }
}
