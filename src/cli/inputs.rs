//! What a subcommand reads, which nothing that it writes may replace.

use super::error::{Error, Result};
use crate::data::image_file::is_named_as_image;
use crate::file::output::Output;
use same_file::Handle;
use std::path::{Path, PathBuf};

/// Holds the files that a command reads, by the flags that name them.
#[derive(Default)]
pub struct Inputs<'a> {
    files: Vec<(&'a str, PathBuf)>,
    folders: Vec<(&'a str, PathBuf)>,
}

impl<'a> Inputs<'a> {
    /// Adds files.
    pub fn files<P: Into<PathBuf>>(
        mut self,
        flag: &'a str,
        files: impl IntoIterator<Item = P>,
    ) -> Self {
        let files = files.into_iter().map(|file| (flag, file.into()));
        self.files.extend(files);
        self
    }

    /// Adds the images that lie in folders, at any depth.
    pub fn images<P: Into<PathBuf>>(
        mut self,
        flag: &'a str,
        folders: impl IntoIterator<Item = P>,
    ) -> Self {
        let folders = folders.into_iter().map(|folder| (flag, folder.into()));
        self.folders.extend(folders);
        self
    }

    /// Refuses to have one of them replaced by `target`, which is behind no link, whatever names or links lead to it.
    /// `flag` is what names this output.
    ///
    /// # Errors
    /// [`Error::Usage`] about `flag`, with the input.
    pub fn spare(&self, flag: &str, target: &Path) -> Result<()> {
        match self.find(target) {
            Some(input) => Err(Error::usage(
                flag,
                format!("{} would replace {input}", target.display()),
            )),
            None => Ok(()),
        }
    }

    /// Refuses, as [`spare`](Self::spare) does, to have `output` replace one of the files, unless it is a stream.
    ///
    /// # Errors
    /// Those of [`spare`](Self::spare).
    pub fn spare_from(&self, flag: &str, output: &Output) -> Result<()> {
        match output.file() {
            Some(target) => self.spare(flag, target),
            None => Ok(()),
        }
    }

    /// Words which of the files `target` is.
    fn find(&self, target: &Path) -> Option<String> {
        let is_file = |(_, file): &&(&str, PathBuf)| is_same(target, file);
        if let Some((flag, file)) = self.files.iter().find(is_file) {
            return Some(format!("the {flag} {}", file.display()));
        }
        if !is_named_as_image(target) || !target.is_file() {
            return None;
        }
        let holds = |(_, folder): &&(&str, PathBuf)| {
            let folder = folder.canonicalize();
            folder.is_ok_and(|folder| target.starts_with(folder))
        };
        let (flag, folder) = self.folders.iter().find(holds)?;
        Some(format!("an image in the {flag} {}", folder.display()))
    }
}

/// Says whether both are one file, under whatever names.
fn is_same(target: &Path, other: &Path) -> bool {
    // Looked at before it is opened: opening a pipe would wait.
    let handle = |path: &Path| match path.is_file() {
        true => Handle::from_path(path).ok(),
        false => None,
    };
    target == other || handle(other).is_some_and(|other| handle(target) == Some(other))
}
