//! A seeded choice among images.

use crate::error::{Error, Result, Setting};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Chooses `count` of the `images`, drawn without replacement by ChaCha8 from `seed` and kept in their order.
///
/// # Errors
/// An [`Error::InvalidSetting`] about [`Setting::Count`] when it is 0 or more than there are.
pub fn choose<T>(images: Vec<T>, count: usize, seed: u64) -> Result<Vec<T>> {
    if count == 0 {
        return Err(Error::setting(
            Setting::Count,
            "expected at least 1 image, found 0",
        ));
    }
    if count > images.len() {
        return Err(Error::setting(
            Setting::Count,
            format!(
                "expected at most the {} images that there are, found {count}",
                images.len()
            ),
        ));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = vec![false; images.len()];
    for index in rand::seq::index::sample(&mut random, images.len(), count) {
        chosen[index] = true;
    }
    Ok(images
        .into_iter()
        .zip(chosen)
        .filter_map(|(image, chosen)| chosen.then_some(image))
        .collect())
}
