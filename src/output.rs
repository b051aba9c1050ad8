//! Files that are written whole or not at all.

use crate::error::{Error, Result};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// How the names begin of what isn't complete yet.
const UNFINISHED: &str = ".unfinished-";

/// Finds out before the work, not after it, that the result can't be written to `out`, which `flag` says. `inputs` are the files, and the flags
/// that name them, which the result would otherwise replace.
///
/// # Errors
/// A folder in the place of `out`, a folder that can't be written to, or one of `inputs` in the place of `out`.
pub fn check(flag: &str, out: &Path, inputs: &[(&str, Option<&Path>)]) -> Result<()> {
    if out.is_dir() {
        return Err(Error::input(
            out,
            "is a folder, where a file to write is expected",
        ));
    }
    for (its_flag, input) in inputs {
        if let Some(input) = input
            && let (Ok(out), Ok(input)) = (out.canonicalize(), input.canonicalize())
            && out == input
        {
            return Err(Error::usage(
                flag,
                format!("would replace the {its_flag} {}", input.display()),
            ));
        }
    }
    tempfile::tempfile_in(folder_of(out))
        .map(drop)
        .map_err(|error| cannot_write(out, error))
}

/// Writes a file that appears under its name only when it is complete: a temporary file beside it is renamed, so a
/// failure leaves whatever was there before.
///
/// # Errors
/// [`Error::Input`] if the folder can't be written to.
pub fn write(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<&std::fs::File>) -> io::Result<()>,
) -> Result<()> {
    write_and_rename(path, contents).map_err(|error| cannot_write(path, error))
}

/// Writes a new folder, which appears under its name only when `fill` has filled it.
///
/// # Errors
/// Something under that name already, a folder above it that can't be written to, and those of `fill`.
pub fn write_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::input(path, "exists, where a new folder is expected"));
    }
    let unfinished = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(folder_of(path))
        .map_err(|error| cannot_write(path, error))?;
    let inside = unfinished.path().join("files");
    std::fs::create_dir(&inside).map_err(|error| cannot_write(path, error))?;
    fill(&inside)?;
    std::fs::rename(&inside, path).map_err(|error| cannot_write(path, error))
}

fn write_and_rename(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<&std::fs::File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    // Temporary files are private by default; this one becomes an ordinary file, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));

    let file = builder.tempfile_in(folder_of(path))?;
    let mut writer = BufWriter::new(file.as_file());
    contents(&mut writer)?;
    writer.flush()?;
    drop(writer);
    // On disk before the rename: after a crash the name stands for the old file or the new one.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::input(path, format!("can't be written: {error}"))
}
