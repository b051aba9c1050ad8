//! The models and images that are built in.

use crate::js::{array, file, object};
use js_sys::{Array, Uint8Array};
use ptq4vit_gpu::verify::demo::{self, MODELS};
use wasm_bindgen::prelude::*;

/// Names the models.
pub fn models() -> Array {
    array(MODELS.map(JsValue::from))
}

/// Returns an image of each class, `CLASS/NAME`.
pub fn images() -> Array {
    let mut images = demo::test_images();
    images.dedup_by_key(|(name, _)| name.split('/').next());
    files(images)
}

/// Returns the images to calibrate on.
pub fn calibration_images() -> Array {
    files(demo::calibration_images())
}

fn files(files: Vec<(&str, &[u8])>) -> Array {
    array(files.into_iter().map(|(name, bytes)| file(name, bytes)))
}

/// Returns a model's checkpoint and the text of its config.json.
///
/// # Errors
/// A name that is none of the models'.
pub fn checkpoint(name: &str) -> Result<JsValue, JsError> {
    let Some(checkpoint) = demo::checkpoint(name) else {
        let problem = format!("there is no built-in model {name}");
        return Err(JsError::new(&problem));
    };
    Ok(object([
        ("name", format!("{name}.safetensors").into()),
        ("bytes", Uint8Array::from(checkpoint.weights).into()),
        ("config", checkpoint.config.into()),
    ]))
}
