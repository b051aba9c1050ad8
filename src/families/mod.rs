//! The networks, as their papers and timm describe them: one file per family, forward only.

mod block;
mod swin;
mod vit;

use crate::graph::{Graph, Site};
use crate::model::config::Architecture;

/// Describes a network as a chain of graphs: embedding, blocks, mergings, head.
pub fn graphs(architecture: &Architecture) -> Vec<Graph> {
    match architecture {
        Architecture::Vit(config) => vit::graphs(config),
        Architecture::Swin(config) => swin::graphs(config),
    }
}

/// Lists the matrix products of a network, first to last.
pub fn sites(architecture: &Architecture) -> Vec<Site> {
    let graphs = graphs(architecture);
    graphs.iter().flat_map(Graph::sites).cloned().collect()
}
