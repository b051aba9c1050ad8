//! A ViT's learned positions at another image size.

use crate::data::image_size::ImageSize;
use crate::data::preprocess::Interpolation;
use crate::data::resample::{Taps, taps};
use crate::error::Result;
use crate::file::weights::Weights;
use crate::model::config::{Architecture, Family, VitConfig};

/// Names the positions as timm does.
const POSITIONS: &str = "pos_embed";

/// Resamples the positions in `weights` for images of the size that `architecture` takes, if they are for another, as
/// timm's `resample_abs_pos_embed` does: bicubic and antialiased; tokens before the patches keep theirs. They
/// are for images of size `stored` if that is told and has as many patches as there are; else for images as
/// `architecture` takes them if those have as many, or for squares. Returns the size that they were for.
///
/// A Swin has no such positions, nor a ViT that has rotary or relative ones. Whatever else doesn't fit is left for [`Architecture::fitted`] to find.
///
/// # Errors
/// Those of [`VitConfig::from_shapes`], and positions that are not finite.
pub fn interpolate_positions(
    weights: &mut Weights,
    architecture: &Architecture,
    stored: Option<ImageSize>,
) -> Result<Option<ImageSize>> {
    let Architecture::Vit(wanted) = architecture else {
        return Ok(None);
    };
    if Family::of(weights) != Family::Vit || architecture.validate().is_err() {
        return Ok(None);
    }
    // One head divides every width.
    let likely: Vec<ImageSize> = stored.into_iter().chain([wanted.image_size]).collect();
    let file = VitConfig::from_shapes(weights, 1, &likely)?;
    if !wanted.has_pos_embed()
        || !file.has_pos_embed()
        || wanted.grid() == file.grid()
        || wanted.patch_size != file.patch_size
    {
        return Ok(None);
    }
    let mut positions = weights.float(POSITIONS)?;
    let patches = positions.split_off(file.embedded_prefix() * file.dim);
    positions.extend(resampled(&patches, file.dim, file.grid(), wanted.grid()));
    let shape = vec![1, positions.len() / file.dim, file.dim];
    weights.replace(POSITIONS, shape, &positions);
    Ok(Some(file.image_size))
}

/// Resamples a grid of positions from rows and columns `old` to `new`, `[rows, columns, dim]`. Sums in f64, rounds
/// once.
fn resampled(grid: &[f32], dim: usize, old: [usize; 2], new: [usize; 2]) -> Vec<f32> {
    let taps = |side: usize| taps(old[side], new[side], 0..new[side], Interpolation::Bicubic);
    let grid: Vec<f64> = grid.iter().copied().map(f64::from).collect();
    let wide = filtered(&grid, old[1], dim, &taps(1));
    let all = filtered(&wide, old[0], new[1] * dim, &taps(0));
    all.into_iter().map(|value| value as f32).collect()
}

/// Filters `values` `[…, old, inner]` to `[…, taps, inner]`.
fn filtered(values: &[f64], old: usize, inner: usize, taps: &[Taps<f64>]) -> Vec<f64> {
    let mut output = Vec::with_capacity(values.len() / old * taps.len());
    for values in values.chunks_exact(old * inner) {
        for Taps { first, weights } in taps {
            let mut sums = vec![0.0; inner];
            let tapped = values.chunks_exact(inner).skip(*first);
            for (weight, values) in weights.iter().zip(tapped) {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * value;
                }
            }
            output.extend(sums);
        }
    }
    output
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::config::zeros;
    use serde::Deserialize;

    /// What timm makes of positions: `tests/data/timm_positions.py` asked it.
    #[derive(Deserialize)]
    struct Case {
        prefix: usize,
        dim: usize,
        old_grid: [usize; 2],
        new_grid: [usize; 2],
        positions: Vec<f32>,
    }

    /// One block of a ViT with patches of 8.
    fn vit(case: &Case, grid: [usize; 2]) -> Architecture {
        Architecture::Vit(VitConfig {
            image_size: grid.map(|side| 8 * side).into(),
            patch_size: 8,
            dim: case.dim,
            depth: 1,
            heads: 1,
            mlp_dim: case.dim,
            classes: 2,
            distilled: case.prefix == 2,
            no_embed_class: case.prefix == 0,
            ..VitConfig::default()
        })
    }

    #[test]
    fn positions_are_timms() {
        let cases = include_str!("../../tests/data/timm_positions.json");
        let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let (old, new) = (vit(&case, case.old_grid), vit(&case, case.new_grid));
            let mut weights = zeros(old.expected_tensors());
            let shape = weights.shape(POSITIONS).unwrap().to_vec();
            // As the script makes them.
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|at: usize| (at * 37 % 101) as f32 / 64.0 - 0.75)
                .collect();
            weights.replace(POSITIONS, shape, &values);

            let stored = Some(old.image_size());
            let from = interpolate_positions(&mut weights, &new, stored).unwrap();
            assert_eq!(from, Some(old.image_size()));
            assert_eq!(new.fitted(&weights, "the test").unwrap(), new);
            let found = weights.float(POSITIONS).unwrap();
            assert_eq!(found.len(), case.positions.len());
            let kept = case.prefix * case.dim;
            assert_eq!(found[..kept], case.positions[..kept]);
            // torch finds the filters' centres in f32, which rounds places up to 24 by up to 1e-6; its own result in f64
            // differs by 1.1e-6.
            for (found, expected) in found.iter().zip(&case.positions) {
                assert!((found - expected).abs() < 3e-6, "{found} {expected}");
            }
            // Now they fit.
            assert_eq!(
                interpolate_positions(&mut weights, &new, None).unwrap(),
                None
            );
        }
    }

    #[test]
    fn what_fits_otherwise_is_left_alone() {
        let swin = r#"{"family":"swin","image_size":56,"patch_size":4,"window":7,"dim":32,"depths":[2,2],"heads":[2,4],"mlp_ratio":4,"classes":10}"#;
        let vit = r#"{"family":"vit","image_size":32,"patch_size":8,"dim":48,"depth":2,"heads":3,"mlp_ratio":4,"classes":10}"#;
        let [swin, vit]: [Architecture; 2] =
            [swin, vit].map(|told| serde_json::from_str(told).unwrap());
        let other_patches = vit.with_image_size(32.into()).unwrap();
        let Architecture::Vit(sizes) = &other_patches else {
            panic!("a ViT");
        };
        let other_patches = Architecture::Vit(VitConfig {
            patch_size: 16,
            ..sizes.clone()
        });
        for (file, architecture) in [
            (&swin, &swin),
            (&swin, &vit),
            (&vit, &swin),
            (&vit, &vit),
            (&vit, &other_patches),
        ] {
            let mut weights = zeros(file.expected_tensors());
            let from = interpolate_positions(&mut weights, architecture, None).unwrap();
            assert_eq!(from, None);
            assert_eq!(file.fitted(&weights, "the test").unwrap(), *file);
        }
    }
}
