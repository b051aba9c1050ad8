//! The networks, as their papers and timm describe them: one file per family, forward only.

mod attention_pool;
mod block;
mod relative_positions;
mod rotary;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipe_named;

    fn of(recipe: &str) -> Vec<Graph> {
        graphs(&recipe_named(recipe).unwrap().architecture)
    }

    /// What takes a LayerNorm's γ and β must know all who read it.
    #[test]
    fn the_readers_of_layer_norms_are_those_of_the_networks() {
        let told = |recipe: &str, weight: &str| {
            let graphs = of(recipe);
            let mut norms = graphs.iter().flat_map(Graph::norm_readers);
            let norm = norms.find(|norm| norm.weight == weight)?;
            let sites: Vec<String> = norm.sites.into_iter().map(|site| site.name).collect();
            Some((sites.join(" "), norm.is_padded))
        };
        let expected = |sites: &str, is_padded| Some((sites.to_owned(), is_padded));
        let deit = "deit_tiny_distilled_patch16_224";
        assert_eq!(told(deit, "norm.weight"), expected("head head_dist", false));
        let qkv = expected("blocks.3.attn.qkv", false);
        assert_eq!(told(deit, "blocks.3.norm1.weight"), qkv);
        let swin = "swin_tiny_patch4_window7_224";
        assert_eq!(told(swin, "norm.weight"), expected("head.fc", false));
        let reduction = expected("layers.1.downsample.reduction", false);
        assert_eq!(told(swin, "layers.1.downsample.norm.weight"), reduction);
        // The residual stream begins with it.
        assert_eq!(told(swin, "patch_embed.norm.weight"), None);
        // So does the sum that a Swin V2's norms go into.
        let v2 = "swinv2_tiny_window8_256";
        assert_eq!(told(v2, "norm.weight"), expected("head.fc", false));
        for added in ["blocks.0.norm1", "blocks.1.norm2", "downsample.norm"] {
            assert_eq!(told(v2, &format!("layers.1.{added}.weight")), None);
        }
    }
}
