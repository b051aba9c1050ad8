//! timm's `config.json`, which its hub repositories have beside the weights.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::architectures::named;
use super::arguments::{Arguments, Class, image_size, shown, whole};
use super::sources::{Otherwise, Said, Source};
use crate::data::image_size::ImageSize;
use crate::data::preprocess::{CropMode, Interpolation};
use crate::error::{Error, Result};
use crate::file::weights::Weights;
use crate::model::config::{Architecture, Family, Gelu, SwinConfig, VitConfig, square};

/// Reads what `json`, the config.json at `path`, tells of `weights`; `None` if it is another program's, which says nothing
/// of a network. What the file leaves out is told by timm's entry point where timm knows the architecture, else by the
/// tensors.
///
/// # Errors
/// What can't be understood, is not supported, or contradicts itself. No other source may then tell what the network is.
pub(super) fn read(weights: &Weights, path: &Path, json: Value) -> Result<Option<Source>> {
    let problem = |problem: String| Error::input(path, problem);
    if TimmConfig::TELLING
        .iter()
        .all(|field| json[field].is_null())
    {
        return Ok(None);
    }
    let config: TimmConfig = serde_json::from_value(json)
        .map_err(|error| problem(format!("can't be understood as timm's: {error}")))?;
    let source = config.told(weights, path).map_err(|told| match told {
        Refusal::Config(refusal) => problem(refusal),
        Refusal::Weights(error) => error,
    })?;
    Ok(Some(source))
}

/// Says why a config.json can't be followed.
enum Refusal {
    /// Something in the config.json.
    Config(String),
    /// Something in the weights.
    Weights(Error),
}

impl From<String> for Refusal {
    fn from(problem: String) -> Self {
        Self::Config(problem)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Weights(error)
    }
}

/// Holds timm's `config.json`, as far as it tells what is computed. Older files have the fields of `pretrained_cfg` at
/// the top level.
#[derive(Deserialize)]
struct TimmConfig {
    architecture: Option<String>,
    num_classes: Option<Value>,
    global_pool: Option<Value>,
    model_args: Option<Map<String, Value>>,
    pretrained_cfg: Option<PretrainedCfg>,
    #[serde(flatten)]
    top: PretrainedCfg,
}

/// Holds the part of timm's `PretrainedCfg` that describes the input, and what of the network it may change.
#[derive(Deserialize)]
struct PretrainedCfg {
    global_pool: Option<Value>,
    input_size: Option<Value>,
    crop_pct: Option<Value>,
    crop_mode: Option<Value>,
    interpolation: Option<Value>,
    mean: Option<Value>,
    std: Option<Value>,
    /// What timm has the user know of the weights.
    #[serde(default)]
    notes: Vec<String>,
}

impl TimmConfig {
    /// Lists fields of which timm's files have at least one.
    const TELLING: [&str; 4] = [
        "architecture",
        "global_pool",
        "model_args",
        "pretrained_cfg",
    ];

    /// Returns what the config tells of `weights`; `path` is where it lies.
    fn told(&self, weights: &Weights, path: &Path) -> std::result::Result<Source, Refusal> {
        let name = self.architecture.as_deref();
        let name =
            name.ok_or("can't be understood as timm's: it has no `architecture`".to_owned())?;
        let empty = Map::new();
        let (class, entry_point) = match named(name) {
            Some((class, arguments)) => (class, Some(arguments)),
            None => (Class::of(weights), None),
        };
        let input = self.pretrained_cfg.as_ref().unwrap_or(&self.top);
        let default_pool = json!(class.default_pool());
        let arguments = Arguments {
            entry_point,
            model_args: self.model_args.as_ref().unwrap_or(&empty),
            pretrained_pool: input.global_pool.as_ref(),
        };
        arguments.check(class)?;
        // timm's exporter writes how the network pools, and doesn't read it.
        if let Some(pool) = &self.global_pool {
            class.check("global_pool", pool, "has global_pool")?;
            let built = arguments.get("global_pool");
            let built = built.map_or(&default_pool, |(value, _)| value);
            if class.family() == Family::Vit && pool != built {
                return Err(Refusal::Config(format!(
                    "has global_pool {}, but describes a network with {}",
                    shown(pool),
                    shown(built)
                )));
            }
        }

        // timm builds the network for `input_size` unless the arguments say `img_size` (its `build_model_with_cfg`). One that
        // takes any size is then fed images of `input_size` nevertheless.
        let (in_chans, input_size) = input.size()?.unzip();
        let mut img_size = arguments.image_size("img_size")?;
        if arguments.any_image_size() && input_size.is_some() {
            img_size = None;
        }
        let image_size = match (input_size, img_size) {
            (Some(input_size), Some(img_size)) if input_size != img_size => Some(Err(format!(
                "input_size is {input_size}, but model_args.img_size says {img_size}"
            ))),
            _ => input_size.or(img_size).map(Ok),
        };
        let built_for = img_size.or(input_size);

        let sizes = match (entry_point, class.family()) {
            (Some(_), _) => class.default_sizes(),
            (None, Family::Vit) => {
                let heads = arguments.number("num_heads")?.ok_or_else(|| {
                    format!(
                        "names architecture `{name}`, which is none of timm's that can be run here, and has no `model_args.num_heads`, which the tensors don't show"
                    )
                })?;
                let likely: Vec<_> = built_for.into_iter().collect();
                Architecture::Vit(VitConfig::from_shapes(weights, heads, &likely)?)
            }
            (None, Family::Swin) => {
                let side = built_for.map(square).transpose()?;
                Architecture::Swin(SwinConfig::from_shapes(weights, side)?)
            }
        };
        let architecture = arguments.applied_to(sizes, built_for, in_chans)?;
        // What timm notes is of weights that were trained with another form of GELU than their network's name has.
        if let Architecture::Vit(VitConfig {
            act_layer: Gelu::Exact,
            ..
        }) = architecture
        {
            for note in &input.notes {
                log::warn!("{}: timm notes of these weights: {note}", path.display());
            }
        }
        let channels = architecture.in_chans();
        Ok(Source {
            name: name.to_owned(),
            by: format!("config.json beside the file (architecture `{name}`)"),
            path: path.to_owned(),
            outputs: self.outputs(&arguments)?,
            tag: None,
            architecture,
            image_size,
            crop_pct: said("crop_pct", &input.crop_pct, "a number", Value::as_f64),
            crop_mode: input.crop_mode(),
            interpolation: input.interpolation(),
            mean: of_channels("mean", &input.mean, channels, path),
            std: of_channels("std", &input.std, channels, path),
            exif_orientation: false,
            otherwise: Otherwise::Missing,
        })
    }

    /// Returns the number of classes, or of features of a projection, if it is told.
    fn outputs(&self, arguments: &Arguments) -> std::result::Result<Option<usize>, String> {
        let told = said("num_classes", &self.num_classes, "a whole number", whole).transpose()?;
        match (told, arguments.number("num_classes")?) {
            (Some(told), Some(argument)) if told != argument => Err(format!(
                "num_classes is {told}, but model_args.num_classes says {argument}"
            )),
            (told, argument) => Ok(told.or(argument)),
        }
    }
}

/// Returns what `read` makes of a field that is there.
fn said<T>(
    name: &str,
    field: &Option<Value>,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Said<T> {
    let value = field.as_ref()?;
    Some(read(value).ok_or_else(|| {
        let value = shown(value);
        format!("has {name} {value}, where {expected} is expected")
    }))
}

impl PretrainedCfg {
    /// Returns channels and size of the input, if they are told.
    fn size(&self) -> std::result::Result<Option<(usize, ImageSize)>, String> {
        let expected = "the number of channels, height and width";
        let size = said("input_size", &self.input_size, expected, |value| {
            let (channels, sides) = value.as_array()?.split_first()?;
            Some((whole(channels)?, image_size(&Value::from(sides))?))
        });
        size.transpose()
    }

    /// Returns the mode of the crop, which timm's files may leave out.
    fn crop_mode(&self) -> Said<CropMode> {
        let expected = "`center` or `squash`";
        let told = said("crop_mode", &self.crop_mode, expected, |value| {
            let mode = CropMode::deserialize(value).ok();
            mode.filter(|mode| *mode != CropMode::Floor)
        });
        told.or(Some(Ok(CropMode::Center)))
    }

    fn interpolation(&self) -> Said<Interpolation> {
        let expected = "`bilinear`, `bicubic` or `lanczos`";
        said("interpolation", &self.interpolation, expected, |value| {
            Interpolation::deserialize(value).ok()
        })
    }
}

/// Reads a number for each channel. A single one is that of all, and where there are as many as other images have
/// channels, their mean is, as in timm, which the user is told.
fn of_channels(name: &str, field: &Option<Value>, channels: usize, path: &Path) -> Said<Vec<f32>> {
    let expected = "a number for each channel, or one for all,";
    let told = said(name, field, expected, |value| {
        let each = || Vec::<f64>::deserialize(value).ok();
        let told = value.as_f64().map_or_else(each, |all| Some(vec![all]));
        told.filter(|told| !told.is_empty())
    })?;
    Some(told.map(|told| {
        let numbers = told.len();
        if numbers == channels {
            return told.into_iter().map(|number| number as f32).collect();
        }
        let all = told.iter().sum::<f64>() / numbers as f64;
        if numbers > 1 {
            log::warn!(
                "{}: {name} is of {numbers} channels, where the network takes {channels}: its mean, {all}, is taken for each, as by timm",
                path.display()
            );
        }
        vec![all as f32; channels]
    }))
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::data::preprocess::Preprocessing;
    use crate::model::recipe::fixtures::{
        Blamed, Checkpoint, micro_swin, micro_vit, one_class, refusal,
    };
    use std::collections::BTreeMap;

    /// A config.json as timm saves it, and the network that it saves it of: `tests/data/timm_configs.py` asked it.
    #[derive(Deserialize)]
    struct Case {
        config: Value,
        /// Of each stage.
        heads: Vec<usize>,
        layer_norm_eps: Option<f32>,
        act_layer: Option<Gelu>,
        tensors: BTreeMap<String, Vec<usize>>,
        /// What of the network isn't supported.
        refused: Option<String>,
    }

    #[test]
    fn what_timm_saves_is_understood_or_refused_by_name() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../tests/data/timm_configs.json")).unwrap();
        for case in &cases {
            let config = &case.config;
            let tensors = case.tensors.clone().into_iter().collect();
            let own = Checkpoint::of("model.safetensors", tensors, &[]).beside(config);
            let Some(argument) = &case.refused else {
                let resolved = own.unwrap_or_else(|error| panic!("{error}\n{config}"));
                let architecture = resolved.architecture;
                let (heads, eps, form) = match &architecture {
                    Architecture::Vit(sizes) => {
                        (vec![sizes.heads], sizes.layer_norm_eps, sizes.act_layer)
                    }
                    Architecture::Swin(sizes) => {
                        (sizes.heads.clone(), sizes.layer_norm_eps, Gelu::Exact)
                    }
                };
                assert_eq!(heads, case.heads, "{config}");
                assert_eq!(
                    (Some(eps), Some(form)),
                    (case.layer_norm_eps, case.act_layer),
                    "{config}"
                );
                let expected: BTreeMap<_, _> =
                    architecture.expected_tensors().into_iter().collect();
                assert_eq!(expected, case.tensors, "{config}");
                let size = &config["pretrained_cfg"]["input_size"];
                let ImageSize { height, width } = architecture.image_size();
                assert_eq!(
                    json!([architecture.in_chans(), height, width]),
                    *size,
                    "{config}"
                );
                continue;
            };
            // By its tensors, or by its config.json where a network that can be run has the same ones.
            assert_eq!(refusal(own).0, Blamed::File, "{config}");
            let same = match config["architecture"].as_str() {
                Some(name) if name.starts_with("swin") => micro_swin().0,
                _ => micro_vit().0,
            };
            let file = Checkpoint::new("model.safetensors", &same, &[]);
            let (blamed, message) = refusal(file.beside(config));
            assert_eq!(blamed, Blamed::File, "{config}");
            assert!(
                message.contains("config.json: ") && message.contains(argument),
                "{message}\nlacks {argument}"
            );
        }
    }

    #[test]
    fn a_network_of_any_image_size_is_fed_images_of_the_input_size() {
        let (sizes, _) = micro_vit();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let mut config = micro_vit_config();
        config["pretrained_cfg"]["input_size"] = json!([3, 64, 64]);
        config["model_args"]["dynamic_img_size"] = json!(true);
        let (blamed, message) = refusal(file.beside(&config));
        assert_eq!(blamed, Blamed::File);
        let expected = "its positions are for images of 32 pixels, not 64; `interpolate_positions` resamples them";
        assert!(message.ends_with(expected), "{message}");
    }

    #[test]
    fn arguments_may_be_written_as_python_reads_them() {
        let (sizes, _) = micro_vit();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let mut config = micro_vit_config();
        config["model_args"] = json!({"num_heads": 3.0, "depth": 2.0, "img_size": [32.0, 32], "qk_norm": 0,
            "qkv_bias": 1, "reg_tokens": 0.0, "class_token": null, "init_values": null, "global_pool": null});
        config["num_classes"] = json!(10.0);
        assert_eq!(file.beside(&config).unwrap().architecture, sizes);
        let text = format!("\u{feff}{config}");
        file.write_config(&text);
        assert!(file.requested(&Default::default()).is_ok());
    }

    /// timm's config.json for the micro ViT.
    fn micro_vit_config() -> Value {
        json!({
            "architecture": "vit_micro", "num_classes": 10, "num_features": 48, "global_pool": "token",
            "model_args": {"img_size": [32, 32], "patch_size": 8, "embed_dim": 48, "depth": 2,
                "num_heads": 3, "mlp_ratio": 4.0, "qkv_bias": true, "in_chans": 3, "drop_path_rate": 0.1},
            "pretrained_cfg": {"tag": "in1k", "custom_load": false, "input_size": [3, 32, 32],
                "fixed_input_size": true, "interpolation": "bilinear", "crop_pct": 0.875,
                "crop_mode": "squash", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
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
                image_size: 32.into(),
                crop_pct: 0.875,
                crop_mode: CropMode::Squash,
                interpolation: Interpolation::Bilinear,
                mean: vec![0.1, 0.2, 0.3],
                std: vec![0.4, 0.5, 0.6],
                exif_orientation: false,
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
    fn tells_a_known_architecture() {
        // As the hub has it: a known architecture, no arguments, the fine-tuned file's own preprocessing.
        let config = json!({
            "architecture": "vit_tiny_patch16_224", "num_classes": 1,
            "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95,
                "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        });
        let sizes = one_class("deit_tiny_patch16_224");
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
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
            image_size: 64.into(),
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
            assert_eq!(resolved.preprocessing.image_size, 64.into());
        }
    }

    #[test]
    fn is_refused_where_it_cannot_be_followed() {
        let (sizes, _) = micro_vit();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let cases: [(&str, Value, &str); 30] = [
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
                "`vit_micro`, which is none of timm's that can be run here, and has no `model_args.num_heads`",
            ),
            (
                "/model_args/global_pool",
                json!("prr"),
                "has `model_args.global_pool` `prr`",
            ),
            (
                "/model_args/qk_norm",
                json!(true),
                "has `model_args.qk_norm` true, where only false is supported for a ViT",
            ),
            ("/model_args/in_chans", json!(1), "in_chans is 3, not 1"),
            (
                "/model_args/in_chans",
                json!(5),
                "has in_chans 5, where 1 to 4",
            ),
            (
                "/model_args/in_chans",
                json!(0),
                "has in_chans 0, where 1 to 4",
            ),
            (
                "/model_args/init_values",
                json!("small"),
                "has `model_args.init_values` `small`, where a number, or true or false is expected",
            ),
            (
                "/model_args/init_values",
                json!(1e-5),
                "layer_scale is false, not true",
            ),
            (
                "/model_args/no_embed_class",
                json!(1),
                "no_embed_class is false, not true",
            ),
            (
                "/model_args/act_layer",
                json!("mish"),
                "has `model_args.act_layer` `mish`, where `gelu`, `gelu_tanh`, `quick_gelu`, `silu` or `relu` is expected",
            ),
            ("/model_args/num_heads", json!(0), "heads is 0"),
            (
                "/model_args/num_heads",
                json!([3, 3]),
                "has `model_args.num_heads` [3,3], where a whole number is expected",
            ),
            (
                "/model_args/window_size",
                json!(7),
                "has `model_args.window_size` 7, which isn't known for a ViT",
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
                "input_size is 32, but model_args.img_size says 32x64",
            ),
            (
                "/model_args/num_classes",
                json!(3),
                "num_classes is 10, but model_args.num_classes says 3",
            ),
            ("/pretrained_cfg/mean", Value::Null, "has no `mean`"),
            (
                "/pretrained_cfg/mean",
                json!([]),
                "has mean [], where a number for each channel, or one for all, is expected",
            ),
            ("/pretrained_cfg/std", json!([0, 1, 1]), "std"),
            (
                "/pretrained_cfg/interpolation",
                json!("nearest"),
                "has interpolation `nearest`",
            ),
            (
                "/pretrained_cfg/crop_mode",
                json!("border"),
                "has crop_mode `border`",
            ),
            (
                "/pretrained_cfg/input_size",
                json!([3, 32, 64]),
                "input_size is 32x64, but model_args.img_size says 32",
            ),
            (
                "/pretrained_cfg/input_size",
                json!([3, 32]),
                "has input_size [3,32], where the number of channels, height and width is expected",
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
            let (blamed, message) = refusal(file.beside(&config));
            assert_eq!(blamed, Blamed::File, "{message}");
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
    }

    #[test]
    fn numbers_of_other_channels_are_averaged() {
        let (mut sizes, _) = micro_vit();
        let Architecture::Vit(vit) = &mut sizes else {
            panic!("a ViT");
        };
        vit.in_chans = 2;
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let mut config = micro_vit_config();
        config["model_args"]["in_chans"] = json!(2);
        for (told, expected) in [
            (json!([0.1, 0.2, 0.6]), [0.3, 0.3]),
            (json!([0.25]), [0.25, 0.25]),
            (json!(0.25), [0.25, 0.25]),
            (json!([0.25, 0.5]), [0.25, 0.5]),
        ] {
            config["pretrained_cfg"]["mean"] = told;
            let resolved = file.beside(&config).unwrap();
            assert_eq!(resolved.preprocessing.mean, expected);
            assert_eq!(resolved.preprocessing.channels(), 2);
        }
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
        assert_eq!(resolved.preprocessing.image_size, 56.into());
        assert_eq!(resolved.preprocessing.mean, [0.1, 0.2, 0.3]);

        // The tensors have everything but the image's size.
        let mut config = micro_swin_config();
        config["model_args"] = Value::Null;
        assert_eq!(file.beside(&config).unwrap().architecture, sizes);
        config["pretrained_cfg"]["input_size"] = json!([3, 112, 112]);
        let larger = file.beside(&config).unwrap();
        assert_eq!(larger.architecture.image_size(), 112.into());
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
                "has `model_args.depths` [2,2], which isn't known for a ViT",
            ),
            ("/global_pool", json!("token"), "has global_pool `token`"),
            (
                "/model_args/global_pool",
                json!(""),
                "has `model_args.global_pool` ``",
            ),
            (
                "/model_args/qkv_bias",
                json!(false),
                "has `model_args.qkv_bias` false, where only true is supported for a Swin transformer",
            ),
            (
                "/model_args/depth",
                json!(2),
                "has `model_args.depth` 2, which isn't known for a Swin transformer",
            ),
            (
                "/model_args/class_token",
                json!(true),
                "has `model_args.class_token` true, which",
            ),
            (
                "/model_args/ape",
                json!(true),
                "has `model_args.ape` true, where only false",
            ),
            (
                "/model_args/num_heads",
                json!(3),
                "has `model_args.num_heads` 3, where a list with a whole number for each stage",
            ),
            (
                "/model_args/num_heads",
                json!("3"),
                "has `model_args.num_heads` `3`, where a list",
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
                "has `model_args.window_size` [7,14], where one size of square windows in all stages",
            ),
            (
                "/model_args/window_size",
                json!([7, 7, 14]),
                "has `model_args.window_size` [7,7,14], where one size",
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
            let (blamed, message) = refusal(file.beside(&config));
            assert_eq!(blamed, Blamed::File, "{message}");
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
