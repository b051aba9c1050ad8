//! Changes of a checkpoint's tensors that leave the network's function as it is, and its values easier to quantize.
//!
//! They come first: what they make of a checkpoint is the network that is calibrated, rounded and stored.

mod layer_norm;

use super::calibrate::{Budget, Event, Memory, Observer, forward};
use super::method::Method;
use super::settings::Transform;
use crate::device::{Commands, Device};
use crate::error::Result;
use crate::families::graphs;
use crate::file::weights::Weights;
use crate::graph::Network;
use crate::model::config::Architecture;

/// Makes the network of `architecture` in `weights` ready for a calibration on the preprocessed `images`: applies the
/// transforms of `method`. `None` where there are none.
///
/// # Errors
/// Those of [`calibrate`](super::calibrate()).
pub(super) async fn prepare(
    device: &Device,
    architecture: &Architecture,
    weights: &Weights,
    method: &Method,
    images: &[Vec<f32>],
    budget: Budget,
    on_event: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Option<Weights>> {
    let mut prepared = None;
    for transform in &method.settings.transforms {
        let before = prepared.as_ref().unwrap_or(weights);
        let graphs = graphs(architecture);
        let network = Network::load(device, &graphs, |name| before.float(name))?;
        let memory = Memory::new(&network, before, method, images.len(), budget, &|site| {
            method.plan.of(site).is_some()
        })
        .await?;
        let at_once = memory.forward_images();
        let commands = &mut Commands::new(device);
        let mut after = before.clone();
        let observer: &mut dyn Observer = match transform {
            Transform::LayerNorm => &mut layer_norm::LayerNorms::new(&graphs, &mut after),
        };
        let segments = network.segments();
        forward(
            commands,
            segments,
            before,
            images,
            at_once,
            Some(observer),
            on_event,
        )
        .await?;
        prepared = Some(after);
    }
    Ok(prepared)
}
