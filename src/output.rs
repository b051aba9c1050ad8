//! Files that are written whole or not at all.

use crate::error::{Error, Result};
use crate::interrupt;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Finds out before the work, not after it, that the result can't be written. `inputs` are the files, and the flags
/// that name them, which the result would otherwise replace.
///
/// # Errors
/// A folder in the place of `out`, a folder that can't be written to, or one of `inputs` in the place of `out`.
pub fn check(out: &Path, inputs: &[(&str, Option<&Path>)]) -> Result<()> {
    if out.is_dir() {
        return Err(Error::input(
            out,
            "is a folder, where a file to write is expected",
        ));
    }
    for (flag, input) in inputs {
        if let Some(input) = input
            && let (Ok(out), Ok(input)) = (out.canonicalize(), input.canonicalize())
            && out == input
        {
            return Err(Error::usage(
                "--out",
                format!("would replace the {flag} {}", input.display()),
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

fn write_and_rename(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<&std::fs::File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".unfinished-");
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

/// Where a file lies.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::input(path, format!("can't be written: {error}"))
}
