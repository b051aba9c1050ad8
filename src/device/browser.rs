//! What a browser tells of its adapter and itself, as far as wgpu doesn't pass it on.

use js_sys::futures::JsFuture;
use js_sys::{Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};

/// Returns what the browser calls itself: it is the driver, in a way.
pub(super) fn name() -> String {
    let name = || text(&navigator()?, "userAgent");
    name().unwrap_or_default()
}

/// Returns the description of the adapter that the browser offers for high performance, or else its vendor and
/// architecture, or that it hasn't told those.
pub(super) async fn adapter_name() -> String {
    let name = match adapter_info().await {
        Some(info) => match text(&info, "description") {
            Some(description) => description,
            None => {
                let parts = ["vendor", "architecture"];
                let parts: Vec<String> =
                    parts.iter().filter_map(|part| text(&info, part)).collect();
                parts.join(" ")
            }
        },
        None => String::new(),
    };
    match name.is_empty() {
        true => "WebGPU adapter without a name".to_owned(),
        false => name,
    }
}

async fn adapter_info() -> Option<JsValue> {
    let gpu = field(&navigator()?, "gpu")?;
    let request: Function = field(&gpu, "requestAdapter")?.dyn_into().ok()?;
    let options = Object::new();
    Reflect::set(
        &options,
        &"powerPreference".into(),
        &"high-performance".into(),
    )
    .ok()?;
    let adapter: Promise = request.call1(&gpu, &options).ok()?.dyn_into().ok()?;
    field(&JsFuture::from(adapter).await.ok()?, "info")
}

fn navigator() -> Option<JsValue> {
    field(&js_sys::global(), "navigator")
}

fn field(object: &JsValue, name: &str) -> Option<JsValue> {
    let value = Reflect::get(object, &name.into()).ok()?;
    (!value.is_undefined() && !value.is_null()).then_some(value)
}

/// Returns a field's text, if it has any.
fn text(object: &JsValue, name: &str) -> Option<String> {
    let text = field(object, name)?.as_string()?;
    (!text.is_empty()).then_some(text)
}
