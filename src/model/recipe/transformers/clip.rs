//! transformers' `CLIPVisionConfig`, and `CLIPConfig` around one.

use super::fields::Fields;
use crate::model::config::{Architecture, Gelu, VitConfig};

/// Holds the epsilon where a configuration has none.
const LAYER_NORM_EPS: f64 = 1e-5;
/// Holds the features of a projection where a configuration doesn't say how many there are.
const PROJECTION: usize = 512;

/// Reads the network of `CLIPVisionModel`, which answers with the class token's features.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(sizes(fields)?))
}

/// Reads the network of `CLIPVisionModelWithProjection`.
pub fn of_projection(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        projection: projection(fields)?,
        ..sizes(fields)?
    }))
}

/// Reads the image tower of `CLIPModel`, with its projection.
pub fn of_image_tower(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        projection: projection(fields)?,
        ..sizes(&Fields::of(&fields.tower()?))?
    }))
}

fn projection(fields: &Fields) -> Result<usize, String> {
    Ok(fields.number("projection_dim")?.unwrap_or(PROJECTION))
}

fn sizes(fields: &Fields) -> Result<VitConfig, String> {
    Ok(VitConfig {
        image_size: fields.image_size()?.unwrap_or(224.into()),
        patch_size: fields.side("patch_size")?.unwrap_or(32),
        in_chans: fields.in_chans()?,
        dim: fields.number("hidden_size")?.unwrap_or(768),
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads: fields.number("num_attention_heads")?.unwrap_or(12),
        mlp_dim: fields.number("intermediate_size")?.unwrap_or(3072),
        classes: 0,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(LAYER_NORM_EPS) as f32,
        pre_norm: true,
        act_layer: fields.gelu()?.unwrap_or(Gelu::Quick),
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
    fn what_is_not_told_is_as_in_openais_b_32() {
        let timms = &recipe_named("vit_base_patch32_clip_quickgelu_224")
            .unwrap()
            .architecture;
        let told = json!({"vision_config": null});
        assert_eq!(read(of_projection, &told), Ok(timms.clone()));
        assert_eq!(read(of_image_tower, &told), Ok(timms.clone()));
        let Architecture::Vit(timms) = timms.clone() else {
            panic!("a ViT");
        };
        let projection = 0;
        let features = VitConfig {
            projection,
            ..timms
        };
        assert_eq!(read(of_features, &told), Ok(Architecture::Vit(features)));
    }

    #[test]
    fn the_tower_is_told_within() {
        let found = |told: Value| match read(of_image_tower, &told).unwrap() {
            Architecture::Vit(sizes) => (sizes.depth, sizes.projection, sizes.act_layer),
            other => panic!("{other:?}"),
        };
        let told = json!({"num_hidden_layers": 9, "projection_dim": 7, "vision_config":
            {"num_hidden_layers": 3, "projection_dim": 5, "hidden_act": "gelu"}});
        assert_eq!(found(told.clone()), (3, 7, Gelu::Exact));
        let mut older = told;
        older["vision_config_dict"] = json!({"num_hidden_layers": 4});
        assert_eq!(found(older), (4, 7, Gelu::Quick));
        let problem = read(of_image_tower, &json!({"vision_config": 3})).unwrap_err();
        assert!(
            problem.contains("has vision_config 3, where the fields"),
            "{problem}"
        );
        let problem = read(of_features, &json!({"hidden_act": "mish"})).unwrap_err();
        assert!(
            problem.contains("has hidden_act `mish`, where `gelu`"),
            "{problem}"
        );
    }
}
