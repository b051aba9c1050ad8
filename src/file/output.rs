//! Files that are written whole or not at all, and what else an output can be.
//!
//! A regular file, or a name that is free, is written beside its place and renamed, through links at the place that they
//! lead to. A pipe, a terminal or another device that takes bytes one after the other is written to as it is. Everything
//! else is refused before the work.

use crate::error::{Error, Result};
use crate::file::interrupt;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use tempfile::PersistError;

/// Begins the names of files that aren't complete yet.
const UNFINISHED: &str = ".unfinished-";
/// Limits the links that are followed one after the other, as Linux does.
const MAX_LINKS: usize = 40;

/// Holds a place that can be written to, found before the work.
pub struct Output {
    /// The path, as the user named it.
    path: PathBuf,
    /// The file or stream at the path, behind all links.
    target: PathBuf,
    /// The stream, opened, where the target is no regular file.
    stream: Option<File>,
}

impl Output {
    /// Finds out whether `path` can be written to. A pipe is opened, which waits for its reader.
    ///
    /// # Errors
    /// [`Error::Input`] for a folder, a socket, a block device, and where permissions or a missing folder forbid it.
    pub fn open(path: &Path) -> Result<Self> {
        let (target, kind) = look(path)?;
        let stream = match kind {
            Kind::File => None,
            Kind::Stream => {
                log::debug!("opening {}", path.display());
                Some(open_stream(&target).map_err(|error| cannot_write(path, error))?)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            target,
            stream,
        })
    }

    /// Returns the path, as the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file that will be replaced, unless it is a stream.
    pub fn file(&self) -> Option<&Path> {
        match self.stream {
            Some(_) => None,
            None => Some(&self.target),
        }
    }

    /// Writes the output. A file appears under its name only when it is complete: a failure leaves whatever was there
    /// before.
    ///
    /// # Errors
    /// [`Error::Input`] for what can't be written, [`Error::BrokenPipe`] for a stream that nobody reads any more.
    pub fn write(
        &self,
        contents: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<()> {
        let written = match &self.stream {
            Some(stream) => fill(stream, contents),
            None => replace(&self.target, contents),
        };
        written.map_err(|error| match (&self.stream, error.kind()) {
            (Some(_), ErrorKind::BrokenPipe) => Error::BrokenPipe,
            _ => cannot_write(&self.path, error),
        })
    }
}

/// Returns the file behind all links that `path` leads to, or will lead to once it is written, if it can be written.
///
/// # Errors
/// Those of [`Output::open`], and one for a stream, which won't do `because` of something.
pub fn regular(path: &Path, because: &str) -> Result<PathBuf> {
    match look(path)? {
        (target, Kind::File) => Ok(target),
        (_, Kind::Stream) => {
            let problem = format!("is no regular file, as is expected because {because}");
            Err(Error::input(path, problem))
        }
    }
}

/// Writes to `path`, as [`Output`] does.
///
/// # Errors
/// Those of [`Output::open`] and [`Output::write`].
pub fn write(
    path: &Path,
    contents: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    Output::open(path)?.write(contents)
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

/// Removes what processes that were killed have left of `path`, which is behind no link. No other may be writing it.
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

/// Says what kind of place can be written to.
enum Kind {
    /// A regular file, or a name that is free.
    File,
    /// A stream, which takes bytes as they come.
    Stream,
}

/// Finds what is at `path`, behind all links, if it can be written to.
fn look(path: &Path) -> Result<(PathBuf, Kind)> {
    let cannot_write = |error| cannot_write(path, error);
    let refused = |is: &str| {
        let problem = format!("{is}, where a file to write is expected");
        Err(Error::input(path, problem))
    };
    let target = target_of(path).map_err(cannot_write)?;
    match target.metadata() {
        Ok(found) if found.is_file() && !is_descriptor(&target) => {
            // A rename would do without this permission.
            let mut options = OpenOptions::new();
            options.write(true).open(&target).map_err(cannot_write)?;
        }
        Ok(found) => {
            return match no_stream(&found) {
                Some(is) if standard(&target).is_none() => refused(is),
                _ => Ok((target, Kind::Stream)),
            };
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(error)),
        Err(_) => {
            let name = path.as_os_str().to_string_lossy();
            if name.ends_with(std::path::is_separator) {
                return refused("is the name of a folder");
            }
        }
    }
    tempfile::tempfile_in(folder_of(&target)).map_err(cannot_write)?;
    Ok((target, Kind::File))
}

/// Follows the links at `path` one after the other to where they lead: the last may be missing what it leads to, or be
/// a descriptor.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Some(name) = target.file_name() else {
            return target.canonicalize();
        };
        // What a link says begins where the link really is.
        let folder = folder_of(&target).canonicalize()?;
        let at = folder.join(name);
        target = match at.read_link() {
            Ok(to) if !is_descriptor(&at) => folder.join(to),
            _ => return Ok(at),
        };
    }
    Err(io::Error::other("a link that leads back to itself"))
}

/// Says whether `path`, whose folder is behind no link, is the name of an open file of a process. It looks like a link,
/// but what is behind it needn't have a name, and where it has one, the file is in use under it.
fn is_descriptor(path: &Path) -> bool {
    let folder = folder_of(path);
    folder == Path::new("/dev/fd") || folder.starts_with("/proc") && folder.ends_with("fd")
}

/// Opens a stream. A file that a process already has open, which may be regular, is written on from where it ends.
fn open_stream(target: &Path) -> io::Result<File> {
    if let Some(stream) = standard(target) {
        return stream;
    }
    let mut options = OpenOptions::new();
    match is_descriptor(target) {
        true => options.append(true).open(target),
        false => options.write(true).open(target),
    }
}

/// Returns this process's stdout or stderr, if that is what `target` names. What else goes there stays in order,
/// because both share their place in the file.
#[cfg(unix)]
fn standard(target: &Path) -> Option<io::Result<File>> {
    use std::os::fd::AsFd;

    let folder = folder_of(target);
    let own = format!("/proc/{}", std::process::id());
    if !is_descriptor(target) || folder.starts_with("/proc") && !folder.starts_with(own) {
        return None;
    }
    let shared = match target.file_name()?.to_str()? {
        "1" => io::stdout().as_fd().try_clone_to_owned(),
        "2" => io::stderr().as_fd().try_clone_to_owned(),
        _ => return None,
    };
    Some(shared.map(File::from))
}

#[cfg(not(unix))]
fn standard(_target: &Path) -> Option<io::Result<File>> {
    None
}

/// Says what keeps a file from being written to as a stream, if anything does.
#[cfg(unix)]
fn no_stream(found: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;

    let kind = found.file_type();
    match (kind.is_dir(), kind.is_socket(), kind.is_block_device()) {
        (true, ..) => Some("is a folder"),
        (_, true, _) => Some("is a socket"),
        (.., true) => Some("is a block device"),
        _ => None,
    }
}

#[cfg(not(unix))]
fn no_stream(found: &Metadata) -> Option<&'static str> {
    match found.is_dir() {
        true => Some("is a folder"),
        false => Some("is no regular file"),
    }
}

fn fill(
    file: &File,
    contents: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = BufWriter::new(file);
    contents(&mut writer)?;
    writer.flush()
}

/// Writes a file beside `target`, which is behind no link, and renames it. Other names of the old file, hard links,
/// keep the old contents.
fn replace(
    target: &Path,
    contents: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let suffix = unfinished_suffix(target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).suffix(&suffix);
    // Temporary files are private by default; this one becomes an ordinary file, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));

    let (file, _unfinished) = {
        let mut outstanding = interrupt::hold_off();
        let file = builder.tempfile_in(folder_of(target))?;
        let unfinished = outstanding.unfinished(file.path());
        (file, unfinished)
    };
    fill(file.as_file(), contents)?;
    #[cfg(unix)]
    keep_owner_and_mode(target, file.as_file())?;
    // On disk before the rename: after a crash the name stands for the old file or the new one.
    file.as_file().sync_all()?;
    match file.persist(target) {
        Ok(_) => Ok(()),
        // A file that is mounted by itself, as containers have them, can't be renamed over.
        Err(PersistError { error, mut file }) if error.kind() == ErrorKind::ResourceBusy => {
            file.rewind()?;
            let mut options = OpenOptions::new();
            let mut mounted = options.write(true).truncate(true).open(target)?;
            io::copy(&mut file, &mut mounted)?;
            mounted.sync_all()
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the new `file` the owner and the permissions of the one at `target`, if there is one.
#[cfg(unix)]
fn keep_owner_and_mode(target: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

    let Ok(found) = target.metadata() else {
        return Ok(());
    };
    // Only root may give a file away; others may still choose among their groups.
    let group = Some(found.gid());
    let _ = fchown(file, Some(found.uid()), group).or_else(|_| fchown(file, None, group));
    file.set_permissions(PermissionsExt::from_mode(found.mode() & 0o777))
}

/// Returns the ending of the name of a temporary file that becomes `path`.
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
