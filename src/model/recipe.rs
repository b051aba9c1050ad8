//! Which network a weights file holds and how its images are prepared: the known recipes, and how the right
//! one is found.
//!
//! Neither the number of heads nor the preprocessing shows in the tensors, so both must be told: by the
//! user, by the file, by timm's `config.json` beside it, or by a recipe. What was told is then compared
//! with the tensors, and [`Resolved::source`] says who told it.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::data::preprocess::{Interpolation, Preprocessing};
use crate::error::{Error, Result};
use crate::model::config::{Architecture, CHANNELS, VitConfig, scaled};
use crate::model::weights::Weights;

/// `models/*.toml`, in the order in which they are listed to the user.
const FILES: [&str; 11] = [
    include_str!("../../models/vit_tiny_patch16_224.toml"),
    include_str!("../../models/vit_small_patch32_224.toml"),
    include_str!("../../models/vit_small_patch16_224.toml"),
    include_str!("../../models/vit_base_patch32_224.toml"),
    include_str!("../../models/vit_base_patch16_224.toml"),
    include_str!("../../models/vit_base_patch16_384.toml"),
    include_str!("../../models/vit_large_patch16_224.toml"),
    include_str!("../../models/deit_tiny_patch16_224.toml"),
    include_str!("../../models/deit_small_patch16_224.toml"),
    include_str!("../../models/deit_base_patch16_224.toml"),
    include_str!("../../models/deit_base_patch16_384.toml"),
];

/// The flag that settles what a file holds.
const FLAG: &str = "--recipe";
/// The largest config.json that is read: room for a description of each of some 20,000 classes.
const MAX_JSON: u64 = 1 << 26;
/// Metadata key of the architecture, as JSON.
pub const CONFIG_KEY: &str = "config";
/// Metadata key of the preprocessing, as JSON.
pub const PREPROCESSING_KEY: &str = "preprocessing";

/// A known network: one file of `models/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// timm's name of the architecture.
    pub name: String,
    /// The Hugging Face hub's name of the weights that timm loads by default.
    pub hub_id: String,
    /// timm's pretrained tags that the preprocessing holds for, the default first.
    pub tags: Vec<String>,
    /// Number of parameters with the architecture's class count.
    pub parameters: usize,
    /// Family and sizes.
    pub architecture: Architecture,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
}

impl Recipe {
    /// This recipe for `weights`, with their class count.
    fn resolve(&self, weights: &Weights, how: &str) -> Result<Resolved> {
        let told_by = format!("recipe `{}` ({how})", self.name);
        Ok(Resolved {
            name: self.name.clone(),
            architecture: self.architecture.fitted(weights, &told_by)?,
            preprocessing: self.preprocessing.clone(),
            source: told_by,
        })
    }
}

/// All known recipes.
pub fn recipes() -> &'static [Recipe] {
    static RECIPES: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
        let parse =
            |text| toml::from_str(text).expect("a built-in recipe parses, as a test checks");
        FILES.into_iter().map(parse).collect()
    });
    &RECIPES
}

/// The recipe of this name.
pub fn recipe_named(name: &str) -> Option<&'static Recipe> {
    recipes().iter().find(|recipe| recipe.name == name)
}

/// All names, for a message.
pub fn known_names() -> String {
    let names: Vec<&str> = recipes()
        .iter()
        .map(|recipe| recipe.name.as_str())
        .collect();
    names.join(", ")
}

/// What a weights file was found to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// timm's name of the architecture, or the file's own where its metadata describes it.
    pub name: String,
    /// Family and sizes; every tensor of the file has been compared with them.
    pub architecture: Architecture,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// Who told this, in one line.
    pub source: String,
}

/// Finds out what `weights` holds. The first of these that speaks decides:
///
/// 1. `requested`, the recipe that the user names with `--recipe`;
/// 2. the file's metadata: an [`Architecture`] under [`CONFIG_KEY`] and a [`Preprocessing`] under
///    [`PREPROCESSING_KEY`];
/// 3. timm's `config.json` beside the file, as its hub repositories have it;
/// 4. the file's name, if it is a recipe's (`NAME.safetensors` or `NAME.TAG.safetensors`);
/// 5. the shapes, if they fit one recipe only.
///
/// # Errors
/// [`Error::Input`] if what was told doesn't fit the tensors, or can't be understood. [`Error::Usage`] for
/// an unknown recipe, and where only the user can tell; it lists the recipes that fit.
pub fn resolve(weights: &Weights, requested: Option<&str>) -> Result<Resolved> {
    if let Some(name) = requested {
        return by_request(weights, name);
    }
    for told in [by_metadata, by_timm_config, by_file_name] {
        if let Some(resolved) = told(weights)? {
            return Ok(resolved);
        }
    }
    by_shapes(weights)
}

fn by_request(weights: &Weights, name: &str) -> Result<Resolved> {
    let recipe = recipe_named(name).ok_or_else(|| {
        let problem = format!("there is no recipe `{name}`; known are {}", known_names());
        Error::usage(FLAG, problem)
    })?;
    recipe.resolve(weights, "named by --recipe")
}

fn by_metadata(weights: &Weights) -> Result<Option<Resolved>> {
    let Some(told) = metadata::<Architecture>(weights, CONFIG_KEY)? else {
        return Ok(None);
    };
    let mut source = format!("the file's metadata key `{CONFIG_KEY}`");
    let architecture = told.fitted(weights, &source)?;
    let problem = |problem: String| Error::input(weights.path(), problem);
    same(
        "the number of classes",
        told.classes(),
        architecture.classes(),
    )
    .map_err(problem)?;

    let preprocessing = match metadata::<Preprocessing>(weights, PREPROCESSING_KEY)? {
        Some(preprocessing) => preprocessing,
        // A network without real preprocessing, such as a test's random one, can still be fed: but with
        // values that nobody chose, and the reader is told so.
        None => {
            source.push_str(&format!(
                "; it has no `{PREPROCESSING_KEY}`, so this is assumed: mean and std 0.5, the whole centre square, bicubic"
            ));
            Preprocessing {
                image_size: architecture.image_size(),
                crop_pct: 1.0,
                interpolation: Interpolation::Bicubic,
                mean: [0.5; CHANNELS],
                std: [0.5; CHANNELS],
            }
        }
    };
    preprocessing
        .validate()
        .and_then(|()| {
            same(
                "image_size",
                preprocessing.image_size,
                architecture.image_size(),
            )
        })
        .map_err(|what| problem(format!("metadata key `{PREPROCESSING_KEY}`: {what}")))?;
    Ok(Some(Resolved {
        name: file_stem(weights).into_owned(),
        architecture,
        preprocessing,
        source,
    }))
}

/// That a size is told as it is found in the tensors.
fn same(what: &str, told: usize, found: usize) -> std::result::Result<(), String> {
    if told == found {
        return Ok(());
    }
    Err(format!(
        "{what} is told as {told}, but the tensors have {found}"
    ))
}

/// The JSON value under a metadata key, if the file has the key.
fn metadata<T: DeserializeOwned>(weights: &Weights, key: &str) -> Result<Option<T>> {
    let Some(text) = weights.metadata().get(key) else {
        return Ok(None);
    };
    serde_json::from_str(text).map(Some).map_err(|error| {
        let problem =
            format!("metadata key `{key}`: {error}; `{FLAG} NAME` goes by a known recipe instead");
        Error::input(weights.path(), problem)
    })
}

/// The file's name without folder and `.safetensors`.
fn file_stem(weights: &Weights) -> Cow<'_, str> {
    let stem = weights.path().file_stem().unwrap_or_default();
    stem.to_string_lossy()
}

fn by_file_name(weights: &Weights) -> Result<Option<Resolved>> {
    let stem = file_stem(weights);
    let (name, tag) = match stem.split_once('.') {
        Some((name, tag)) => (name, Some(tag)),
        None => (&*stem, None),
    };
    let Some(recipe) = recipe_named(name) else {
        return Ok(None);
    };
    // Weights of another tag may have been trained with other preprocessing, as timm's `dino` were.
    if let Some(tag) = tag.filter(|tag| recipe.tags.iter().all(|known| known != tag)) {
        let problem = format!(
            "{} is named like recipe `{name}` but with tag `{tag}`, and the recipe's preprocessing is known for {} only; pass `{FLAG} {name}` if it holds, or put timm's config.json beside the file",
            weights.path().display(),
            recipe.tags.join(", ")
        );
        return Err(Error::usage(FLAG, problem));
    }
    recipe.resolve(weights, "the file's name").map(Some)
}

fn by_shapes(weights: &Weights) -> Result<Resolved> {
    // One head divides every width: this refuses what no recipe could save, and only sizes are shown of it.
    let sizes = VitConfig::from_shapes(weights, 1)?;
    let how = "the only one that the shapes fit";
    let mut fitting: Vec<Resolved> = recipes()
        .iter()
        .filter_map(|recipe| recipe.resolve(weights, how).ok())
        .collect();
    if fitting.len() == 1 {
        return Ok(fitting.remove(0));
    }

    let file = weights.path().display();
    let problem = if fitting.is_empty() {
        format!(
            "{file} fits no recipe: it is a ViT with {} features, {} blocks, {} hidden features, patches of {} and images of {} pixels, and heads and preprocessing don't show in the tensors; put timm's config.json beside the file. Known are {}",
            sizes.dim,
            sizes.depth,
            sizes.mlp_dim,
            sizes.patch_size,
            sizes.image_size,
            known_names()
        )
    } else {
        let choices: Vec<String> = fitting
            .iter()
            .map(|choice| {
                let Preprocessing { mean, std, .. } = choice.preprocessing;
                format!("{} (mean {mean:?}, std {std:?})", choice.name)
            })
            .collect();
        format!(
            "{file} fits several recipes by its shapes: {}; pass `{FLAG} NAME` with the one that it was trained with, the wrong one costs accuracy",
            choices.join(", ")
        )
    };
    Err(Error::usage(FLAG, problem))
}

fn by_timm_config(weights: &Weights) -> Result<Option<Resolved>> {
    let path = weights.path().with_file_name("config.json");
    let problem = |problem: String| {
        let cure = format!("`{FLAG} NAME` goes by a known recipe instead");
        Error::input(&path, format!("{problem}; {cure}"))
    };
    let text = match read_text(&path).map_err(problem)? {
        Some(text) => text,
        None => return Ok(None),
    };
    let config: TimmConfig = serde_json::from_str(&text)
        .map_err(|error| problem(format!("can't be understood as timm's: {error}")))?;
    let name = config
        .architecture
        .clone()
        .ok_or_else(|| problem("isn't timm's: it has no `architecture`".into()))?;
    config.check_kind().map_err(problem)?;
    let preprocessing = config.preprocessing().map_err(problem)?;

    let known = recipe_named(&name).and_then(|recipe| match &recipe.architecture {
        Architecture::Vit(sizes) => Some(sizes.clone()),
        Architecture::Swin(_) => None,
    });
    let args = config.model_args.unwrap_or_default();
    let heads = args.num_heads.or(known.as_ref().map(|sizes| sizes.heads));
    let heads = heads.ok_or_else(|| {
        problem(format!(
            "names architecture `{name}`, which isn't known, and has no `model_args.num_heads`; known are {}",
            known_names()
        ))
    })?;
    // Of an unknown architecture, the file tells what `model_args` leaves out.
    let sizes = match known {
        Some(sizes) => sizes,
        None => VitConfig::from_shapes(weights, heads)?,
    };
    let source = format!("config.json beside the file (architecture `{name}`)");
    let told = Architecture::Vit(args.applied_to(sizes, heads, preprocessing.image_size));
    let architecture = told.fitted(weights, &source)?;
    for classes in [config.num_classes, args.num_classes].into_iter().flatten() {
        same("num_classes", classes, architecture.classes()).map_err(problem)?;
    }
    let input = preprocessing.image_size;
    same("input_size", input, architecture.image_size()).map_err(problem)?;
    Ok(Some(Resolved {
        name,
        architecture,
        preprocessing,
        source,
    }))
}

/// The text of a small file, if there is one.
fn read_text(path: &Path) -> std::result::Result<Option<String>, String> {
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("can't be read: {error}")),
    };
    if !found.is_file() || found.len() > MAX_JSON {
        return Err(format!("is not a file of at most {MAX_JSON} bytes"));
    }
    let text = std::fs::read_to_string(path);
    text.map(Some)
        .map_err(|error| format!("can't be read: {error}"))
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
    /// That the network is [`VitConfig`]'s kind, in what doesn't show in the tensors' shapes.
    fn check_kind(&self) -> std::result::Result<(), String> {
        let args = self.model_args.as_ref();
        let args_pool = args.and_then(|args| args.global_pool.as_ref());
        let pools = [self.global_pool.as_ref(), args_pool];
        if let Some(pool) = pools.into_iter().flatten().find(|pool| *pool != "token") {
            return Err(format!(
                "has global_pool `{pool}`, where only `token` is supported"
            ));
        }
        let Some(args) = args else { return Ok(()) };
        let off = [
            ("qkv_bias", args.qkv_bias),
            ("class_token", args.class_token),
        ];
        if let Some((what, _)) = off.iter().find(|(_, on)| *on == Some(false)) {
            return Err(format!("has `{what}` off, which is not supported"));
        }
        match args.in_chans {
            Some(channels) if channels != CHANNELS => Err(format!(
                "has in_chans {channels}, where only {CHANNELS} is supported"
            )),
            _ => Ok(()),
        }
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

/// The arguments of timm's `VisionTransformer` that [`VitConfig`] can express. Any other changes the network
/// in a way that isn't known here, so it is refused.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelArgs {
    img_size: Option<Side>,
    patch_size: Option<Side>,
    in_chans: Option<usize>,
    num_classes: Option<usize>,
    embed_dim: Option<usize>,
    depth: Option<usize>,
    num_heads: Option<usize>,
    mlp_ratio: Option<f64>,
    qkv_bias: Option<bool>,
    class_token: Option<bool>,
    global_pool: Option<String>,
}

impl ModelArgs {
    /// `sizes` with what the arguments say instead. timm builds the network for `input_size` unless they
    /// say `img_size` (its `build_model_with_cfg`).
    fn applied_to(&self, sizes: VitConfig, heads: usize, input_size: usize) -> VitConfig {
        let dim = self.embed_dim.unwrap_or(sizes.dim);
        let mlp_dim = match self.mlp_ratio {
            Some(ratio) => scaled(dim, ratio),
            None => dim.saturating_mul(sizes.mlp_dim) / sizes.dim,
        };
        VitConfig {
            image_size: self.img_size.map_or(input_size, |side| side.0),
            patch_size: self.patch_size.map_or(sizes.patch_size, |side| side.0),
            dim,
            depth: self.depth.unwrap_or(sizes.depth),
            heads,
            mlp_dim,
            ..sizes
        }
    }
}

/// The side of a square, which timm writes as one number or as height and width.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "OneOrTwo")]
struct Side(usize);

#[derive(Deserialize)]
#[serde(untagged)]
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
    use crate::model::weights::{TensorData, save};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use tempfile::TempDir;

    fn vit(architecture: Architecture) -> VitConfig {
        match architecture {
            Architecture::Vit(sizes) => sizes,
            other => panic!("{other:?}"),
        }
    }

    /// The sizes of recipe `name`, with one class.
    fn sizes(name: &str) -> VitConfig {
        VitConfig {
            classes: 1,
            ..vit(recipe_named(name).unwrap().architecture.clone())
        }
    }

    /// The golden oracle's ViT, which is no recipe's.
    fn micro() -> (VitConfig, Value) {
        let told = json!({"family": "vit", "image_size": 32, "patch_size": 8, "dim": 48, "depth": 2,
            "heads": 3, "mlp_ratio": 4, "classes": 10});
        (vit(serde_json::from_value(told.clone()).unwrap()), told)
    }

    /// A folder with one checkpoint of zeros.
    struct Checkpoint {
        folder: TempDir,
        weights: Weights,
    }

    impl Checkpoint {
        fn new(file: &str, sizes: &VitConfig, metadata: &[(&str, String)]) -> Self {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join(file);
            let tensors = sizes
                .expected_tensors()
                .into_iter()
                .map(|(name, shape)| {
                    let data = vec![0.0; shape.iter().product()];
                    (name, TensorData::F32 { shape, data })
                })
                .collect();
            let metadata: BTreeMap<_, _> = metadata
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect();
            save(&path, tensors, metadata).unwrap();
            let weights = Weights::open(path).unwrap();
            Self { folder, weights }
        }

        /// What it resolves to with this config.json beside it.
        fn beside(&self, config: &Value) -> Result<Resolved> {
            std::fs::write(self.folder.path().join("config.json"), config.to_string()).unwrap();
            resolve(&self.weights, None)
        }
    }

    /// Why it can't be resolved, and the exit code.
    fn refusal(resolved: Result<Resolved>) -> (u8, String) {
        let error = resolved.unwrap_err();
        (error.exit_code(), error.to_string())
    }

    /// timm's config.json for the micro ViT.
    fn micro_config() -> Value {
        json!({
            "architecture": "vit_micro", "num_classes": 10, "num_features": 48, "global_pool": "token",
            "model_args": {"img_size": [32, 32], "patch_size": 8, "embed_dim": 48, "depth": 2,
                "num_heads": 3, "mlp_ratio": 4.0, "qkv_bias": true, "in_chans": 3},
            "pretrained_cfg": {"tag": "in1k", "custom_load": false, "input_size": [3, 32, 32],
                "fixed_input_size": true, "interpolation": "bilinear", "crop_pct": 0.875,
                "crop_mode": "center", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
                "pool_size": null, "classifier": "head"}
        })
    }

    #[test]
    fn every_recipe_is_consistent() {
        assert_eq!(recipes().len(), FILES.len());
        for recipe in recipes() {
            let name = &recipe.name;
            assert_eq!(
                recipe.architecture.parameters(),
                recipe.parameters,
                "{name}"
            );
            assert_eq!(recipe.hub_id, format!("timm/{name}.{}", recipe.tags[0]));
            let size = recipe.architecture.image_size();
            assert_eq!(recipe.preprocessing.image_size, size, "{name}");
            assert!(name.ends_with(&size.to_string()), "{name}");
            assert_eq!(recipe.preprocessing.validate(), Ok(()), "{name}");
            // Every model of the two papers has heads of 64 features.
            let sizes = vit(recipe.architecture.clone());
            assert_eq!(sizes.head_dim(), 64, "{name}");
            // timm resizes to 248 before cropping 224, and doesn't crop at 384.
            let resized = (size as f64 / recipe.preprocessing.crop_pct).floor();
            assert_eq!(resized, if size == 224 { 248.0 } else { 384.0 }, "{name}");
            assert_eq!(recipe_named(name), Some(recipe));
        }
    }

    #[test]
    fn parameters_are_the_published_ones() {
        // In millions, rounded as on timm's model cards.
        for (name, millions) in [
            ("vit_tiny_patch16_224", 5.7),
            ("vit_small_patch32_224", 22.9),
            ("vit_small_patch16_224", 22.1),
            ("vit_base_patch32_224", 88.2),
            ("vit_base_patch16_224", 86.6),
            ("vit_base_patch16_384", 86.9),
            ("vit_large_patch16_224", 304.3),
            ("deit_tiny_patch16_224", 5.7),
            ("deit_small_patch16_224", 22.1),
            ("deit_base_patch16_224", 86.6),
            ("deit_base_patch16_384", 86.9),
        ] {
            let counted = recipe_named(name).unwrap().parameters as f64 / 1e6;
            assert_eq!((counted * 10.0).round() / 10.0, millions, "{name}");
        }
    }

    #[test]
    fn the_user_comes_first() {
        let config = json!({"family": "nonsense"}).to_string();
        let sizes = sizes("vit_tiny_patch16_224");
        let file = Checkpoint::new(
            "vit_tiny_patch16_224.safetensors",
            &sizes,
            &[(CONFIG_KEY, config)],
        );
        let resolved = resolve(&file.weights, Some("deit_tiny_patch16_224")).unwrap();
        assert_eq!(resolved.name, "deit_tiny_patch16_224");
        assert_eq!(resolved.architecture, Architecture::Vit(sizes));
        assert_eq!(resolved.preprocessing.mean, [0.485, 0.456, 0.406]);
        assert_eq!(
            resolved.source,
            "recipe `deit_tiny_patch16_224` (named by --recipe)"
        );

        let (code, message) = refusal(resolve(&file.weights, Some("vit_tiny")));
        assert_eq!(code, 2);
        assert!(
            message.starts_with("--recipe: there is no recipe `vit_tiny`; known are vit_tiny_p"),
            "{message}"
        );
        let (code, message) = refusal(resolve(&file.weights, Some("vit_small_patch16_224")));
        assert_eq!(code, 3);
        assert!(
            message.ends_with("doesn't fit recipe `vit_small_patch16_224` (named by --recipe): dim is 192, not 384; mlp_dim is 768, not 1536"),
            "{message}"
        );
        // Without the user, the metadata is next, and it is wrong.
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 3);
        assert!(
            message.contains("metadata key `config`: unknown variant"),
            "{message}"
        );
    }

    #[test]
    fn metadata_comes_before_config_json() {
        let (sizes, told) = micro();
        let preprocessing = Preprocessing {
            image_size: 32,
            crop_pct: 0.875,
            interpolation: Interpolation::Lanczos,
            mean: [0.1, 0.2, 0.3],
            std: [0.4, 0.5, 0.6],
        };
        let json = serde_json::to_string(&preprocessing).unwrap();
        let config = (CONFIG_KEY, told.to_string());
        let file = Checkpoint::new(
            "m.safetensors",
            &sizes,
            &[config.clone(), (PREPROCESSING_KEY, json.clone())],
        );
        let resolved = file.beside(&json!("nonsense")).unwrap();
        assert_eq!(resolved.name, "m");
        assert_eq!(resolved.architecture, Architecture::Vit(sizes.clone()));
        assert_eq!(resolved.preprocessing, preprocessing);
        assert_eq!(resolved.source, "the file's metadata key `config`");

        let file = Checkpoint::new("m.safetensors", &sizes, std::slice::from_ref(&config));
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.preprocessing.crop_pct, 1.0);
        assert_eq!(resolved.preprocessing.mean, [0.5; 3]);
        assert!(
            resolved
                .source
                .contains("no `preprocessing`, so this is assumed")
        );

        let wrong = json.replace("\"image_size\":32", "\"image_size\":64");
        let file = Checkpoint::new(
            "m.safetensors",
            &sizes,
            &[config, (PREPROCESSING_KEY, wrong)],
        );
        let (_, message) = refusal(resolve(&file.weights, None));
        assert!(
            message.ends_with(
                "metadata key `preprocessing`: image_size is told as 64, but the tensors have 32"
            ),
            "{message}"
        );
    }

    #[test]
    fn metadata_must_fit_the_tensors() {
        let (sizes, told) = micro();
        for (key, value, expected) in [
            (
                "classes",
                11,
                "the number of classes is told as 11, but the tensors have 10",
            ),
            ("depth", 3, "metadata key `config`: depth is 2, not 3"),
            ("heads", 5, "dim 48 is not divisible by heads 5"),
        ] {
            let mut told = told.clone();
            told[key] = json!(value);
            let file = Checkpoint::new("m.safetensors", &sizes, &[(CONFIG_KEY, told.to_string())]);
            let (code, message) = refusal(resolve(&file.weights, None));
            assert_eq!(code, 3);
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
    }

    #[test]
    fn config_json_tells_an_unknown_architecture() {
        let (sizes, _) = micro();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let resolved = file.beside(&micro_config()).unwrap();
        assert_eq!(resolved.name, "vit_micro");
        assert_eq!(resolved.architecture, Architecture::Vit(sizes.clone()));
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
        let mut config = micro_config();
        config["model_args"] = json!({"num_heads": 6, "depth": null});
        let top = config["pretrained_cfg"].take();
        for (key, value) in top.as_object().unwrap() {
            config[key] = value.clone();
        }
        let found = vit(file.beside(&config).unwrap().architecture);
        assert_eq!(found, VitConfig { heads: 6, ..sizes });
    }

    #[test]
    fn config_json_comes_before_the_name() {
        // As the hub has it: a known architecture, no arguments, the fine-tuned file's own preprocessing.
        let config = json!({
            "architecture": "vit_tiny_patch16_224", "num_classes": 1,
            "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95,
                "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        });
        let sizes = sizes("deit_tiny_patch16_224");
        let file = Checkpoint::new("deit_tiny_patch16_224.safetensors", &sizes, &[]);
        let resolved = file.beside(&config).unwrap();
        assert_eq!(resolved.name, "vit_tiny_patch16_224");
        assert_eq!(resolved.architecture, Architecture::Vit(sizes));
        assert_eq!(resolved.preprocessing.std, [0.25; 3]);
        assert_eq!(resolved.preprocessing.crop_pct, 0.95);
    }

    #[test]
    fn config_json_tells_another_input_size() {
        // timm resizes a known network's positions for these; a depth is one of its constructor's arguments.
        let sizes = VitConfig {
            image_size: 64,
            depth: 1,
            ..sizes("vit_tiny_patch16_224")
        };
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let mut config = micro_config();
        config["architecture"] = json!("vit_tiny_patch16_224");
        config["num_classes"] = json!(1);
        config["pretrained_cfg"]["input_size"] = json!([3, 64, 64]);
        for args in [json!({"depth": 1}), json!({"depth": 1, "img_size": 64})] {
            config["model_args"] = args;
            let resolved = file.beside(&config).unwrap();
            assert_eq!(resolved.architecture, Architecture::Vit(sizes.clone()));
            assert_eq!(resolved.preprocessing.image_size, 64);
        }
    }

    #[test]
    fn config_json_is_refused_where_it_cannot_be_followed() {
        let (sizes, _) = micro();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let cases: [(&str, Value, &str); 22] = [
            ("/architecture", Value::Null, "it has no `architecture`"),
            (
                "/architecture",
                json!(7),
                "can't be understood as timm's: invalid type",
            ),
            (
                "/num_classes",
                json!(11),
                "num_classes is told as 11, but the tensors have 10",
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
                "/model_args/depth",
                json!(3),
                "(architecture `vit_micro`): depth is 2, not 3",
            ),
            ("/model_args/mlp_ratio", json!(2), "mlp_dim is 192, not 96"),
            (
                "/model_args/embed_dim",
                json!(u64::MAX),
                "dim is 48, not 18446744073709551615",
            ),
            (
                "/model_args/img_size",
                json!([32, 64]),
                "32 by 64 is not square",
            ),
            (
                "/model_args/num_classes",
                json!(3),
                "num_classes is told as 3",
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
                "input_size is told as 64, but the tensors have 32",
            ),
        ];
        for (place, value, expected) in cases {
            let mut config = micro_config();
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

    #[test]
    fn the_name_tells_what_the_shapes_cannot() {
        let sizes = sizes("deit_tiny_patch16_224");
        for (file, name) in [
            ("deit_tiny_patch16_224.safetensors", "deit_tiny_patch16_224"),
            (
                "vit_tiny_patch16_224.augreg_in21k.safetensors",
                "vit_tiny_patch16_224",
            ),
        ] {
            let file = Checkpoint::new(file, &sizes, &[]);
            let resolved = resolve(&file.weights, None).unwrap();
            assert_eq!(
                resolved.source,
                format!("recipe `{name}` (the file's name)")
            );
            assert_eq!(
                resolved.preprocessing,
                recipe_named(name).unwrap().preprocessing
            );
        }
        let file = Checkpoint::new("vit_tiny_patch16_224.dino.safetensors", &sizes, &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 2);
        assert!(
            message.contains("tag `dino`") && message.contains("augreg_in21k_ft_in1k"),
            "{message}"
        );

        // A name that the shapes contradict is no reason to try the shapes.
        let file = Checkpoint::new("deit_small_patch16_224.safetensors", &sizes, &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 3);
        assert!(
            message.contains("(the file's name): dim is 192, not 384"),
            "{message}"
        );
    }

    #[test]
    fn shapes_that_fit_one_recipe_settle_it() {
        // Only its patches and positions differ from ViT-S/16.
        let file = Checkpoint::new("model.safetensors", &sizes("vit_small_patch32_224"), &[]);
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.name, "vit_small_patch32_224");
        assert_eq!(resolved.architecture.classes(), 1);
        assert!(resolved.source.contains("the only one that the shapes fit"));
    }

    #[test]
    fn shapes_that_fit_several_recipes_are_left_to_the_user() {
        let file = Checkpoint::new("model.safetensors", &sizes("vit_tiny_patch16_224"), &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 2);
        let expected = "model.safetensors fits several recipes by its shapes: \
            vit_tiny_patch16_224 (mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]), \
            deit_tiny_patch16_224 (mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]); \
            pass `--recipe NAME`";
        assert!(
            message.starts_with("--recipe: ") && message.contains(expected),
            "{message}"
        );
    }

    #[test]
    fn shapes_that_fit_no_recipe_are_described() {
        let file = Checkpoint::new("model.safetensors", &micro().0, &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 2);
        assert!(
            message.contains("a ViT with 48 features, 2 blocks, 192 hidden features, patches of 8 and images of 32 pixels"),
            "{message}"
        );
    }
}
