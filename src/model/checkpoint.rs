//! timm checkpoints of every age: opened, with the names that timm gives their tensors today.

use std::path::Path;

use crate::error::Result;
use crate::model::config::Family;
use crate::model::weights::Weights;

/// Opens a checkpoint. timm has moved some of Swin's layers over the years, and DeiT III's own files name LayerScale otherwise;
/// their tensors get today's names.
///
/// # Errors
/// Those of [`Weights::open`], and a file that has a tensor under both names.
pub fn open_checkpoint(path: impl AsRef<Path>) -> Result<Weights> {
    with_todays_names(Weights::open(path)?)
}

/// [`open_checkpoint`] for a file that is open.
///
/// # Errors
/// A tensor under both names.
pub fn with_todays_names(mut weights: Weights) -> Result<Weights> {
    if Family::of(&weights) == Family::Vit {
        weights.rename(|name| {
            let (block, scale) = name.strip_prefix("blocks.")?.split_once(".gamma_")?;
            Some(format!("blocks.{block}.ls{scale}.gamma"))
        })?;
    } else {
        // A merging belonged to the stage before it, as in the paper's code, and so the first stage had one.
        let merges_after = weights
            .names()
            .any(|name| name.starts_with("layers.0.downsample."));
        weights.rename(|name| {
            if let Some(part) = name
                .strip_prefix("head.")
                .filter(|part| !part.contains('.'))
            {
                return Some(format!("head.fc.{part}"));
            }
            let (stage, part) = name.strip_prefix("layers.")?.split_once(".downsample.")?;
            let stage: usize = stage.parse().ok().filter(|_| merges_after)?;
            Some(format!("layers.{}.downsample.{part}", stage + 1))
        })?;
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::{TensorData, save};

    /// The names of a file with these tensors, each of one element that is its place in the list.
    fn opened(names: &[&str]) -> Result<Vec<(String, f32)>> {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("m.safetensors");
        let tensor = |(place, name): (usize, &&str)| {
            let data = vec![place as f32];
            (
                (*name).to_owned(),
                TensorData::F32 {
                    shape: vec![1],
                    data,
                },
            )
        };
        let tensors = names.iter().enumerate().map(tensor).collect();
        save(&path, tensors, Default::default()).unwrap();
        let weights = open_checkpoint(&path)?;
        let names = weights.names();
        Ok(names
            .map(|name| (name.to_owned(), weights.float(name).unwrap()[0]))
            .collect())
    }

    #[test]
    fn older_swins_get_todays_names() {
        let old = [
            "layers.0.blocks.0.norm1.weight",
            "layers.0.downsample.reduction.weight",
            "layers.1.downsample.reduction.weight",
            "head.weight",
            "head.bias",
        ];
        let expected = [
            ("head.fc.bias", 4.0),
            ("head.fc.weight", 3.0),
            ("layers.0.blocks.0.norm1.weight", 0.0),
            ("layers.1.downsample.reduction.weight", 1.0),
            ("layers.2.downsample.reduction.weight", 2.0),
        ];
        assert_eq!(
            opened(&old).unwrap(),
            expected.map(|(name, at)| (name.to_owned(), at))
        );
    }

    #[test]
    fn layer_scales_get_timms_names() {
        let old = [
            "blocks.0.gamma_1",
            "blocks.11.gamma_2",
            "blocks.0.norm1.weight",
        ];
        let expected = [
            ("blocks.0.ls1.gamma", 0.0),
            ("blocks.0.norm1.weight", 2.0),
            ("blocks.11.ls2.gamma", 1.0),
        ];
        assert_eq!(
            opened(&old).unwrap(),
            expected.map(|(name, at)| (name.to_owned(), at))
        );
    }

    #[test]
    fn todays_names_stay() {
        for names in [
            [
                "head.fc.weight",
                "layers.0.blocks.0.norm1.weight",
                "layers.1.downsample.norm.weight",
            ],
            ["blocks.0.norm1.weight", "head.bias", "head.weight"],
        ] {
            let found: Vec<String> = opened(&names)
                .unwrap()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert_eq!(found, names);
        }
    }

    #[test]
    fn a_tensor_under_both_names_is_refused() {
        let names = [
            "layers.0.blocks.0.norm1.weight",
            "head.weight",
            "head.fc.weight",
        ];
        let message = opened(&names).unwrap_err().to_string();
        assert!(
            message.ends_with(
                "tensor `head.weight` is there under its newer name `head.fc.weight` too"
            ),
            "{message}"
        );
    }
}
