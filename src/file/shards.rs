//! Checkpoints in several files: the index that says which tensor is in which of them, as transformers writes it.

#[cfg(feature = "files")]
use crate::error::{Error, Result};
#[cfg(feature = "files")]
use crate::file::input;
use crate::file::unique::unique_strings;
#[cfg(feature = "files")]
use crate::text::abridged;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Ends an index's name, as in `model.safetensors.index.json`.
pub const INDEX_SUFFIX: &str = ".index.json";
/// Limits the number of shards.
const MAX_SHARDS: usize = 1000;
/// Limits the length of a shard's name, as file systems do.
const MAX_NAME: usize = 255;

/// Tells for each tensor the shard that holds it. Shards lie beside their index.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    shards: BTreeMap<String, String>,
}

/// Holds an [`Index`] as it is stored. What else it tells isn't needed: sizes are in the shards.
#[derive(Deserialize)]
struct IndexFile {
    #[serde(deserialize_with = "unique_strings")]
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Says whether a file of this name is an index.
    pub fn is_named(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().ends_with(INDEX_SUFFIX)
    }

    #[cfg(feature = "files")]
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that can't be read, and what [`parse`](Self::parse) refuses.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&input::text(path)?).map_err(|problem| Error::input(path, problem))
    }

    /// Reads and checks the text of an index.
    ///
    /// # Errors
    /// What is no index, a tensor that is there twice, and shards that are too many or whose names could lead elsewhere.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let IndexFile { weight_map: shards } = serde_json::from_str(text)
            .map_err(|error| format!("is no index of a checkpoint's shards: {error}"))?;
        let index = Self { shards };
        if index.shards.is_empty() {
            return Err("is the index of no tensor".to_owned());
        }
        let files = index.files();
        if files.len() > MAX_SHARDS {
            let found = files.len();
            return Err(format!(
                "expected at most {MAX_SHARDS} shards, found {found}"
            ));
        }
        match files.iter().find(|file| !is_plain(file)) {
            Some(file) => Err(format!(
                "expected shards that lie beside the index, with names of letters, digits, `-`, `_` and `.`, found {file:?}"
            )),
            None => Ok(index),
        }
    }

    /// Returns the shards' names, in order.
    pub fn files(&self) -> BTreeSet<&str> {
        self.shards.values().map(String::as_str).collect()
    }

    /// Names the shard that holds tensor `name`.
    pub fn shard(&self, name: &str) -> Option<&str> {
        self.shards.get(name).map(String::as_str)
    }

    /// Returns all tensors, each with its shard, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &str)> {
        let tensors = self.shards.iter();
        tensors.map(|(name, file)| (name.as_str(), file.as_str()))
    }

    #[cfg(feature = "files")]
    /// Finds the shards that don't lie beside the index at `path`, in order.
    pub fn missing(&self, path: &Path) -> Vec<String> {
        let files = self.files().into_iter().map(str::to_owned);
        files
            .filter(|file| !path.with_file_name(file).exists())
            .collect()
    }

    #[cfg(feature = "files")]
    /// Checks that the shards lie beside the index at `path`.
    ///
    /// # Errors
    /// [`Error::Input`] that names those that don't.
    pub fn check_present(&self, path: &Path) -> Result<()> {
        let missing = self.missing(path);
        if missing.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "{} of {} shards are missing beside it: {}",
            missing.len(),
            self.files().len(),
            abridged(&missing)
        );
        Err(Error::input(path, problem))
    }
}

#[cfg(feature = "files")]
/// Tells how many shards a checkpoint has of which the file at `path` is one, by its name: 3 by
/// `model-00001-of-00003.safetensors`.
pub fn shards_by_name(path: &Path) -> Option<usize> {
    let stem = path.file_stem()?.to_str()?;
    let (before, count) = stem.rsplit_once("-of-")?;
    let (_, place) = before.rsplit_once('-')?;
    let (place, count) = (place.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&place).then_some(count)
}

/// Says whether `file` names a file beside the index, and is safe as a part of a URL too.
fn is_plain(file: &str) -> bool {
    let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_NAME).contains(&file.len()) && file.bytes().all(taken) && !file.starts_with('.')
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::file::weights::{TensorData, Weights, save};
    use serde_json::json;
    use sha2::{Digest, Sha256};
    use std::path::PathBuf;
    use tempfile::TempDir;

    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";

    fn shard(folder: &TempDir, name: &str, tensors: &[(&str, f32)], told: &[(&str, &str)]) {
        let tensor = |&(name, value): &(&str, f32)| {
            let data = vec![value];
            (
                name.to_owned(),
                TensorData::F32 {
                    shape: vec![1],
                    data,
                },
            )
        };
        let metadata = told
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let tensors = tensors.iter().map(tensor).collect();
        save(folder.path().join(name), tensors, metadata.collect()).unwrap();
    }

    fn index(folder: &TempDir, map: &[(&str, &str)]) -> PathBuf {
        let map: BTreeMap<&str, &str> = map.iter().copied().collect();
        let path = folder.path().join("model.safetensors.index.json");
        let text = json!({"metadata": {"total_size": 12}, "weight_map": map}).to_string();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Two sound shards of three tensors.
    fn shards() -> TempDir {
        let folder = TempDir::new().unwrap();
        shard(
            &folder,
            FIRST,
            &[("b", 1.0), ("a", 2.0)],
            &[("format", "pt"), ("config", "x")],
        );
        shard(&folder, SECOND, &[("c", 3.0)], &[("format", "pt")]);
        folder
    }

    #[test]
    fn shards_are_one_checkpoint() {
        let folder = shards();
        let path = index(&folder, &[("a", FIRST), ("b", FIRST), ("c", SECOND)]);
        let mut weights = Weights::open(&path).unwrap();
        assert!(weights.names().eq(["a", "b", "c"]));
        let values = ["a", "b", "c"].map(|name| weights.float(name).unwrap());
        assert_eq!(values, [[2.0], [1.0], [3.0]]);
        let told = [("config", "x"), ("format", "pt")];
        let told = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(*weights.metadata(), BTreeMap::from(told));
        assert_eq!(weights.path(), path);

        // As `cat model-*.safetensors | sha256sum` has it.
        let read = |name| std::fs::read(folder.path().join(name)).unwrap();
        let all = [read(FIRST), read(SECOND)].concat();
        assert_eq!(weights.file_len(), all.len());
        assert_eq!(weights.sha256(), format!("{:x}", Sha256::digest(&all)));
        weights.replace("b", vec![2], &[5.0, 6.0]);
        let values = ["a", "b", "c"].map(|name| weights.float(name).unwrap());
        assert_eq!(values, [vec![2.0], vec![5.0, 6.0], vec![3.0]]);
    }

    #[test]
    fn an_index_that_lies_is_refused_with_the_shard() {
        let refusal = |folder: &TempDir, map: &[(&str, &str)]| {
            let error = Weights::open(index(folder, map))
                .err()
                .expect("it is refused");
            assert!(matches!(error, Error::Input { .. }));
            error.to_string()
        };
        let folder = shards();
        for (map, says) in [
            (
                &[("a", FIRST), ("b", SECOND), ("c", SECOND)][..],
                "model-00001-of-00002.safetensors: has tensor `b`, which the index says is in model-00002-of-00002.safetensors",
            ),
            (
                &[("a", FIRST), ("c", SECOND)],
                "model-00001-of-00002.safetensors: has tensor `b`, which the index doesn't have",
            ),
            (
                &[("a", FIRST), ("b", FIRST), ("c", SECOND), ("d", SECOND)],
                "model-00002-of-00002.safetensors: lacks tensor `d`, which the index says is in it",
            ),
            (
                &[
                    ("a", FIRST),
                    ("b", FIRST),
                    ("c", "other.safetensors"),
                    ("d", "more.safetensors"),
                ],
                "index.json: 2 of 3 shards are missing beside it: more.safetensors, other.safetensors",
            ),
        ] {
            let message = refusal(&folder, map);
            assert!(message.contains(says), "{message}\nlacks {says}");
        }
        // A file that the index doesn't name is no shard.
        assert!(Weights::open(index(&folder, &[("c", SECOND)])).is_ok());
        // In both shards.
        let whole = [("a", FIRST), ("b", FIRST), ("c", SECOND)];
        shard(&folder, SECOND, &[("c", 3.0), ("b", 4.0)], &[]);
        let message = refusal(&folder, &whole);
        let says =
            "00002-of-00002.safetensors: has tensor `b`, which the index says is in model-00001";
        assert!(message.contains(says), "{message}");
        shard(&folder, SECOND, &[("c", 3.0)], &[("config", "y")]);
        let message = refusal(&folder, &whole);
        assert!(message.contains("metadata `config`"), "{message}");
        let path = folder.path().join(SECOND);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let message = refusal(&folder, &whole);
        assert!(
            message.contains("model-00002-of-00002.safetensors: "),
            "{message}"
        );
        assert!(message.contains("it is truncated"), "{message}");
    }

    #[test]
    fn a_shard_is_known_by_its_name() {
        for (name, count) in [
            ("x/model-00001-of-00003.safetensors", Some(3)),
            ("model-00001-of-00001.safetensors", Some(1)),
            ("model-3-of-3.safetensors", Some(3)),
            ("model-00004-of-00003.safetensors", None),
            ("model-00000-of-00003.safetensors", None),
            ("model.safetensors", None),
            ("best-of-3.safetensors", None),
            ("two-of-a-kind.safetensors", None),
        ] {
            assert_eq!(shards_by_name(Path::new(name)), count, "{name}");
        }
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let names = |count: usize| -> BTreeMap<String, String> {
            let name = |at| (format!("t{at}"), format!("{at}.safetensors"));
            (0..count).map(name).collect()
        };
        let map = |map: &dyn Fn(usize) -> BTreeMap<String, String>, count| {
            json!({ "weight_map": map(count) }).to_string()
        };
        assert!(Index::parse(&map(&names, MAX_SHARDS)).is_ok());
        let long = format!(r#"{{"weight_map":{{"a":"{}"}}}}"#, "a".repeat(MAX_NAME + 1));
        for (text, says) in [
            ("", "is no index"),
            ("[]", "is no index"),
            ("{}", "missing field `weight_map`"),
            (r#"{"weight_map":{}}"#, "of no tensor"),
            (r#"{"weight_map":{"a":1}}"#, "expected a string"),
            (r#"{"weight_map":{"a":"x","a":"y"}}"#, "`a` occurs twice"),
            (r#"{"weight_map":{"a":"../x"}}"#, "found \"../x\""),
            (
                r#"{"weight_map":{"a":"/etc/passwd"}}"#,
                "found \"/etc/passwd\"",
            ),
            (r#"{"weight_map":{"a":".."}}"#, "found \"..\""),
            (r#"{"weight_map":{"a":"a\\b"}}"#, "found \"a\\\\b\""),
            (r#"{"weight_map":{"a":"x?y"}}"#, "found \"x?y\""),
            (r#"{"weight_map":{"a":""}}"#, "found \"\""),
            (&long, "beside the index"),
            (
                &map(&names, MAX_SHARDS + 1),
                "at most 1000 shards, found 1001",
            ),
        ] {
            let problem = Index::parse(text).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }
}
