//! Models that are loaded, and what they see in an image.

use crate::job::check_idle;
use crate::js::json;
use crate::model::checkpoint;
use ptq4vit_gpu::data::class_names::ClassNames;
use ptq4vit_gpu::data::image_file::decode;
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::error::{Error, Result};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::inference::{Model, check_finite};
use ptq4vit_gpu::model::config::Answer;
use ptq4vit_gpu::quant::QuantizedModel;
use ptq4vit_gpu::report::{Classified, Outcome, TOP};
use serde::Serialize;
use std::cell::Cell;
use std::path::Path;
use wasm_bindgen::prelude::*;

/// Holds a quantized model and an FP one.
#[derive(Default)]
pub struct Slots {
    integers: Slot,
    floats: Slot,
}

/// Holds a model. A job takes it out while it works with it.
#[derive(Default)]
struct Slot(Cell<Option<Loaded>>);

/// Holds a model that is ready to run, with what its classes are called.
struct Loaded {
    model: Model,
    names: Option<ClassNames>,
}

/// Describes a model for the page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    name: String,
    method: String,
    bytes: usize,
    classes: usize,
    /// Height and width.
    input_size: [usize; 2],
}

/// Holds what each model sees in an image.
#[derive(Serialize)]
struct Both {
    #[serde(skip_serializing_if = "Option::is_none")]
    integers: Option<Classified>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floats: Option<Classified>,
}

impl Slots {
    fn slot(&self, name: &str) -> std::result::Result<&Slot, JsError> {
        match name {
            "integers" => Ok(&self.integers),
            "floats" => Ok(&self.floats),
            _ => {
                let problem = format!("expected the slot `integers` or `floats`, found `{name}`");
                Err(JsError::new(&problem))
            }
        }
    }

    /// Loads a file: a quantized one into `integers`, a checkpoint, with the texts that lay beside it, into `floats`.
    ///
    /// # Errors
    /// A file that is no such model; the messages name it.
    pub fn load(
        &self,
        device: &Device,
        slot: &str,
        name: &str,
        bytes: &[u8],
        beside: [Option<String>; 2],
    ) -> std::result::Result<JsValue, JsError> {
        let place = self.slot(slot)?;
        let (loaded, description) = match slot {
            "integers" => quantized(device, name, bytes)?,
            _ => float(device, name, bytes, beside)?,
        };
        if let answer @ Answer::Features(_) = loaded.model.answer() {
            let problem = format!("answers with {answer} and has no classes");
            return Err(Error::input(name, problem).into());
        }
        place.0.set(Some(loaded));
        Ok(json(&description))
    }

    /// Drops what is in a slot.
    ///
    /// # Errors
    /// Another name than a slot's; a job that runs.
    pub fn unload(&self, slot: &str) -> std::result::Result<(), JsError> {
        check_idle()?;
        self.slot(slot)?.0.set(None);
        Ok(())
    }

    /// Returns what each model sees in the image in `bytes`, or why it can't be read.
    ///
    /// # Errors
    /// Those of the device, and logits that are not finite.
    pub async fn classify(
        &self,
        name: &str,
        bytes: &[u8],
    ) -> std::result::Result<JsValue, JsError> {
        Ok(json(&Both {
            integers: self.integers.classify(name, bytes).await?,
            floats: self.floats.classify(name, bytes).await?,
        }))
    }
}

impl Slot {
    async fn classify(&self, name: &str, bytes: &[u8]) -> Result<Option<Classified>> {
        let Some(mut loaded) = self.0.take() else {
            return Ok(None);
        };
        let outcome = loaded.classify(name, bytes).await;
        self.0.set(Some(loaded));
        Ok(Some(Classified {
            image: name.to_owned(),
            outcome: outcome?,
        }))
    }
}

impl Loaded {
    async fn classify(&mut self, name: &str, bytes: &[u8]) -> Result<Outcome> {
        let preprocessing = self.model.preprocessing();
        let image = match decode(bytes, preprocessing.exif_orientation) {
            Ok(image) => preprocessing.apply(&image),
            Err(problem) => {
                let error = Error::input(name, problem).to_string();
                return Ok(Outcome::Unreadable { error });
            }
        };
        let timed = self.model.timed_logits_async(1, &[image]).await?;
        let [(logits, time)] = &timed[..] else {
            unreachable!("one image has one row of logits");
        };
        check_finite(logits, Path::new(name), self.model.device())?;
        let top = TOP.min(logits.len());
        Ok(Outcome::of(logits, *time, top, self.names.as_deref()))
    }
}

fn quantized(device: &Device, name: &str, bytes: &[u8]) -> Result<(Loaded, Description)> {
    let mut quantized = QuantizedModel::read(&Weights::from_bytes(name, bytes)?)?;
    let names = quantized.class_names.take();
    let model = Model::quantized(device, &quantized)?;
    let plan = &quantized.method.plan;
    let description = Description {
        name: quantized.provenance.name.clone(),
        method: format!(
            "{} {}",
            quantized.provenance.preset.name(),
            plan.in_short(&sites(&quantized.architecture))
        ),
        bytes: bytes.len(),
        classes: model.classes(),
        input_size: quantized.architecture.image_size().into(),
    };
    Ok((Loaded { model, names }, description))
}

fn float(
    device: &Device,
    name: &str,
    bytes: &[u8],
    beside: [Option<String>; 2],
) -> Result<(Loaded, Description)> {
    let (weights, resolved) = checkpoint(name, bytes, beside)?;
    let architecture = &resolved.architecture;
    let model = Model::float(device, &weights, architecture, &resolved.preprocessing)?;
    let description = Description {
        name: resolved.name,
        method: "FP32".to_owned(),
        bytes: bytes.len(),
        classes: model.classes(),
        input_size: architecture.image_size().into(),
    };
    let names = resolved.class_names;
    Ok((Loaded { model, names }, description))
}
