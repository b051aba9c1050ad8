//! The demo models and their images, which are part of the program: an installed binary needs nothing beside it.

use crate::error::{Error, Result};
use include_dir::{Dir, include_dir};
use std::path::Path;

/// Names the models' folders, each with `model.safetensors` and timm's `config.json`.
pub const MODELS: [&str; 2] = ["vit_mnist", "swin_mnist"];
/// Names the folder of images to calibrate on.
pub const CALIBRATION: &str = "calibration";
/// Names the folder of labelled images to test on, one folder per class.
pub const TEST: &str = "test";

static FOLDERS: [(&str, Dir); 4] = [
    (
        MODELS[0],
        include_dir!("$CARGO_MANIFEST_DIR/models/demo/vit_mnist"),
    ),
    (
        MODELS[1],
        include_dir!("$CARGO_MANIFEST_DIR/models/demo/swin_mnist"),
    ),
    (
        CALIBRATION,
        include_dir!("$CARGO_MANIFEST_DIR/models/demo/calibration"),
    ),
    (TEST, include_dir!("$CARGO_MANIFEST_DIR/models/demo/test")),
];
/// Tells where the images come from, and under which licence.
const LICENSE: (&str, &str) = (
    "LICENSE-DATA.md",
    include_str!("../../models/demo/LICENSE-DATA.md"),
);

/// Writes models and images to `folder`, which is there and empty.
///
/// # Errors
/// A folder that can't be written to.
pub fn unpack(folder: &Path) -> Result<()> {
    let cannot_write =
        |path: &Path, error| Error::input(path, format!("can't be written: {error}"));
    for (name, files) in &FOLDERS {
        let path = folder.join(name);
        std::fs::create_dir(&path)
            .and_then(|()| files.extract(&path))
            .map_err(|error| cannot_write(&path, error))?;
    }
    let (name, text) = LICENSE;
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| cannot_write(&path, error))
}
