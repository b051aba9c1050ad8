//! Files that are written whole or not at all.

use crate::error::{Error, Result};
use crate::interrupt;
use std::ffi::{OsStr, OsString};
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
    let _interrupted = interrupt::hold_off().unfinished(unfinished.path());
    let inside = unfinished.path().join("files");
    std::fs::create_dir(&inside).map_err(|error| cannot_write(path, error))?;
    fill(&inside)?;
    std::fs::rename(&inside, path).map_err(|error| cannot_write(path, error))
}

fn write_and_rename(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<&std::fs::File>) -> io::Result<()>,
) -> io::Result<()> {
    let suffix = unfinished_suffix(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).suffix(&suffix);
    // Temporary files are private by default; this one becomes an ordinary file, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));

    let (file, _unfinished) = {
        let mut stakes = interrupt::hold_off();
        let file = builder.tempfile_in(folder_of(path))?;
        let unfinished = stakes.unfinished(file.path());
        (file, unfinished)
    };
    let mut writer = BufWriter::new(file.as_file());
    contents(&mut writer)?;
    writer.flush()?;
    drop(writer);
    // On disk before the rename: after a crash the name stands for the old file or the new one.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Removes what processes that were killed have left of `path`. No other may be writing it.
///
/// # Errors
/// A folder that can't be read, a file that can't be removed.
pub fn remove_unfinished(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let suffix = unfinished_suffix(path);
    let is_unfinished = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        let random = name.strip_prefix(UNFINISHED.as_bytes());
        let random = random.and_then(|rest| rest.strip_suffix(suffix.as_encoded_bytes()));
        random.is_some_and(|random| random.iter().all(u8::is_ascii_alphanumeric))
    };
    let remove = || {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if is_unfinished(&entry.file_name()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(|error: io::Error| Error::input(folder, format!("can't be cleaned: {error}")))
}

/// How the name of a temporary file ends that becomes `path`.
fn unfinished_suffix(path: &Path) -> OsString {
    let mut suffix = OsString::from("-");
    suffix.push(path.file_name().unwrap_or_default());
    suffix
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
