//! Kinds of networks that aren't supported, named by their tensors.

use super::Family;
use crate::error::{Error, Result};
use crate::file::weights::Weights;

/// Lists parts of tensors' names, each from the start of a dot-separated word, with the kind of network other than
/// [`VitConfig`](super::VitConfig)'s that has them. The first that occurs decides.
const NO_VIT: &[(&str, &str)] = &[
    (
        "vision_model.",
        "a model of Hugging Face transformers' whose image tower is no CLIP's and no SigLIP's with its head",
    ),
    (
        "embeddings.",
        "a model of Hugging Face transformers' that is no ViT, DeiT, BEiT, Swin, DINOv2, DINOv3, CLIP or SigLIP",
    ),
    (
        "conv_proj.",
        "a model with torchvision's tensor names instead of timm's",
    ),
    ("visual.", "a CLIP model whose image tower is no ViT's"),
    ("layer1.0.conv1.", "a ResNet"),
    ("conv_stem.", "an EfficientNet or a MobileNet"),
    ("blocks.0.conv_dw.", "a ConvNeXt"),
    (
        "attn.meta_mlp.",
        "a Swin V2 with timm's `SwinTransformerV2Cr`'s MLP",
    ),
    ("mlp_tokens.", "an MLP-Mixer"),
    ("blocks_token_only.", "a CaiT"),
    ("local_mp.", "an XCiT"),
    ("patch_embed.backbone.", "a hybrid of ViT and CNN"),
    (
        "rel_pos_bias.",
        "a BEiT whose blocks share their relative positions",
    ),
    ("rope", "a ViT with rotary positions of its own"),
    ("attn.rel_pos", "a ViT with relative positions"),
    ("shared_rel_pos.", "a ViT with relative positions"),
    (
        "attn_pool.pos_embed",
        "a ViT whose attention pooling has positions",
    ),
    (
        "attn_pool.q_norm.",
        "a ViT whose attention pooling normalises queries and keys",
    ),
    (
        "pre_logits.",
        "a ViT with a representation layer before its head",
    ),
    ("attn.q_norm.", "a ViT that normalises queries and keys"),
    (
        "attn.norm.",
        "a ViT that normalises within its blocks, like BEiT-3",
    ),
];

/// Lists such parts of names with the kinds of Swin other than [`SwinConfig`](super::SwinConfig)'s that have them.
const NO_SWIN: &[(&str, &str)] = &[("absolute_pos_embed", "a Swin with absolute positions")];

/// Lists tensors of which [`SwinConfig`](super::SwinConfig)'s kinds have one, with the kind that a network without them is.
const NEEDED_IN_SWIN: &[(&[&str], &str)] = &[
    (
        &["patch_embed.norm.weight"],
        "a Swin without norm after the patch embedding",
    ),
    (
        &["layers.0.blocks.0.attn.qkv.bias"],
        "a Swin without qkv bias",
    ),
    (
        &[
            "layers.0.blocks.0.attn.relative_position_bias_table",
            "layers.0.blocks.0.attn.cpb_mlp.0.weight",
        ],
        "a Swin without relative positions",
    ),
];

/// Checks that `weights` is of no kind that is known and not supported, such as a network with another classifier than
/// timm's.
///
/// # Errors
/// [`Error::Input`] that names the kind.
pub fn check_kind(weights: &Weights) -> Result<()> {
    let has = |name: &str| weights.shape(name).is_some();
    let family = Family::of(weights);
    let others = match family {
        Family::Vit => NO_VIT,
        Family::Swin => NO_SWIN,
    };
    let other = others.iter().find(|(part, _)| has_part(weights, part));
    let (kind, classifier) = match family {
        Family::Vit => {
            // A file without the last norm is no trunk of a ViT either.
            let is_trunk = has("norm.weight") || has("fc_norm.weight");
            let classifier = is_trunk.then_some("head.weight");
            (None, classifier)
        }
        Family::Swin => {
            let lacks = |names: &[&str]| !names.iter().any(|name| has(name));
            let incomplete = NEEDED_IN_SWIN.iter().find(|(names, _)| lacks(names));
            (incomplete.map(|(_, kind)| *kind), Some("head.fc.weight"))
        }
    };
    let problem = match other.map(|(_, kind)| *kind).or(kind) {
        Some(kind) => Some(format!("is {kind}, which is not supported")),
        None => classifier
            .filter(|name| !has(name))
            .and_then(|classifier| in_place_of(classifier, weights, family)),
    };
    match problem {
        Some(problem) => Err(Error::input(weights.path(), problem)),
        None => Ok(()),
    }
}

/// Says what is wrong with a file that has something else in the place of `classifier`, if it has anything.
fn in_place_of(classifier: &str, weights: &Weights, family: Family) -> Option<String> {
    /// Lists what the trunk's tensors begin with.
    const TRUNK: [&str; 7] = [
        "patch_embed.",
        "blocks.",
        "layers.",
        "norm.",
        "attn_pool.",
        "head_dist.",
        "pos_embed",
    ];
    /// Limits how many tensors are listed.
    const LISTED: usize = 4;
    let in_its_place: Vec<String> = weights
        .names()
        .filter(|name| !TRUNK.iter().any(|part| name.starts_with(part)))
        .filter_map(|name| Some((name, weights.shape(name)?)))
        // Weights of linear layers, [outputs, inputs].
        .filter(|(name, shape)| name.ends_with("weight") && shape.len() == 2)
        .take(LISTED)
        .map(|(name, shape)| format!("`{name}` {shape:?}"))
        .collect();
    (!in_its_place.is_empty()).then(|| {
        format!(
            "is a {family} whose classifier is not timm's: expected `{classifier}`, found {}",
            in_its_place.join(", ")
        )
    })
}

/// Says whether a tensor's name has `part` at the start of one of its dot-separated words.
fn has_part(weights: &Weights, part: &str) -> bool {
    let inside = format!(".{part}");
    weights
        .names()
        .any(|name| name.starts_with(part) || name.contains(&inside))
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::config::{Architecture, zeros};
    use std::collections::BTreeMap;

    const VIT: &str = r#"{"family":"vit","image_size":32,"patch_size":8,"dim":48,"depth":2,"heads":3,"mlp_ratio":4,"classes":10}"#;
    const SWIN: &str = r#"{"family":"swin","image_size":56,"patch_size":4,"window":7,"dim":32,"depths":[2,2],"heads":[2,4],"mlp_ratio":4,"classes":10}"#;

    /// Why a file is refused that has these tensors of two dimensions beside those of `architecture` that are `kept`.
    fn refusal(architecture: &str, kept: impl Fn(&str) -> bool, others: &[&str]) -> String {
        let architecture: Architecture = serde_json::from_str(architecture).unwrap();
        let mut tensors: BTreeMap<String, Vec<usize>> =
            architecture.expected_tensors().into_iter().collect();
        tensors.retain(|name, _| kept(name));
        tensors.extend(others.iter().map(|name| ((*name).to_owned(), vec![10, 48])));
        let error = check_kind(&zeros(tensors)).unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        error.to_string()
    }

    #[test]
    fn kinds_are_named_by_their_tensors() {
        let whole = |_: &str| true;
        let nothing = |_: &str| false;
        // Beside a ViT's tensors, and those of networks that have few of them or none.
        for (message, kind) in [
            (
                refusal(VIT, whole, &["attn_pool.latent", "attn_pool.pos_embed"]),
                "whose attention pooling has positions",
            ),
            (
                refusal(VIT, whole, &["rel_pos_bias.relative_position_bias_table"]),
                "is a BEiT whose blocks share",
            ),
            (
                refusal(
                    VIT,
                    nothing,
                    &["conv1.weight", "layer1.0.conv1.weight", "fc.weight"],
                ),
                "is a ResNet",
            ),
            (
                refusal(
                    VIT,
                    nothing,
                    &["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
                ),
                "is a ConvNeXt",
            ),
            (
                refusal(VIT, nothing, &["conv_stem.weight", "classifier.weight"]),
                "is an EfficientNet",
            ),
            (
                refusal(VIT, nothing, &["vision_model.embeddings.class_embedding"]),
                "no CLIP's and no SigLIP's",
            ),
            (
                refusal(VIT, nothing, &["vit.embeddings.cls_token"]),
                "Hugging Face transformers'",
            ),
            (refusal(VIT, nothing, &["visual.proj"]), "is a CLIP model"),
            (
                refusal(
                    VIT,
                    nothing,
                    &["stages.0.blocks.0.attn.meta_mlp.fc1.weight"],
                ),
                "is a Swin V2",
            ),
            (
                refusal(SWIN, |name| !name.ends_with("table"), &[]),
                "is a Swin without relative positions",
            ),
        ] {
            assert!(message.contains(kind), "{message}\nlacks {kind}");
            assert!(message.ends_with("which is not supported"), "{message}");
        }
    }

    #[test]
    fn what_is_in_place_of_a_classifier_is_named() {
        let headless = |name: &str| !name.starts_with("head");
        for (architecture, others, expected) in [
            (
                VIT,
                &["head.1.weight"][..],
                "is a ViT whose classifier is not timm's: expected `head.weight`, found `head.1.weight` [10, 48]",
            ),
            (VIT, &["fc.weight"], "found `fc.weight` [10, 48]"),
            (
                VIT,
                &["classifier.weight"],
                "found `classifier.weight` [10, 48]",
            ),
            (
                VIT,
                &["head.0.weight", "head.3.weight"],
                "found `head.0.weight` [10, 48], `head.3.weight` [10, 48]",
            ),
            (
                SWIN,
                &["head.fc.1.weight"],
                "is a Swin transformer whose classifier is not timm's: expected `head.fc.weight`, found `head.fc.1.weight` [10, 48]",
            ),
        ] {
            let message = refusal(architecture, headless, others);
            assert!(message.ends_with(expected), "{message}\nlacks {expected}");
        }
        for architecture in [VIT, SWIN] {
            let told: Architecture = serde_json::from_str(architecture).unwrap();
            let tensors = told.expected_tensors().into_iter();
            let tensors = tensors.filter(|(name, _)| headless(name));
            check_kind(&zeros(tensors)).unwrap();
        }
    }
}
