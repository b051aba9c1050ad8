//! Models that answer with features, on images of any kind: how close the quantized features are to the FP network's, and
//! what lies nearest to them in a gallery.

use super::shard::IMAGES_AT_ONCE;
use super::{Event, Models};
use crate::data::samples::{Sample, flat_folder, labelled};
use crate::error::{Error, Result};
use crate::report::{Closeness, Gallery, vote};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;
use web_time::Duration;

/// Holds images, with their classes where they have any.
pub struct ImageSet {
    samples: Vec<Sample>,
    /// The class of each image.
    classes: Option<Vec<String>>,
}

impl ImageSet {
    /// Finds the images that the file `labels` names in `folder`, with their classes, or without one all images in `folder`.
    /// Where all of these lie in folders of `folder`, such a folder is a class.
    ///
    /// # Errors
    /// Those of [`labelled`] and [`flat_folder`].
    pub fn open(folder: &Path, labels: Option<&Path>) -> Result<Self> {
        if let Some(labels) = labels {
            let samples = labelled(folder, labels)?;
            let class = |sample: &Sample| sample.label.map(|label| label.to_string());
            let classes = samples.iter().map(class).collect();
            return Ok(Self { samples, classes });
        }
        let samples = flat_folder(folder)?;
        let class = |sample: &Sample| {
            let inside = sample.path.strip_prefix(folder).ok()?.parent()?;
            let class = inside.iter().next()?;
            Some(class.to_string_lossy().into_owned())
        };
        let classes = samples.iter().map(class).collect();
        Ok(Self { samples, classes })
    }

    /// Returns the images, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

/// Holds the figures of features.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureSummary {
    /// Images evaluated.
    pub images: usize,
    /// How close the quantized features are to the FP network's. Absent without both networks.
    #[serde(flatten)]
    pub closeness: Option<Closeness>,
    /// What lies nearest in the gallery. Absent without one.
    #[serde(flatten)]
    pub neighbours: Option<Neighbours>,
    /// Images per second of the model that is evaluated, those of the gallery included: upload, network and read-back,
    /// without decoding images.
    pub images_per_second: f64,
    /// The device's name.
    pub device: String,
    /// Images that could not be read, those of the gallery included.
    pub skipped: usize,
}

/// Holds figures of what lies nearest to images in a gallery, whose features are the same network's. Near is what has a large
/// cosine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbours {
    /// Images in the gallery.
    pub gallery: usize,
    /// Neighbours whose classes vote.
    pub neighbours: usize,
    /// Fraction of the images whose nearest neighbour is the same by the quantized and by the FP features. Absent without
    /// both networks.
    pub nearest_agreement: Option<f64>,
    /// Fraction of the images whose class most of the neighbours have. Absent where classes aren't known.
    pub knn_accuracy: Option<f64>,
    /// The same by the FP features, where the figures are a quantized model's.
    pub fp_knn_accuracy: Option<f64>,
}

/// Holds the features of a set of images, and which of them could be read.
#[derive(Default)]
struct Embedded {
    shown: Vec<usize>,
    evaluated: Vec<Vec<f32>>,
    reference: Option<Vec<Vec<f32>>>,
    skipped: usize,
}

impl Embedded {
    /// Returns the classes of the images that could be read.
    fn classes<'a>(&self, set: &'a ImageSet) -> Option<Vec<&'a str>> {
        let classes = set.classes.as_ref()?;
        Some(self.shown.iter().map(|&at| classes[at].as_str()).collect())
    }
}

impl Models {
    /// Compares the models' features of `images`, and what lies nearest to them in a gallery, whose `neighbours` nearest
    /// vote for a class.
    ///
    /// # Errors
    /// Those of the device, an image whose features are not finite, and [`Error::Check`] if not one image, or none of the
    /// gallery, could be read.
    pub fn compare_features(
        &mut self,
        images: &ImageSet,
        gallery: Option<(&ImageSet, usize)>,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<FeatureSummary> {
        let mut inference = Duration::ZERO;
        let found = self.embed(images, &mut inference, on_event)?;
        let (neighbours, in_gallery) = match gallery {
            None => (None, Embedded::default()),
            Some((gallery, count)) => {
                let embedded = self.embed(gallery, &mut inference, on_event)?;
                let neighbours = neighbours((images, &found), (gallery, &embedded), count);
                (Some(neighbours), embedded)
            }
        };
        let reference = found.reference.as_deref();
        let ran = found.shown.len() + in_gallery.shown.len();
        Ok(FeatureSummary {
            images: found.shown.len(),
            closeness: reference.and_then(|reference| Closeness::of(&found.evaluated, reference)),
            neighbours,
            images_per_second: ran as f64 / inference.as_secs_f64(),
            device: self.device.name().to_owned(),
            skipped: found.skipped + in_gallery.skipped,
        })
    }

    fn embed(
        &mut self,
        set: &ImageSet,
        inference: &mut Duration,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Embedded> {
        let mut embedded = Embedded::default();
        for (stretch, samples) in set.samples.chunks(IMAGES_AT_ONCE).enumerate() {
            let answers = self.answers(samples, on_event)?;
            *inference += answers.inference;
            let first = stretch * IMAGES_AT_ONCE;
            let shown = answers.shown.iter().map(|place| first + place);
            embedded.shown.extend(shown);
            embedded.skipped += answers.skipped.len();
            embedded.evaluated.extend(answers.evaluated);
            if let Some(reference) = answers.reference {
                embedded.reference.get_or_insert_default().extend(reference);
            }
        }
        match embedded.shown.is_empty() {
            true => Err(Error::Check(format!(
                "none of the {} images could be read",
                embedded.skipped
            ))),
            false => Ok(embedded),
        }
    }
}

/// Looks for what lies nearest to images in a gallery.
fn neighbours(
    (images, found): (&ImageSet, &Embedded),
    (gallery, embedded): (&ImageSet, &Embedded),
    count: usize,
) -> Neighbours {
    let nearest = |features: &[Vec<f32>], gallery: &[Vec<f32>]| -> Vec<Vec<usize>> {
        let gallery = Gallery::new(gallery);
        let features = features.par_iter();
        features
            .map(|features| gallery.nearest(features, count))
            .collect()
    };
    let evaluated = nearest(&found.evaluated, &embedded.evaluated);
    let reference = found.reference.as_ref().zip(embedded.reference.as_ref());
    let reference = reference.map(|(features, gallery)| nearest(features, gallery));
    let share = |count: usize| count as f64 / evaluated.len() as f64;
    let classes = found.classes(images).zip(embedded.classes(gallery));
    if let Some((classes, known)) = &classes {
        let strangers = classes.iter().filter(|class| !known.contains(class));
        match strangers.count() {
            0 => {}
            count => log::warn!(
                "gallery: {count} of {} images are of a class that it lacks",
                classes.len()
            ),
        }
    }
    let accuracy = |nearest: &[Vec<usize>]| {
        let (classes, of_gallery) = classes.as_ref()?;
        let pairs = nearest.iter().zip(classes);
        let right = pairs.filter(|(nearest, class)| {
            vote(nearest.iter().map(|&at| of_gallery[at])) == Some(**class)
        });
        Some(share(right.count()))
    };
    Neighbours {
        gallery: embedded.shown.len(),
        neighbours: count,
        nearest_agreement: reference.as_ref().map(|reference| {
            let pairs = evaluated.iter().zip(reference);
            share(pairs.filter(|(one, other)| one[0] == other[0]).count())
        }),
        knn_accuracy: accuracy(&evaluated),
        fp_knn_accuracy: reference.as_deref().and_then(accuracy),
    }
}
