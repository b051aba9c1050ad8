//! Brings a repository's checkpoint into the cache, or finds it there.

use super::cache::{Folder, cannot_write};
use super::client::{Client, Entry, Failure};
use super::settings::Settings;
use super::{CONFIG, INDEX, PREPROCESSOR, Repository, Transfer, WEIGHTS};
use crate::error::Error;
use crate::file::input;
use crate::file::shards::Index;
use indicatif::HumanBytes;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Names the file of weights in a form that isn't read.
const PICKLED: &str = "pytorch_model.bin";
/// Counts the hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// Counts the bytes that are read at once.
const CHUNK: usize = 1 << 16;

/// Fetches the [`WEIGHTS`] of `repository`, or the [`INDEX`] with all shards beside it, its config.json if it has
/// one, and its preprocessor_config.json if that is transformers', all of one commit.
///
/// The hub is asked which commit the revision is now, and what the cache lacks of it is fetched. Where the hub can't be
/// reached, or `HF_HUB_OFFLINE` is set, it is the commit that the cache saw last. `on_transfer` hears of each part that comes.
///
/// # Errors
/// [`Error::Input`] that names the repository, the URL or the file, and what to do.
pub fn fetch(
    repository: &Repository,
    on_transfer: &mut dyn FnMut(Transfer),
) -> Result<PathBuf, Error> {
    let settings = Settings::from_environment()?;
    let folder = Folder::new(&settings.cache, repository);
    if settings.offline {
        return cached(repository, &folder, "HF_HUB_OFFLINE is set");
    }
    let mut download = Download {
        repository,
        folder: &folder,
        client: &Client::new(&settings, repository)?,
        on_transfer,
    };
    match download.checkpoint() {
        Ok(path) => Ok(path),
        Err(Failure::Unreachable(why)) => cached(repository, &folder, &why),
        Err(Failure::Absent(url)) => Err(Error::input(
            repository.to_string(),
            format!("{url} is not there"),
        )),
        Err(Failure::Final(error)) => Err(error),
    }
}

/// Returns the checkpoint that the cache has, where that has to do.
fn cached(repository: &Repository, folder: &Folder, why: &str) -> Result<PathBuf, Error> {
    let commit = folder.commit(&repository.revision);
    let file = |name: &str| folder.file(commit.as_ref()?, name);
    let path = file(WEIGHTS).or_else(|| file(INDEX));
    let path = path.ok_or_else(|| {
        let problem = format!(
            "{why}; and the cache, {}, has no {WEIGHTS} of revision `{}`",
            folder.path().display(),
            repository.revision
        );
        Error::input(repository.to_string(), problem)
    })?;
    if Index::is_named(&path) {
        let present = Index::open(&path).and_then(|index| index.check_present(&path));
        present.map_err(|error| Error::input(repository.to_string(), format!("{why}; {error}")))?;
    }
    log::warn!(
        "hub: {why}; {repository} comes from the cache, {}",
        path.display()
    );
    Ok(path)
}

/// Downloads a repository into the cache.
struct Download<'a> {
    repository: &'a Repository,
    folder: &'a Folder,
    client: &'a Client<'a>,
    on_transfer: &'a mut dyn FnMut(Transfer),
}

impl Download<'_> {
    /// Brings into the cache what it lacks of the checkpoint.
    fn checkpoint(&mut self) -> Result<PathBuf, Failure> {
        let (repository, folder) = (self.repository, self.folder);
        let (file, entry) = match self.client.look_up(&repository.revision, WEIGHTS) {
            Err(Failure::Absent(url)) => match self.client.look_up(&repository.revision, INDEX) {
                Err(Failure::Absent(_)) => return Err(self.without_weights(&url)),
                answer => (INDEX, answer?),
            },
            answer => (WEIGHTS, answer?),
        };
        let commit = &entry.commit;
        // Before the weights, so that they are never in the cache without it.
        if let Some(config) = self.bring_if_any(commit, CONFIG)?
            && is_transformers(&config)
        {
            self.bring_if_any(commit, PREPROCESSOR)?;
        }
        let cached = folder.file(commit, file);
        let path = match &cached {
            Some(path) => path.clone(),
            None => self.bring(file, &entry)?,
        };
        let missing = match file {
            INDEX => Index::open(&path)?.missing(&path),
            _ => Vec::new(),
        };
        if cached.is_some() && missing.is_empty() {
            log::info!("hub: {repository} is in the cache, {}", path.display());
        }
        for shard in missing {
            let entry = self.client.look_up(commit, &shard)?;
            self.bring(&shard, &entry)?;
        }
        // Only runs without the hub need this, and a cache that is shared may be read-only.
        if let Err(error) = folder.set_commit(&repository.revision, commit) {
            log::warn!("hub: {error}");
        }
        Ok(path)
    }

    /// Brings `file` into the cache, if the repository has it and the cache lacks it.
    fn bring_if_any(&mut self, commit: &str, file: &str) -> Result<Option<PathBuf>, Failure> {
        if let Some(path) = self.folder.file(commit, file) {
            return Ok(Some(path));
        }
        match self.client.look_up(commit, file) {
            Err(Failure::Absent(_)) => Ok(None),
            answer => self.bring(file, &answer?).map(Some),
        }
    }

    /// Says what a repository without [`WEIGHTS`] has instead.
    fn without_weights(&self, url: &str) -> Failure {
        let pickled = self.client.look_up(&self.repository.revision, PICKLED);
        let instead = match pickled {
            Ok(_) => format!("; it has a {PICKLED}, but only safetensors are read"),
            Err(_) => String::new(),
        };
        let problem = format!("the repository has no {WEIGHTS} ({url}){instead}");
        Error::input(self.repository.to_string(), problem).into()
    }

    /// Fetches `file`, which takes its place in the snapshot once it is whole.
    fn bring(&mut self, file: &str, entry: &Entry) -> Result<PathBuf, Failure> {
        let _lock = self.folder.lock(&entry.etag)?;
        // By the process that had the lock before.
        if let Some(path) = self.folder.file(&entry.commit, file) {
            return Ok(path);
        }
        let blob = self.folder.blob(&entry.etag);
        if !blob.exists() {
            let (path, mut incomplete) = self.folder.incomplete(&entry.etag)?;
            self.complete(file, entry, &path, &mut incomplete)?;
            let checked = check(entry, &mut incomplete);
            let synced = incomplete.sync_all();
            drop(incomplete);
            if let Err(problem) = checked {
                fs::remove_file(&path).map_err(|error| cannot_write(&path, error))?;
                let url = self.client.url(&entry.commit, file);
                let problem = format!("{url} came wrong and was thrown away: {problem}; try again");
                return Err(Error::input(self.repository.to_string(), problem).into());
            }
            synced
                .and_then(|()| fs::rename(&path, &blob))
                .map_err(|error| cannot_write(&blob, error))?;
        }
        Ok(self.folder.link(&entry.etag, &entry.commit, file)?)
    }

    /// Fetches what the file at `path` lacks. If the transfer breaks off, what has come stays.
    fn complete(
        &mut self,
        file: &str,
        entry: &Entry,
        path: &Path,
        incomplete: &mut File,
    ) -> Result<(), Failure> {
        let cannot_write = |error| Failure::Final(cannot_write(path, error));
        let have = incomplete.metadata().map_err(cannot_write)?.len();
        if entry.size == Some(have) {
            return Ok(());
        }
        // Of a file of unknown size, who knows whether it is the rest that is missing.
        let have = match entry.size {
            Some(size) if have < size => have,
            _ => 0,
        };
        let url = self.client.url(&entry.commit, file);
        let size = entry.size.map(|size| format!(" ({})", HumanBytes(size)));
        let rest = if have > 0 { "the rest of " } else { "" };
        log::info!("hub: fetching {rest}{url}{}", size.unwrap_or_default());

        let (mut at, body) = self.client.fetch(&entry.commit, file, have)?;
        incomplete
            .set_len(at)
            .and_then(|()| incomplete.seek(SeekFrom::Start(at)))
            .map_err(cannot_write)?;
        // One byte more than there should be, to notice a file that is too long.
        let most = entry.size.map_or(u64::MAX, |size| size - at + 1);
        let mut body = body.into_reader().take(most);
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::Unreachable(format!(
                        "{url} broke off after {at} bytes ({error}), another run fetches the rest"
                    )));
                }
            };
            incomplete
                .write_all(&chunk[..count])
                .map_err(cannot_write)?;
            at += count as u64;
            (self.on_transfer)(Transfer {
                bytes: at,
                size: entry.size,
            });
        }
        Ok(())
    }
}

/// Says whether a config.json is transformers', which alone has a type of models. What can't be read says so when the model is
/// opened.
fn is_transformers(config: &Path) -> bool {
    let json = input::text(config)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok());
    json.is_some_and(|json: serde_json::Value| json["model_type"].is_string())
}

/// Checks that a file is the one that the hub told of.
fn check(entry: &Entry, file: &mut File) -> Result<(), String> {
    let cannot_read = |error| format!("can't be read again: {error}");
    let mut hash = Sha256::new();
    file.rewind().map_err(cannot_read)?;
    let found = io::copy(file, &mut hash).map_err(cannot_read)?;
    if let Some(size) = entry.size.filter(|&size| size != found) {
        return Err(format!("{size} bytes were announced, found {found}"));
    }
    let hash = format!("{:x}", hash.finalize());
    if entry.etag.len() == SHA256_DIGITS && entry.etag != hash {
        return Err(format!(
            "SHA-256 {} was announced, found {hash}",
            entry.etag
        ));
    }
    Ok(())
}
