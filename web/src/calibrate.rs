//! A checkpoint and images become a quantized file.

use crate::js::{CalibrationJob, object, tell};
use crate::model::checkpoint;
use js_sys::{Function, Uint8Array};
use ptq4vit_gpu::data::image_file::decode;
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::error::Error;
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::quant::{Calibration, Event, Method, Preset, Provenance, QuantizedModel};
use wasm_bindgen::prelude::*;

/// Calibrates as `job` says, tells `listener` how far it is, and returns the quantized file.
///
/// # Errors
/// A checkpoint or an image that can't be understood, settings out of range, the device's errors, and what the listener
/// throws.
pub async fn run(
    device: &Device,
    job: &CalibrationJob,
    listener: &Function,
) -> Result<JsValue, JsError> {
    let preset = preset(&job.preset())?;
    let [weight_bits, activation_bits] = [job.weight_bits(), job.activation_bits()];
    let beside = [job.config(), job.preprocessor()];
    let (weights, resolved) = checkpoint(&job.name(), &job.checkpoint(), beside)?;
    let sites = sites(&resolved.architecture);
    let method = Method::preset(preset, weight_bits, activation_bits, &sites)?;

    let (mut images, mut contents) = (Vec::new(), Vec::new());
    for file in job.images() {
        let bytes = file.bytes();
        let image = decode(&bytes, resolved.preprocessing.exif_orientation);
        let image = image.map_err(|problem| Error::input(file.name(), problem))?;
        images.push(resolved.preprocessing.apply(&image));
        contents.push(bytes);
    }
    // Somebody chose them, as a list does.
    let provenance = Provenance::of_files(&weights, &resolved.name, preset, None, &contents);

    let on_event = &mut |event: Event| {
        let progress = match event {
            Event::Progress(progress) => progress,
            Event::Recovery(what) => {
                log::warn!("{what}");
                return Ok(());
            }
            _ => return Ok(()),
        };
        let stage = format!("{} {}", progress.phase.name(), progress.site);
        tell(listener, &stage.into(), progress.done)
    };
    let calibration = Calibration::builder(device, &weights, &resolved.architecture)
        .method(&method)
        .images(&images)
        .on_event(on_event)
        .run_async()
        .await?;
    let (seconds, device_bytes) = (calibration.seconds(), calibration.peak_device_bytes);
    let model = QuantizedModel::new(&weights, &resolved, method, calibration, provenance)?;
    let name = format!(
        "{}_{}_w{weight_bits}a{activation_bits}.safetensors",
        resolved.name,
        preset.name()
    );
    Ok(object([
        ("name", name.into()),
        ("bytes", Uint8Array::from(&model.to_bytes()[..]).into()),
        ("seconds", seconds.into()),
        ("deviceBytes", (device_bytes as f64).into()),
    ]))
}

fn preset(name: &str) -> Result<Preset, JsError> {
    let all = [Preset::Best, Preset::Ptq4vit, Preset::BasePtq];
    all.into_iter()
        .find(|preset| preset.name() == name)
        .ok_or_else(|| {
            let names = all.map(Preset::name).join(", ");
            JsError::new(&format!("expected a preset of {names}, found `{name}`"))
        })
}
