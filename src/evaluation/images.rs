//! The images of an evaluation.

use crate::data::class_folders::{Rule, classes_of, numbers_out_of_order};
use crate::data::class_names::ClassNames;
use crate::data::samples::{Sample, image_folder, labelled};
use crate::error::{Error, Remedy, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Holds labelled images, and where they were found.
pub struct LabelledImages {
    folder: PathBuf,
    labels: Option<PathBuf>,
    samples: Vec<Sample>,
}

/// Says which images an evaluation is of, by their list: where their folder lies makes no difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesRecord {
    /// The number of images.
    pub count: usize,
    /// SHA-256 over each image's name relative to their folder, with `/` between its parts, a zero byte, the class
    /// index in decimal, and a zero byte.
    pub sha256: String,
}

impl LabelledImages {
    /// Finds the images that the file `labels` names in `folder`, or without one those of `folder`'s class folders.
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

    /// Makes the labels those of a model with so many `classes`, which it may call by `names`.
    ///
    /// # Errors
    /// A model without classes, a label that is no class, and those of [`classes_of`] about class folders.
    pub fn label(&mut self, classes: usize, names: Option<&ClassNames>) -> Result<()> {
        if classes == 0 {
            let place = self.labels.as_ref().unwrap_or(&self.folder);
            let problem =
                "tells the classes of images, but the model has none: it answers with features";
            return Err(Error::input(place, problem));
        }
        let Some(labels) = &self.labels else {
            return self
                .label_folders(classes, names)
                .map_err(|problem| Error::remediable(&self.folder, problem, Remedy::LabelImages));
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

    /// Makes the labels those of a model, as [`label`](Self::label) does, where the images lie in class folders, whose
    /// order labels them so far.
    fn label_folders(
        &mut self,
        classes: usize,
        names: Option<&ClassNames>,
    ) -> std::result::Result<(), String> {
        let mut folders: Vec<&OsStr> = Vec::new();
        let mut places = Vec::new();
        for sample in &self.samples {
            let folder = self.name(sample).iter().next().unwrap_or_default();
            if folders.last() != Some(&folder) {
                folders.push(folder);
            }
            places.push(folders.len() - 1);
        }
        let (found, rule) = classes_of(&folders, classes, names)?;
        log::info!("class folders: {} of {classes}, {rule}", folders.len());
        if rule == Rule::Order {
            if let Some(name) = names.and_then(|names| names.first()) {
                log::warn!(
                    "class folders: none is called like a class of the model, as `{}` would be",
                    name.name
                );
            }
            if let Some((first, second)) = numbers_out_of_order(&folders) {
                log::warn!(
                    "class folders: `{first}` comes before `{second}` in the order of their names; a file of \
                     labels can tell another"
                );
            }
        }
        for (sample, place) in self.samples.iter_mut().zip(places) {
            sample.label = Some(found[place]);
        }
        Ok(())
    }

    /// Returns the images, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Returns an image's name relative to the images' folder.
    pub fn name<'a>(&self, sample: &'a Sample) -> &'a Path {
        sample
            .path
            .strip_prefix(&self.folder)
            .unwrap_or(&sample.path)
    }

    /// Says which images these are.
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
    fn class_folders_get_the_models_classes() {
        let folder = TempDir::new().unwrap();
        for name in ["10/a.png", "9/b.png", "9/c.png"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut images = LabelledImages::open(folder.path(), None).unwrap();
        let labels = |images: &LabelledImages| -> Vec<(PathBuf, Option<usize>)> {
            let samples = images.samples().iter();
            samples
                .map(|sample| (images.name(sample).to_owned(), sample.label))
                .collect()
        };
        let named = |labels: [usize; 3]| {
            let names = ["9/b.png", "9/c.png", "10/a.png"].map(PathBuf::from);
            names.into_iter().zip(labels.map(Some)).collect::<Vec<_>>()
        };
        images.label(2, None).unwrap();
        assert_eq!(labels(&images), named([0, 0, 1]));
        let names = ClassNames::parse("10\n8\n9").unwrap();
        images.label(3, Some(&names)).unwrap();
        assert_eq!(labels(&images), named([2, 2, 0]));
        let problem = images.label(3, None).unwrap_err().to_string();
        assert!(
            problem.contains("2 class folders, but the model has 3"),
            "{problem}"
        );
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
