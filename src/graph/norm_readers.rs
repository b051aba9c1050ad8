//! Finds which products read a LayerNorm's result: what is taken out of its γ and β can be put into their weights and
//! biases.

use super::builder::{Graph, Node};
use super::operation::Operation;
use super::site::{Site, SiteKind};

/// Names a LayerNorm and the products with weights that read it, where nothing else does.
pub struct NormReaders {
    /// The tensor of γ.
    pub weight: String,
    /// The tensor of β.
    pub bias: String,
    /// The products whose left operand is the norm's result, the mean of its rows, or some of its rows in another
    /// order.
    pub sites: Vec<Site>,
    /// Whether rows of zeros lie between the rows that they read: padding, which must stay zero.
    pub is_padded: bool,
}

impl Graph {
    /// Lists the LayerNorms that only products with weights read, in the order of the forward pass.
    pub fn norm_readers(&self) -> Vec<NormReaders> {
        let mut found: Vec<NormReaders> = Vec::new();
        let mut read_otherwise = Vec::new();
        for (node, what) in self.nodes.iter().enumerate() {
            let Node::Operation {
                operation: Operation::LayerNorm(norm),
                ..
            } = what
            else {
                continue;
            };
            let (Some(weight), Some(bias)) = (norm.weight.name(), norm.bias.name()) else {
                continue;
            };
            let mut is_padded = false;
            match self.weighted_readers(node, &mut is_padded) {
                None => read_otherwise.push(weight),
                // A network may normalise several tokens alike, each for a product of its own.
                Some(sites) => match found.iter_mut().find(|other| other.weight == weight) {
                    Some(alike) => {
                        alike.sites.extend(sites);
                        alike.is_padded |= is_padded;
                    }
                    None => found.push(NormReaders {
                        weight: weight.to_owned(),
                        bias: bias.to_owned(),
                        sites,
                        is_padded,
                    }),
                },
            }
        }
        found.retain(|norm| !read_otherwise.contains(&norm.weight.as_str()));
        found
    }

    /// Lists the products with weights that read a value, if nothing else does; sets `is_padded` where rows of zeros
    /// lie between.
    fn weighted_readers(&self, value: usize, is_padded: &mut bool) -> Option<Vec<Site>> {
        if value + 1 == self.nodes.len() {
            return None;
        }
        let mut sites = Vec::new();
        for (reader, node) in self.nodes.iter().enumerate().skip(value + 1) {
            if !node.inputs().contains(&value) {
                continue;
            }
            sites.extend(match node {
                Node::Product { site, .. } => {
                    let is_weighted = matches!(site.kind, SiteKind::Linear(_));
                    is_weighted.then(|| vec![site.clone()])?
                }
                Node::Operation { operation, .. } => match operation {
                    Operation::Arrange(order) => {
                        *is_padded |= order.from.contains(&None);
                        self.weighted_readers(reader, is_padded)?
                    }
                    Operation::Mean => self.weighted_readers(reader, is_padded)?,
                    _ => return None,
                },
                Node::Input => return None,
            });
        }
        Some(sites)
    }
}
