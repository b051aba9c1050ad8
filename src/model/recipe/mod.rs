//! Which network a weights file holds and how its images are prepared: the known recipes, and how the right
//! one is found.
//!
//! Neither the number of heads nor the preprocessing shows in the tensors, so both must be told: by the
//! user, by the file, by timm's `config.json` beside it, or by a recipe. What was told is then compared
//! with the tensors, and [`Resolved::source`] says who told it.

mod labels;
mod timm_config;

use std::borrow::Cow;
use std::path::Path;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::class_names::ClassNames;
use crate::data::preprocess::{Interpolation, Preprocessing};
use crate::error::{Error, Result};
use crate::model::config::{Architecture, CHANNELS, Family, SwinConfig, VitConfig};
use crate::model::shards::INDEX_SUFFIX;
use crate::model::weights::Weights;
pub use labels::told_labels;
use timm_config::by_timm_config;
pub use timm_config::told_by_config;

/// `models/*.toml`, in the order in which they are listed to the user.
const FILES: [&str; 20] = [
    include_str!("../../../models/vit_tiny_patch16_224.toml"),
    include_str!("../../../models/vit_small_patch32_224.toml"),
    include_str!("../../../models/vit_small_patch16_224.toml"),
    include_str!("../../../models/vit_base_patch32_224.toml"),
    include_str!("../../../models/vit_base_patch16_224.toml"),
    include_str!("../../../models/vit_base_patch16_384.toml"),
    include_str!("../../../models/vit_large_patch16_224.toml"),
    include_str!("../../../models/deit_tiny_patch16_224.toml"),
    include_str!("../../../models/deit_small_patch16_224.toml"),
    include_str!("../../../models/deit_base_patch16_224.toml"),
    include_str!("../../../models/deit_base_patch16_384.toml"),
    include_str!("../../../models/deit_tiny_distilled_patch16_224.toml"),
    include_str!("../../../models/deit_small_distilled_patch16_224.toml"),
    include_str!("../../../models/deit_base_distilled_patch16_224.toml"),
    include_str!("../../../models/deit_base_distilled_patch16_384.toml"),
    include_str!("../../../models/swin_tiny_patch4_window7_224.toml"),
    include_str!("../../../models/swin_small_patch4_window7_224.toml"),
    include_str!("../../../models/swin_base_patch4_window7_224.toml"),
    include_str!("../../../models/swin_base_patch4_window12_384.toml"),
    include_str!("../../../models/swin_large_patch4_window7_224.toml"),
];

/// The flag that settles what a file holds.
const FLAG: &str = "--recipe";
/// The flag that asks for another image size than the model's own.
pub const SIZE_FLAG: &str = "--image-size";
/// timm's and transformers' description of a model, beside its weights.
const CONFIG_FILE: &str = "config.json";
/// Metadata key of the architecture, as JSON.
pub const CONFIG_KEY: &str = "config";
/// Metadata key of the preprocessing, as JSON.
pub const PREPROCESSING_KEY: &str = "preprocessing";

/// A known network: one file of `models/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// timm's name of the architecture.
    pub name: String,
    /// Its name in Table 1 of the PTQ4ViT paper, if it is one of the eleven there.
    pub paper_name: Option<String>,
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
    /// The tag of the weights that timm loads by default.
    fn default_tag(&self) -> Option<&str> {
        self.tags.first().map(String::as_str)
    }

    /// What this recipe tells about a file; `how` says why it is this recipe, and `tag` under which timm knows the
    /// weights, if that is told.
    fn told(&self, how: &str, tag: Option<&str>) -> Told {
        Told {
            name: self.name.clone(),
            architecture: self.architecture.clone(),
            classes: None,
            preprocessing: self.preprocessing.clone(),
            by: format!("recipe `{}` ({how})", self.name),
            tag: tag.map(str::to_owned),
            remark: None,
        }
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
    /// What the classes are called, where the model says it: by the labels in the config.json beside it, or as ImageNet's
    /// by the tag that timm gives its weights.
    pub class_names: Option<ClassNames>,
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
    tell(weights, requested)?.fitted(weights)
}

/// What the first that speaks says to [`resolve`], not yet compared with all tensors.
///
/// # Errors
/// Those of [`resolve`] that come before.
pub fn tell(weights: &Weights, requested: Option<&str>) -> Result<Told> {
    if let Some(name) = requested {
        return by_request(name);
    }
    for tell in [by_metadata, by_timm_config, by_file_name] {
        if let Some(told) = tell(weights)? {
            return Ok(told);
        }
    }
    by_shapes(weights)
}

/// What somebody says that a weights file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The architecture's name.
    name: String,
    /// Family and sizes.
    pub architecture: Architecture,
    /// The number of classes that the file must have; `None` where it may have any.
    classes: Option<usize>,
    /// How images are prepared.
    preprocessing: Preprocessing,
    /// Who says it.
    by: String,
    /// timm's tag of the weights, if the recipe's name was given for them: it tells the data set.
    tag: Option<String>,
    /// What the user should know of it besides.
    remark: Option<String>,
}

impl Told {
    /// The same for images of another size, which the user names with [`SIZE_FLAG`].
    ///
    /// # Errors
    /// [`Error::Usage`] for a size that the network can't have.
    pub fn with_image_size(mut self, image_size: usize) -> Result<Self> {
        let usage = |problem| Error::usage(SIZE_FLAG, problem);
        self.architecture = self
            .architecture
            .with_image_size(image_size)
            .map_err(usage)?;
        self.preprocessing.image_size = image_size;
        self.preprocessing.validate().map_err(usage)?;
        self.by.push_str(&format!(" with {SIZE_FLAG} {image_size}"));
        Ok(self)
    }

    /// Compares what was told with the tensors.
    ///
    /// # Errors
    /// [`Error::Input`] where they contradict each other.
    pub fn fitted(self, weights: &Weights) -> Result<Resolved> {
        let architecture = self.architecture.fitted(weights, &self.by)?;
        let found = architecture.classes();
        if let Some(told) = self.classes.filter(|told| *told != found) {
            let problem = format!(
                "doesn't fit {}: the number of classes is {found}, not {told}",
                self.by
            );
            return Err(Error::input(weights.path(), problem));
        }
        let class_names = labels::class_names(weights, found, self.tag.as_deref());
        Ok(Resolved {
            name: self.name,
            architecture,
            class_names,
            preprocessing: self.preprocessing,
            source: match self.remark {
                Some(remark) => format!("{}; {remark}", self.by),
                None => self.by,
            },
        })
    }
}

fn by_request(name: &str) -> Result<Told> {
    let recipe = recipe_named(name).ok_or_else(|| {
        let problem = format!("there is no recipe `{name}`; known are {}", known_names());
        Error::usage(FLAG, problem)
    })?;
    Ok(recipe.told("named by --recipe", recipe.default_tag()))
}

fn by_metadata(weights: &Weights) -> Result<Option<Told>> {
    let Some(architecture) = metadata::<Architecture>(weights, CONFIG_KEY)? else {
        return Ok(None);
    };
    let (preprocessing, remark) = match metadata::<Preprocessing>(weights, PREPROCESSING_KEY)? {
        Some(preprocessing) => (preprocessing, None),
        // A network without real preprocessing, such as a test's random one, can still be fed: but with
        // values that nobody chose, and the reader is told so.
        None => {
            let assumed = Preprocessing {
                image_size: architecture.image_size(),
                crop_pct: 1.0,
                interpolation: Interpolation::Bicubic,
                mean: [0.5; CHANNELS],
                std: [0.5; CHANNELS],
            };
            let remark = format!(
                "it has no `{PREPROCESSING_KEY}`, so this is assumed: mean and std 0.5, the whole centre square, bicubic"
            );
            (assumed, Some(remark))
        }
    };
    let size = ("image_size", preprocessing.image_size);
    preprocessing
        .validate()
        .and_then(|()| same(size, (CONFIG_KEY, architecture.image_size())))
        .map_err(|what| {
            let problem = format!("metadata key `{PREPROCESSING_KEY}`: {what}");
            Error::input(weights.path(), problem)
        })?;
    Ok(Some(Told {
        name: file_stem(weights).into_owned(),
        classes: Some(architecture.classes()),
        architecture,
        preprocessing,
        by: format!("the file's metadata key `{CONFIG_KEY}`"),
        tag: None,
        remark,
    }))
}

/// That two places tell the same size.
fn same(
    (what, told): (&str, usize),
    (elsewhere, other): (&str, usize),
) -> std::result::Result<(), String> {
    if told == other {
        return Ok(());
    }
    Err(format!("{what} is {told}, but {elsewhere} says {other}"))
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

/// The file's name without folder and `.safetensors`, or `.safetensors.index.json`.
fn file_stem(weights: &Weights) -> Cow<'_, str> {
    let path = weights.path();
    match path
        .to_str()
        .and_then(|path| path.strip_suffix(INDEX_SUFFIX))
    {
        Some(whole) => Path::new(whole).file_stem(),
        None => path.file_stem(),
    }
    .unwrap_or_default()
    .to_string_lossy()
}

fn by_file_name(weights: &Weights) -> Result<Option<Told>> {
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
    Ok(Some(
        recipe.told("the file's name", tag.or(recipe.default_tag())),
    ))
}

fn by_shapes(weights: &Weights) -> Result<Told> {
    // This refuses what no recipe could save.
    let described = described(weights)?;
    let how = "the only one that the shapes fit";
    let fits = |recipe: &&Recipe| recipe.told(how, None).fitted(weights).is_ok();
    let fitting: Vec<&Recipe> = recipes().iter().filter(fits).collect();
    if let [recipe] = fitting[..] {
        return Ok(recipe.told(how, None));
    }

    let file = weights.path().display();
    let problem = if fitting.is_empty() {
        format!(
            "{file} fits no recipe: it is {described} don't show in the tensors; put timm's config.json beside the file. Known are {}",
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

/// The network by what shows in the tensors, and what doesn't.
fn described(weights: &Weights) -> Result<String> {
    Ok(match Family::of(weights) {
        Family::Vit => {
            // One head divides every width.
            let sizes = VitConfig::from_shapes(weights, 1)?;
            format!(
                "a{} ViT with {} features, {} blocks, {} hidden features, patches of {} and images of {} pixels, and heads and preprocessing",
                if sizes.distilled { " distilled" } else { "" },
                sizes.dim,
                sizes.depth,
                sizes.mlp_dim,
                sizes.patch_size,
                sizes.image_size,
            )
        }
        Family::Swin => {
            let sizes = SwinConfig::from_shapes(weights, None)?;
            format!(
                "a Swin transformer with {} features, {:?} blocks, {:?} heads, windows of {} patches and patches of {} pixels, and the image's size and preprocessing",
                sizes.dim, sizes.depths, sizes.heads, sizes.window, sizes.patch_size,
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::open_checkpoint;
    use crate::model::weights::{TensorData, save};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use tempfile::TempDir;

    /// The architecture of recipe `name`, with one class.
    pub fn one_class(name: &str) -> Architecture {
        let mut architecture = recipe_named(name).unwrap().architecture.clone();
        match &mut architecture {
            Architecture::Vit(sizes) => sizes.classes = 1,
            Architecture::Swin(sizes) => sizes.classes = 1,
        }
        architecture
    }

    fn micro(told: Value) -> (Architecture, Value) {
        (serde_json::from_value(told.clone()).unwrap(), told)
    }

    /// The golden oracle's ViT, which is no recipe's.
    pub fn micro_vit() -> (Architecture, Value) {
        micro(
            json!({"family": "vit", "image_size": 32, "patch_size": 8, "dim": 48, "depth": 2,
            "heads": 3, "mlp_ratio": 4, "classes": 10}),
        )
    }

    /// The golden oracle's Swin.
    pub fn micro_swin() -> (Architecture, Value) {
        micro(
            json!({"family": "swin", "image_size": 56, "patch_size": 4, "window": 7, "dim": 32,
            "depths": [2, 2], "heads": [2, 4], "mlp_ratio": 4, "classes": 10}),
        )
    }

    /// A folder with one checkpoint of zeros.
    pub struct Checkpoint {
        folder: TempDir,
        pub weights: Weights,
    }

    impl Checkpoint {
        pub fn new(file: &str, architecture: &Architecture, metadata: &[(&str, String)]) -> Self {
            Self::of(file, architecture.expected_tensors(), metadata)
        }

        pub fn of(
            file: &str,
            tensors: Vec<(String, Vec<usize>)>,
            metadata: &[(&str, String)],
        ) -> Self {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join(file);
            let tensors = tensors
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
            let weights = open_checkpoint(path).unwrap();
            Self { folder, weights }
        }

        /// What it resolves to with this config.json beside it.
        pub fn beside(&self, config: &Value) -> Result<Resolved> {
            std::fs::write(self.folder.path().join("config.json"), config.to_string()).unwrap();
            resolve(&self.weights, None)
        }
    }

    /// Why it can't be resolved, and the exit code.
    pub fn refusal(resolved: Result<Resolved>) -> (u8, String) {
        let error = resolved.unwrap_err();
        (error.exit_code(), error.to_string())
    }

    /// What timm says of an architecture: `tests/data/timm_models.py` asked it.
    #[derive(Deserialize)]
    struct Fact {
        hub_id: String,
        tags: Vec<String>,
        preprocessing: Preprocessing,
        parameters: usize,
        /// Of each stage.
        heads: Vec<usize>,
        layer_norm_eps: f32,
        /// Shapes by name. What blocks 0 to 11 all have in one shape is named like `blocks.0-11.norm1.bias`.
        tensors: BTreeMap<String, Vec<usize>>,
    }

    impl Fact {
        fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
            let named = |(name, shape): (&String, &Vec<usize>)| -> Vec<(String, Vec<usize>)> {
                let Some((before, last, after)) =
                    name.split_once(".0-").and_then(|(before, rest)| {
                        let (last, after) = rest.split_once('.')?;
                        Some((before, last, after))
                    })
                else {
                    return vec![(name.clone(), shape.clone())];
                };
                let last: usize = last.parse().unwrap();
                (0..=last)
                    .map(|block| (format!("{before}.{block}.{after}"), shape.clone()))
                    .collect()
            };
            self.tensors.iter().flat_map(named).collect()
        }
    }

    #[test]
    fn every_recipe_is_timms() {
        let facts = include_str!("../../../tests/data/timm_models.json");
        let facts: BTreeMap<String, Fact> = serde_json::from_str(facts).unwrap();
        assert_eq!(recipes().len(), facts.len());
        for recipe in recipes() {
            let name = &recipe.name;
            let fact = &facts[name];
            assert_eq!(recipe.hub_id, fact.hub_id);
            assert_eq!(recipe.tags, fact.tags, "{name}");
            assert_eq!(recipe.preprocessing, fact.preprocessing, "{name}");
            assert_eq!(recipe.parameters, fact.parameters, "{name}");
            let (heads, layer_norm_eps) = match &recipe.architecture {
                Architecture::Vit(sizes) => (vec![sizes.heads], sizes.layer_norm_eps),
                Architecture::Swin(sizes) => (sizes.heads.clone(), sizes.layer_norm_eps),
            };
            assert_eq!(
                (heads, layer_norm_eps),
                (fact.heads.clone(), fact.layer_norm_eps),
                "{name}"
            );

            let architecture = &recipe.architecture;
            assert_eq!(architecture.parameters(), fact.parameters, "{name}");
            let expected = architecture.expected_tensors();
            let tensors: BTreeMap<_, _> = expected.iter().cloned().collect();
            assert_eq!(tensors.len(), expected.len(), "{name}");
            assert_eq!(tensors, fact.tensors(), "{name}");
            assert_eq!(
                architecture.image_size(),
                fact.preprocessing.image_size,
                "{name}"
            );
            assert_eq!(recipe_named(name), Some(recipe));
        }
    }

    #[test]
    fn the_user_comes_first() {
        let config = json!({"family": "nonsense"}).to_string();
        let sizes = one_class("vit_tiny_patch16_224");
        let file = Checkpoint::new(
            "vit_tiny_patch16_224.safetensors",
            &sizes,
            &[(CONFIG_KEY, config)],
        );
        let resolved = resolve(&file.weights, Some("deit_tiny_patch16_224")).unwrap();
        assert_eq!(resolved.name, "deit_tiny_patch16_224");
        assert_eq!(resolved.architecture, sizes);
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
        let (sizes, told) = micro_vit();
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
        assert_eq!(resolved.architecture, sizes.clone());
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
            message.ends_with("metadata key `preprocessing`: image_size is 64, but config says 32"),
            "{message}"
        );
    }

    #[test]
    fn metadata_must_fit_the_tensors() {
        let (sizes, told) = micro_vit();
        for (key, value, expected) in [
            (
                "classes",
                11,
                "metadata key `config`: the number of classes is 10, not 11",
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
    fn the_name_tells_what_the_shapes_cannot() {
        let sizes = one_class("deit_tiny_patch16_224");
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
        let file = Checkpoint::new(
            "model.safetensors",
            &one_class("vit_small_patch32_224"),
            &[],
        );
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.name, "vit_small_patch32_224");
        assert_eq!(resolved.architecture.classes(), 1);
        assert!(resolved.source.contains("the only one that the shapes fit"));
    }

    #[test]
    fn shapes_that_fit_several_recipes_are_left_to_the_user() {
        let file = Checkpoint::new("model.safetensors", &one_class("vit_tiny_patch16_224"), &[]);
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
        let file = Checkpoint::new("model.safetensors", &micro_vit().0, &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 2);
        assert!(
            message.contains("a ViT with 48 features, 2 blocks, 192 hidden features, patches of 8 and images of 32 pixels"),
            "{message}"
        );
    }

    #[test]
    fn the_image_size_may_be_another() {
        let sizes = one_class("deit_tiny_patch16_224");
        let file = Checkpoint::new("deit_tiny_patch16_224.safetensors", &sizes, &[]);
        let told = || tell(&file.weights, None).unwrap();
        let resolved = told().with_image_size(224).unwrap().fitted(&file.weights);
        assert_eq!(resolved.unwrap().architecture, sizes);

        let larger = told().with_image_size(384).unwrap();
        assert_eq!(larger.preprocessing.image_size, 384);
        assert_eq!(larger.preprocessing.crop_pct, 0.9);
        let (code, message) = refusal(larger.fitted(&file.weights));
        let expected = "doesn't fit recipe `deit_tiny_patch16_224` (the file's name) with --image-size 384: its positions are for images of 224 pixels, not 384; `--interpolate-positions` resamples them";
        assert_eq!(code, 3);
        assert!(message.ends_with(expected), "{message}");

        for (image_size, expected) in [
            (
                230,
                "--image-size: image_size 230 is not divisible by patch_size 16",
            ),
            (0, "--image-size: image_size is 0, where 1 to"),
            (
                8192,
                "--image-size: the number of tokens that attend to each other is 262145, where 1 to 65535",
            ),
        ] {
            let error = told().with_image_size(image_size).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_distilled_network_is_no_plain_one() {
        let sizes = one_class("deit_tiny_distilled_patch16_224");
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.name, "deit_tiny_distilled_patch16_224");
        assert_eq!(resolved.architecture, sizes);
        let (code, message) = refusal(resolve(&file.weights, Some("deit_tiny_patch16_224")));
        assert_eq!(code, 3);
        assert!(
            message.ends_with("(named by --recipe): distilled is true, not false"),
            "{message}"
        );
    }

    #[test]
    fn a_swin_is_told_by_its_name_and_its_shapes() {
        let sizes = one_class("swin_tiny_patch4_window7_224");
        let file = "swin_tiny_patch4_window7_224.ms_in1k.safetensors";
        let mut file = Checkpoint::new(file, &sizes, &[]);
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.architecture, sizes);
        assert_eq!(resolved.preprocessing.mean, [0.485, 0.456, 0.406]);
        assert_eq!(
            resolved.source,
            "recipe `swin_tiny_patch4_window7_224` (the file's name)"
        );
        for (recipe, expected) in [
            (
                "swin_small_patch4_window7_224",
                "depth of stage 2 is 6, not 18",
            ),
            ("deit_tiny_patch16_224", "is a Swin transformer, not a ViT"),
        ] {
            let (code, message) = refusal(resolve(&file.weights, Some(recipe)));
            assert_eq!(code, 3);
            assert!(message.ends_with(expected), "{message}\nlacks {expected}");
        }

        let unnamed = file.folder.path().join("model.safetensors");
        std::fs::rename(file.weights.path(), &unnamed).unwrap();
        file.weights = open_checkpoint(&unnamed).unwrap();
        let by_shapes = resolve(&file.weights, None).unwrap();
        assert_eq!(by_shapes.name, "swin_tiny_patch4_window7_224");
        assert!(
            by_shapes
                .source
                .ends_with("(the only one that the shapes fit)")
        );
    }

    #[test]
    fn a_swin_may_have_older_names() {
        let (sizes, told) = micro_swin();
        let older = |(name, shape): (String, Vec<usize>)| {
            let name = name
                .replace("layers.1.downsample", "layers.0.downsample")
                .replace("head.fc", "head");
            (name, shape)
        };
        let tensors = sizes.expected_tensors().into_iter().map(older).collect();
        let metadata = [(CONFIG_KEY, told.to_string())];
        let file = Checkpoint::of("m.safetensors", tensors, &metadata);
        assert_eq!(resolve(&file.weights, None).unwrap().architecture, sizes);
    }

    #[test]
    fn a_swin_that_fits_no_recipe_is_described() {
        let (sizes, _) = micro_swin();
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 2);
        assert!(
            message.contains("it is a Swin transformer with 32 features, [2, 2] blocks, [2, 4] heads, windows of 7 patches and patches of 4 pixels"),
            "{message}"
        );

        // What no recipe could save is not blamed on the recipe.
        let mut tensors = sizes.expected_tensors();
        tensors.push(("layers.0.blocks.0.attn.logit_scale".into(), vec![1]));
        let file = Checkpoint::of("model.safetensors", tensors, &[]);
        let (code, message) = refusal(resolve(&file.weights, None));
        assert_eq!(code, 3);
        assert!(
            message.ends_with("is a Swin V2, which is not supported"),
            "{message}"
        );
    }
}
