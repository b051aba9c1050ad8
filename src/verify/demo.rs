//! The demo models and their images, which are part of the program: an installed binary needs nothing beside it.

use crate::error::Result;
use crate::file::weights::Weights;
use crate::model::recipe::{Beside, Request, Resolved, describe_beside};
use include_dir::{Dir, include_dir};
#[cfg(feature = "files")]
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
#[cfg(feature = "files")]
const LICENSE: (&str, &str) = (
    "LICENSE-DATA.md",
    include_str!("../../models/demo/LICENSE-DATA.md"),
);

/// Holds the files of a model.
#[derive(Clone, Copy)]
pub struct Checkpoint {
    /// `model.safetensors`
    pub weights: &'static [u8],
    /// `config.json`
    pub config: &'static str,
}

fn folder(name: &str) -> Option<&'static Dir<'static>> {
    let found = FOLDERS.iter().find(|(known, _)| *known == name);
    found.map(|(_, files)| files)
}

/// Returns the files of the model of this name, one of [`MODELS`].
pub fn checkpoint(name: &str) -> Option<Checkpoint> {
    let files = folder(name).filter(|_| MODELS.contains(&name))?;
    Some(Checkpoint {
        weights: files.get_file("model.safetensors")?.contents(),
        config: files.get_file("config.json")?.contents_utf8()?,
    })
}

/// Opens a model, one of [`MODELS`], as its files would be.
///
/// # Errors
/// None, as a test finds.
///
/// # Panics
/// If there is no model of this name.
pub fn open(name: &str) -> Result<(Weights, Resolved)> {
    let checkpoint = checkpoint(name).expect("a model that there is");
    let weights = Weights::from_bytes(format!("{name}/model.safetensors"), checkpoint.weights)?;
    let beside = Beside {
        config: Some(("config.json".into(), checkpoint.config.to_owned())),
        preprocessor: None,
    };
    let description = describe_beside(&weights, &beside, &Request::default())?;
    let resolved = description.fitted(&weights)?;
    Ok((weights, resolved))
}

/// Returns the images to calibrate on, in the order of their names.
pub fn calibration_images() -> Vec<(&'static str, &'static [u8])> {
    images(CALIBRATION)
}

/// Returns the images to test on, in the order of their names, `CLASS/NAME`.
pub fn test_images() -> Vec<(&'static str, &'static [u8])> {
    images(TEST)
}

fn images(name: &str) -> Vec<(&'static str, &'static [u8])> {
    let mut images = Vec::new();
    add_files(folder(name).expect("a folder that there is"), &mut images);
    images.sort_unstable();
    images
}

fn add_files(folder: &'static Dir, all: &mut Vec<(&'static str, &'static [u8])>) {
    for file in folder.files() {
        let name = file.path().to_str();
        let name = name.expect("the program's own names are text");
        all.push((name, file.contents()));
    }
    for folder in folder.dirs() {
        add_files(folder, all);
    }
}

/// Writes models and images to `folder`, which is there and empty.
///
/// # Errors
/// A folder that can't be written to.
#[cfg(feature = "files")]
pub fn unpack(folder: &Path) -> Result<()> {
    use crate::error::Error;

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
