//! Who tells what a weights file holds: the user's recipe, the file's metadata, its name, its shapes. What config.json
//! tells is in `timm_config` and `transformers`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CONFIG_KEY, PREPROCESSING_KEY, Recipe, known_names, recipe_named, recipes};
use crate::data::image_size::ImageSize;
use crate::data::preprocess::{CropMode, Interpolation, Preprocessing};
use crate::error::{Error, Result, Setting};
use crate::file::shards::INDEX_SUFFIX;
use crate::file::weights::Weights;
use crate::model::config::{Architecture, Family, RGB_CHANNELS, SwinConfig, VitConfig};

/// Holds what a source says of one thing: nothing, a value, or why it can't be followed.
pub(super) type Said<T> = Option<std::result::Result<T, String>>;

/// Holds what one source says about the contents of a weights file.
pub(super) struct Source {
    /// The architecture's name.
    pub name: String,
    /// Which source it is, for a message.
    pub by: String,
    /// The file that the source is in.
    pub path: PathBuf,
    /// Family and sizes. The size of images may differ from `image_size` where that isn't told.
    pub architecture: Architecture,
    /// The number of classes, or of features of a projection, that the weights must have; `None` where they may have any.
    pub outputs: Option<usize>,
    /// timm's tag of the weights, which tells their data set, if the recipe's name was given for them.
    pub tag: Option<String>,
    pub image_size: Said<ImageSize>,
    pub crop_pct: Said<f64>,
    pub crop_mode: Said<CropMode>,
    pub interpolation: Said<Interpolation>,
    pub mean: Said<Vec<f32>>,
    pub std: Said<Vec<f32>>,
    /// Whether photos are turned as their EXIF says: this program's own metadata alone may ask for it.
    pub exif_orientation: bool,
    /// What holds of the preprocessing where neither this nor another source says anything.
    pub otherwise: Otherwise,
}

/// Says what holds where nobody tells the preprocessing.
pub(super) enum Otherwise {
    /// The source should have told the preprocessing.
    Missing,
    /// A file of this name beside the source should have told it, and there is none.
    Lacks(&'static str),
    /// Only the user can know, and is told so.
    Ask(String),
    /// A network without real preprocessing, such as a test's random one, can still be fed: but with values that nobody
    /// chose, and the user is told so.
    Assume,
}

impl Source {
    /// Returns what `recipe` says of a file; `how` says why it is this recipe. `tag` is the one under which timm knows
    /// the weights, if that is told.
    fn recipe(weights: &Weights, recipe: &Recipe, how: &str, tag: Option<&str>) -> Self {
        Self {
            name: recipe.name.clone(),
            by: format!("recipe `{}` ({how})", recipe.name),
            path: weights.path().to_owned(),
            architecture: recipe.architecture.clone(),
            outputs: None,
            tag: tag.map(str::to_owned),
            image_size: None,
            crop_pct: None,
            crop_mode: None,
            interpolation: None,
            mean: None,
            std: None,
            exif_orientation: false,
            otherwise: Otherwise::Missing,
        }
        .with(&recipe.preprocessing)
    }

    /// Returns this source with all of a preprocessing.
    fn with(self, preprocessing: &Preprocessing) -> Self {
        Self {
            image_size: Some(Ok(preprocessing.image_size)),
            crop_pct: Some(Ok(preprocessing.crop_pct)),
            crop_mode: Some(Ok(preprocessing.crop_mode)),
            interpolation: Some(Ok(preprocessing.interpolation)),
            mean: Some(Ok(preprocessing.mean.clone())),
            std: Some(Ok(preprocessing.std.clone())),
            exif_orientation: preprocessing.exif_orientation,
            ..self
        }
    }
}

/// Returns the recipe that the user names.
pub(super) fn by_request(weights: &Weights, name: &str) -> Result<Source> {
    let recipe = recipe_named(name).ok_or_else(|| {
        let problem = format!("there is no recipe `{name}`; known are {}", known_names());
        Error::setting(Setting::Recipe, problem)
    })?;
    Ok(Source::recipe(
        weights,
        recipe,
        "the user's choice",
        recipe.default_tag(),
    ))
}

/// Holds what the file's metadata says.
pub(super) enum Metadata {
    /// Metadata in this program's form.
    Own(Box<Source>),
    /// Metadata in another form under the same key.
    Foreign,
    None,
}

/// Reads what the file's metadata says of the network.
pub(super) fn by_metadata(weights: &Weights) -> Result<Metadata> {
    let Some(json) = metadata(weights, CONFIG_KEY)? else {
        return Ok(Metadata::None);
    };
    if json.get("family").is_none() {
        return Ok(Metadata::Foreign);
    }
    let architecture: Architecture = understood(weights, CONFIG_KEY, json)?;
    let source = Source {
        name: file_stem(weights).into_owned(),
        by: format!("the file's metadata key `{CONFIG_KEY}`"),
        path: weights.path().to_owned(),
        outputs: Some(architecture.head_outputs()),
        tag: None,
        image_size: Some(Ok(architecture.image_size())),
        architecture,
        crop_pct: None,
        crop_mode: None,
        interpolation: None,
        mean: None,
        std: None,
        exif_orientation: false,
        otherwise: Otherwise::Assume,
    };
    let Some(json) = metadata(weights, PREPROCESSING_KEY)? else {
        return Ok(Metadata::Own(Box::new(source)));
    };
    let preprocessing: Preprocessing = understood(weights, PREPROCESSING_KEY, json)?;
    let (told, other) = (preprocessing.image_size, source.architecture.image_size());
    let channels = source.architecture.in_chans();
    let sound = preprocessing.check_channels(channels);
    let problem = match sound.and_then(|()| preprocessing.validate()) {
        Err(problem) => problem,
        Ok(()) if told != other => {
            format!("image_size is {told}, but {CONFIG_KEY} says {other}")
        }
        Ok(()) => return Ok(Metadata::Own(Box::new(source.with(&preprocessing)))),
    };
    let problem = format!("metadata key `{PREPROCESSING_KEY}`: {problem}");
    Err(Error::input(weights.path(), problem))
}

/// Reads the JSON under a metadata key, if the file has the key.
fn metadata(weights: &Weights, key: &str) -> Result<Option<Value>> {
    let text = weights.metadata().get(key);
    let json = text.map(|text| serde_json::from_str(text)).transpose();
    json.map_err(|error| Error::input(weights.path(), format!("metadata key `{key}`: {error}")))
}

/// Parses the JSON under a metadata key.
fn understood<T: DeserializeOwned>(weights: &Weights, key: &str, json: Value) -> Result<T> {
    serde_json::from_value(json)
        .map_err(|error| Error::input(weights.path(), format!("metadata key `{key}`: {error}")))
}

/// Returns the file's name without folder and `.safetensors`, or `.safetensors.index.json`.
fn file_stem(weights: &Weights) -> Cow<'_, str> {
    let path = weights.path();
    let whole = path
        .to_str()
        .and_then(|path| path.strip_suffix(INDEX_SUFFIX));
    let stem = match whole {
        Some(whole) => Path::new(whole).file_stem(),
        None => path.file_stem(),
    };
    stem.unwrap_or_default().to_string_lossy()
}

/// Finds the recipe that the file is named like: `NAME.safetensors` or `NAME.TAG.safetensors`.
pub(super) fn by_file_name(weights: &Weights) -> Option<Source> {
    let stem = file_stem(weights);
    let (name, tag) = match stem.split_once('.') {
        Some((name, tag)) => (name, Some(tag)),
        None => (&*stem, None),
    };
    let recipe = recipe_named(name)?;
    let source = Source::recipe(
        weights,
        recipe,
        "the file's name",
        tag.or(recipe.default_tag()),
    );
    // Weights of another tag may have been trained with other preprocessing, as timm's `dino` were.
    let Some(tag) = tag.filter(|tag| recipe.tags.iter().all(|known| known != tag)) else {
        return Some(source);
    };
    Some(Source {
        crop_pct: None,
        crop_mode: None,
        interpolation: None,
        mean: None,
        std: None,
        exif_orientation: false,
        otherwise: Otherwise::Ask(format!(
            "{} is named like recipe `{name}` but with tag `{tag}`, and the recipe's preprocessing is known for {} only; pass `{name}` if it holds, or put its config.json beside the file",
            weights.path().display(),
            recipe.tags.join(", ")
        )),
        ..source
    })
}

/// Finds the only recipe that the shapes fit.
pub(super) fn by_shapes(weights: &Weights) -> Result<Source> {
    // This refuses what no recipe could save.
    let described = described(weights)?;
    let fits = |recipe: &&Recipe| recipe.architecture.fitted(weights, &recipe.name).is_ok();
    let fitting: Vec<&Recipe> = recipes().iter().filter(fits).collect();
    if let [recipe] = fitting[..] {
        let how = "the only one that the shapes fit";
        return Ok(Source::recipe(weights, recipe, how, None));
    }

    let file = weights.path().display();
    let problem = if fitting.is_empty() {
        format!(
            "{file} fits no recipe: it is {described} don't show in the tensors; put its config.json beside the file. Known are {}",
            known_names()
        )
    } else {
        let choices: Vec<String> = fitting
            .iter()
            .map(|choice| {
                let Preprocessing { mean, std, .. } = &choice.preprocessing;
                format!("{} (mean {mean:?}, std {std:?})", choice.name)
            })
            .collect();
        format!(
            "{file} fits several recipes by its shapes: {}; pass the one that it was trained with, the wrong one costs accuracy",
            choices.join(", ")
        )
    };
    Err(Error::setting(Setting::Recipe, problem))
}

/// Words the channels of an image where they aren't those of a photo.
fn channels(in_chans: usize) -> String {
    match in_chans {
        RGB_CHANNELS => String::new(),
        other => format!(" {other} channels,"),
    }
}

/// Describes the network by what shows in the tensors, and what doesn't.
fn described(weights: &Weights) -> Result<String> {
    Ok(match Family::of(weights) {
        Family::Vit => {
            // One head divides every width.
            let sizes = VitConfig::from_shapes(weights, 1, &[])?;
            let size = match sizes.rotary {
                true => "any size".to_owned(),
                false => format!("{} pixels", sizes.image_size),
            };
            let mut words = sizes.particulars();
            words.extend([
                format!("{} features", sizes.dim),
                format!("{} blocks", sizes.depth),
                format!("{} hidden features", sizes.mlp_dim),
                format!("patches of {} and images of {size}", sizes.patch_size),
            ]);
            format!(
                "a ViT with {}, and heads and preprocessing",
                words.join(", ")
            )
        }
        Family::Swin => {
            let sizes = SwinConfig::from_shapes(weights, None)?;
            let (version, windows, unseen) = match sizes.v2 {
                false => {
                    let windows = format!(", windows of {} patches", sizes.window);
                    ("", windows, "the image's size")
                }
                true => (" V2", String::new(), "the windows' and the image's size"),
            };
            format!(
                "a Swin transformer{version} with{} {} features, {:?} blocks, {:?} heads{windows} and patches of {} pixels, and {unseen} and preprocessing",
                channels(sizes.in_chans),
                sizes.dim,
                sizes.depths,
                sizes.heads,
                sizes.patch_size,
            )
        }
    })
}
