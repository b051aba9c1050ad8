//! What a network is: its family and sizes, and the tensors that timm's `state_dict` then has.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::weights::Weights;

/// The largest size that is believed (pixels, features, classes): products of three of them can't overflow.
const MAX_SIZE: usize = 1 << 20;
/// The largest number of blocks that is believed.
const MAX_DEPTH: usize = 1 << 10;
/// The epsilon of timm's `LayerNorm`, which a configuration may leave out.
const TIMM_LAYER_NORM_EPS: f32 = 1e-6;
/// Red, green and blue.
pub const CHANNELS: usize = 3;

/// A network of a known family. As JSON or TOML: the family's fields, and its name as `family`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "lowercase")]
pub enum Architecture {
    /// ViT and DeiT.
    Vit(VitConfig),
}

impl Architecture {
    /// Every tensor of timm's `state_dict`, with its shape.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self::Vit(config) = self;
        config.expected_tensors()
    }

    /// The number of parameters, as timm counts them.
    pub fn parameters(&self) -> usize {
        let tensors = self.expected_tensors();
        tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// Width and height of the input, in pixels.
    pub fn image_size(&self) -> usize {
        let Self::Vit(config) = self;
        config.image_size
    }

    /// The number of logits.
    pub fn classes(&self) -> usize {
        let Self::Vit(config) = self;
        config.classes
    }

    /// This architecture with as many classes as `weights` has, once everything else is found to be the
    /// same in both. `told_by` says for the error where this architecture comes from.
    ///
    /// # Errors
    /// [`Error::Input`] if `weights` is of an unsupported kind, incomplete, or of another size.
    pub fn fitted(&self, weights: &Weights, told_by: &str) -> Result<Self> {
        let Self::Vit(config) = self;
        config.fitted(weights, told_by).map(Self::Vit)
    }
}

/// The sizes of a ViT as timm's `VisionTransformer` builds it by default: square images and patches, a
/// class token, learned positions (one for the class token too), blocks that normalise first, qkv with a
/// bias, exact GELU, and a head on the normalised class token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "VitForm")]
pub struct VitConfig {
    /// Width and height of the input, in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Width and height of a patch, in pixels.
    pub patch_size: usize,
    /// Features of a token; a multiple of `heads`.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Hidden features of a block's MLP.
    pub mlp_dim: usize,
    /// Number of logits.
    pub classes: usize,
    /// What LayerNorm adds to the variance.
    pub layer_norm_eps: f32,
}

/// [`VitConfig`] as files may write it: with `mlp_ratio` in place of `mlp_dim`, as timm and the golden
/// oracle do, and without the epsilon where it is timm's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VitForm {
    image_size: usize,
    patch_size: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    mlp_dim: Option<usize>,
    mlp_ratio: Option<f64>,
    classes: usize,
    layer_norm_eps: Option<f32>,
}

impl TryFrom<VitForm> for VitConfig {
    type Error = String;

    fn try_from(form: VitForm) -> std::result::Result<Self, String> {
        let mlp_dim = match (form.mlp_dim, form.mlp_ratio) {
            (Some(mlp_dim), None) => mlp_dim,
            (None, Some(ratio)) => scaled(form.dim, ratio),
            (None, None) => return Err("one of `mlp_dim` and `mlp_ratio` is needed".into()),
            (Some(_), Some(_)) => return Err("`mlp_dim` and `mlp_ratio` exclude each other".into()),
        };
        let config = Self {
            image_size: form.image_size,
            patch_size: form.patch_size,
            dim: form.dim,
            depth: form.depth,
            heads: form.heads,
            mlp_dim,
            classes: form.classes,
            layer_norm_eps: form.layer_norm_eps.unwrap_or(TIMM_LAYER_NORM_EPS),
        };
        config.validate()?;
        Ok(config)
    }
}

/// timm's `int(size * ratio)`.
pub fn scaled(size: usize, ratio: f64) -> usize {
    (size as f64 * ratio) as usize
}

impl VitConfig {
    /// Patches of an image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Tokens of an image: the class token, then the patches row by row.
    pub fn tokens(&self) -> usize {
        1 + self.patches()
    }

    /// Features of one attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Every tensor of timm's `state_dict`, with its shape. Weights are [outputs, inputs].
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self {
            dim,
            mlp_dim,
            patch_size,
            classes,
            ..
        } = *self;
        let mut tensors = vec![
            ("cls_token".to_owned(), vec![1, 1, dim]),
            ("pos_embed".to_owned(), vec![1, self.tokens(), dim]),
        ];
        let mut pair = |name: String, weight: Vec<usize>| {
            tensors.push((format!("{name}.bias"), vec![weight[0]]));
            tensors.push((format!("{name}.weight"), weight));
        };
        pair(
            "patch_embed.proj".into(),
            vec![dim, CHANNELS, patch_size, patch_size],
        );
        for block in 0..self.depth {
            let name = |layer: &str| format!("blocks.{block}.{layer}");
            pair(name("norm1"), vec![dim]);
            pair(name("attn.qkv"), vec![3 * dim, dim]);
            pair(name("attn.proj"), vec![dim, dim]);
            pair(name("norm2"), vec![dim]);
            pair(name("mlp.fc1"), vec![mlp_dim, dim]);
            pair(name("mlp.fc2"), vec![dim, mlp_dim]);
        }
        pair("norm".into(), vec![dim]);
        pair("head".into(), vec![classes, dim]);
        tensors
    }

    /// Reads the sizes off the tensors' shapes and checks that the file has every tensor and no other.
    /// The number of heads shows in no shape. The image size is the grid of positions times the patch
    /// size, and the epsilon timm's.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is of a kind that isn't supported (which is named), if the shapes
    /// contradict each other, or if `heads` doesn't divide the features.
    pub fn from_shapes(weights: &Weights, heads: usize) -> Result<Self> {
        let problem = |problem: String| Error::input(weights.path(), problem);
        if let Some(kind) = unsupported_kind(weights) {
            return Err(problem(format!("is {kind}, which is not supported")));
        }

        let [dim, channels, patch_size, patch_width] = sizes(weights, "patch_embed.proj.weight")?;
        if channels != CHANNELS || patch_width != patch_size {
            return Err(problem(format!(
                "`patch_embed.proj.weight` takes {channels} channels and patches of {patch_size} by {patch_width} pixels, where {CHANNELS} channels and square patches are expected"
            )));
        }
        let [_, tokens, _] = sizes(weights, "pos_embed")?;
        let grid = tokens.saturating_sub(1).isqrt();
        if tokens != 1 + grid * grid {
            return Err(problem(format!(
                "`pos_embed` has {tokens} positions, where one for the class token and a square grid are expected"
            )));
        }
        let [mlp_dim, _] = sizes(weights, "blocks.0.mlp.fc1.weight")?;
        let [classes, _] = sizes(weights, "head.weight")?;
        let has_block = |block: &usize| {
            weights
                .shape(&format!("blocks.{block}.norm1.weight"))
                .is_some()
        };
        let config = Self {
            image_size: grid.saturating_mul(patch_size),
            patch_size,
            dim,
            depth: (0..).take_while(has_block).count(),
            heads,
            mlp_dim,
            classes,
            layer_norm_eps: TIMM_LAYER_NORM_EPS,
        };
        config.validate().map_err(problem)?;
        weights.check(&config.expected_tensors(), &[], |_| false)?;
        Ok(config)
    }

    /// What speaks against the sizes, if anything does.
    fn validate(&self) -> std::result::Result<(), String> {
        for (what, size, limit) in [
            ("image_size", self.image_size, MAX_SIZE),
            ("patch_size", self.patch_size, MAX_SIZE),
            ("dim", self.dim, MAX_SIZE),
            ("depth", self.depth, MAX_DEPTH),
            ("heads", self.heads, MAX_SIZE),
            ("mlp_dim", self.mlp_dim, MAX_SIZE),
            ("classes", self.classes, MAX_SIZE),
        ] {
            if !(1..=limit).contains(&size) {
                return Err(format!("{what} is {size}, where 1 to {limit} is expected"));
            }
        }
        for (what, size, part, count) in [
            ("image_size", self.image_size, "patch_size", self.patch_size),
            ("dim", self.dim, "heads", self.heads),
        ] {
            if !size.is_multiple_of(count) {
                return Err(format!("{what} {size} is not divisible by {part} {count}"));
            }
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err(format!(
                "layer_norm_eps is {}, where a positive number is expected",
                self.layer_norm_eps
            ));
        }
        Ok(())
    }

    /// [`Architecture::fitted`] for this family.
    fn fitted(&self, weights: &Weights, told_by: &str) -> Result<Self> {
        let file = Self::from_shapes(weights, self.heads)?;
        let differences: Vec<String> = [
            ("image_size", file.image_size, self.image_size),
            ("patch_size", file.patch_size, self.patch_size),
            ("dim", file.dim, self.dim),
            ("depth", file.depth, self.depth),
            ("mlp_dim", file.mlp_dim, self.mlp_dim),
        ]
        .iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(what, found, expected)| format!("{what} is {found}, not {expected}"))
        .collect();
        if !differences.is_empty() {
            let problem = format!("doesn't fit {told_by}: {}", differences.join("; "));
            return Err(Error::input(weights.path(), problem));
        }
        Ok(Self {
            classes: file.classes,
            ..self.clone()
        })
    }
}

/// The sizes of a tensor with `N` dimensions.
fn sizes<const N: usize>(weights: &Weights, name: &str) -> Result<[usize; N]> {
    let shape = weights.shape(name);
    shape
        .and_then(|shape| shape.try_into().ok())
        .ok_or_else(|| {
            let found = shape.map_or("there is none".to_owned(), |shape| {
                format!("found shape {shape:?}")
            });
            Error::input(
                weights.path(),
                format!("expected timm's tensor `{name}` with {N} dimensions, {found}"),
            )
        })
}

/// Part of a tensor's name, from the start of one of its dot-separated words, that tells a kind of network
/// other than [`VitConfig`]'s. The first that occurs speaks.
const OTHER_KINDS: &[(&str, &str)] = &[
    ("layers.0.", "a Swin transformer"),
    (
        "embeddings.",
        "a model with Hugging Face transformers' tensor names instead of timm's",
    ),
    (
        "conv_proj.",
        "a model with torchvision's tensor names instead of timm's",
    ),
    ("visual.", "a CLIP model"),
    ("dist_token", "a distilled DeiT"),
    ("reg_token", "a ViT with register tokens"),
    ("attn_pool.", "a ViT with attention pooling"),
    ("fc_norm.", "a ViT that averages its tokens"),
    ("norm_pre.", "a ViT that normalises before its blocks"),
    (
        "pre_logits.",
        "a ViT with a representation layer before its head",
    ),
    ("patch_embed.backbone.", "a hybrid of ViT and CNN"),
    ("ls1.gamma", "a ViT with LayerScale"),
    ("gamma_1", "a ViT with LayerScale"),
    ("attn.q_norm.", "a ViT that normalises queries and keys"),
    ("attn.q_bias", "a BEiT"),
    (
        "attn.relative_position_bias_table",
        "a ViT with relative positions",
    ),
    ("mlp.fc1_g.", "a ViT with gated MLPs"),
    ("mlp.w12.", "a ViT with gated MLPs"),
];

/// What keeps a ViT from being [`VitConfig`]'s kind when it has the first tensor without the second.
const INCOMPLETE_KINDS: &[(&str, &str, &str)] = &[
    ("pos_embed", "cls_token", "a ViT without class token"),
    ("cls_token", "pos_embed", "a ViT without learned positions"),
    (
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.qkv.bias",
        "a ViT without qkv bias",
    ),
    ("norm.weight", "head.weight", "a ViT without classifier"),
];

/// The kind of network by its tensors' names, if it is one that is known and not supported.
fn unsupported_kind(weights: &Weights) -> Option<&'static str> {
    let has_part = |part: &str| {
        weights
            .names()
            .any(|name| name.starts_with(part) || name.contains(&format!(".{part}")))
    };
    let has = |name: &str| weights.shape(name).is_some();
    let other = OTHER_KINDS.iter().find(|(part, _)| has_part(part));
    let incomplete = INCOMPLETE_KINDS
        .iter()
        .find(|(present, absent, _)| has(present) && !has(absent));
    other
        .map(|(_, kind)| *kind)
        .or(incomplete.map(|(_, _, kind)| *kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::{TensorData, save};
    use std::collections::BTreeMap;

    /// The golden oracle's ViT.
    const MICRO: &str = r#"{"family":"vit","image_size":32,"patch_size":8,"dim":48,"depth":2,"heads":3,"mlp_ratio":4,"classes":10}"#;

    fn micro() -> VitConfig {
        let Architecture::Vit(config) = serde_json::from_str(MICRO).unwrap();
        config
    }

    /// A file of zeros in these shapes.
    fn zeros(tensors: Vec<(String, Vec<usize>)>) -> Weights {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("zeros.safetensors");
        let tensors = tensors
            .into_iter()
            .map(|(name, shape)| {
                let data = vec![0.0; shape.iter().product()];
                (name, TensorData::F32 { shape, data })
            })
            .collect();
        save(&path, tensors, BTreeMap::new()).unwrap();
        Weights::open(path).unwrap()
    }

    /// The micro ViT's tensors, changed, and why that file is refused.
    fn refusal(change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> String {
        let mut tensors = micro().expected_tensors().into_iter().collect();
        change(&mut tensors);
        let error = VitConfig::from_shapes(&zeros(tensors.into_iter().collect()), 3).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        error.to_string()
    }

    #[test]
    fn understands_the_golden_form_and_its_own() {
        let config = micro();
        assert_eq!((config.mlp_dim, config.layer_norm_eps), (192, 1e-6));
        assert_eq!((config.patches(), config.tokens()), (16, 17));
        assert_eq!(config.head_dim(), 16);

        let architecture = Architecture::Vit(config);
        assert_eq!(
            (architecture.image_size(), architecture.classes()),
            (32, 10)
        );
        let json = serde_json::to_string(&architecture).unwrap();
        assert!(json.contains(r#""family":"vit""#) && json.contains(r#""mlp_dim":192"#));
        let back: Architecture = serde_json::from_str(&json).unwrap();
        assert_eq!(back, architecture);
    }

    #[test]
    fn refuses_forms_that_cannot_be() {
        for (from, to, expected) in [
            (
                r#""dim":48"#,
                r#""dim":50"#,
                "dim 50 is not divisible by heads 3",
            ),
            (
                r#"e":32"#,
                r#"e":36"#,
                "image_size 36 is not divisible by patch_size 8",
            ),
            (
                r#""heads":3"#,
                r#""heads":0"#,
                "heads is 0, where 1 to 1048576",
            ),
            (
                r#""depth":2"#,
                r#""depth":1000000000000"#,
                "depth is 1000000000000, where",
            ),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":-4"#,
                "mlp_dim is 0, where",
            ),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":1e300"#,
                "mlp_dim is 18446744073709551615,",
            ),
            (r#""mlp_ratio":4,"#, "", "one of `mlp_dim` and `mlp_ratio`"),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":4,"mlp_dim":192"#,
                "exclude each other",
            ),
            (
                r#""classes""#,
                r#""class_token":false,"classes""#,
                "unknown field `class_token`",
            ),
            (r#","classes":10"#, "", "missing field `classes`"),
            (
                r#""classes""#,
                r#""layer_norm_eps":-1,"classes""#,
                "layer_norm_eps is -1",
            ),
            (r#""vit""#, r#""swin""#, "unknown variant `swin`"),
        ] {
            assert!(MICRO.contains(from), "{from}");
            let error = serde_json::from_str::<Architecture>(&MICRO.replace(from, to)).unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{error}\nlacks {expected}"
            );
        }
    }

    #[test]
    fn reads_all_but_the_heads_off_the_shapes() {
        let weights = zeros(micro().expected_tensors());
        assert_eq!(VitConfig::from_shapes(&weights, 3).unwrap(), micro());
        assert_eq!(VitConfig::from_shapes(&weights, 6).unwrap().heads, 6);
        let error = VitConfig::from_shapes(&weights, 5).unwrap_err().to_string();
        assert!(
            error.ends_with("dim 48 is not divisible by heads 5"),
            "{error}"
        );
    }

    #[test]
    fn names_the_kinds_that_are_not_supported() {
        for (name, kind) in [
            ("layers.0.blocks.0.norm1.weight", "Swin"),
            ("vit.embeddings.cls_token", "Hugging Face"),
            ("visual.trunk.cls_token", "CLIP"),
            ("dist_token", "distilled DeiT"),
            ("fc_norm.weight", "averages its tokens"),
            ("blocks.0.ls1.gamma", "LayerScale"),
            ("blocks.1.attn.q_norm.weight", "normalises queries and keys"),
        ] {
            let message = refusal(|tensors| {
                tensors.insert(name.to_owned(), vec![1]);
            });
            assert!(message.contains(kind), "{message}");
            assert!(message.ends_with("which is not supported"), "{message}");
        }
        for (name, kind) in [
            ("blocks.0.attn.qkv.bias", "without qkv bias"),
            ("cls_token", "without class token"),
            ("head.weight", "without classifier"),
        ] {
            let message = refusal(|tensors| {
                tensors.remove(name);
            });
            assert!(message.contains(kind), "{message}");
        }
    }

    #[test]
    fn names_shapes_that_contradict() {
        let with = |name: &str, shape: &[usize]| {
            refusal(|tensors| {
                tensors.insert(name.to_owned(), shape.to_vec());
            })
        };
        for (message, expected) in [
            (
                with("pos_embed", &[1, 16, 48]),
                "`pos_embed` has 16 positions",
            ),
            (with("pos_embed", &[1, 1, 48]), "image_size is 0, where"),
            (
                with("pos_embed", &[1, 0, 48]),
                "`pos_embed` has 0 positions",
            ),
            (
                with("pos_embed", &[17, 48]),
                "`pos_embed` with 3 dimensions, found shape [17, 48]",
            ),
            (
                with("patch_embed.proj.weight", &[48, 1, 8, 8]),
                "takes 1 channels",
            ),
            (
                with("patch_embed.proj.weight", &[48, 3, 8, 4]),
                "8 by 4 pixels",
            ),
            (
                with("patch_embed.proj.weight", &[0, 3, 8, 8]),
                "dim is 0, where",
            ),
            (
                with("patch_embed.proj.weight", &[0, 3, 1 << 40, 1 << 40]),
                "image_size is",
            ),
            (
                with("blocks.1.mlp.fc1.bias", &[7]),
                "`blocks.1.mlp.fc1.bias` [7] for [192]",
            ),
            (
                with("blocks.3.norm1.weight", &[48]),
                "1 unexpected: `blocks.3.norm1.weight`",
            ),
            (
                refusal(BTreeMap::clear),
                "expected timm's tensor `patch_embed.proj.weight` with 4 dimensions, there is none",
            ),
            (
                refusal(|tensors| tensors.retain(|name, _| !name.starts_with("blocks.0."))),
                "`blocks.0.mlp.fc1.weight` with 2 dimensions, there is none",
            ),
        ] {
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
    }

    #[test]
    fn fits_a_file_of_another_class_count_only() {
        let five = VitConfig {
            classes: 5,
            ..micro()
        };
        let told = Architecture::Vit(VitConfig {
            layer_norm_eps: 1e-5,
            ..micro()
        });
        let fitted = told
            .fitted(&zeros(five.expected_tensors()), "the test")
            .unwrap();
        let Architecture::Vit(config) = &fitted;
        assert_eq!((config.classes, config.layer_norm_eps), (5, 1e-5));

        let other = VitConfig {
            depth: 1,
            image_size: 16,
            ..micro()
        };
        let error = told
            .fitted(&zeros(other.expected_tensors()), "the test")
            .unwrap_err();
        let expected = "doesn't fit the test: image_size is 16, not 32; depth is 1, not 2";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
