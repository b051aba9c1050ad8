//! Where a model comes from: what `--model` can name.

use super::error::{Error, Result};
use super::progress;
use crate::file::shards::Index;
use crate::hub::{self, Repository};
use crate::model::recipe::{known_names, recipe_named};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names an FP model as the user does:
///
/// 1. a file, or a folder with a checkpoint, which wins over whatever else its name may mean;
/// 2. `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`, a repository of the Hugging Face hub;
/// 3. `NAME` or `NAME.TAG` of a recipe, which means the recipe's repository.
#[derive(Clone, Debug)]
pub struct ModelSource(PathBuf);

impl From<OsString> for ModelSource {
    fn from(name: OsString) -> Self {
        Self(name.into())
    }
}

impl ModelSource {
    /// Returns the name, as the user wrote it.
    pub fn name(&self) -> &Path {
        &self.0
    }

    /// Lists what is read where the name is a file's or a folder's: that, its shards, and the description beside it.
    pub fn files(&self) -> Vec<PathBuf> {
        files_of(&self.0)
    }

    /// Returns the checkpoint's path. What is the hub's is fetched first.
    ///
    /// # Errors
    /// [`Error::Input`] for a folder without a checkpoint, a name that means nothing, and whatever goes wrong with the hub.
    pub fn locate(&self) -> Result<PathBuf> {
        match self.repository()? {
            Some(repository) => {
                let bar = progress::transfer();
                Ok(hub::fetch(&repository, &mut |transfer| {
                    progress::show_transfer(&bar, &transfer)
                })?)
            }
            None if self.0.is_dir() => checkpoint_in(&self.0),
            None => Ok(self.0.clone()),
        }
    }

    /// Returns the repository that the name means, or `None` for a file or folder. A path that leads nowhere is a
    /// file's too: opening it tells why.
    fn repository(&self) -> Result<Option<Repository>> {
        let path = &self.0;
        let refused = |problem: String| Error::input(path, problem);
        let name = match path.to_str() {
            Some(name) if path.symlink_metadata().is_err() => name,
            _ => return Ok(None),
        };
        let repository = |id: &str| id.parse().map(Some).map_err(refused);
        if let Some(id) = name.strip_prefix(hub::PREFIX) {
            return repository(id);
        }
        if let Some(meant) = meant(name) {
            return Err(refused(format!(
                "there is no such file; {meant} is the hub's repository of this name"
            )));
        }
        let is_file_name = path
            .extension()
            .is_some_and(|suffix| suffix == "safetensors");
        if is_file_name || path.components().count() > 1 {
            return Ok(None);
        }

        let (base, tag) = name.split_once('.').unzip();
        let recipe = recipe_named(base.unwrap_or(name)).ok_or_else(|| {
            refused(format!(
                "there is no such file, and no known model of this name; known are {}; {}OWNER/NAME is any model of \
                 the hub",
                known_names(),
                hub::PREFIX
            ))
        })?;
        // Of other tags it isn't known whether there are such weights.
        if tag.is_some_and(|tag| recipe.tags.iter().all(|known| known != tag)) {
            return Err(refused(format!(
                "there is no such file, and of {} only these tags are known: {}; {}OWNER/NAME is any model of the hub",
                recipe.name,
                recipe.tags.join(", "),
                hub::PREFIX
            )));
        }
        let (stored, default) = recipe.hub_id.split_once('.').expect("a test has every tag");
        let id = format!("{stored}.{}", tag.unwrap_or(default));
        if !stored.ends_with(&format!("/{}", recipe.name)) {
            return Err(refused(format!(
                "there is no such file, and timm has weights of {} under another name, whose config.json describes another network: pass `--model {}{id} --recipe {}`",
                recipe.name,
                hub::PREFIX,
                recipe.name
            )));
        }
        repository(&id)
    }
}

/// Finds the repository that is probably meant by a name that isn't how one is named: its owner and name alone, those
/// behind another prefix, or the address of its page.
fn meant(name: &str) -> Option<Repository> {
    let id = match name.split_once("://") {
        Some((_, page)) => {
            let mut parts = page.split('/').skip(1);
            format!("{}/{}", parts.next()?, parts.next()?)
        }
        None => name.split_once(':').map_or(name, |(_, id)| id).to_owned(),
    };
    let is_file_name = id.ends_with(".safetensors");
    id.parse().ok().filter(|_| !is_file_name)
}

/// Lists the checkpoint at `path`, its shards where it is an index or a folder with one, and what is read beside it.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let checkpoint = match path.is_dir() {
        true => checkpoint_in(path).unwrap_or_else(|_| path.to_owned()),
        false => path.to_owned(),
    };
    let mut files = hub::BESIDE
        .map(|name| checkpoint.with_file_name(name))
        .to_vec();
    // What can't be read says so when it is opened as a model.
    if Index::is_named(&checkpoint)
        && let Ok(index) = Index::open(&checkpoint)
    {
        let shards = index.files().into_iter();
        files.extend(shards.map(|shard| checkpoint.with_file_name(shard)));
    }
    files.push(checkpoint);
    files
}

/// Finds the checkpoint in a folder: one file, or the index of its shards.
fn checkpoint_in(folder: &Path) -> Result<PathBuf> {
    let [weights, index] = [hub::WEIGHTS, hub::INDEX].map(|name| folder.join(name));
    let which = match (weights.is_file(), index.is_file()) {
        (true, false) => return Ok(weights),
        (false, true) => return Ok(index),
        (true, true) => "has both",
        (false, false) => "is a folder without",
    };
    let (weights, index) = (hub::WEIGHTS, hub::INDEX);
    let problem = format!("{which} {weights} and {index}, where one of them is expected");
    Err(Error::input(folder, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipes;

    /// What a name means, as text: a repository, a file, or why neither.
    fn meaning(name: impl Into<OsString>) -> String {
        match ModelSource::from(name.into()).repository() {
            Ok(Some(repository)) => repository.to_string(),
            Ok(None) => "file".to_owned(),
            Err(error) => {
                assert_eq!(error.exit_code(), 3);
                error.to_string()
            }
        }
    }

    #[test]
    fn every_recipe_and_tag_names_a_repository() {
        for recipe in recipes() {
            let default = format!("hf-hub:{}", recipe.hub_id);
            let tagged = |tag: &String| meaning(format!("{}.{tag}", recipe.name));
            if recipe.name.contains("quickgelu") {
                let stored = recipe.name.replace("_quickgelu", "");
                for tag in &recipe.tags {
                    let says = format!(
                        "pass `--model hf-hub:timm/{stored}.{tag} --recipe {}`",
                        recipe.name
                    );
                    assert!(tagged(tag).ends_with(&says), "{}", tagged(tag));
                }
                continue;
            }
            assert_eq!(meaning(&recipe.name), default);
            assert_eq!(tagged(&recipe.tags[0]), default);
            for tag in &recipe.tags {
                assert_eq!(tagged(tag), format!("hf-hub:timm/{}.{tag}", recipe.name));
            }
        }
        assert_eq!(meaning("hf-hub:a/b@v1"), "hf-hub:a/b@v1");
    }

    #[test]
    fn paths_are_files_whether_or_not_they_lead_anywhere() {
        for path in [
            "Cargo.toml",
            "deit_tiny_patch16_224.safetensors",
            "./deit_tiny_patch16_224",
            "own/vit.safetensors",
            "models/demo/vit",
        ] {
            assert_eq!(meaning(path), "file");
        }
    }

    #[test]
    fn names_that_mean_nothing_are_refused() {
        for (name, parts) in [
            ("deit_tiny", ["no such file", "deit_tiny_patch16_224, "]),
            (
                "deit_tiny_patch16_224.in22k",
                ["no such file", "known: fb_in1k"],
            ),
            (
                "hf-hub:deit_tiny_patch16_224",
                ["is no repository", "OWNER/NAME@REVISION"],
            ),
            (
                "hf-hub:timm/x@a b",
                ["hf-hub:timm/x@a b: ", "`a b` is no revision"],
            ),
            ("own/vit", ["no such file; ", "hf-hub:own/vit is"]),
            ("own/vit@v1", ["no such file; ", "hf-hub:own/vit@v1 is"]),
            ("hf_hub:own/vit", ["no such file; ", "hf-hub:own/vit is"]),
            ("HF-hub:own/vit", ["no such file; ", "hf-hub:own/vit is"]),
            ("timm:own/vit", ["no such file; ", "hf-hub:own/vit is"]),
            (
                "https://huggingface.co/own/vit/tree/main",
                ["no such file; ", "hf-hub:own/vit is"],
            ),
        ] {
            let message = meaning(name);
            for part in parts {
                assert!(message.contains(part), "{message}\nlacks {part}");
            }
        }
    }

    #[test]
    fn a_folder_means_the_checkpoint_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let locate = || ModelSource::from(folder.path().as_os_str().to_owned()).locate();
        let inside = |name: &str| folder.path().join(name);
        let says = "is a folder without model.safetensors and model.safetensors.index.json";
        assert!(locate().unwrap_err().to_string().contains(says));
        std::fs::write(inside(hub::INDEX), "").unwrap();
        assert_eq!(locate().unwrap(), inside(hub::INDEX));
        std::fs::write(inside(hub::WEIGHTS), "").unwrap();
        assert!(locate().unwrap_err().to_string().contains("has both"));
        std::fs::remove_file(inside(hub::INDEX)).unwrap();
        assert_eq!(locate().unwrap(), inside(hub::WEIGHTS));
    }
}
