//! What the tests of this room share: checkpoints of zeros, and what timm says.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Request, Resolved, describe, recipe_named, resolve};
use crate::data::preprocess::Preprocessing;
use crate::error::{Error, Result};
use crate::file::weights::{TensorData, Weights, save};
use crate::model::config::{Architecture, Gelu, VitConfig};
use crate::model::open_checkpoint;

/// Returns the architecture of recipe `name`, with one class.
pub fn one_class(name: &str) -> Architecture {
    with_classes(recipe_named(name).unwrap().architecture.clone(), 1)
}

/// Returns this architecture with so many classes.
pub fn with_classes(mut architecture: Architecture, classes: usize) -> Architecture {
    match &mut architecture {
        Architecture::Vit(sizes) => sizes.classes = classes,
        Architecture::Swin(sizes) => sizes.classes = classes,
    }
    architecture
}

fn micro(told: Value) -> (Architecture, Value) {
    (serde_json::from_value(told.clone()).unwrap(), told)
}

/// Returns the golden oracle's ViT, which is no recipe's.
pub fn micro_vit() -> (Architecture, Value) {
    micro(
        json!({"family": "vit", "image_size": 32, "patch_size": 8, "dim": 48, "depth": 2,
        "heads": 3, "mlp_ratio": 4, "classes": 10}),
    )
}

/// Returns the golden oracle's Swin.
pub fn micro_swin() -> (Architecture, Value) {
    micro(
        json!({"family": "swin", "image_size": 56, "patch_size": 4, "window": 7, "dim": 32,
        "depths": [2, 2], "heads": [2, 4], "mlp_ratio": 4, "classes": 10}),
    )
}

/// Holds a folder with one checkpoint of zeros.
pub struct Checkpoint {
    folder: TempDir,
    pub weights: Weights,
}

impl Checkpoint {
    pub fn new(file: &str, architecture: &Architecture, metadata: &[(&str, String)]) -> Self {
        Self::of(file, architecture.expected_tensors(), metadata)
    }

    pub fn of(file: &str, tensors: Vec<(String, Vec<usize>)>, metadata: &[(&str, String)]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(file);
        let tensors = tensors
            .into_iter()
            .map(|(name, shape)| {
                let data = vec![0.0; shape.iter().product()];
                (name, TensorData::F32 { shape, data })
            })
            .collect();
        let metadata: BTreeMap<_, _> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        save(&path, tensors, metadata).unwrap();
        let weights = open_checkpoint(path).unwrap();
        Self { folder, weights }
    }

    /// Resolves the checkpoint with this config.json beside it.
    pub fn beside(&self, config: &Value) -> Result<Resolved> {
        self.write_config(&config.to_string());
        resolve(&self.weights, None)
    }

    /// Puts a config.json with this text beside the checkpoint.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.folder.path().join("config.json"), text).unwrap();
    }

    /// Resolves the checkpoint where the user says this of it.
    pub fn requested(&self, request: &Request) -> Result<Resolved> {
        describe(&self.weights, request)?.fitted(&self.weights)
    }

    /// Renames the file.
    pub fn renamed(mut self, name: &str) -> Self {
        let path = self.folder.path().join(name);
        std::fs::rename(self.weights.path(), &path).unwrap();
        self.weights = open_checkpoint(&path).unwrap();
        self
    }
}

/// Says what an error is about.
#[derive(Debug, PartialEq)]
pub enum Blamed {
    File,
    Setting,
}

/// Returns why a checkpoint can't be resolved, and what is to blame.
pub fn refusal(resolved: Result<Resolved>) -> (Blamed, String) {
    let error = resolved.unwrap_err();
    let blamed = match error {
        Error::Input { .. } => Blamed::File,
        Error::InvalidSetting { .. } => Blamed::Setting,
        ref other => panic!("{other}"),
    };
    (blamed, error.to_string())
}

/// Holds what timm says of an architecture: `tests/data/timm_models.py` asked it.
#[derive(Deserialize)]
pub struct Fact {
    /// Of the weights that timm loads by default, if it has any.
    pub hub_id: Option<String>,
    pub tags: Vec<String>,
    pub preprocessing: Preprocessing,
    /// 0 of a network that timm's default weights have no classifier for.
    classes: usize,
    /// Features of the projection that they have in its place.
    projection: usize,
    pub parameters: u64,
    /// Of each stage.
    pub heads: Vec<usize>,
    pub layer_norm_eps: f32,
    pub act_layer: Gelu,
    /// Shapes by name. What blocks 0 to 11 all have in one shape is named like `blocks.0-11.norm1.bias`.
    tensors: BTreeMap<String, Vec<usize>>,
}

impl Fact {
    /// Returns this architecture with the head that timm's default weights have.
    pub fn headed(&self, architecture: Architecture) -> Architecture {
        match with_classes(architecture, self.classes) {
            Architecture::Vit(sizes) => Architecture::Vit(VitConfig {
                projection: self.projection,
                ..sizes
            }),
            swin => swin,
        }
    }

    /// Checks that `architecture` is what timm says.
    pub fn check(&self, name: &str, architecture: &Architecture) {
        let (heads, layer_norm_eps, act_layer) = match architecture {
            Architecture::Vit(sizes) => (vec![sizes.heads], sizes.layer_norm_eps, sizes.act_layer),
            Architecture::Swin(sizes) => (sizes.heads.clone(), sizes.layer_norm_eps, Gelu::Exact),
        };
        assert_eq!(heads, self.heads, "{name}");
        assert_eq!(layer_norm_eps, self.layer_norm_eps, "{name}");
        assert_eq!(act_layer, self.act_layer, "{name}");
        assert_eq!(architecture.parameters(), self.parameters, "{name}");
        let image_size = self.preprocessing.image_size;
        assert_eq!(architecture.image_size(), image_size, "{name}");
        let expected = architecture.expected_tensors();
        let tensors: BTreeMap<_, _> = expected.iter().cloned().collect();
        assert_eq!(tensors.len(), expected.len(), "{name}");
        assert_eq!(tensors, self.tensors(), "{name}");
    }

    fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let named = |(name, shape): (&String, &Vec<usize>)| -> Vec<(String, Vec<usize>)> {
            let Some((before, last, after)) = name.split_once(".0-").and_then(|(before, rest)| {
                let (last, after) = rest.split_once('.')?;
                Some((before, last, after))
            }) else {
                return vec![(name.clone(), shape.clone())];
            };
            let last: usize = last.parse().unwrap();
            (0..=last)
                .map(|block| (format!("{before}.{block}.{after}"), shape.clone()))
                .collect()
        };
        self.tensors.iter().flat_map(named).collect()
    }
}

/// Reads what timm says of each network that can be run here, by name.
pub fn facts() -> BTreeMap<String, Fact> {
    serde_json::from_str(include_str!("../../../tests/data/timm_models.json")).unwrap()
}
