//! A network as a chain of segments, which is all that calibration and inference need to know of it.

use super::config::Architecture;
use super::products::{Products, Recorder};
use super::site::Site;
use super::{swin, vit};
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;

/// A link of the chain: an embedding, a block, a merging, a head. It has all parameters but the weights of its matrix
/// products, which [`Products`] hold.
pub trait Segment: Send + Sync {
    /// The matrix products, in the order of the forward pass; at least one.
    fn sites(&self) -> &[Site];

    /// Values that one image takes at the input.
    fn input_len(&self) -> usize;

    /// Computes the segment for `images` images.
    fn forward(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        input: &Buffer<f32>,
    ) -> Buffer<f32>;

    /// Back-propagates `grad`, the loss's gradient at the output, to the input, leaving ∂L/∂O of every site with the
    /// recorder, which has seen the forward pass on the same `input`. An embedding returns `None`: nobody asks for the
    /// gradient of pixels.
    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        images: usize,
        input: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>>;
}

/// What a segment's parameters are loaded with.
pub struct Parameters<'a> {
    /// Where they go.
    pub device: &'a Device,
    /// A tensor of the `state_dict` by its name.
    pub float: &'a dyn Fn(&str) -> Result<Vec<f32>>,
}

impl Parameters<'_> {
    /// A tensor on the device.
    ///
    /// # Errors
    /// Those of `float`.
    pub fn load(&self, name: &str) -> Result<Buffer<f32>> {
        Ok(self.device.upload(&(self.float)(name)?))
    }
}

/// A chain of segments. The first takes pixels `[images, 3, S, S]`, the last gives logits `[images, classes]`; what lies
/// between them depends on the architecture.
pub struct Network {
    device: Device,
    segments: Vec<Box<dyn Segment>>,
    classes: usize,
}

impl Network {
    /// Builds the network on `device`; `float` gives a tensor of the `state_dict` by its name.
    ///
    /// # Errors
    /// Those of `float`.
    pub fn new(
        device: &Device,
        architecture: &Architecture,
        float: impl Fn(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let parameters = Parameters {
            device,
            float: &float,
        };
        let segments = match architecture {
            Architecture::Vit(config) => vit::segments(config, &parameters)?,
            Architecture::Swin(config) => swin::segments(config, &parameters)?,
        };
        Ok(Self {
            device: device.clone(),
            segments,
            classes: architecture.classes(),
        })
    }

    /// Where the network's parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The links of the chain.
    pub fn segments(&self) -> &[Box<dyn Segment>] {
        &self.segments
    }

    /// Number of logits.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Every site of the network, first to last.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.segments.iter().flat_map(|segment| segment.sites())
    }

    /// Logits `[images, classes]` of `pixels` `[images, 3, S, S]`.
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

    /// The most images whose largest buffer still fits the device's binding limit; at least 1.
    pub fn max_images(&self) -> usize {
        let inputs = self.segments.iter().map(|segment| segment.input_len());
        let outputs = self.sites().map(Site::out_len);
        let largest = inputs.chain(outputs).max().unwrap_or(1);
        (self.device.max_buffer_bytes() / (largest * size_of::<f32>())).max(1)
    }
}

/// The sites of an architecture, first to last, without a device.
pub fn sites(architecture: &Architecture) -> Vec<Site> {
    match architecture {
        Architecture::Vit(config) => vit::sites(config),
        Architecture::Swin(config) => swin::sites(config),
    }
}
