//! Tokens in another order: Swin's windows, and its merging of patches. What an image doesn't fill is padded with zeros.

use crate::device::{Buffer, Device};
use crate::kernels::{TokenOrder, permute_tokens};

/// An order of an image's tokens, each of which it has once, with padding between them.
pub struct Order {
    /// Per token in the new order, which token of the image it is; as many as the image has, or more, for padding.
    forward: Buffer<u32>,
    /// Per token of the image, where the new order has it.
    inverse: Buffer<u32>,
}

impl Order {
    /// `forward` says of each token in the new order which token of the image it is, where it isn't padding.
    pub fn upload(device: &Device, forward: &[Option<usize>]) -> Self {
        let tokens = forward.iter().flatten().count();
        let mut inverse = vec![0; tokens];
        for (place, token) in forward.iter().enumerate() {
            if let Some(token) = token {
                inverse[*token] = place as u32;
            }
        }
        let forward = forward.iter().map(|token| token.unwrap_or(tokens) as u32);
        Self {
            forward: device.upload(&forward.collect::<Vec<_>>()),
            inverse: device.upload(&inverse),
        }
    }

    /// From the order of the image to this one.
    pub fn forward(&self) -> TokenOrder<'_> {
        TokenOrder {
            from: &self.forward,
            tokens: self.inverse.len(),
        }
    }

    /// Tokens `[images, tokens, dim]` from the order of the image to this one, with its padding; also the gradient of
    /// [`Self::undo`].
    pub fn apply(&self, device: &Device, dim: usize, tokens: &Buffer<f32>) -> Buffer<f32> {
        permute_tokens(device, dim, self.forward(), tokens)
    }

    /// Tokens `[images, tokens, dim]` from this order to that of the image, without padding; also the gradient of
    /// [`Self::apply`].
    pub fn undo(&self, device: &Device, dim: usize, tokens: &Buffer<f32>) -> Buffer<f32> {
        let order = TokenOrder {
            from: &self.inverse,
            tokens: self.forward.len(),
        };
        permute_tokens(device, dim, order, tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_an_order_restores_the_tokens() {
        let device = Device::cpu();
        let order = [Some(2), None, Some(0), Some(3), None, Some(1)];
        let order = Order::upload(&device, &order);
        let tokens: Vec<f32> = (1..=16).map(|value| value as f32).collect();
        let applied = order.apply(&device, 2, &device.upload(&tokens));
        let found = device.read(&applied).expect("tokens");
        let first = [5.0, 6.0, 0.0, 0.0, 1.0, 2.0, 7.0, 8.0, 0.0, 0.0, 3.0, 4.0];
        assert_eq!(found[..12], first);
        assert_eq!(
            found[12..],
            first.map(|value| if value > 0.0 { value + 8.0 } else { value })
        );
        let undone = order.undo(&device, 2, &applied);
        assert_eq!(device.read(&undone).expect("tokens"), tokens);
    }
}
