//! timm's `config.json`, which its hub repositories have beside the weights.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CONFIG_FILE, FLAG, Told, known_names, recipe_named, same};
use crate::data::preprocess::{Interpolation, Preprocessing};
use crate::error::{Error, Result};
use crate::input;
use crate::model::config::{Architecture, CHANNELS, Family, SwinConfig, VitConfig, scaled};
use crate::model::weights::Weights;

/// What the config.json beside `weights` tells, if there is one. Of a known architecture the recipe tells what it leaves
/// out, of an unknown one the tensors do.
pub(super) fn by_timm_config(weights: &Weights) -> Result<Option<Told>> {
    let path = weights.path().with_file_name(CONFIG_FILE);
    let text = input::text_if_any(&path)?;
    text.map(|text| told_by_config(weights, &path, &text))
        .transpose()
}

/// What `text`, the timm config.json at `path`, tells of `weights`.
///
/// # Errors
/// What can't be understood, is not supported, or contradicts itself.
pub fn told_by_config(weights: &Weights, path: &Path, text: &str) -> Result<Told> {
    let problem = |problem: String| {
        let cure = format!("`{FLAG} NAME` goes by a known recipe instead");
        Error::input(path, format!("{problem}; {cure}"))
    };
    let mut config: TimmConfig = serde_json::from_str(text)
        .map_err(|error| problem(format!("can't be understood as timm's: {error}")))?;
    let name = config
        .architecture
        .clone()
        .ok_or_else(|| problem("isn't timm's: it has no `architecture`".into()))?;
    let preprocessing = config.preprocessing().map_err(problem)?;
    let args = config.model_args.take().unwrap_or_default();
    // timm builds the network for `input_size` unless the arguments say `img_size` (its `build_model_with_cfg`).
    let image_size = preprocessing.image_size;
    if let Some(Side(told)) = args.img_size {
        same(("input_size", image_size), ("model_args.img_size", told)).map_err(problem)?;
    }

    let known = recipe_named(&name).map(|recipe| recipe.architecture.clone());
    let family = known
        .as_ref()
        .map_or_else(|| Family::of(weights), Architecture::family);
    config.check_kind(&args, family).map_err(problem)?;
    let sizes = match (known, family) {
        (Some(known), _) => known,
        (None, Family::Vit) => {
            let heads = args.num_heads.as_ref().ok_or_else(|| {
                problem(format!(
                    "names architecture `{name}`, which isn't known, and has no `model_args.num_heads`; known are {}",
                    known_names()
                ))
            })?;
            let heads = heads.one().map_err(problem)?;
            Architecture::Vit(VitConfig::from_shapes(weights, heads)?)
        }
        (None, Family::Swin) => {
            Architecture::Swin(SwinConfig::from_shapes(weights, Some(image_size))?)
        }
    };
    let architecture = match sizes {
        Architecture::Vit(sizes) => args
            .applied_to_vit(sizes, image_size)
            .map(Architecture::Vit),
        Architecture::Swin(sizes) => args
            .applied_to_swin(sizes, image_size)
            .map(Architecture::Swin),
    };
    let architecture = architecture.map_err(problem)?;
    Ok(Told {
        classes: config.classes(&args).map_err(problem)?,
        architecture,
        preprocessing,
        by: format!("config.json beside the file (architecture `{name}`)"),
        tag: None,
        remark: None,
        name,
    })
}

/// timm's `config.json`, as far as it tells what is computed. Older files have the fields of
/// `pretrained_cfg` at the top level.
#[derive(Deserialize)]
struct TimmConfig {
    architecture: Option<String>,
    num_classes: Option<usize>,
    global_pool: Option<String>,
    model_args: Option<ModelArgs>,
    pretrained_cfg: Option<PretrainedCfg>,
    #[serde(flatten)]
    top: PretrainedCfg,
}

impl TimmConfig {
    /// That the network is of a kind that is supported, in what doesn't show in the tensors' shapes.
    fn check_kind(&self, args: &ModelArgs, family: Family) -> std::result::Result<(), String> {
        let supported = match family {
            Family::Vit => "token",
            Family::Swin => "avg",
        };
        let pools = [&self.global_pool, &args.global_pool];
        if let Some(pool) = pools.into_iter().flatten().find(|pool| *pool != supported) {
            return Err(format!(
                "has global_pool `{pool}`, where only `{supported}` is supported for a {family}"
            ));
        }
        let off = [
            ("qkv_bias", args.qkv_bias),
            ("class_token", args.class_token),
        ];
        if let Some((what, _)) = off.iter().find(|(_, on)| *on == Some(false)) {
            return Err(format!("has `{what}` off, which is not supported"));
        }
        let foreign = match family {
            Family::Vit => [
                ("depths", args.depths.is_some()),
                ("window_size", args.window_size.is_some()),
            ],
            Family::Swin => [
                ("depth", args.depth.is_some()),
                ("class_token", args.class_token.is_some()),
            ],
        };
        if let Some((what, _)) = foreign.iter().find(|(_, told)| *told) {
            return Err(format!(
                "has `model_args.{what}`, which a {family} doesn't take"
            ));
        }
        match args.in_chans {
            Some(channels) if channels != CHANNELS => Err(format!(
                "has in_chans {channels}, where only {CHANNELS} is supported"
            )),
            _ => Ok(()),
        }
    }

    /// The number of classes, if it is told.
    fn classes(&self, args: &ModelArgs) -> std::result::Result<Option<usize>, String> {
        if let (Some(classes), Some(in_args)) = (self.num_classes, args.num_classes) {
            same(
                ("num_classes", classes),
                ("model_args.num_classes", in_args),
            )?;
        }
        Ok(self.num_classes.or(args.num_classes))
    }

    /// The preprocessing, all of which must be there: timm's own defaults are no model's in particular.
    fn preprocessing(&self) -> std::result::Result<Preprocessing, String> {
        fn told<T>(what: &str, value: Option<T>) -> std::result::Result<T, String> {
            value.ok_or_else(|| format!("has no `{what}`"))
        }

        let input = self.pretrained_cfg.as_ref().unwrap_or(&self.top);
        let [channels, height, width] = told("input_size", input.input_size)?;
        if channels != CHANNELS || height != width {
            return Err(format!(
                "has input_size [{channels}, {height}, {width}], where {CHANNELS} channels and a square are supported"
            ));
        }
        if let Some(mode) = input.crop_mode.as_ref().filter(|mode| *mode != "center") {
            return Err(format!(
                "has crop_mode `{mode}`, where only `center` is supported"
            ));
        }
        let preprocessing = Preprocessing {
            image_size: height,
            crop_pct: told("crop_pct", input.crop_pct)?,
            interpolation: told("interpolation", input.interpolation)?,
            mean: told("mean", input.mean)?,
            std: told("std", input.std)?,
        };
        preprocessing.validate()?;
        Ok(preprocessing)
    }
}

/// The part of timm's `PretrainedCfg` that describes the input.
#[derive(Deserialize)]
struct PretrainedCfg {
    input_size: Option<[usize; 3]>,
    crop_pct: Option<f64>,
    crop_mode: Option<String>,
    interpolation: Option<Interpolation>,
    mean: Option<[f32; CHANNELS]>,
    std: Option<[f32; CHANNELS]>,
}

/// The arguments of timm's `VisionTransformer` and `SwinTransformer` that [`VitConfig`] and [`SwinConfig`] can express.
/// Any other changes the network in a way that isn't known here, so it is refused.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelArgs {
    img_size: Option<Side>,
    patch_size: Option<Side>,
    in_chans: Option<usize>,
    num_classes: Option<usize>,
    embed_dim: Option<usize>,
    num_heads: Option<Heads>,
    mlp_ratio: Option<f64>,
    qkv_bias: Option<bool>,
    global_pool: Option<String>,
    /// A ViT's only, like `class_token`.
    depth: Option<usize>,
    class_token: Option<bool>,
    /// A Swin's only, like `window_size`.
    depths: Option<Vec<usize>>,
    window_size: Option<Side>,
    // What drops out in training only. timm writes these too, and they change nothing here.
    #[serde(default, rename = "drop_rate")]
    _drop_rate: IgnoredAny,
    #[serde(default, rename = "pos_drop_rate")]
    _pos_drop_rate: IgnoredAny,
    #[serde(default, rename = "patch_drop_rate")]
    _patch_drop_rate: IgnoredAny,
    #[serde(default, rename = "proj_drop_rate")]
    _proj_drop_rate: IgnoredAny,
    #[serde(default, rename = "attn_drop_rate")]
    _attn_drop_rate: IgnoredAny,
    #[serde(default, rename = "drop_path_rate")]
    _drop_path_rate: IgnoredAny,
}

impl ModelArgs {
    /// A ViT's `sizes` with what the arguments say instead.
    fn applied_to_vit(
        &self,
        sizes: VitConfig,
        image_size: usize,
    ) -> std::result::Result<VitConfig, String> {
        let dim = self.embed_dim.unwrap_or(sizes.dim);
        let mlp_dim = match self.mlp_ratio {
            Some(ratio) => scaled(dim, ratio),
            None => dim.saturating_mul(sizes.mlp_dim) / sizes.dim,
        };
        let heads = self.num_heads.as_ref().map(Heads::one).transpose()?;
        Ok(VitConfig {
            image_size,
            patch_size: self.patch_size.map_or(sizes.patch_size, |side| side.0),
            dim,
            depth: self.depth.unwrap_or(sizes.depth),
            heads: heads.unwrap_or(sizes.heads),
            mlp_dim,
            ..sizes
        })
    }

    /// A Swin's `sizes` with what the arguments say instead.
    fn applied_to_swin(
        &self,
        sizes: SwinConfig,
        image_size: usize,
    ) -> std::result::Result<SwinConfig, String> {
        let heads = self.num_heads.as_ref().map(Heads::per_stage).transpose()?;
        Ok(SwinConfig {
            image_size,
            patch_size: self.patch_size.map_or(sizes.patch_size, |side| side.0),
            window: self.window_size.map_or(sizes.window, |side| side.0),
            dim: self.embed_dim.unwrap_or(sizes.dim),
            depths: self.depths.clone().unwrap_or(sizes.depths),
            heads: heads.unwrap_or(sizes.heads),
            mlp_ratio: self.mlp_ratio.unwrap_or(sizes.mlp_ratio),
            ..sizes
        })
    }
}

/// The attention heads of a block: one number in a ViT, one per stage in a Swin.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of heads, or a list of one per stage"
)]
enum Heads {
    One(usize),
    PerStage(Vec<usize>),
}

impl Heads {
    fn one(&self) -> std::result::Result<usize, String> {
        match self {
            Self::One(heads) => Ok(*heads),
            Self::PerStage(heads) => Err(format!(
                "has num_heads {heads:?}, where a ViT has one number"
            )),
        }
    }

    fn per_stage(&self) -> std::result::Result<Vec<usize>, String> {
        match self {
            Self::PerStage(heads) => Ok(heads.clone()),
            Self::One(heads) => Err(format!(
                "has num_heads {heads}, where a Swin transformer has one number per stage"
            )),
        }
    }
}

/// The side of a square, which timm writes as one number or as height and width.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "OneOrTwo")]
struct Side(usize);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or height and width")]
enum OneOrTwo {
    One(usize),
    Two(usize, usize),
}

impl TryFrom<OneOrTwo> for Side {
    type Error = String;

    fn try_from(sides: OneOrTwo) -> std::result::Result<Self, String> {
        match sides {
            OneOrTwo::One(side) => Ok(Self(side)),
            OneOrTwo::Two(height, width) if height == width => Ok(Self(height)),
            OneOrTwo::Two(height, width) => Err(format!("{height} by {width} is not square")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::tests::{Checkpoint, micro_swin, micro_vit, one_class, refusal};
    use serde_json::{Value, json};

    /// timm's config.json for the micro ViT.
    fn micro_vit_config() -> Value {
        json!({
            "architecture": "vit_micro", "num_classes": 10, "num_features": 48, "global_pool": "token",
            "model_args": {"img_size": [32, 32], "patch_size": 8, "embed_dim": 48, "depth": 2,
                "num_heads": 3, "mlp_ratio": 4.0, "qkv_bias": true, "in_chans": 3, "drop_path_rate": 0.1},
            "pretrained_cfg": {"tag": "in1k", "custom_load": false, "input_size": [3, 32, 32],
                "fixed_input_size": true, "interpolation": "bilinear", "crop_pct": 0.875,
                "crop_mode": "center", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
                "pool_size": null, "classifier": "head"}
        })
    }

    #[test]
    fn tells_an_unknown_architecture() {
        let (sizes, _) = micro_vit();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let resolved = file.beside(&micro_vit_config()).unwrap();
        assert_eq!(resolved.name, "vit_micro");
        assert_eq!(resolved.architecture, sizes);
        assert_eq!(
            resolved.preprocessing,
            Preprocessing {
                image_size: 32,
                crop_pct: 0.875,
                interpolation: Interpolation::Bilinear,
                mean: [0.1, 0.2, 0.3],
                std: [0.4, 0.5, 0.6],
            }
        );
        assert!(resolved.source.contains("config.json") && resolved.source.contains("vit_micro"));

        // The number of heads is all that must be told; timm's older form has no `pretrained_cfg`.
        let mut config = micro_vit_config();
        config["model_args"] = json!({"num_heads": 6, "depth": null});
        let top = config["pretrained_cfg"].take();
        for (key, value) in top.as_object().unwrap() {
            config[key] = value.clone();
        }
        let Architecture::Vit(found) = file.beside(&config).unwrap().architecture else {
            panic!("a ViT");
        };
        assert_eq!(found.heads, 6);
        assert_eq!(Architecture::Vit(VitConfig { heads: 3, ..found }), sizes);
    }

    #[test]
    fn comes_before_the_name() {
        // As the hub has it: a known architecture, no arguments, the fine-tuned file's own preprocessing.
        let config = json!({
            "architecture": "vit_tiny_patch16_224", "num_classes": 1,
            "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95,
                "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        });
        let sizes = one_class("deit_tiny_patch16_224");
        let file = Checkpoint::new("deit_tiny_patch16_224.safetensors", &sizes, &[]);
        let resolved = file.beside(&config).unwrap();
        assert_eq!(resolved.name, "vit_tiny_patch16_224");
        assert_eq!(resolved.architecture, sizes);
        assert_eq!(resolved.preprocessing.std, [0.25; 3]);
        assert_eq!(resolved.preprocessing.crop_pct, 0.95);
    }

    #[test]
    fn tells_another_input_size() {
        // timm resizes a known network's positions for these; a depth is one of its constructor's arguments.
        let Architecture::Vit(sizes) = one_class("vit_tiny_patch16_224") else {
            panic!("a ViT");
        };
        let sizes = Architecture::Vit(VitConfig {
            image_size: 64,
            depth: 1,
            ..sizes
        });
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let mut config = micro_vit_config();
        config["architecture"] = json!("vit_tiny_patch16_224");
        config["num_classes"] = json!(1);
        config["pretrained_cfg"]["input_size"] = json!([3, 64, 64]);
        for args in [json!({"depth": 1}), json!({"depth": 1, "img_size": 64})] {
            config["model_args"] = args;
            let resolved = file.beside(&config).unwrap();
            assert_eq!(resolved.architecture, sizes);
            assert_eq!(resolved.preprocessing.image_size, 64);
        }
    }

    #[test]
    fn is_refused_where_it_cannot_be_followed() {
        let (sizes, _) = micro_vit();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let cases: [(&str, Value, &str); 24] = [
            ("/architecture", Value::Null, "it has no `architecture`"),
            (
                "/architecture",
                json!(7),
                "can't be understood as timm's: invalid type",
            ),
            (
                "/num_classes",
                json!(11),
                "(architecture `vit_micro`): the number of classes is 10, not 11",
            ),
            ("/global_pool", json!("avg"), "has global_pool `avg`"),
            (
                "/model_args",
                Value::Null,
                "`vit_micro`, which isn't known, and has no `model_args.num_heads`",
            ),
            (
                "/model_args/global_pool",
                json!("map"),
                "has global_pool `map`",
            ),
            ("/model_args/qkv_bias", json!(false), "has `qkv_bias` off"),
            ("/model_args/in_chans", json!(1), "has in_chans 1"),
            (
                "/model_args/act_layer",
                json!("quick_gelu"),
                "unknown field `act_layer`",
            ),
            ("/model_args/num_heads", json!(0), "heads is 0"),
            (
                "/model_args/num_heads",
                json!([3, 3]),
                "has num_heads [3, 3], where a ViT has one number",
            ),
            (
                "/model_args/window_size",
                json!(7),
                "has `model_args.window_size`, which a ViT doesn't take",
            ),
            (
                "/model_args/depth",
                json!(3),
                "(architecture `vit_micro`): depth is 2, not 3",
            ),
            ("/model_args/mlp_ratio", json!(2), "mlp_dim is 192, not 96"),
            (
                "/model_args/embed_dim",
                json!(u64::MAX),
                "dim is 18446744073709551615, where 1 to",
            ),
            (
                "/model_args/img_size",
                json!([32, 64]),
                "32 by 64 is not square",
            ),
            (
                "/model_args/num_classes",
                json!(3),
                "num_classes is 10, but model_args.num_classes says 3",
            ),
            ("/pretrained_cfg/mean", Value::Null, "has no `mean`"),
            ("/pretrained_cfg/mean", json!([0.5]), "invalid length 1"),
            ("/pretrained_cfg/std", json!([0, 1, 1]), "std"),
            (
                "/pretrained_cfg/interpolation",
                json!("nearest"),
                "unknown variant `nearest`",
            ),
            (
                "/pretrained_cfg/crop_mode",
                json!("squash"),
                "has crop_mode `squash`",
            ),
            (
                "/pretrained_cfg/input_size",
                json!([3, 32, 64]),
                "has input_size [3, 32, 64]",
            ),
            (
                "/pretrained_cfg/input_size",
                json!([3, 64, 64]),
                "input_size is 64, but model_args.img_size says 32",
            ),
        ];
        for (place, value, expected) in cases {
            let mut config = micro_vit_config();
            let (object, key) = place.rsplit_once('/').unwrap();
            config.pointer_mut(object).unwrap()[key] = value;
            let (code, message) = refusal(file.beside(&config));
            assert_eq!(code, 3, "{message}");
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
        // Hugging Face transformers' file of the same name.
        let other = json!({"architectures": ["ViTForImageClassification"], "model_type": "vit"});
        let (_, message) = refusal(file.beside(&other));
        assert!(
            message.contains("isn't timm's") && message.contains("--recipe NAME"),
            "{message}"
        );
    }

    /// timm's config.json for the micro Swin.
    fn micro_swin_config() -> Value {
        json!({
            "architecture": "swin_micro", "num_classes": 10, "num_features": 64, "global_pool": "avg",
            "model_args": {"img_size": 56, "patch_size": 4, "window_size": 7, "embed_dim": 32,
                "depths": [2, 2], "num_heads": [2, 4], "mlp_ratio": 4.0},
            "pretrained_cfg": {"input_size": [3, 56, 56], "fixed_input_size": true,
                "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.1, 0.2, 0.3],
                "std": [0.4, 0.5, 0.6], "pool_size": [7, 7], "classifier": "head.fc"}
        })
    }

    #[test]
    fn tells_an_unknown_swin() {
        let (sizes, _) = micro_swin();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let resolved = file.beside(&micro_swin_config()).unwrap();
        assert_eq!(
            (&*resolved.name, &resolved.architecture),
            ("swin_micro", &sizes)
        );
        assert_eq!(resolved.preprocessing.image_size, 56);
        assert_eq!(resolved.preprocessing.mean, [0.1, 0.2, 0.3]);

        // The tensors have everything but the image's size.
        let mut config = micro_swin_config();
        config["model_args"] = Value::Null;
        assert_eq!(file.beside(&config).unwrap().architecture, sizes);
        config["pretrained_cfg"]["input_size"] = json!([3, 112, 112]);
        let larger = file.beside(&config).unwrap();
        assert_eq!(larger.architecture.image_size(), 112);
    }

    #[test]
    fn changes_a_known_swin() {
        let Architecture::Swin(sizes) = one_class("swin_tiny_patch4_window7_224") else {
            panic!("a Swin");
        };
        let sizes = Architecture::Swin(SwinConfig {
            image_size: 112,
            depths: vec![1, 2],
            heads: vec![3, 6],
            ..sizes
        });
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let mut config = micro_swin_config();
        config["architecture"] = json!("swin_tiny_patch4_window7_224");
        config["num_classes"] = json!(1);
        config["model_args"] = json!({"depths": [1, 2], "num_heads": [3, 6]});
        config["pretrained_cfg"]["input_size"] = json!([3, 112, 112]);
        assert_eq!(file.beside(&config).unwrap().architecture, sizes);

        config["model_args"] = json!({"depths": [1, 2]});
        let (_, message) = refusal(file.beside(&config));
        let expected = "doesn't fit config.json beside the file (architecture `swin_tiny_patch4_window7_224`): heads are told for 4 stages, depths for 2";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn a_swin_is_refused_where_it_cannot_be_followed() {
        let (sizes, _) = micro_swin();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let cases: [(&str, Value, &str); 14] = [
            (
                "/architecture",
                json!("vit_tiny_patch16_224"),
                "has global_pool `avg`, where only `token` is supported for a ViT",
            ),
            ("/global_pool", json!("token"), "has global_pool `token`"),
            ("/model_args/global_pool", json!(""), "has global_pool ``"),
            ("/model_args/qkv_bias", json!(false), "has `qkv_bias` off"),
            (
                "/model_args/depth",
                json!(2),
                "has `model_args.depth`, which a Swin transformer doesn't take",
            ),
            (
                "/model_args/class_token",
                json!(true),
                "has `model_args.class_token`, which",
            ),
            ("/model_args/ape", json!(true), "unknown field `ape`"),
            (
                "/model_args/num_heads",
                json!(3),
                "has num_heads 3, where a Swin transformer has one number per stage",
            ),
            (
                "/model_args/num_heads",
                json!("3"),
                "expected a number of heads, or a list of one per stage",
            ),
            (
                "/model_args/num_heads",
                json!([4, 4]),
                "heads of stage 0 is 2, not 4",
            ),
            ("/model_args/depths", json!([]), "depths for 0"),
            (
                "/model_args/window_size",
                json!([7, 14]),
                "7 by 14 is not square",
            ),
            (
                "/model_args/window_size",
                json!([7, 7, 14]),
                "expected a number, or height and width",
            ),
            (
                "/model_args/window_size",
                json!(14),
                "(architecture `swin_micro`): window is 7, not 14",
            ),
        ];
        for (place, value, expected) in cases {
            let mut config = micro_swin_config();
            let (object, key) = place.rsplit_once('/').unwrap();
            config.pointer_mut(object).unwrap()[key] = value;
            let (code, message) = refusal(file.beside(&config));
            assert_eq!(code, 3, "{message}");
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }

        let mut config = micro_swin_config();
        config["global_pool"] = Value::Null;
        config["model_args"] = Value::Null;
        config["architecture"] = json!("deit_tiny_patch16_224");
        let (_, message) = refusal(file.beside(&config));
        assert!(
            message.ends_with("is a Swin transformer, not a ViT"),
            "{message}"
        );
    }
}
