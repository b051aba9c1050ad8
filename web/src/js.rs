//! What comes from JavaScript and goes there.

use js_sys::{Array, Function, JSON, Object, Reflect, Uint8Array};
use ptq4vit_gpu::error::{Error, Result};
use serde::Serialize;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// Describes a calibration.
    pub type CalibrationJob;
    #[wasm_bindgen(method, getter)]
    pub fn name(this: &CalibrationJob) -> String;
    #[wasm_bindgen(method, getter)]
    pub fn checkpoint(this: &CalibrationJob) -> Vec<u8>;
    #[wasm_bindgen(method, getter)]
    pub fn config(this: &CalibrationJob) -> Option<String>;
    #[wasm_bindgen(method, getter)]
    pub fn preprocessor(this: &CalibrationJob) -> Option<String>;
    #[wasm_bindgen(method, getter)]
    pub fn preset(this: &CalibrationJob) -> String;
    #[wasm_bindgen(method, getter, js_name = weightBits)]
    pub fn weight_bits(this: &CalibrationJob) -> u32;
    #[wasm_bindgen(method, getter, js_name = activationBits)]
    pub fn activation_bits(this: &CalibrationJob) -> u32;
    #[wasm_bindgen(method, getter)]
    pub fn images(this: &CalibrationJob) -> Vec<File>;

    /// Is a file: its name and contents.
    pub type File;
    #[wasm_bindgen(method, getter)]
    pub fn name(this: &File) -> String;
    #[wasm_bindgen(method, getter)]
    pub fn bytes(this: &File) -> Vec<u8>;
}

/// Makes an object of these fields.
pub fn object<const N: usize>(fields: [(&str, JsValue); N]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        Reflect::set(&object, &name.into(), &value).expect("a new object takes any field");
    }
    object.into()
}

/// Makes the object of a file.
pub fn file(name: &str, bytes: &[u8]) -> JsValue {
    object([
        ("name", name.into()),
        ("bytes", Uint8Array::from(bytes).into()),
    ])
}

/// Makes an array.
pub fn array(values: impl IntoIterator<Item = JsValue>) -> Array {
    values.into_iter().collect()
}

/// Makes plain data of JavaScript's.
pub fn json(value: &impl Serialize) -> JsValue {
    let text = serde_json::to_string(value).expect("plain data is always JSON");
    JSON::parse(&text).expect("it was written as JSON")
}

/// Tells `listener` how far a job is.
///
/// # Errors
/// What the listener throws.
pub fn tell(listener: &Function, what: &JsValue, done: f64) -> Result<()> {
    let told = listener.call2(&JsValue::UNDEFINED, what, &done.into());
    told.map(drop).map_err(|thrown| {
        let message = js_sys::Error::from(thrown).message();
        Error::Check(format!("the page: {}", String::from(message)))
    })
}
