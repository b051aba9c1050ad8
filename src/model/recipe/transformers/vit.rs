//! transformers' `ViTConfig`, `DeiTConfig` and `ViTMAEConfig`, which have the same fields about the network.

use super::fields::Fields;
use crate::model::config::{Architecture, VitConfig};

/// Holds the epsilon where a configuration has none.
const LAYER_NORM_EPS: f64 = 1e-12;

/// Reads the network of `ViTForImageClassification`.
pub fn of_class_token(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(sizes(fields)?))
}

/// Reads the network of `DeiTForImageClassification`, whose distillation token has no head.
pub fn with_distillation_token(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        reg_tokens: 1,
        ..sizes(fields)?
    }))
}

/// Reads the network of `DeiTForImageClassificationWithTeacher`, whose logits are the mean of two heads'.
pub fn with_distillation_head(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        distilled: true,
        ..sizes(fields)?
    }))
}

/// Reads the network of `ViTModel`, or the encoder of `ViTMAEForPreTraining`, which answers with the class token's features:
/// `last_hidden_state[:, 0]`, of which the pooler of some files makes a product and its tanh.
pub fn of_features(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(without_classes(sizes(fields)?)))
}

/// Reads the network of `DeiTModel`, which answers likewise.
pub fn of_features_with_distillation_token(fields: &Fields) -> Result<Architecture, String> {
    Ok(Architecture::Vit(VitConfig {
        reg_tokens: 1,
        ..without_classes(sizes(fields)?)
    }))
}

fn without_classes(sizes: VitConfig) -> VitConfig {
    VitConfig {
        classes: 0,
        ..sizes
    }
}

fn sizes(fields: &Fields) -> Result<VitConfig, String> {
    let (dim, heads) = (
        fields.number("hidden_size")?.unwrap_or(768),
        fields.number("num_attention_heads")?.unwrap_or(12),
    );
    if let Some(head_dim) = fields.number("head_dim")?
        && head_dim.checked_mul(heads) != Some(dim)
    {
        return Err(format!(
            "has head_dim {head_dim} for {heads} heads, where they are expected to make hidden_size {dim}"
        ));
    }
    Ok(VitConfig {
        image_size: fields.image_size()?.unwrap_or(224.into()),
        patch_size: fields.side("patch_size")?.unwrap_or(16),
        in_chans: fields.in_chans()?,
        dim,
        depth: fields.number("num_hidden_layers")?.unwrap_or(12),
        heads,
        mlp_dim: fields.number("intermediate_size")?.unwrap_or(3072),
        // The tensors tell it.
        classes: 1,
        layer_norm_eps: fields.fraction("layer_norm_eps")?.unwrap_or(LAYER_NORM_EPS) as f32,
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
    fn what_is_not_told_is_as_in_vit_base() {
        let recipe = recipe_named("vit_base_patch16_224").unwrap();
        let Architecture::Vit(timms) = &recipe.architecture else {
            panic!("a ViT");
        };
        let expected = VitConfig {
            classes: 1,
            layer_norm_eps: 1e-12,
            ..timms.clone()
        };
        let nothing = json!({"hidden_size": null});
        let fields = Fields::of(nothing.as_object().unwrap());
        assert_eq!(
            of_class_token(&fields),
            Ok(Architecture::Vit(expected.clone()))
        );
        let registers = VitConfig {
            reg_tokens: 1,
            ..expected.clone()
        };
        assert_eq!(
            with_distillation_token(&fields),
            Ok(Architecture::Vit(registers))
        );
        let distilled = VitConfig {
            distilled: true,
            ..expected
        };
        assert_eq!(
            with_distillation_head(&fields),
            Ok(Architecture::Vit(distilled))
        );
    }
}
