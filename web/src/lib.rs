//! The program in a browser, for the worker of the page in `page/`: an engine that classifies, verifies, measures and
//! calibrates on WebGPU or on the CPU. It sends nothing and keeps nothing.
//!
//! The library is for wasm32 alone: on another target it is empty, so that the workspace can be checked as a whole.
#![cfg(target_arch = "wasm32")]

mod bench;
mod calibrate;
mod classify;
mod console;
mod demo;
mod device;
mod job;
mod js;
mod model;
mod verify;

use classify::Slots;
use device::Opened;
use job::promised;
use js::CalibrationJob;
use js_sys::{Array, Function, Promise};
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Opens the console to what the library has to say, and makes panics errors of the job that runs.
#[wasm_bindgen(start)]
fn start() {
    console::log_to();
    job::reject_on_panic();
}

/// Holds a device, and the models that are loaded on it. One job runs at a time.
#[wasm_bindgen]
pub struct Engine {
    opened: Rc<Opened>,
    slots: Rc<Slots>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens `webgpu` or `cpu`; resolves with an `Engine`.
    pub fn open(device: String) -> Promise {
        promised(async move {
            Ok(Self {
                opened: Rc::new(Opened::open(&device).await?),
                slots: Rc::default(),
            })
        })
    }

    /// Describes the device, as `devices --json` does.
    pub fn device(&self) -> JsValue {
        self.opened.describe()
    }

    /// Names the built-in models.
    #[wasm_bindgen(js_name = demoModels)]
    pub fn demo_models(&self) -> Array {
        demo::models()
    }

    /// Returns some of the built-in images to classify.
    #[wasm_bindgen(js_name = demoImages)]
    pub fn demo_images(&self) -> Array {
        demo::images()
    }

    /// Returns the built-in images to calibrate on.
    #[wasm_bindgen(js_name = demoCalibrationImages)]
    pub fn demo_calibration_images(&self) -> Array {
        demo::calibration_images()
    }

    /// Returns the FP checkpoint of a built-in model, with its configuration.
    #[wasm_bindgen(js_name = demoCheckpoint)]
    pub fn demo_checkpoint(&self, name: &str) -> Result<JsValue, JsError> {
        demo::checkpoint(name)
    }

    /// Loads a file into the slot `integers` or `floats`; resolves with what it is. `config` and `preprocessor` are the
    /// texts of a checkpoint's config.json and preprocessor_config.json.
    pub fn load(
        &self,
        slot: String,
        name: String,
        bytes: Vec<u8>,
        config: Option<String>,
        preprocessor: Option<String>,
    ) -> Promise {
        let (opened, slots) = (self.opened.clone(), self.slots.clone());
        promised(async move {
            let beside = [config, preprocessor];
            slots.load(&opened.device, &slot, &name, &bytes, beside)
        })
    }

    /// Drops what is in a slot.
    pub fn unload(&self, slot: &str) -> Result<(), JsError> {
        self.slots.unload(slot)
    }

    /// Lets what is loaded classify an image; resolves with what each says.
    pub fn classify(&self, name: String, bytes: Vec<u8>) -> Promise {
        let slots = self.slots.clone();
        promised(async move { slots.classify(&name, &bytes).await })
    }

    /// Compares the device with the CPU versions; resolves with the text of a report, as `verify --json` prints it.
    pub fn verify(&self, on_row: Function) -> Promise {
        let opened = self.opened.clone();
        promised(async move { Ok(verify::run(&opened.device, &on_row).await?) })
    }

    /// Measures the device; resolves with the text that `bench --json` prints.
    pub fn bench(&self, on_row: Function) -> Promise {
        let opened = self.opened.clone();
        promised(async move { Ok(bench::run(&opened.device, &on_row).await?) })
    }

    /// Calibrates a checkpoint; resolves with the quantized file.
    pub fn calibrate(&self, job: CalibrationJob, on_progress: Function) -> Promise {
        let opened = self.opened.clone();
        promised(async move { calibrate::run(&opened.device, &job, &on_progress).await })
    }
}
