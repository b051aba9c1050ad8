//! A network as a chain of segments, which is all that calibration and inference need to know of it.

use super::products::{Products, Recorder};
use super::site::Site;
use crate::device::{Buffer, Device};

/// A chain of segments (embedding, blocks, head). The first takes pixels `[images, 3, S, S]`, the last gives logits
/// `[images, classes]`; what lies between them depends on the architecture.
pub trait Network {
    /// Where the network's parameters are.
    fn device(&self) -> &Device;

    /// The number of segments.
    fn segments(&self) -> usize;

    /// The matrix products of one segment, in the order of the forward pass.
    fn sites(&self, segment: usize) -> &[Site];

    /// Values that one image takes at the segment's input.
    fn input_len(&self, segment: usize) -> usize;

    /// The most values of one image in a single buffer, over the whole network.
    fn largest_buffer_len(&self) -> usize;

    /// Number of logits.
    fn classes(&self) -> usize;

    /// Computes one segment for `images` images.
    fn forward(
        &self,
        segment: usize,
        products: &mut dyn Products,
        images: usize,
        input: &Buffer<f32>,
    ) -> Buffer<f32>;

    /// Back-propagates `grad`, the loss's gradient at the segment's output, to its input, leaving ∂L/∂O of every site
    /// with the recorder, which has seen the segment's forward pass on the same `input`. The first segment returns
    /// `None`: nobody asks for the gradient of pixels.
    fn backward(
        &self,
        segment: usize,
        recorder: &mut Recorder,
        images: usize,
        input: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>>;

    /// Every site of the network, first to last.
    fn all_sites(&self) -> Vec<&Site> {
        (0..self.segments())
            .flat_map(|segment| self.sites(segment))
            .collect()
    }

    /// Logits `[images, classes]` of `pixels` `[images, 3, S, S]`.
    fn logits(
        &self,
        products: &mut dyn Products,
        images: usize,
        pixels: &Buffer<f32>,
    ) -> Buffer<f32> {
        (0..self.segments()).fold(pixels.clone(), |input, segment| {
            self.forward(segment, products, images, &input)
        })
    }

    /// The most images whose largest buffer still fits the device's binding limit; at least 1.
    fn max_images(&self) -> usize {
        let bytes = self.largest_buffer_len() * size_of::<f32>();
        (self.device().max_buffer_bytes() / bytes).max(1)
    }
}
