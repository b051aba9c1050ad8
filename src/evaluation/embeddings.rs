//! The features of images, as files hold them.

use super::shard::IMAGES_AT_ONCE;
use crate::data::samples::{Sample, load_all};
use crate::error::{Error, Result};
use crate::file::npy;
use crate::file::weights::{TensorData, to_bytes};
use crate::inference::{Model, check_finite};
use crate::model::config::Architecture;
use std::collections::BTreeMap;
use web_time::{Duration, Instant};

/// Names the tensor in a safetensors file.
const FEATURES: &str = "features";

/// Holds the features of images.
pub struct Embeddings {
    /// Names of the images that could be read.
    pub images: Vec<String>,
    /// What is wrong with the others.
    pub unreadable: Vec<Error>,
    /// The shape of an image's features: `[dim]`, or where it is the patches that have them, `[patches, dim]`.
    pub shape: Vec<usize>,
    /// Features, `[images, …shape]`.
    features: Vec<f32>,
    /// Time of upload, network and read-back, without decoding images.
    pub inference: Duration,
}

impl Embeddings {
    /// Computes the features of those of `samples` that can be read: those of the patches where `model` is of an
    /// `architecture` that pools nothing. `on_done` is told how many more are through.
    ///
    /// # Errors
    /// Those of the device, and an image whose features are not finite.
    pub fn of(
        model: &mut Model,
        architecture: &Architecture,
        samples: &[Sample],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let (before, shape) = match architecture.patch_features() {
            Some((before, shape)) => (before, shape.to_vec()),
            None => (0, vec![architecture.answer().values()]),
        };
        let mut found = Self {
            images: Vec::new(),
            unreadable: Vec::new(),
            shape,
            features: Vec::new(),
            inference: Duration::ZERO,
        };
        for samples in samples.chunks(IMAGES_AT_ONCE) {
            let (mut inputs, mut shown) = (Vec::new(), Vec::new());
            let loaded = load_all(samples, model.preprocessing());
            for (sample, loaded) in samples.iter().zip(loaded) {
                match loaded {
                    Ok(input) => {
                        inputs.push(input);
                        shown.push(sample);
                    }
                    Err(error) => found.unreadable.push(error),
                }
            }
            let start = Instant::now();
            let features = model.logits(&inputs)?;
            found.inference += start.elapsed();
            for (features, sample) in features.iter().zip(shown) {
                check_finite(features, &sample.path, model.device())?;
                found.features.extend(&features[before..]);
                let name = sample.path.to_string_lossy().into_owned();
                found.images.push(name);
            }
            on_done(samples.len());
        }
        Ok(found)
    }

    /// Returns the number of features of an image, or of a patch.
    pub fn dim(&self) -> usize {
        *self.shape.last().expect("a shape has a size")
    }

    /// Returns the shape of all features.
    fn whole_shape(&self) -> Vec<usize> {
        [&[self.images.len()], &self.shape[..]].concat()
    }

    /// Gives each image's features, or each patch's, a length of 1; zeros stay zeros.
    pub fn normalize(&mut self) {
        let dim = self.dim();
        for features in self.features.chunks_exact_mut(dim) {
            let squares = features.iter().map(|&x| f64::from(x).powi(2));
            let length = squares.sum::<f64>().sqrt();
            if length > 0.0 {
                for feature in features {
                    *feature = (f64::from(*feature) / length) as f32;
                }
            }
        }
    }

    /// Returns an .npy file of the features in f32.
    pub fn npy(&self) -> Vec<u8> {
        npy::bytes(&self.whole_shape(), &self.features)
    }

    /// Returns a safetensors file: the features as tensor `features`, the images' names as a JSON list under the metadata key
    /// `images`, beside `metadata`.
    ///
    /// # Errors
    /// More names than a header can hold.
    pub fn safetensors(
        &self,
        mut metadata: BTreeMap<String, String>,
    ) -> std::result::Result<Vec<u8>, String> {
        let names = serde_json::to_string(&self.images).expect("text is always JSON");
        metadata.insert("images".to_owned(), names);
        let (shape, data) = (self.whole_shape(), self.features.clone());
        let tensor = (FEATURES.to_owned(), TensorData::F32 { shape, data });
        to_bytes(vec![tensor], metadata)
    }
}
