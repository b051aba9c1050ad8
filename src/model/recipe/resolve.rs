//! Which network a weights file holds: what its sources say, compared with each other and with the tensors.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::labels;
use super::sources::{
    Metadata, Otherwise, Said, Source, by_file_name, by_metadata, by_request, by_shapes,
};
use super::{Beside, CONFIG_KEY, PREPROCESSING_KEY, parsed, timm_config, transformers};
use crate::data::class_names::ClassNames;
use crate::data::image_size::ImageSize;
use crate::data::preprocess::{Choices, CropMode, Interpolation, Preprocessing};
use crate::error::{Error, Remedy, Result, Setting};
use crate::file::weights::Weights;
use crate::model::config::{Answer, Architecture, Gelu, check_kind};
use crate::model::positions::interpolate_positions;

/// Holds what the user says of a weights file.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// Name of the recipe.
    pub recipe: Option<&'a str>,
    /// Height and width of the network's input.
    pub image_size: Option<ImageSize>,
    /// How images are prepared.
    pub preprocessing: Choices,
}

/// Describes what a weights file was found to hold.
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
    /// Who told the architecture and the preprocessing, in one line.
    pub source: String,
}

/// Finds out what `weights` holds. The first of these that speaks decides:
///
/// 1. `recipe`, which the user names;
/// 2. the file's metadata: an [`Architecture`] under [`CONFIG_KEY`] and a [`Preprocessing`] under
///    [`PREPROCESSING_KEY`];
/// 3. timm's or transformers' `config.json` beside the file, as hub repositories have it; transformers' with a
///    `preprocessor_config.json`;
/// 4. the file's name, if it is a recipe's (`NAME.safetensors` or `NAME.TAG.safetensors`);
/// 5. the shapes, if they fit one recipe only.
///
/// Whatever of the first four speaks must agree on the network, but for a name where there is a recipe. On the preprocessing
/// it must agree too, unless the user decides: with a recipe, or field by field (see [`describe`]).
///
/// # Errors
/// [`Error::Input`] if what was told can't be understood, is not supported, doesn't fit the tensors, or contradicts what
/// another source says. [`Error::InvalidSetting`] for an unknown recipe, and where only the user can tell; it lists the recipes
/// that fit.
pub fn resolve(weights: &Weights, recipe: Option<&str>) -> Result<Resolved> {
    let request = Request {
        recipe,
        ..Request::default()
    };
    describe(weights, &request)?.fitted(weights)
}

/// Returns what the sources say to [`resolve`], with what the user asks for, not yet compared with all tensors.
///
/// # Errors
/// Those of [`resolve`] that come before, and an image size that the network can't have.
pub fn describe(weights: &Weights, request: &Request) -> Result<Description> {
    describe_beside(weights, &Beside::of(weights)?, request)
}

/// Returns what [`describe`] does, where what lies beside the file is known.
///
/// # Errors
/// Those of [`describe`].
pub fn describe_beside(
    weights: &Weights,
    beside: &Beside,
    request: &Request,
) -> Result<Description> {
    let config = match &beside.config {
        Some((path, text)) => Some((&**path, parsed(path, text)?)),
        None => None,
    };
    // transformers' names its class, which tells more than the tensors where it isn't supported.
    let of_transformers = config.as_ref().and_then(|(path, json)| {
        let fields = transformers::configuration(json)?;
        Some(transformers::read(path, fields, beside))
    });
    let of_transformers = of_transformers.transpose()?;
    check_kind(weights)?;
    let mut sources = Vec::new();
    if let Some(name) = request.recipe {
        sources.push(by_request(weights, name)?);
    }
    // Where a source is expected and another program has left something.
    let mut foreign = Vec::new();
    match by_metadata(weights)? {
        Metadata::Own(source) => sources.push(*source),
        Metadata::Foreign => foreign.push(format!(
            "metadata key `{CONFIG_KEY}` isn't this program's: it has no `family`"
        )),
        Metadata::None => {}
    }
    match (of_transformers, config) {
        (Some(source), _) => sources.push(source),
        (None, Some((path, json))) => match timm_config::read(weights, path, json)? {
            Some(source) => sources.push(source),
            None => foreign.push(
                "config.json beside the file isn't timm's: it has no `architecture`".to_owned(),
            ),
        },
        (None, None) => {}
    }
    // A name is less than a recipe that the user names.
    if request.recipe.is_none() {
        sources.extend(by_file_name(weights));
    }
    if sources.is_empty() {
        if let Some(foreign) = foreign.first() {
            return Err(Error::remediable(
                weights.path(),
                foreign,
                Remedy::GoByRecipe,
            ));
        }
        sources.push(by_shapes(weights)?);
    }
    let agreed = Agreement::of(&sources, request).told(weights, foreign)?;
    Ok(Description {
        config: beside.config.clone(),
        ..agreed
    })
}

/// Holds what is said of a weights file, where all sources agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The architecture's name.
    name: String,
    /// Family and sizes.
    pub architecture: Architecture,
    /// The size of images that the network's own positions are for.
    stored: ImageSize,
    /// The number of classes, or of features of a projection, that the file must have, and who says so.
    outputs: Vec<(usize, String)>,
    /// How images are prepared.
    preprocessing: Preprocessing,
    /// timm's tag of the weights, if it is told.
    tag: Option<String>,
    /// The path and the text of the config.json, which may name the classes.
    config: Option<(PathBuf, String)>,
    /// Who says what the file holds, for a message.
    by: String,
    /// What the user should know of the file besides.
    remarks: Vec<String>,
}

impl Description {
    /// Makes a ViT's positions in `weights` fit, as [`interpolate_positions`] does. Returns the size of images that
    /// they were for, if that is another.
    ///
    /// # Errors
    /// Those of [`interpolate_positions`].
    pub fn interpolate_positions(&mut self, weights: &mut Weights) -> Result<Option<ImageSize>> {
        let from = interpolate_positions(weights, &self.architecture, Some(self.stored))?;
        if from.is_some() {
            self.stored = self.architecture.image_size();
        }
        Ok(from)
    }

    /// Compares what was told with the tensors.
    ///
    /// # Errors
    /// [`Error::Input`] where they contradict each other.
    pub fn fitted(self, weights: &Weights) -> Result<Resolved> {
        let stored = self.stored;
        let architecture = self.architecture.fitted_from(weights, &self.by, stored)?;
        let (classes, found) = (architecture.classes(), architecture.head_outputs());
        if let Some((told, by)) = self.outputs.iter().find(|(told, _)| *told != found) {
            let what = match found == classes {
                true => "classes",
                false => "features of the projection",
            };
            let problem = format!("doesn't fit {by}: the number of {what} is {found}, not {told}");
            return Err(Error::input(weights.path(), problem));
        }
        let class_names = labels::class_names(self.config, classes, self.tag.as_deref());
        let mut source = vec![self.by];
        source.extend(self.remarks);
        let answer = architecture.answer();
        if let Answer::Features(_) = answer {
            source.push(format!("without a classifier, it answers with {answer}"));
        }
        Ok(Resolved {
            name: self.name,
            architecture,
            preprocessing: self.preprocessing,
            class_names,
            source: source.join("; "),
        })
    }
}

/// Names one thing that sources tell of the preprocessing.
#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    /// timm's name of the field.
    timm: &'static str,
    /// The setting that decides the field.
    setting: Setting,
}

const IMAGE_SIZE: Field = Field {
    name: "image_size",
    timm: "input_size",
    setting: Setting::ImageSize,
};
const CROP_PCT: Field = Field {
    name: "crop_pct",
    timm: "crop_pct",
    setting: Setting::CropPct,
};
const CROP_MODE: Field = Field {
    name: "crop_mode",
    timm: "crop_mode",
    setting: Setting::CropMode,
};
const INTERPOLATION: Field = Field {
    name: "interpolation",
    timm: "interpolation",
    setting: Setting::Interpolation,
};
const MEAN: Field = Field {
    name: "mean",
    timm: "mean",
    setting: Setting::Mean,
};
const STD: Field = Field {
    name: "std",
    timm: "std",
    setting: Setting::Std,
};

/// Holds what is found when the sources are compared with each other.
struct Agreement<'a> {
    /// The sources, of which the first decides.
    sources: &'a [Source],
    request: &'a Request<'a>,
    /// What the user decides, and the value for a message.
    by_user: Vec<(Field, String)>,
    /// What each source has, by its number, that was taken from it though it isn't the first.
    supplied: BTreeMap<usize, Vec<String>>,
    /// What each source has, by its number, that the user's recipe overrules.
    overruled: BTreeMap<usize, Vec<String>>,
    /// What nobody tells.
    assumed: Vec<String>,
    /// The network's sizes that the sources contradict each other in.
    sizes: Vec<String>,
    /// The fields of the preprocessing that the sources contradict each other in.
    fields: Vec<(Field, String)>,
}

impl<'a> Agreement<'a> {
    fn of(sources: &'a [Source], request: &'a Request<'a>) -> Self {
        Self {
            sources,
            request,
            by_user: Vec::new(),
            supplied: BTreeMap::new(),
            overruled: BTreeMap::new(),
            assumed: Vec::new(),
            sizes: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// Returns what all sources say together. `remarks` is what the user should know besides.
    fn told(mut self, weights: &Weights, mut remarks: Vec<String>) -> Result<Description> {
        let first = &self.sources[0];
        let chosen = &self.request.preprocessing;
        self.compare_sizes();
        let own_size = first.architecture.image_size();
        let channels = first.architecture.in_chans();
        let preprocessing = Preprocessing {
            image_size: self.decide(
                IMAGE_SIZE,
                self.request.image_size,
                own_size,
                |source| &source.image_size,
                ImageSize::to_string,
            )?,
            crop_pct: self.decide(
                CROP_PCT,
                chosen.crop_pct,
                1.0,
                |source| &source.crop_pct,
                plain,
            )?,
            crop_mode: self.decide(
                CROP_MODE,
                chosen.crop_mode,
                CropMode::Center,
                |source| &source.crop_mode,
                plain,
            )?,
            interpolation: self.decide(
                INTERPOLATION,
                chosen.interpolation,
                Interpolation::Bicubic,
                |source| &source.interpolation,
                plain,
            )?,
            mean: self.decide(
                MEAN,
                chosen.mean_of(channels),
                vec![0.5; channels],
                |source| &source.mean,
                plain,
            )?,
            std: self.decide(
                STD,
                chosen.std_of(channels),
                vec![0.5; channels],
                |source| &source.std,
                plain,
            )?,
            exif_orientation: chosen
                .exif_orientation
                .unwrap_or_else(|| self.sources.iter().any(|source| source.exif_orientation)),
        };
        if let Some(contradiction) = self.contradiction(weights) {
            return Err(contradiction);
        }
        let architecture = first
            .architecture
            .with_image_size(preprocessing.image_size)
            .map_err(|problem| match self.request.image_size {
                Some(_) => Error::setting(Setting::ImageSize, problem),
                None => Error::input(&first.path, problem),
            })?;
        let sound = preprocessing.check_channels(channels);
        let sound = sound.and_then(|()| preprocessing.validate());
        sound.map_err(|problem| {
            let of_user = |(field, _): &&(Field, String)| problem.starts_with(field.name);
            match self.by_user.iter().find(of_user) {
                Some((field, _)) => Error::setting(field.setting, &problem),
                None => Error::input(&first.path, &problem),
            }
        })?;

        let mut by = first.by.clone();
        if !self.by_user.is_empty() {
            let choices = self.by_user.iter();
            let choices: Vec<String> = choices
                .map(|(field, value)| format!("{} {value}", field.name))
                .collect();
            by.push_str(&format!(" with the user's {}", choices.join(", ")));
        }
        let of = |source: &usize| &self.sources[*source].by;
        for (source, fields) in &self.supplied {
            remarks.push(format!("{} by {}", fields.join(", "), of(source)));
        }
        for (source, fields) in &self.overruled {
            remarks.push(format!("not {} by {}", fields.join(", "), of(source)));
        }
        if !self.assumed.is_empty() {
            remarks.push(format!(
                "it has no `{PREPROCESSING_KEY}`, so this is assumed: {}",
                self.assumed.join(", ")
            ));
        }
        let outputs = |source: &Source| Some((source.outputs?, source.by.clone()));
        Ok(Description {
            name: first.name.clone(),
            architecture,
            stored: own_size,
            outputs: self.sources.iter().filter_map(outputs).collect(),
            preprocessing,
            tag: self.sources.iter().find_map(|source| source.tag.clone()),
            config: None,
            by,
            remarks,
        })
    }

    /// Compares the first source's architecture with the others', but for the image's size, which the user may decide,
    /// and what the head gives, which is compared with the tensors. Of weights that were trained with another form of GELU
    /// timm's config.json says the exact one: a recipe with the other form, which the user names, overrules that.
    fn compare_sizes(&mut self) {
        let [first, others @ ..] = self.sources else {
            return;
        };
        let sizes = |source: &Source| {
            serde_json::to_value(&source.architecture).expect("plain data is always JSON")
        };
        let told = sizes(first);
        let by_recipe = self.request.recipe.is_some();
        for (number, other) in others.iter().enumerate() {
            let other_told = sizes(other);
            let same_family = first.architecture.family() == other.architecture.family();
            // A part that a network lacks isn't told.
            let names = [&told, &other_told].map(|told| told.as_object().into_iter().flatten());
            let names: BTreeSet<&String> =
                names.into_iter().flatten().map(|(name, _)| name).collect();
            for name in names {
                let compared = match same_family {
                    true => !["image_size", "classes", "projection"].contains(&&**name),
                    false => name == "family",
                };
                let (value, other_value) = (&told[name], &other_told[name]);
                if !compared || value == other_value {
                    continue;
                }
                if name == "act_layer" && by_recipe && other_value.is_null() {
                    let overruled = self.overruled.entry(number + 1).or_default();
                    overruled.push(format!("{name} {}", Gelu::default().name()));
                } else {
                    self.sizes.push(format!(
                        "{name} is {} by {}, {} by {}",
                        plain(value),
                        first.by,
                        plain(other_value),
                        other.by
                    ));
                }
            }
        }
    }

    /// Returns the user's choice, or what the first source says that says anything; notes what the others say. Where
    /// nobody says anything, it is `assumed`, if that is allowed. `words` writes a value for a message.
    fn decide<T: Clone + PartialEq>(
        &mut self,
        field: Field,
        chosen: Option<T>,
        assumed: T,
        said: impl Fn(&Source) -> &Said<T>,
        words: impl Fn(&T) -> String,
    ) -> Result<T> {
        if let Some(chosen) = chosen {
            self.by_user.push((field, words(&chosen)));
            return Ok(chosen);
        }
        let sources = self.sources;
        let mut speaking = sources
            .iter()
            .enumerate()
            .filter_map(|(number, source)| Some((number, source, said(source).as_ref()?)));
        let Some((number, decider, value)) = speaking.next() else {
            self.untold(field, words(&assumed))?;
            return Ok(assumed);
        };
        let value = value.clone().map_err(|problem| {
            Error::remediable(&decider.path, problem, Remedy::Decide(field.setting))
        })?;
        if number > 0 {
            let supplied = self.supplied.entry(number).or_default();
            supplied.push(format!("{} {}", field.name, words(&value)));
        }
        // The image's size is one of the network's, which no recipe may overrule.
        let overrules = self.request.recipe.is_some() && field.name != IMAGE_SIZE.name;
        for (number, other, other_value) in speaking {
            let (overruled, contradiction) = match other_value {
                Ok(other_value) if *other_value == value => continue,
                Ok(other_value) => (
                    format!("{} {}", field.name, words(other_value)),
                    format!("{} by {}", words(other_value), other.by),
                ),
                Err(problem) => (
                    format!("{}, which it {problem}", field.name),
                    format!("but {} {problem}", other.by),
                ),
            };
            if overrules {
                self.overruled.entry(number).or_default().push(overruled);
            } else {
                let contradiction = format!(
                    "{} is {} by {}, {contradiction}",
                    field.name,
                    words(&value),
                    decider.by
                );
                self.fields.push((field, contradiction));
            }
        }
        Ok(value)
    }

    /// Notes what is assumed of a field that nobody tells, if that is allowed.
    fn untold(&mut self, field: Field, assumed: String) -> Result<()> {
        let first = &self.sources[0];
        match &first.otherwise {
            Otherwise::Assume => {
                self.assumed.push(format!("{} {assumed}", field.name));
                Ok(())
            }
            Otherwise::Lacks(file) => Err(Error::remediable(
                &first.path,
                format!("has no {file} beside it, which tells {}", field.name),
                Remedy::Decide(field.setting),
            )),
            Otherwise::Ask(question) => Err(Error::setting(Setting::Recipe, question)),
            Otherwise::Missing => Err(Error::remediable(
                &first.path,
                format!("has no `{}`", field.timm),
                Remedy::Decide(field.setting),
            )),
        }
    }

    /// Makes the error for what the sources contradict each other in, with what decides it, if they do.
    fn contradiction(&self, weights: &Weights) -> Option<Error> {
        let fields = self.fields.iter().map(|(_, contradiction)| contradiction);
        let all: Vec<&str> = self
            .sizes
            .iter()
            .chain(fields)
            .map(String::as_str)
            .collect();
        if all.is_empty() {
            return None;
        }
        let problem = format!("what is told of it contradicts itself: {}", all.join("; "));
        if !self.sizes.is_empty() {
            let problem = format!("{problem}; one of them is about another network");
            return Some(Error::input(weights.path(), problem));
        }
        let fields = self.fields.iter();
        let mut settings: Vec<Setting> = fields.map(|(field, _)| field.setting).collect();
        settings.dedup();
        let recipe = self.request.recipe.is_none() && !settings.contains(&Setting::ImageSize);
        let remedy = Remedy::AsTrained { settings, recipe };
        Some(Error::remediable(weights.path(), problem, remedy))
    }
}

/// Writes a value for a message: without quotes or brackets. A part that a network lacks isn't told, and reads `absent`.
fn plain(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("plain data is always JSON");
    if json == "null" {
        return "absent".to_owned();
    }
    json.trim_matches(['[', ']', '"']).to_owned()
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::config::{SwinConfig, VitConfig};
    use crate::model::recipe::fixtures::{
        Blamed, Checkpoint, micro_swin, micro_vit, one_class, refusal,
    };
    use crate::model::recipe::recipe_named;
    use serde_json::json;

    /// timm's config.json of a known architecture with one class, and the preprocessing that ImageNet's DeiTs have.
    fn config(architecture: &str, image_size: usize) -> serde_json::Value {
        json!({
            "architecture": architecture, "num_classes": 1,
            "pretrained_cfg": {"input_size": [3, image_size, image_size], "interpolation": "bicubic",
                "crop_pct": 0.9, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        })
    }

    fn recipe(name: &str) -> Request<'_> {
        Request {
            recipe: Some(name),
            ..Request::default()
        }
    }

    #[test]
    fn the_user_comes_first() {
        let sizes = one_class("vit_tiny_patch16_224");
        let file = Checkpoint::new("vit_tiny_patch16_224.safetensors", &sizes, &[]);
        let resolved = resolve(&file.weights, Some("deit_tiny_patch16_224")).unwrap();
        assert_eq!(resolved.name, "deit_tiny_patch16_224");
        assert_eq!(resolved.architecture, sizes);
        assert_eq!(resolved.preprocessing.mean, [0.485, 0.456, 0.406]);
        assert_eq!(
            resolved.source,
            "recipe `deit_tiny_patch16_224` (the user's choice)"
        );

        let (blamed, message) = refusal(resolve(&file.weights, Some("vit_tiny")));
        assert_eq!(blamed, Blamed::Setting);
        assert!(
            message.starts_with("recipe: there is no recipe `vit_tiny`; known are vit_tiny_p"),
            "{message}"
        );
        let (blamed, message) = refusal(resolve(&file.weights, Some("vit_small_patch16_224")));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.ends_with("doesn't fit recipe `vit_small_patch16_224` (the user's choice): dim is 192, not 384; mlp_dim is 768, not 1536"),
            "{message}"
        );
    }

    #[test]
    fn a_recipe_tells_the_form_of_gelu_where_timms_config_has_the_exact_one() {
        let (Architecture::Vit(micro), _) = micro_vit() else {
            panic!("a ViT");
        };
        let tower = Architecture::Vit(VitConfig {
            pre_norm: true,
            ..micro
        });
        let file = Checkpoint::new("model.safetensors", &tower, &[]);
        let described = |architecture: &str, request: &Request| {
            file.write_config(&config(architecture, 224).to_string());
            describe(&file.weights, request)
        };
        let [plain, quick] = [
            "vit_base_patch32_clip_224",
            "vit_base_patch32_clip_quickgelu_224",
        ];
        let told = described(plain, &recipe(quick)).unwrap();
        assert_eq!(told.architecture, recipe_named(quick).unwrap().architecture);
        let remark = &told.remarks[0];
        assert!(remark.starts_with("not act_layer gelu, "), "{remark}");
        let by = format!(" by config.json beside the file (architecture `{plain}`)");
        assert!(remark.ends_with(&by), "{remark}");
        // The other way round both name a form, and neither gives way.
        let message = described(quick, &recipe(plain)).unwrap_err().to_string();
        let says = format!(
            "act_layer is absent by recipe `{plain}` (the user's choice), quick_gelu by config.json"
        );
        assert!(message.contains(&says), "{message}\nlacks {says}");
    }

    #[test]
    fn no_recipe_overrules_what_another_source_says_of_the_network() {
        let sizes = one_class("deit_tiny_patch16_224");
        let known = config("deit_tiny_patch16_224", 224);
        let with = |place: &str, value: serde_json::Value| {
            let mut config = known.clone();
            let (object, key) = place.rsplit_once('/').unwrap();
            if object == "/model_args" {
                config["model_args"] = json!({});
            }
            config.pointer_mut(object).unwrap()[key] = value;
            config
        };
        let cases = [
            (with("/global_pool", json!("avg")), "has global_pool `avg`"),
            (
                with("/model_args/fc_norm", json!(true)),
                "fc_norm is absent by recipe `deit_tiny_patch16_224` (the user's choice), true by config.json",
            ),
            (
                with("/model_args/act_layer", json!("quick_gelu")),
                "act_layer is absent by recipe `deit_tiny_patch16_224` (the user's choice), quick_gelu by config.json",
            ),
            (
                with("/model_args/num_heads", json!(6)),
                "heads is 3 by recipe `deit_tiny_patch16_224` (the user's choice), 6 by config.json",
            ),
            (
                with("/model_args/depth", json!(13)),
                "depth is 12 by recipe",
            ),
            (
                with("/model_args/reg_tokens", json!(4)),
                "reg_tokens is absent by recipe `deit_tiny_patch16_224` (the user's choice), 4 by config.json",
            ),
            (
                with("/architecture", json!("vit_small_patch16_224")),
                "dim is 192 by recipe",
            ),
            (
                with("/architecture", json!("deit_tiny_distilled_patch16_224")),
                "distilled is false by recipe",
            ),
            (
                with("/architecture", json!("swin_tiny_patch4_window7_224")),
                "family is vit by recipe",
            ),
            (
                with("/architecture", json!("my_vit")),
                "no `model_args.num_heads`",
            ),
            (
                with("/num_classes", json!(7)),
                "the number of classes is 1, not 7",
            ),
            (
                config("deit_tiny_patch16_224", 384),
                "image_size is 224 by recipe `deit_tiny_patch16_224` (the user's choice), 384 by config.json",
            ),
        ];
        for (config, expected) in cases {
            let file = Checkpoint::new("model.safetensors", &sizes, &[]);
            file.write_config(&config.to_string());
            let (blamed, message) = refusal(file.requested(&recipe("deit_tiny_patch16_224")));
            assert_eq!(blamed, Blamed::File, "{message}");
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }

        // What a damaged file would have said can't be known.
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        file.write_config(&known.to_string()[..20]);
        let (blamed, message) = refusal(file.requested(&recipe("deit_tiny_patch16_224")));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.contains("can't be understood: EOF while parsing"),
            "{message}"
        );

        // Neither does it overrule the file's metadata.
        for (told, expected) in [
            (json!({"family": "nonsense"}), "`config`: unknown variant"),
            (
                json!({"family": "vit", "image_size": 224, "patch_size": 16, "dim": 192, "depth": 12,
                    "heads": 6, "mlp_ratio": 4, "classes": 1}),
                "heads is 3 by recipe `deit_tiny_patch16_224` (the user's choice), 6 by the file's metadata",
            ),
        ] {
            let metadata = [(CONFIG_KEY, told.to_string())];
            let file = Checkpoint::new("model.safetensors", &sizes, &metadata);
            let (blamed, message) = refusal(file.requested(&recipe("deit_tiny_patch16_224")));
            assert_eq!(blamed, Blamed::File);
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
    }

    #[test]
    fn preprocessing_that_is_told_twice_must_agree() {
        let sizes = one_class("vit_tiny_patch16_224");
        let file = Checkpoint::new("vit_tiny_patch16_224.safetensors", &sizes, &[]);
        let (blamed, message) = refusal(file.beside(&config("deit_tiny_patch16_224", 224)));
        assert_eq!(blamed, Blamed::File);
        let by = "by config.json beside the file (architecture `deit_tiny_patch16_224`)";
        let name = "by recipe `vit_tiny_patch16_224` (the file's name)";
        let expected = format!(
            "what is told of it contradicts itself: mean is 0.485,0.456,0.406 {by}, 0.5,0.5,0.5 {name}; \
             std is 0.229,0.224,0.225 {by}, 0.5,0.5,0.5 {name}; \
             pass mean and std with what it was trained with, or `recipe` with the recipe that it was trained with"
        );
        assert!(message.ends_with(&expected), "{message}");

        // Either way out works, and says what it is.
        let by_recipe = file.requested(&recipe("vit_tiny_patch16_224")).unwrap();
        assert_eq!(by_recipe.preprocessing.mean, [0.5; 3]);
        assert_eq!(
            by_recipe.source,
            format!(
                "recipe `vit_tiny_patch16_224` (the user's choice); not mean 0.485,0.456,0.406, std 0.229,0.224,0.225 {by}"
            )
        );
        let choices = Choices {
            mean: Some(vec![0.485, 0.456, 0.406]),
            std: Some(vec![0.1, 0.2, 0.3]),
            ..Choices::default()
        };
        let request = Request {
            preprocessing: choices,
            ..Request::default()
        };
        let by_flags = file.requested(&request).unwrap();
        assert_eq!(by_flags.preprocessing.std, [0.1, 0.2, 0.3]);
        assert_eq!(
            by_flags.source,
            "config.json beside the file (architecture `deit_tiny_patch16_224`) with the user's mean 0.485,0.456,0.406, std 0.1,0.2,0.3"
        );

        // Each field counts.
        for (field, value, expected) in [
            ("crop_pct", json!(0.875), "crop_pct is 0.875 by config.json"),
            (
                "interpolation",
                json!("bilinear"),
                "interpolation is bilinear by config.json",
            ),
            ("input_size", json!([3, 384, 384]), "image_size is 384 by"),
        ] {
            let file = Checkpoint::new("deit_tiny_patch16_224.safetensors", &sizes, &[]);
            let mut config = config("deit_tiny_patch16_224", 224);
            assert!(file.beside(&config).is_ok());
            config["pretrained_cfg"][field] = value;
            let (blamed, message) = refusal(file.beside(&config));
            assert_eq!(blamed, Blamed::File);
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }

        // A name with a tag of other preprocessing tells the network only.
        let file = file.renamed("vit_tiny_patch16_224.dino.safetensors");
        let resolved = file.beside(&config("deit_tiny_patch16_224", 224)).unwrap();
        assert_eq!(resolved.preprocessing.mean, [0.485, 0.456, 0.406]);
        let file = file.renamed("vit_small_patch16_224.dino.safetensors");
        let (_, message) = refusal(file.beside(&config("deit_tiny_patch16_224", 224)));
        assert!(message.contains("dim is 192 by config.json"), "{message}");
        assert!(
            message.ends_with("one of them is about another network"),
            "{message}"
        );
    }

    #[test]
    fn the_user_decides_what_cannot_be_followed() {
        let sizes = one_class("deit_tiny_patch16_224");
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let with = |field: &str, value: serde_json::Value| {
            let mut config = config("deit_tiny_patch16_224", 224);
            config["pretrained_cfg"][field] = value;
            config
        };
        for (config, expected) in [
            (
                with("interpolation", json!("nearest")),
                "has interpolation `nearest`, where `bilinear`, `bicubic` or `lanczos` is expected; `interpolation` decides it",
            ),
            (
                with("crop_mode", json!("border")),
                "has crop_mode `border`, where `center` or `squash` is expected; `crop_mode` decides it",
            ),
            (
                with("mean", json!(null)),
                "has no `mean`; `mean` decides it",
            ),
            (with("std", json!([])), "`std` decides it"),
            (
                with("input_size", json!(null)),
                "has no `input_size`; `image_size` decides it",
            ),
        ] {
            let (blamed, message) = refusal(file.beside(&config));
            assert_eq!(blamed, Blamed::File);
            assert!(message.ends_with(expected), "{message}\nlacks {expected}");
            let all = Request {
                recipe: None,
                image_size: Some(224.into()),
                preprocessing: Choices {
                    crop_pct: Some(0.5),
                    crop_mode: Some(CropMode::Squash),
                    interpolation: Some(Interpolation::Lanczos),
                    mean: Some(vec![0.1; 3]),
                    std: Some(vec![0.2; 3]),
                    exif_orientation: Some(true),
                },
            };
            let resolved = file.requested(&all).unwrap();
            assert_eq!(resolved.architecture, sizes);
            assert_eq!(
                resolved.preprocessing,
                Preprocessing {
                    image_size: 224.into(),
                    crop_pct: 0.5,
                    crop_mode: CropMode::Squash,
                    interpolation: Interpolation::Lanczos,
                    mean: vec![0.1; 3],
                    std: vec![0.2; 3],
                    exif_orientation: true,
                }
            );
        }
        // A choice out of range is the user's fault, a value in a file is not.
        let wrong = Request {
            preprocessing: Choices {
                crop_pct: Some(2.0),
                ..Choices::default()
            },
            ..recipe("deit_tiny_patch16_224")
        };
        let (blamed, message) = refusal(file.requested(&wrong));
        assert_eq!(blamed, Blamed::Setting);
        assert!(
            message.starts_with("crop_pct: crop_pct: expected 0.1 to 1"),
            "{message}"
        );
        let (blamed, message) = refusal(file.beside(&with("std", json!([0, 1, 1]))));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.contains(
                "config.json: std: expected finite numbers above 0, found [0.0, 1.0, 1.0]"
            ),
            "{message}"
        );
    }

    #[test]
    fn what_another_program_left_is_no_source() {
        let sizes = one_class("deit_tiny_patch16_224");
        let metadata = [(CONFIG_KEY, json!({"learning_rate": 0.1}).to_string())];
        let file = Checkpoint::new("model.safetensors", &sizes, &metadata);
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.ends_with("metadata key `config` isn't this program's: it has no `family`; `recipe` goes by a known recipe instead"),
            "{message}"
        );
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let (blamed, message) = refusal(file.beside(&json!({"name": "my model"})));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.ends_with(
                "isn't timm's: it has no `architecture`; `recipe` goes by a known recipe instead"
            ),
            "{message}"
        );
        let file = Checkpoint::new("model.safetensors", &sizes, &metadata);
        file.write_config("{}");
        let resolved = file.requested(&recipe("deit_tiny_patch16_224")).unwrap();
        assert_eq!(
            resolved.source,
            "recipe `deit_tiny_patch16_224` (the user's choice); metadata key `config` isn't this program's: it has no `family`; config.json beside the file isn't timm's: it has no `architecture`"
        );

        // transformers' says something of a network, and so does a part of timm's.
        for (config, expected) in [
            (
                json!({"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_act": "mish"}),
                "has hidden_act `mish`, where `gelu`, `gelu_pytorch_tanh`, `quick_gelu`, `silu` or `relu` is expected",
            ),
            (
                json!({"model_args": {"act_layer": "mish"}}),
                "it has no `architecture`",
            ),
        ] {
            for request in [Request::default(), recipe("deit_tiny_patch16_224")] {
                file.write_config(&config.to_string());
                let (blamed, message) = refusal(file.requested(&request));
                assert_eq!(blamed, Blamed::File);
                assert!(message.ends_with(expected), "{message}\nlacks {expected}");
            }
        }
    }

    #[test]
    fn metadata_comes_before_config_json() {
        let (sizes, told) = micro_vit();
        let preprocessing = Preprocessing {
            image_size: 32.into(),
            crop_pct: 0.875,
            crop_mode: CropMode::Squash,
            interpolation: Interpolation::Lanczos,
            mean: vec![0.1, 0.2, 0.3],
            std: vec![0.4, 0.5, 0.6],
            exif_orientation: true,
        };
        let json = serde_json::to_string(&preprocessing).unwrap();
        let metadata = (CONFIG_KEY, told.to_string());
        let file = Checkpoint::new(
            "m.safetensors",
            &sizes,
            &[metadata.clone(), (PREPROCESSING_KEY, json.clone())],
        );
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.name, "m");
        assert_eq!(resolved.architecture, sizes.clone());
        assert_eq!(resolved.preprocessing, preprocessing);
        assert_eq!(resolved.source, "the file's metadata key `config`");

        // Beside a config.json they must agree.
        let mut config = config("vit_micro", 32);
        config["num_classes"] = json!(10);
        config["model_args"] = json!({"num_heads": 3});
        let (blamed, message) = refusal(file.beside(&config));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.contains(
                "crop_pct is 0.875 by the file's metadata key `config`, 0.9 by config.json"
            ),
            "{message}"
        );

        // Without `preprocessing` config.json tells it, or it is assumed.
        let file = Checkpoint::new("m.safetensors", &sizes, std::slice::from_ref(&metadata));
        let resolved = file.beside(&config).unwrap();
        assert_eq!(resolved.preprocessing.mean, [0.485, 0.456, 0.406]);
        assert!(
            resolved.source.starts_with("the file's metadata key `config`; crop_pct 0.9, crop_mode center, interpolation bicubic, mean 0.485,0.456,0.406, std 0.229,0.224,0.225 by config.json"),
            "{}",
            resolved.source
        );
        let file = Checkpoint::new("m.safetensors", &sizes, std::slice::from_ref(&metadata));
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.preprocessing.crop_pct, 1.0);
        assert_eq!(resolved.preprocessing.mean, [0.5; 3]);
        assert!(resolved.source.contains(
            "no `preprocessing`, so this is assumed: crop_pct 1.0, crop_mode center, interpolation bicubic, mean"
        ));

        let wrong = json.replace("\"image_size\":32", "\"image_size\":64");
        let file = Checkpoint::new(
            "m.safetensors",
            &sizes,
            &[metadata, (PREPROCESSING_KEY, wrong)],
        );
        let (_, message) = refusal(resolve(&file.weights, None));
        assert!(
            message.ends_with("metadata key `preprocessing`: image_size is 64, but config says 32"),
            "{message}"
        );
    }

    #[test]
    fn positions_of_a_square_are_not_taken_for_another_grids() {
        // Both have 36 patches.
        let sizes = one_class("deit_tiny_patch16_224").with_image_size(96.into());
        let mut file = Checkpoint::new("deit.safetensors", &sizes.unwrap(), &[]);
        file.write_config(&config("deit_tiny_patch16_224", 96).to_string());
        let request = Request {
            image_size: Some([64, 144].into()),
            ..Request::default()
        };
        let mut told = describe(&file.weights, &request).unwrap();
        let error = told.clone().fitted(&file.weights).unwrap_err().to_string();
        let expected = "its positions are for images of 96 pixels, not 64x144; `interpolate_positions` resamples them";
        assert!(error.ends_with(expected), "{error}");
        let from = told.interpolate_positions(&mut file.weights).unwrap();
        assert_eq!(from, Some(96.into()));
        let resolved = told.fitted(&file.weights).unwrap();
        assert_eq!(resolved.preprocessing.image_size, [64, 144].into());
    }

    #[test]
    fn the_image_size_may_be_another() {
        let sizes = one_class("deit_tiny_patch16_224");
        let file = Checkpoint::new("deit_tiny_patch16_224.safetensors", &sizes, &[]);
        let sized = |image_size: usize| Request {
            image_size: Some(image_size.into()),
            ..Request::default()
        };
        assert_eq!(file.requested(&sized(224)).unwrap().architecture, sizes);

        let larger = describe(&file.weights, &sized(384)).unwrap();
        assert_eq!(larger.preprocessing.image_size, 384.into());
        assert_eq!(larger.preprocessing.crop_pct, 0.9);
        let (blamed, message) = refusal(larger.fitted(&file.weights));
        let expected = "doesn't fit recipe `deit_tiny_patch16_224` (the file's name) with the user's image_size 384: its positions are for images of 224 pixels, not 384; `interpolate_positions` resamples them";
        assert_eq!(blamed, Blamed::File);
        assert!(message.ends_with(expected), "{message}");

        for (image_size, expected) in [
            (
                230,
                "image_size: image_size 230 is not divisible by patch_size 16",
            ),
            (0, "image_size: image_size is 0, where 1 to"),
            (
                8192,
                "image_size: the number of tokens that attend to each other is 262145, where 1 to 65535",
            ),
        ] {
            let error = describe(&file.weights, &sized(image_size)).unwrap_err();
            assert!(matches!(error, Error::InvalidSetting { .. }));
            assert!(error.to_string().starts_with(expected), "{error}");
        }
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
            let (blamed, message) = refusal(resolve(&file.weights, None));
            assert_eq!(blamed, Blamed::File);
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
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::Setting);
        assert!(
            message.contains("tag `dino`") && message.contains("augreg_in21k_ft_in1k"),
            "{message}"
        );

        // A name that the shapes contradict is no reason to try the shapes.
        let file = Checkpoint::new("deit_small_patch16_224.safetensors", &sizes, &[]);
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::File);
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
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::Setting);
        let expected = "model.safetensors fits several recipes by its shapes: \
            vit_tiny_patch16_224 (mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]), \
            deit_tiny_patch16_224 (mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]); \
            pass the one that it was trained with";
        assert!(
            message.starts_with("recipe: ") && message.contains(expected),
            "{message}"
        );
    }

    #[test]
    fn shapes_that_fit_no_recipe_are_described() {
        let file = Checkpoint::new("model.safetensors", &micro_vit().0, &[]);
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::Setting);
        assert!(
            message.contains("a ViT with 48 features, 2 blocks, 192 hidden features, patches of 8 and images of 32 pixels"),
            "{message}"
        );
    }

    #[test]
    fn a_distilled_network_is_no_plain_one() {
        let sizes = one_class("deit_tiny_distilled_patch16_224");
        let file = Checkpoint::new("model.safetensors", &sizes, &[]);
        let resolved = resolve(&file.weights, None).unwrap();
        assert_eq!(resolved.name, "deit_tiny_distilled_patch16_224");
        assert_eq!(resolved.architecture, sizes);
        let (blamed, message) = refusal(resolve(&file.weights, Some("deit_tiny_patch16_224")));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.ends_with("(the user's choice): distilled is true, not false"),
            "{message}"
        );
    }

    #[test]
    fn a_swin_is_told_by_its_name_and_its_shapes() {
        let sizes = one_class("swin_tiny_patch4_window7_224");
        let file = "swin_tiny_patch4_window7_224.ms_in1k.safetensors";
        let file = Checkpoint::new(file, &sizes, &[]);
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
            let (blamed, message) = refusal(resolve(&file.weights, Some(recipe)));
            assert_eq!(blamed, Blamed::File);
            assert!(message.ends_with(expected), "{message}\nlacks {expected}");
        }

        let file = file.renamed("model.safetensors");
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
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::Setting);
        assert!(
            message.contains("it is a Swin transformer with 32 features, [2, 2] blocks, [2, 4] heads, windows of 7 patches and patches of 4 pixels"),
            "{message}"
        );

        let Architecture::Swin(swin) = &sizes else {
            panic!("a Swin");
        };
        let v2 = Architecture::Swin(SwinConfig {
            v2: true,
            ..swin.clone()
        });
        let file = Checkpoint::new("model.safetensors", &v2, &[]);
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::Setting);
        let says = "it is a Swin transformer V2 with 32 features, [2, 2] blocks, [2, 4] heads and patches of 4 pixels, and the windows' and the image's size and preprocessing don't show";
        assert!(message.contains(says), "{message}");

        // What no recipe could save is not blamed on the recipe.
        let mut tensors = sizes.expected_tensors();
        tensors.push(("absolute_pos_embed".into(), vec![1]));
        let file = Checkpoint::of("model.safetensors", tensors, &[]);
        let (blamed, message) = refusal(resolve(&file.weights, None));
        assert_eq!(blamed, Blamed::File);
        assert!(
            message.ends_with("is a Swin with absolute positions, which is not supported"),
            "{message}"
        );
    }
}
