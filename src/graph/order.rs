//! Orders of tokens: Swin's windows, its merging of patches, one token of many. Places that no token takes are padded
//! with zeros.

use crate::device::{Buffer, Commands, Device};
use crate::kernels::{TokenOrder, permute_tokens};

/// Says which token of an image stands at each place of another order, where it isn't padding.
pub struct Arrangement {
    /// Tokens of the image.
    pub tokens: usize,
    /// The image's token at each place, or `None` for padding. No token has two places.
    pub from: Vec<Option<usize>>,
}

impl Arrangement {
    /// Describes an order in which every token of the image has a place. `from` names the token at each place, or
    /// `None` for padding.
    pub fn new(from: Vec<Option<usize>>) -> Self {
        Self {
            tokens: from.iter().flatten().count(),
            from,
        }
    }

    /// Describes an order with a single place, which has `token` of an image's `tokens`.
    pub fn only(token: usize, tokens: usize) -> Self {
        Self {
            tokens,
            from: vec![Some(token)],
        }
    }
}

/// Holds an order of an image's tokens on a device.
pub struct Order {
    /// The image's token at each place; the number of tokens stands for padding.
    forward: Buffer<u32>,
    /// The place of each token of the image; the number of places stands for none.
    inverse: Buffer<u32>,
    /// The token, where there is only one place.
    single: Option<usize>,
}

impl Order {
    /// Brings an arrangement onto `device`.
    pub fn upload(device: &Device, arrangement: &Arrangement) -> Self {
        let Arrangement { tokens, from } = arrangement;
        let mut inverse = vec![from.len() as u32; *tokens];
        for (place, token) in from.iter().enumerate() {
            if let Some(token) = token {
                inverse[*token] = place as u32;
            }
        }
        let forward = from.iter().map(|token| token.unwrap_or(*tokens) as u32);
        Self {
            forward: device.upload(&forward.collect::<Vec<_>>()),
            inverse: device.upload(&inverse),
            single: match from[..] {
                [token] => token,
                _ => None,
            },
        }
    }

    /// Returns the token, where the order has one place only.
    pub(super) fn single(&self) -> Option<usize> {
        self.single
    }

    /// Describes the way from the image's order to this one.
    pub fn forward(&self) -> TokenOrder<'_> {
        TokenOrder {
            from: &self.forward,
            tokens: self.inverse.len(),
        }
    }

    /// Brings tokens `[images, tokens, dim]` from the order of the image to this one, with its padding; this is also
    /// the gradient of [`Self::undo`].
    pub fn apply(&self, commands: &mut Commands, dim: usize, tokens: &Buffer<f32>) -> Buffer<f32> {
        permute_tokens(commands, dim, self.forward(), tokens)
    }

    /// Brings tokens `[images, places, dim]` from this order to that of the image, without padding; this is also the
    /// gradient of [`Self::apply`].
    pub fn undo(&self, commands: &mut Commands, dim: usize, tokens: &Buffer<f32>) -> Buffer<f32> {
        let order = TokenOrder {
            from: &self.inverse,
            tokens: self.forward.len(),
        };
        permute_tokens(commands, dim, order, tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_an_order_restores_the_tokens() {
        let device = Device::cpu();
        let mut commands = Commands::new(&device);
        let order = [Some(2), None, Some(0), Some(3), None, Some(1)];
        let order = Order::upload(&device, &Arrangement::new(order.to_vec()));
        let tokens: Vec<f32> = (1..=16).map(|value| value as f32).collect();
        let applied = order.apply(&mut commands, 2, &device.upload(&tokens));
        let found = device.read(&applied).expect("tokens");
        let first = [5.0, 6.0, 0.0, 0.0, 1.0, 2.0, 7.0, 8.0, 0.0, 0.0, 3.0, 4.0];
        assert_eq!(found[..12], first);
        assert_eq!(
            found[12..],
            first.map(|value| if value > 0.0 { value + 8.0 } else { value })
        );
        let undone = order.undo(&mut commands, 2, &applied);
        assert_eq!(device.read(&undone).expect("tokens"), tokens);
    }

    #[test]
    fn undoing_the_choice_of_a_token_leaves_zeros_at_the_others() {
        let device = Device::cpu();
        let mut commands = Commands::new(&device);
        let order = Order::upload(&device, &Arrangement::only(1, 3));
        let tokens: Vec<f32> = (1..=12).map(|value| value as f32).collect();
        let chosen = order.apply(&mut commands, 2, &device.upload(&tokens));
        assert_eq!(device.read(&chosen).expect("tokens"), [3.0, 4.0, 9.0, 10.0]);
        let undone = order.undo(&mut commands, 2, &chosen);
        assert_eq!(
            device.read(&undone).expect("tokens"),
            [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 9.0, 10.0, 0.0, 0.0]
        );
    }
}
