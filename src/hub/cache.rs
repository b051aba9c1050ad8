//! One repository's folder in the cache, laid out as huggingface_hub does:
//!
//! ```text
//! .locks/models--OWNER--NAME/ETAG.lock   held by whoever fetches the blob
//! models--OWNER--NAME/
//!   blobs/ETAG                           a whole file
//!   blobs/ETAG.incomplete                the beginning of one
//!   snapshots/COMMIT/FILE                a link to its blob
//!   refs/REVISION                        the commit that a branch or tag was last seen at
//! ```

use super::Repository;
use crate::error::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Counts the digits of a commit's name.
const COMMIT_DIGITS: usize = 40;

/// Names a repository's folder in the cache.
pub struct Folder {
    path: PathBuf,
    locks: PathBuf,
}

impl Folder {
    /// Returns the folder of `repository` in `cache`. Neither need exist.
    pub fn new(cache: &Path, repository: &Repository) -> Self {
        let name = format!("models--{}", repository.id.replace('/', "--"));
        Self {
            path: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the commit that `revision` is, as far as the cache knows.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.path.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers that `revision` is `commit`.
    ///
    /// # Errors
    /// [`Error::Input`] if that can't be written.
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.path.join("refs").join(revision);
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        make_folder_of(&path)?;
        fs::write(&temporary, commit)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| cannot_write(&path, error))
    }

    /// Returns the path of `file` of `commit`, if the cache has it: the snapshot's, beside the commit's other files.
    pub fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.path.join("snapshots").join(commit).join(file);
        path.exists().then_some(path)
    }

    /// Makes the blob of this name `file` of `commit`, and returns the file's path.
    ///
    /// # Errors
    /// [`Error::Input`] if that can't be written.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf> {
        let path = self.path.join("snapshots").join(commit).join(file);
        make_folder_of(&path)?;
        // A link whose blob is gone.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(|error| cannot_write(&path, error))?;
        }
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &path);
        // Elsewhere symbolic links may need privileges, hard links don't.
        #[cfg(not(unix))]
        let linked = fs::hard_link(self.blob(etag), &path);
        match linked {
            Ok(()) => Ok(path),
            Err(error) => Err(cannot_write(&path, error)),
        }
    }

    /// Returns where the blob of this name is, or will be.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.path.join("blobs").join(etag)
    }

    /// Opens the beginning of the blob of this name, which may be empty, and returns its path too.
    ///
    /// # Errors
    /// [`Error::Input`] if it can't be written.
    pub fn incomplete(&self, etag: &str) -> Result<(PathBuf, File)> {
        let path = self.path.join("blobs").join(format!("{etag}.incomplete"));
        make_folder_of(&path)?;
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        match options.open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(cannot_write(&path, error)),
        }
    }

    /// Waits until no other process fetches the blob of this name. The lock ends with the value.
    ///
    /// # Errors
    /// [`Error::Input`] if the lock can't be made.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_folder_of(&path)?;
        let lock = File::create(&path).map_err(|error| cannot_write(&path, error))?;
        let locked = match lock.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                log::info!("hub: another process fetches the same file, waiting for it");
                lock.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        match locked {
            Ok(()) => Ok(lock),
            Err(error) => Err(Error::input(path, format!("can't be locked: {error}"))),
        }
    }
}

/// Says whether a revision is a commit.
pub fn is_commit(revision: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    revision.len() == COMMIT_DIGITS && revision.bytes().all(is_digit)
}

/// Makes the error that a file of the cache can't be written.
pub fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::input(path, format!("can't be written: {error}"))
}

fn make_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().expect("a path in the cache");
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))
}
