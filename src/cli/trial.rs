//! `trial`: whether a device computes right by a strategy. Nobody types it: the others run it as a process of its own
//! ([`elsewhere`](super::elsewhere)).

use super::error::{Error, Result};
use super::options::DeviceOption;
use crate::device::Strategy;
use crate::error;
use crate::kernels::{STRATEGY_NAMES, adopt};
use clap::Args;

/// Computes a product by a strategy, and checks its bits.
#[derive(Args)]
pub struct Trial {
    #[command(flatten)]
    device: DeviceOption,
    /// The kind of product.
    #[arg(long)]
    product: String,
    /// The strategy, as JSON.
    #[arg(long)]
    strategy: String,
}

impl Trial {
    pub fn run(&self) -> Result<()> {
        let known = |name: &&str| *name == self.product;
        let product = STRATEGY_NAMES.into_iter().find(known);
        let product = product
            .ok_or_else(|| Error::usage("--product", format!("is none of {STRATEGY_NAMES:?}")))?;
        let strategy: Strategy = serde_json::from_str(&self.strategy)
            .map_err(|error| Error::usage("--strategy", error.to_string()))?;
        let device = self.device.open_untuned()?;
        if !device.offers(strategy) {
            let problem = format!("offers no {strategy}");
            return Err(error::Error::device(device.name(), problem).into());
        }
        Ok(adopt(&device, product, strategy)?)
    }
}
