//! The scales of one site.

use crate::format::{Scale, Table};
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

impl Side {
    /// Returns what the operand is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// Holds the scales of one site, one per group of each operand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteScales {
    /// A's scales: one for a tensor, or one per head.
    pub a: Vec<Scale>,
    /// B's scales: one for a tensor, one per third of qkv, one per head, or one per output channel of a weight.
    pub b: Vec<Scale>,
    /// A's tables, as many as its scales, where its codes are looked up in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub a_tables: Vec<Table>,
    /// B's tables: as many as its scales where it is an activation, one where it is a weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub b_tables: Vec<Table>,
}

impl SiteScales {
    /// Takes the scales of operands without tables.
    pub fn new(a: Vec<Scale>, b: Vec<Scale>) -> Self {
        Self {
            a,
            b,
            a_tables: Vec::new(),
            b_tables: Vec::new(),
        }
    }

    /// Returns the scales and the tables of one operand.
    pub fn operand(&self, side: Side) -> (&[Scale], &[Table]) {
        match side {
            Side::A => (&self.a, &self.a_tables),
            Side::B => (&self.b, &self.b_tables),
        }
    }

    /// Returns the scales of A and of B for a group of O: an operand's own for this group, or its only one.
    pub fn of(&self, group: usize) -> [Scale; 2] {
        [&self.a, &self.b].map(|scales| scales[group % scales.len()])
    }
}
