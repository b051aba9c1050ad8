//! Checkpoints by name: the Hugging Face hub, and its cache on this machine.
//!
//! The cache is the one that Python's huggingface_hub keeps, so what either has fetched serves both.

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod roots;
#[cfg(feature = "hub")]
mod settings;

#[cfg(feature = "hub")]
pub use fetch::fetch;

use std::fmt;
use std::str::FromStr;

/// Begins a repository's name, as timm writes it.
pub const PREFIX: &str = "hf-hub:";
/// Names the file of a repository that holds its weights.
pub const WEIGHTS: &str = "model.safetensors";
/// Names the file that names the weights' shards, where they are in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// Names timm's or transformers' description of the model, which not every repository has.
const CONFIG: &str = "config.json";
/// Names transformers' description of how images are prepared.
const PREPROCESSOR: &str = "preprocessor_config.json";
/// Lists the files that are read beside the weights.
pub const BESIDE: [&str; 2] = [CONFIG, PREPROCESSOR];

/// Names the hub's default branch.
const MAIN: &str = "main";
/// Limits the length of an owner, name or revision, as the hub does.
const MAX_NAME: usize = 96;

/// Says how much of a file has come.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes in all, where the hub tells.
    pub size: Option<u64>,
}

/// Names a model repository of the hub, at a revision. Both are safe as parts of a path and of a URL.
#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    /// `OWNER/NAME`.
    id: String,
    /// A branch, a tag or a commit.
    revision: String,
}

impl FromStr for Repository {
    type Err = String;

    /// Reads `OWNER/NAME` or `OWNER/NAME@REVISION`, without [`PREFIX`].
    fn from_str(text: &str) -> Result<Self, String> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let is_plain = |part: &str| is_plain(part, "-_.") && !part.contains("--");
        if !id
            .split_once('/')
            .is_some_and(|(owner, name)| is_plain(owner) && is_plain(name))
        {
            return Err(format!(
                "`{id}` is no repository of the hub, expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION"
            ));
        }
        if !revision.split('/').all(|part| self::is_plain(part, "-_.+")) {
            return Err(format!(
                "`{revision}` is no revision, expected a branch, a tag or a commit"
            ));
        }
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

/// Says whether `part` is of letters, digits and these `marks`, and can't be mistaken for a path.
fn is_plain(part: &str, marks: &str) -> bool {
    let taken = |character: char| character.is_ascii_alphanumeric() || marks.contains(character);
    (1..=MAX_NAME).contains(&part.len())
        && part.chars().all(taken)
        && !part.starts_with(['.', '-'])
        && !part.ends_with('.')
        && !part.contains("..")
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.id)?;
        match self.revision.as_str() {
            MAIN => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

/// Says that this build can't fetch anything.
///
/// # Errors
/// Always [`Error::Input`](crate::error::Error::Input).
#[cfg(not(feature = "hub"))]
pub fn fetch(
    repository: &Repository,
    _on_transfer: &mut dyn FnMut(Transfer),
) -> crate::error::Result<std::path::PathBuf> {
    Err(crate::error::Error::input(
        repository.to_string(),
        format!(
            "this build was made without the feature `hub` and fetches nothing; download the repository's {WEIGHTS} \
             and {CONFIG} into one folder and name the file"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_named_as_timm_does() {
        for (text, id, revision) in [
            ("timm/vit.augreg", "timm/vit.augreg", "main"),
            ("timm/vit@v1.0+x", "timm/vit", "v1.0+x"),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ] {
            let repository: Repository = text.parse().unwrap();
            assert_eq!((&*repository.id, &*repository.revision), (id, revision));
            assert_eq!(repository.to_string(), format!("{PREFIX}{text}"));
        }
    }

    #[test]
    fn names_that_could_leave_the_cache_are_refused() {
        for text in [
            "", "timm", "/etc", "timm/", "a/b/c", "../b", "a/..", "a/b--c", "a/b c", "a/é",
            "a/b?x", "a/.b",
        ] {
            let problem = text.parse::<Repository>().unwrap_err();
            assert!(problem.contains("is no repository"), "{problem}");
        }
        for text in [
            "a/b@",
            "a/b@..",
            "a/b@/x",
            "a/b@x/../y",
            "a/b@x y",
            "a/b@x%2Fy",
            "a/b@x@y",
        ] {
            let problem = text.parse::<Repository>().unwrap_err();
            assert!(problem.contains("is no revision"), "{problem}");
        }
        let long = format!("a/{}", "b".repeat(MAX_NAME + 1));
        assert!(long.parse::<Repository>().is_err());
    }
}
