//! The squares of the loss's gradients around a segment's products, added up on the device.

use crate::device::{Buffer, Commands};
use crate::graph::SiteGradients;
use crate::kernels::add_squares;
use std::collections::HashMap;

/// Holds the sums over probes of the squared gradients around a segment's products for some images, on the device.
#[derive(Default)]
pub(super) struct GradientSquares {
    /// One for each buffer of gradients.
    pub sums: Vec<Buffer<f32>>,
    /// Which of them each site's A, B and O have.
    pub sites: HashMap<String, [Option<usize>; 3]>,
}

impl GradientSquares {
    /// Adds the squares of one probe's gradients, those of a buffer that several products share only once.
    pub fn add(&mut self, commands: &mut Commands, around: &[SiteGradients]) {
        let mut places: HashMap<usize, usize> = HashMap::new();
        for gradients in around {
            let buffers = [
                gradients.a.as_ref(),
                gradients.b.as_ref(),
                Some(&gradients.out),
            ];
            let slots = buffers.map(|buffer| {
                let buffer = buffer?;
                let next = places.len();
                let place = *places.entry(buffer.allocation().0).or_insert(next);
                if place == next {
                    if place == self.sums.len() {
                        self.sums.push(commands.device().zeros(buffer.len()));
                    }
                    add_squares(commands, buffer, &self.sums[place]);
                }
                Some(place)
            });
            self.sites.insert(gradients.site.name.clone(), slots);
        }
    }
}
