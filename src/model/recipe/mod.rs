//! Which network a weights file holds and how its images are prepared: the known recipes, and how the right
//! one is found.
//!
//! Neither the number of heads nor the preprocessing shows in the tensors, so both must be told: by the
//! user, by the file, by timm's or transformers' `config.json` beside it, or by a recipe. What was told is then compared
//! with the tensors, and [`Resolved::source`] says who told it.

mod architectures;
mod arguments;
#[cfg(all(test, feature = "files"))]
mod fixtures;
mod labels;
mod resolve;
mod sources;
mod timm_config;
mod transformers;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::preprocess::Preprocessing;
use crate::error::{Error, Result};
use crate::file::weights::Weights;
use crate::model::config::Architecture;
pub use labels::told_labels;
pub use resolve::{Description, Request, Resolved, describe, describe_beside, resolve};

/// `models/*.toml`, in the order in which they are listed to the user.
const FILES: [&str; 79] = [
    include_str!("../../../models/vit_tiny_patch16_224.toml"),
    include_str!("../../../models/vit_small_patch32_224.toml"),
    include_str!("../../../models/vit_small_patch16_224.toml"),
    include_str!("../../../models/vit_base_patch32_224.toml"),
    include_str!("../../../models/vit_base_patch16_224.toml"),
    include_str!("../../../models/vit_base_patch16_384.toml"),
    include_str!("../../../models/vit_large_patch16_224.toml"),
    include_str!("../../../models/vit_base_patch16_rpn_224.toml"),
    include_str!("../../../models/deit_tiny_patch16_224.toml"),
    include_str!("../../../models/deit_small_patch16_224.toml"),
    include_str!("../../../models/deit_base_patch16_224.toml"),
    include_str!("../../../models/deit_base_patch16_384.toml"),
    include_str!("../../../models/deit_tiny_distilled_patch16_224.toml"),
    include_str!("../../../models/deit_small_distilled_patch16_224.toml"),
    include_str!("../../../models/deit_base_distilled_patch16_224.toml"),
    include_str!("../../../models/deit_base_distilled_patch16_384.toml"),
    include_str!("../../../models/deit3_small_patch16_224.toml"),
    include_str!("../../../models/deit3_small_patch16_384.toml"),
    include_str!("../../../models/deit3_base_patch16_224.toml"),
    include_str!("../../../models/deit3_base_patch16_384.toml"),
    include_str!("../../../models/beit_base_patch16_224.toml"),
    include_str!("../../../models/beit_base_patch16_384.toml"),
    include_str!("../../../models/beit_large_patch16_224.toml"),
    include_str!("../../../models/beit_large_patch16_384.toml"),
    include_str!("../../../models/beit_large_patch16_512.toml"),
    include_str!("../../../models/beitv2_base_patch16_224.toml"),
    include_str!("../../../models/beitv2_large_patch16_224.toml"),
    include_str!("../../../models/vit_small_patch14_dinov2.toml"),
    include_str!("../../../models/vit_base_patch14_dinov2.toml"),
    include_str!("../../../models/vit_large_patch14_dinov2.toml"),
    include_str!("../../../models/vit_giant_patch14_dinov2.toml"),
    include_str!("../../../models/vit_small_patch14_reg4_dinov2.toml"),
    include_str!("../../../models/vit_base_patch14_reg4_dinov2.toml"),
    include_str!("../../../models/vit_large_patch14_reg4_dinov2.toml"),
    include_str!("../../../models/vit_giant_patch14_reg4_dinov2.toml"),
    include_str!("../../../models/vit_small_patch16_dinov3.toml"),
    include_str!("../../../models/vit_small_plus_patch16_dinov3.toml"),
    include_str!("../../../models/vit_base_patch16_dinov3.toml"),
    include_str!("../../../models/vit_large_patch16_dinov3.toml"),
    include_str!("../../../models/vit_huge_plus_patch16_dinov3.toml"),
    include_str!("../../../models/vit_7b_patch16_dinov3.toml"),
    include_str!("../../../models/vit_small_patch16_dinov3_qkvb.toml"),
    include_str!("../../../models/vit_small_plus_patch16_dinov3_qkvb.toml"),
    include_str!("../../../models/vit_base_patch16_dinov3_qkvb.toml"),
    include_str!("../../../models/vit_large_patch16_dinov3_qkvb.toml"),
    include_str!("../../../models/vit_huge_plus_patch16_dinov3_qkvb.toml"),
    include_str!("../../../models/eva02_tiny_patch14_224.toml"),
    include_str!("../../../models/eva02_tiny_patch14_336.toml"),
    include_str!("../../../models/eva02_small_patch14_224.toml"),
    include_str!("../../../models/eva02_small_patch14_336.toml"),
    include_str!("../../../models/eva02_base_patch14_224.toml"),
    include_str!("../../../models/eva02_base_patch14_448.toml"),
    include_str!("../../../models/eva02_large_patch14_224.toml"),
    include_str!("../../../models/eva02_large_patch14_448.toml"),
    include_str!("../../../models/vit_base_patch32_clip_224.toml"),
    include_str!("../../../models/vit_base_patch32_clip_quickgelu_224.toml"),
    include_str!("../../../models/vit_base_patch16_clip_224.toml"),
    include_str!("../../../models/vit_base_patch16_clip_quickgelu_224.toml"),
    include_str!("../../../models/vit_large_patch14_clip_224.toml"),
    include_str!("../../../models/vit_large_patch14_clip_quickgelu_224.toml"),
    include_str!("../../../models/vit_base_patch16_siglip_224.toml"),
    include_str!("../../../models/vit_base_patch16_siglip_256.toml"),
    include_str!("../../../models/vit_base_patch16_siglip_384.toml"),
    include_str!("../../../models/vit_large_patch16_siglip_256.toml"),
    include_str!("../../../models/vit_large_patch16_siglip_384.toml"),
    include_str!("../../../models/vit_so400m_patch14_siglip_224.toml"),
    include_str!("../../../models/vit_so400m_patch14_siglip_378.toml"),
    include_str!("../../../models/vit_so400m_patch14_siglip_384.toml"),
    include_str!("../../../models/swin_tiny_patch4_window7_224.toml"),
    include_str!("../../../models/swin_small_patch4_window7_224.toml"),
    include_str!("../../../models/swin_base_patch4_window7_224.toml"),
    include_str!("../../../models/swin_base_patch4_window12_384.toml"),
    include_str!("../../../models/swin_large_patch4_window7_224.toml"),
    include_str!("../../../models/swinv2_tiny_window8_256.toml"),
    include_str!("../../../models/swinv2_tiny_window16_256.toml"),
    include_str!("../../../models/swinv2_small_window8_256.toml"),
    include_str!("../../../models/swinv2_small_window16_256.toml"),
    include_str!("../../../models/swinv2_base_window8_256.toml"),
    include_str!("../../../models/swinv2_base_window16_256.toml"),
];

/// timm's and transformers' description of a model, beside its weights.
const CONFIG_FILE: &str = "config.json";
/// transformers' description of how a model's images are prepared, beside its weights.
const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
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
    pub parameters: u64,
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
}

/// Holds what lies beside a file of weights, each as its path and its text.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// The config.json of timm or transformers.
    pub config: Option<(PathBuf, String)>,
    /// The preprocessor_config.json of transformers.
    pub preprocessor: Option<(PathBuf, String)>,
}

impl Beside {
    /// Reads what lies beside the file of `weights`.
    ///
    /// # Errors
    /// A file that can't be read.
    fn of(weights: &Weights) -> Result<Self> {
        Ok(Self {
            config: text_beside(weights, CONFIG_FILE)?,
            preprocessor: text_beside(weights, PREPROCESSOR_FILE)?,
        })
    }
}

/// Parses `text`, the file at `path` beside a file of weights.
///
/// # Errors
/// Text that isn't JSON of this type.
fn parsed<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let problem =
            format!("can't be understood: {error}; a recipe is no way round what it may say");
        Error::input(path, problem)
    })
}

/// Returns the path and the text of the file of this name beside the file of `weights`, if there is one.
///
/// # Errors
/// A file that can't be read.
fn text_beside(weights: &Weights, name: &str) -> Result<Option<(PathBuf, String)>> {
    #[cfg(not(feature = "files"))]
    let text: Option<String> = None;
    let path = weights.path().with_file_name(name);
    #[cfg(feature = "files")]
    let text = crate::file::input::text_if_any(&path)?;
    Ok(text.map(|text| (path, text)))
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

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::fixtures::facts;
    use super::*;

    #[test]
    fn every_recipe_is_timms() {
        let facts = facts();
        for recipe in recipes() {
            let name = &recipe.name;
            let fact = &facts[name];
            fact.check(name, &recipe.architecture);
            assert_eq!(Some(&recipe.hub_id), fact.hub_id.as_ref());
            assert_eq!(recipe.tags, fact.tags, "{name}");
            assert_eq!(recipe.preprocessing, fact.preprocessing, "{name}");
            assert_eq!(recipe.parameters, fact.parameters, "{name}");
            assert_eq!(recipe_named(name), Some(recipe));
        }
    }
}
