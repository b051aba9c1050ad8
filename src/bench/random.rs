//! Networks and images where only the shapes matter.

use crate::error::{Error, Result};
use crate::file::weights::{TensorData, Weights, to_bytes};
use crate::model::config::Architecture;
use crate::model::recipe::{Beside, Recipe, Request, Resolved, describe_beside};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Makes a checkpoint of random weights in the recipe's shapes, the same every time.
///
/// # Errors
/// A recipe whose tensors can't be written.
pub fn random_checkpoint(recipe: &Recipe) -> Result<(Weights, Resolved)> {
    // The name tells what the shapes don't.
    let path = format!("{}.safetensors", recipe.name);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let tensors = random_weights(&recipe.architecture, &mut random);
    let file = to_bytes(tensors, Default::default()).map_err(|error| Error::input(&path, error))?;
    let weights = Weights::from_bytes(&path, &file)?;
    let description = describe_beside(&weights, &Beside::default(), &Request::default())?;
    let resolved = description.fitted(&weights)?;
    Ok((weights, resolved))
}

/// Makes `count` random preprocessed images, the same every time.
pub fn random_images(architecture: &Architecture, count: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let pixels = architecture.input_len();
    (0..count)
        .map(|_| uniform(&mut random, pixels, 2.0))
        .collect()
}

/// Draws `len` values between `-reach` and `reach`.
pub(super) fn uniform(random: &mut ChaCha8Rng, len: usize, reach: f32) -> Vec<f32> {
    (0..len)
        .map(|_| random.random_range(-reach..reach))
        .collect()
}

/// Draws weights that keep activations at about 1: uniform, with the variance of one over the inputs; norms at 1.
fn random_weights(
    architecture: &Architecture,
    random: &mut ChaCha8Rng,
) -> Vec<(String, TensorData)> {
    let tensors = architecture.expected_tensors().into_iter();
    tensors
        .map(|(name, shape)| {
            let len = shape.iter().product();
            let inputs: usize = shape[1..].iter().product();
            let data = match shape.len() {
                1 if name.ends_with("weight") => vec![1.0; len],
                1 => vec![0.0; len],
                _ => uniform(random, len, (3.0 / inputs as f32).sqrt()),
            };
            (name, TensorData::F32 { shape, data })
        })
        .collect()
}
