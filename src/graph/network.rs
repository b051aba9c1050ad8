//! A network as a chain of segments, which is all that calibration and inference need to know of it.

use super::builder::Graph;
use super::operation::Loader;
use super::products::Products;
use super::segment::Segment;
use super::site::Site;
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;

/// Holds a network as a chain of segments. The first takes pixels `[images, 3, S, S]`, the last gives the answers
/// `[images, answer_len]`, logits or features; what passes between the others depends on the architecture.
pub struct Network {
    device: Device,
    segments: Vec<Segment>,
}

impl Network {
    /// Loads the network that `graphs` describe, one after the other, onto `device`; `float` gives a tensor of the
    /// `state_dict` by its name.
    ///
    /// # Errors
    /// Those of `float`.
    pub fn load(
        device: &Device,
        graphs: &[Graph],
        float: impl Fn(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let mut loader = Loader::new(device, &float);
        let segments = graphs
            .iter()
            .map(|graph| Segment::load(graph, &mut loader))
            .collect::<Result<_>>()?;
        Ok(Self {
            device: device.clone(),
            segments,
        })
    }

    /// Returns the device that the network's parameters are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Lists the links of the chain.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Counts the values of an answer: logits or features.
    pub fn answer_len(&self) -> usize {
        self.segments.last().map_or(0, Segment::output_len)
    }

    /// Lists every site of the network, first to last.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.segments.iter().flat_map(Segment::sites)
    }

    /// Computes the answers `[images, answer_len]`, logits or features, for `pixels` `[images, 3, S, S]`.
    pub fn logits(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        pixels: &Buffer<f32>,
    ) -> Buffer<f32> {
        let mut values = pixels.clone();
        for segment in &self.segments {
            values = segment.forward(commands, products, images, &values);
        }
        values
    }

    /// Counts the most images whose largest buffer still fits the device's binding limit; at least 1.
    pub fn max_images(&self) -> usize {
        let largest = self.segments.iter().map(Segment::largest).max();
        let largest = largest.unwrap_or(1).max(1);
        (self.device.max_buffer_bytes() / (largest * size_of::<f32>())).max(1)
    }
}
