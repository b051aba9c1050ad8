//! Hugging Face transformers' `config.json`, and the `preprocessor_config.json` beside it: a file for each kind of network,
//! and one for what prepares images.

mod beit;
mod classes;
mod clip;
mod dinov2;
mod dinov3;
mod fields;
mod processor;
mod siglip;
mod swin;
mod vit;

use std::path::Path;

use serde_json::{Map, Value};

use self::classes::class;
use self::fields::Fields;
use super::sources::{Otherwise, Source};
use super::{Beside, PREPROCESSOR_FILE};
use crate::error::{Error, Result};
use crate::model::config::Answer;

/// Returns the fields of a config.json, if it is transformers'. timm's may have a `model_type`, too, for transformers to
/// read it.
pub(super) fn configuration(json: &Value) -> Option<&Map<String, Value>> {
    let fields = json.as_object()?;
    let is_transformers = json["model_type"].is_string() && json["architecture"].is_null();
    is_transformers.then_some(fields)
}

/// Reads what `config`, the config.json at `path`, tells, and the preprocessor_config.json beside it.
///
/// # Errors
/// A class that isn't supported, a network of a supported class that isn't, and what can't be understood.
pub(super) fn read(path: &Path, config: &Map<String, Value>, beside: &Beside) -> Result<Source> {
    let problem = |problem: String| Error::input(path, problem);
    let class = class(config).map_err(problem)?;
    let fields = Fields::of(config);
    let architecture = (class.architecture)(&fields).map_err(problem)?;
    let source = Source {
        name: class.name.to_owned(),
        by: format!(
            "config.json beside the file (transformers' `{}`)",
            class.name
        ),
        path: path.to_owned(),
        outputs: match architecture.answer() {
            Answer::Features(_) => Some(architecture.head_outputs()),
            Answer::Logits(_) => classes(&fields).map_err(problem)?,
        },
        tag: None,
        image_size: Some(Ok(architecture.image_size())),
        architecture,
        crop_pct: None,
        crop_mode: None,
        interpolation: None,
        mean: None,
        std: None,
        exif_orientation: false,
        otherwise: Otherwise::Lacks(PREPROCESSOR_FILE),
    };
    match &beside.preprocessor {
        Some((path, text)) => processor::read(path, text, class, source),
        None => Ok(source),
    }
}

/// Returns the number of classes, if it is told.
fn classes(fields: &Fields) -> std::result::Result<Option<usize>, String> {
    match fields.get("id2label") {
        Some(Value::Object(labels)) => Ok(Some(labels.len())),
        _ => fields.number("num_labels"),
    }
}
