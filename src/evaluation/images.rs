//! The images of an evaluation.

use crate::data::samples::{Sample, image_folder, labelled};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Labelled images, and where they were found.
pub struct LabelledImages {
    folder: PathBuf,
    labels: Option<PathBuf>,
    samples: Vec<Sample>,
}

/// Which images an evaluation is of, by their list: where their folder lies makes no difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesRecord {
    /// How many there are.
    pub count: usize,
    /// SHA-256 over each image's name relative to their folder, with `/` between its parts, a zero byte, the class
    /// index in decimal, and a zero byte.
    pub sha256: String,
}

impl LabelledImages {
    /// The images that the file `labels` names in `folder`, or without one those of `folder`'s class folders.
    ///
    /// # Errors
    /// Those of [`labelled`] and [`image_folder`].
    pub fn open(folder: &Path, labels: Option<&Path>) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            labels: labels.map(Path::to_owned),
            samples: match labels {
                Some(labels) => labelled(folder, labels)?,
                None => image_folder(folder)?,
            },
        })
    }

    /// Finds out whether the labels are those of a model with so many classes.
    ///
    /// # Errors
    /// A label that is no class, or class folders that are not the classes.
    pub fn check(&self, classes: usize) -> Result<()> {
        let Some(labels) = &self.labels else {
            // The order of the folders gives the index only if no class is left out.
            let folders: HashSet<_> = self.samples.iter().map(|sample| sample.label).collect();
            if folders.len() == classes {
                return Ok(());
            }
            return Err(Error::input(
                &self.folder,
                format!(
                    "has {} class folders, but the model has {classes} classes; name the classes with --labels",
                    folders.len()
                ),
            ));
        };
        for sample in &self.samples {
            if let Some(label) = sample.label.filter(|&label| label >= classes) {
                return Err(Error::input(
                    labels,
                    format!(
                        "gives {} class {label}, where the model's {classes} classes are 0 to {}",
                        sample.path.display(),
                        classes - 1
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The images, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// An image's name relative to the images' folder.
    pub fn name<'a>(&self, sample: &'a Sample) -> &'a Path {
        sample
            .path
            .strip_prefix(&self.folder)
            .unwrap_or(&sample.path)
    }

    /// Which images these are.
    pub fn record(&self) -> ImagesRecord {
        let mut hash = Sha256::new();
        for sample in &self.samples {
            for (place, part) in self.name(sample).iter().enumerate() {
                if place > 0 {
                    hash.update("/");
                }
                hash.update(part.as_encoded_bytes());
            }
            let label = sample.label.map(|label| label.to_string());
            hash.update(format!("\0{}\0", label.unwrap_or_default()));
        }
        ImagesRecord {
            count: self.samples.len(),
            sha256: format!("{:x}", hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A folder with empty files `a.png` and `deep/b.png`, and a list of labels.
    fn folder(labels: &str) -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        for name in ["a.png", "deep/b.png"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let list = folder.path().join("labels.tsv");
        std::fs::write(&list, labels).unwrap();
        (folder, list)
    }

    fn record(labels: &str) -> ImagesRecord {
        let (folder, list) = folder(labels);
        let images = LabelledImages::open(folder.path(), Some(&list)).unwrap();
        images.record()
    }

    #[test]
    fn a_record_is_of_names_and_labels_in_order() {
        let expected = ImagesRecord {
            count: 2,
            sha256: format!("{:x}", Sha256::digest("a.png\x003\0deep/b.png\x0012\0")),
        };
        assert_eq!(record("a.png\t3\ndeep/b.png\t12\n"), expected);
        assert_eq!(record("./a.png\t3\ndeep//b.png\t12\n"), expected);
        assert_ne!(record("deep/b.png\t12\na.png\t3\n"), expected);
        assert_ne!(record("a.png\t3\ndeep/b.png\t1\n"), expected);
        assert_ne!(record("a.png\t3\n"), expected);
    }
}
