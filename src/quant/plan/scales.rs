//! The scales of one site.

use crate::format::Scale;
use serde::{Deserialize, Serialize};

/// Names one of the two operands of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The left operand.
    A,
    /// The right operand.
    B,
}

/// Holds the scales of one site, one per group of each operand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteScales {
    /// A's scales: one for a tensor, or one per head.
    pub a: Vec<Scale>,
    /// B's scales: one for a tensor, one per third of qkv, one per head, or one per output channel of a weight.
    pub b: Vec<Scale>,
}

impl SiteScales {
    /// Returns the scales of A and of B for a group of O: an operand's own for this group, or its only one.
    pub fn of(&self, group: usize) -> [Scale; 2] {
        [&self.a, &self.b].map(|scales| scales[group % scales.len()])
    }
}
