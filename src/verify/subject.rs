//! What is verified besides kernels: models and their images.

use super::kernels::sha256;
use super::report::ModelRecord;
use crate::data::choice::choose;
use crate::data::image_file::decode;
use crate::data::preprocess::Preprocessing;
#[cfg(feature = "files")]
use crate::data::samples::{flat_folder, load};
use crate::device::{Commands, Device};
use crate::error::{Error, Result, Setting};
use crate::families::sites;
use crate::file::weights::Weights;
use crate::graph::FloatProducts;
use crate::kernels::catalogue::Random;
use crate::model::config::Architecture;
use crate::model::recipe::Resolved;
use crate::quant::{
    Calibration, Method, Preset, Provenance, QuantizedModel, QuantizedSite, Scale, Settings,
    SiteScales, nearest_codes,
};
use crate::verify::demo;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
#[cfg(feature = "files")]
use std::path::Path;

/// Counts the images of the demo models.
const DEMO_IMAGES: usize = 8;
/// Holds scales that a search on the CPU once chose for the demo models. Every machine computes with these, so that all
/// have the same integers, whatever their own searches would choose.
const DEMO_SCALES: &str = include_str!("demo_scales.json");

/// Returns the method of a search with few candidates, which the demo models' scales are for too: weights of 6 bits,
/// which are packed, and activations of 8.
pub(super) fn method(architecture: &Architecture) -> Method {
    let method = Method::preset(Preset::Ptq4vit, 6, 8, &sites(architecture));
    let method = method.expect("the widths are in range");
    Method {
        settings: Settings {
            candidates: 10,
            rounds: 1,
            ..method.settings
        },
        ..method
    }
}

/// Holds a model in floats, in integers or both, and images for it.
pub struct Subject {
    pub(super) name: String,
    record: ModelRecord,
    pub(super) float: Option<(Weights, Resolved)>,
    pub(super) quantized: Option<QuantizedModel>,
    /// Preprocessed.
    pub(super) images: Vec<Vec<f32>>,
}

/// Says where a subject's images come from.
pub enum Images<'a> {
    /// A number of a folder's images, which are drawn the same every time.
    #[cfg(feature = "files")]
    Folder(&'a Path, usize),
    /// These files, each with its name.
    Files(&'a [(&'a str, &'a [u8])]),
    /// A number of images of random pixels, the same every time.
    Random(usize),
}

impl Subject {
    /// Makes a subject of a model of the user's. Of the quantized one, the hash of its file is given too; where both
    /// are there, it says how images are prepared.
    ///
    /// # Errors
    /// An FP model of another architecture than the quantized one, and images that can't be read.
    pub fn new(
        float: Option<(Weights, Resolved)>,
        quantized: Option<(QuantizedModel, String)>,
        images: &Images,
    ) -> Result<Self> {
        let mut float = float;
        let (name, architecture, preprocessing) = match (&mut float, &quantized) {
            (Some((weights, resolved)), Some((model, _))) => {
                resolved.architecture =
                    model.architecture.fitted(weights, "the quantized model")?;
                resolved.preprocessing = model.preprocessing.clone();
                (
                    resolved.name.clone(),
                    &model.architecture,
                    &model.preprocessing,
                )
            }
            (None, Some((model, _))) => (
                model.provenance.name.clone(),
                &model.architecture,
                &model.preprocessing,
            ),
            (Some((_, resolved)), None) => (
                resolved.name.clone(),
                &resolved.architecture,
                &resolved.preprocessing,
            ),
            (None, None) => {
                return Err(Error::setting(
                    Setting::Model,
                    "expected a model, found none",
                ));
            }
        };
        let images = images.load(architecture, preprocessing)?;
        let words = images.iter().flatten().map(|value| value.to_bits());
        Ok(Self {
            name,
            record: ModelRecord {
                model_sha256: float.as_ref().map(|(weights, _)| weights.sha256()),
                quantized_sha256: quantized.as_ref().map(|(_, sha256)| sha256.clone()),
                images: images.len(),
                images_sha256: sha256(words),
            },
            float,
            quantized: quantized.map(|(model, _)| model),
            images,
        })
    }

    /// Returns the subject's name, and what reports say of it.
    pub(super) fn named_record(&self) -> (String, ModelRecord) {
        (self.name.clone(), self.record.clone())
    }

    /// Makes subjects of the models that come with the program, in floats and in integers.
    ///
    /// # Errors
    /// None, as a test finds.
    pub fn demo() -> Result<Vec<Self>> {
        let scales: BTreeMap<String, Vec<StoredScales>> =
            serde_json::from_str(DEMO_SCALES).expect("the program's own file is right");
        let images = choose(demo::calibration_images(), DEMO_IMAGES, 0)?;
        let subjects = demo::MODELS.iter().map(|name| {
            let (weights, resolved) = demo::open(name)?;
            let model = quantized(&weights, &resolved, &scales[*name])?;
            // By its file, as a user's.
            let path = format!("{name}.safetensors");
            let file = Weights::from_bytes(&path, &model.to_bytes())?;
            let model = QuantizedModel::read(&file)?;
            Self::new(
                Some((weights, resolved)),
                Some((model, file.sha256())),
                &Images::Files(&images),
            )
        });
        subjects.collect()
    }
}

impl Images<'_> {
    fn load(
        &self,
        architecture: &Architecture,
        preprocessing: &Preprocessing,
    ) -> Result<Vec<Vec<f32>>> {
        match self {
            #[cfg(feature = "files")]
            Self::Folder(folder, count) => {
                let samples = choose(flat_folder(folder)?, *count, 0)?;
                load(&samples, preprocessing)
            }
            Self::Files(files) => {
                let images = files.iter().map(|(name, bytes)| {
                    let image = decode(bytes, preprocessing.exif_orientation);
                    let image = image.map_err(|problem| Error::input(name, problem))?;
                    Ok(preprocessing.apply(&image))
                });
                images.collect()
            }
            Self::Random(count) => {
                let pixels = architecture.input_len();
                let mut random = Random::new(0);
                Ok((0..*count).map(|_| random.bell(pixels, 0.0, 1.0)).collect())
            }
        }
    }
}

/// Holds a site's scales as `demo_scales.json` has them: each with its shift.
#[derive(Deserialize)]
struct StoredScales {
    site: String,
    a: Vec<(f32, u32)>,
    b: Vec<(f32, u32)>,
}

impl StoredScales {
    fn scales(&self) -> SiteScales {
        let scales = |stored: &[(f32, u32)]| {
            let scales = stored.iter().map(|&(scale, shift)| Scale { scale, shift });
            scales.collect()
        };
        SiteScales::new(scales(&self.a), scales(&self.b))
    }
}

/// Makes the quantized model of these scales.
fn quantized(
    weights: &Weights,
    resolved: &Resolved,
    stored: &[StoredScales],
) -> Result<QuantizedModel> {
    let cpu = Device::cpu();
    let mut commands = Commands::new(&cpu);
    let method = method(&resolved.architecture);
    let sites = sites(&resolved.architecture);
    let products = FloatProducts::load(&cpu, weights, &sites)?;
    let mut quantized = HashMap::new();
    for site in &sites {
        let of_site = stored.iter().find(|stored| stored.site == site.name);
        let scales = of_site
            .expect("every site of the demo models has scales")
            .scales();
        let plan = method
            .plan
            .of(site)
            .expect("the preset leaves nothing in floats");
        let weight = match site.has_weight() {
            true => Some(nearest_codes(
                &mut commands,
                &plan,
                products.linear(site),
                &scales,
            )?),
            false => None,
        };
        quantized.insert(site.name.clone(), QuantizedSite { scales, weight });
    }
    let calibration = Calibration {
        sites: quantized,
        ..Calibration::default()
    };
    let provenance = Provenance::of_files(weights, &resolved.name, Preset::Ptq4vit, None, &[]);
    let model = QuantizedModel::new(weights, resolved, method, calibration, provenance)?;
    Ok(QuantizedModel {
        evidence: None,
        ..model
    })
}
