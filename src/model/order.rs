//! Tokens in another order: Swin's windows, and its merging of patches.

use crate::device::{Buffer, Device};
use crate::kernels::permute_tokens;

/// A permutation of an image's tokens.
pub struct Order {
    /// Per token in the new order, which token of the image it is.
    forward: Buffer<u32>,
    /// Per token of the image, where the new order has it.
    inverse: Buffer<u32>,
}

impl Order {
    /// `forward` says of each token in the new order which token of the image it is.
    pub fn upload(device: &Device, forward: &[u32]) -> Self {
        Self {
            inverse: device.upload(&inverse(forward)),
            forward: device.upload(forward),
        }
    }

    /// Per token in the new order, which token of the image it is.
    pub fn forward(&self) -> &Buffer<u32> {
        &self.forward
    }

    /// Tokens `[images, tokens, dim]` from the order of the image to this one.
    pub fn apply(&self, device: &Device, dim: usize, tokens: &Buffer<f32>) -> Buffer<f32> {
        permute_tokens(device, dim, &self.forward, tokens)
    }

    /// Tokens `[images, tokens, dim]` from this order to that of the image; also the gradient of [`Self::apply`].
    pub fn undo(&self, device: &Device, dim: usize, tokens: &Buffer<f32>) -> Buffer<f32> {
        permute_tokens(device, dim, &self.inverse, tokens)
    }
}

fn inverse(forward: &[u32]) -> Vec<u32> {
    let mut inverse = vec![0; forward.len()];
    for (place, &token) in forward.iter().enumerate() {
        inverse[token as usize] = place as u32;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_an_order_restores_the_tokens() {
        let device = Device::cpu();
        let order = Order::upload(
            &device,
            &[5, 6, 9, 10, 7, 4, 11, 8, 13, 14, 1, 2, 15, 12, 3, 0],
        );
        let tokens: Vec<f32> = (0..64).map(|value| value as f32).collect();
        let applied = order.apply(&device, 2, &device.upload(&tokens));
        let found = device.read(&applied).expect("tokens");
        assert_eq!(found[..4], [10.0, 11.0, 12.0, 13.0]);
        let undone = order.undo(&device, 2, &applied);
        assert_eq!(device.read(&undone).expect("tokens"), tokens);
    }
}
