//! What the library says goes to the browser's console.

use log::{Level, LevelFilter, Log, Metadata, Record};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn info(text: &str);
    #[wasm_bindgen(js_namespace = console)]
    fn warn(text: &str);
    #[wasm_bindgen(js_namespace = console)]
    fn error(text: &str);
}

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // wgpu's own notices are for its developers.
        metadata.level() <= Level::Info && metadata.target().starts_with("ptq4vit_gpu")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        match record.level() {
            Level::Error => error(&text),
            Level::Warn => warn(&text),
            _ => info(&text),
        }
    }

    fn flush(&self) {}
}

/// Shows the library's notices, warnings and errors from now on.
pub fn log_to() {
    log::set_logger(&Console).expect("nobody else sets a logger");
    log::set_max_level(LevelFilter::Info);
}
