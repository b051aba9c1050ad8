//! transformers' `SwinConfig` and `Swinv2Config`.

use super::fields::Fields;
use crate::model::config::{Architecture, SwinConfig};
use crate::model::recipe::arguments::pretrained_windows;

/// Holds the epsilon where a configuration has none. transformers' embedding and mergings have it whatever that says, so no
/// other is supported.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Reads the network of `SwinForImageClassification`.
pub fn of_mean(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Swin(sizes(fields)?))
}

/// Reads the network of `SwinModel`, which answers with the mean's features.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Swin(without_classes(sizes(fields)?)))
}

/// Reads the network of `Swinv2ForImageClassification`.
pub fn of_mean_v2(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Swin(sizes_v2(fields)?))
}

/// Reads the network of `Swinv2Model`, which answers with the mean's features.
pub fn of_features_v2(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Swin(without_classes(sizes_v2(fields)?)))
}

fn without_classes(sizes: SwinConfig) -> SwinConfig {
    SwinConfig {
        classes: 0,
        ..sizes
    }
}

fn sizes_v2(fields: &Fields) -> Result<SwinConfig, String> {
    let sizes = sizes(fields)?;
    let told = fields.numbers("pretrained_window_sizes")?;
    Ok(SwinConfig {
        v2: true,
        pretrained_windows: pretrained_windows(told.unwrap_or_default(), &sizes.depths),
        ..sizes
    })
}

fn sizes(fields: &Fields) -> Result<SwinConfig, String> {
    fields.only("qkv_bias", &[true.into()])?;
    fields.only("hidden_act", &["gelu".into()])?;
    fields.only("use_absolute_embeddings", &[false.into()])?;
    fields.only("layer_norm_eps", &[LAYER_NORM_EPS.into()])?;
    Ok(SwinConfig {
        image_size: fields.side("image_size")?.unwrap_or(224),
        patch_size: fields.side("patch_size")?.unwrap_or(4),
        in_chans: fields.in_chans()?,
        window: fields.number("window_size")?.unwrap_or(7),
        dim: fields.number("embed_dim")?.unwrap_or(96),
        depths: fields.numbers("depths")?.unwrap_or(vec![2, 2, 6, 2]),
        heads: fields.numbers("num_heads")?.unwrap_or(vec![3, 6, 12, 24]),
        mlp_ratio: fields.fraction("mlp_ratio")?.unwrap_or(4.0),
        // The tensors tell it.
        classes: 1,
        layer_norm_eps: LAYER_NORM_EPS as f32,
        shifts_padding: true,
        ..SwinConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipe_named;
    use serde_json::{Value, json};

    fn told(fields: Value) -> Result<Architecture, String> {
        of_mean(&Fields::of(fields.as_object().unwrap()))
    }

    #[test]
    fn what_is_not_told_is_as_in_swin_tiny() {
        let recipe = recipe_named("swin_tiny_patch4_window7_224").unwrap();
        let Architecture::Swin(timms) = &recipe.architecture else {
            panic!("a Swin");
        };
        let expected = Architecture::Swin(SwinConfig {
            classes: 1,
            shifts_padding: true,
            ..timms.clone()
        });
        assert_eq!(told(json!({})), Ok(expected.clone()));
        assert_eq!(
            told(json!({"depths": null, "layer_norm_eps": 1e-5})),
            Ok(expected.clone())
        );

        let Architecture::Swin(sizes) = expected else {
            panic!("a Swin");
        };
        let expected = |pretrained_windows| {
            Ok(Architecture::Swin(SwinConfig {
                v2: true,
                pretrained_windows,
                ..sizes.clone()
            }))
        };
        for (fields, windows) in [
            (json!({}), vec![]),
            (json!({"pretrained_window_sizes": [0, 0, 0, 0]}), vec![]),
            (
                json!({"pretrained_window_sizes": [12, 12, 12, 6]}),
                vec![12, 12, 12, 6],
            ),
        ] {
            let found = of_mean_v2(&Fields::of(fields.as_object().unwrap()));
            assert_eq!(found, expected(windows));
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (fields, says) in [
            (
                json!({"use_absolute_embeddings": true}),
                "has use_absolute_embeddings true, where only false",
            ),
            (
                json!({"layer_norm_eps": 1e-6}),
                "has layer_norm_eps 1e-6, where only 0.00001",
            ),
            (
                json!({"hidden_act": "gelu_new"}),
                "has hidden_act `gelu_new`, where only `gelu`",
            ),
            (json!({"depths": 2}), "has depths 2, where a list"),
            (
                json!({"image_size": [224, 192]}),
                "has image_size [224,192], where",
            ),
        ] {
            let problem = told(fields).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }
}
