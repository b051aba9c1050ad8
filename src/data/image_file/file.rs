//! Image files on the disk.

use super::decode;
use super::format::EXPECTED;
use crate::error::{Error, Result};
use image::DynamicImage;
use std::fs;
use std::path::Path;

/// Limits the bytes read of one file.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Reads an image file and [`decode`]s it.
///
/// # Errors
/// An [`Error::Input`] about `path` when it can't be read, and what `decode` refuses.
pub fn load(path: &Path, exif_orientation: bool) -> Result<DynamicImage> {
    let bytes = read(path)?;
    decode(&bytes, exif_orientation).map_err(|problem| Error::input(path, problem))
}

/// Reads the bytes of an image file, whatever they are.
///
/// # Errors
/// An [`Error::Input`] about `path` when it can't be read, is no regular file, or is larger than 256 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let cannot_read = |error| Error::input(path, format!("{EXPECTED}, can't read it: {error}"));
    let metadata = fs::metadata(path).map_err(cannot_read)?;
    // A pipe or a device would block or never end.
    if !metadata.is_file() {
        let found = if metadata.is_dir() {
            "a folder"
        } else {
            "neither a file nor a folder"
        };
        return Err(Error::input(path, format!("{EXPECTED}, found {found}")));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(Error::input(
            path,
            format!(
                "{EXPECTED} of at most {MAX_FILE_BYTES} bytes, found {} bytes",
                metadata.len()
            ),
        ));
    }
    fs::read(path).map_err(cannot_read)
}
