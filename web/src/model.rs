//! Checkpoints from bytes.

use ptq4vit_gpu::error::Result;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::model::recipe::{Beside, Request, Resolved, describe_beside};
use ptq4vit_gpu::model::with_todays_names;
use std::path::Path;

/// Reads the checkpoint in `bytes`, a file of this `name`, and finds out what it holds; `beside` are the texts of its
/// config.json and preprocessor_config.json.
///
/// # Errors
/// A file that can't be understood; the messages name it.
pub fn checkpoint(
    name: &str,
    bytes: &[u8],
    beside: [Option<String>; 2],
) -> Result<(Weights, Resolved)> {
    let weights = with_todays_names(Weights::from_bytes(name, bytes)?)?;
    let resolved = resolved(&weights, beside)?;
    Ok((weights, resolved))
}

fn resolved(weights: &Weights, [config, preprocessor]: [Option<String>; 2]) -> Result<Resolved> {
    let named = |name: &str, text: Option<String>| Some((Path::new(name).to_owned(), text?));
    let beside = Beside {
        config: named("config.json", config),
        preprocessor: named("preprocessor_config.json", preprocessor),
    };
    describe_beside(weights, &beside, &Request::default())?.fitted(weights)
}
