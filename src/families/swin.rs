//! Swin: timm's `SwinTransformer`, and Swin V2, its `SwinTransformerV2`. Attention within windows, which every other block
//! shifts; stages that merge patches.

use super::block::{Block, Mlp};
use super::relative_positions::{bias, continuous_bias, pairs};
use crate::graph::{Arrangement, Attention, Graph, Parameter, PatchGrid, Shape, Value, WindowBias};
use crate::model::config::{Gelu, Stage, SwinConfig};
use std::sync::Arc;

/// Adds to the score of two tokens that only a shift brought together (timm's value; transformers adds it twice in a Swin
/// V2).
const APART: f32 = -100.0;
/// Limits what a Swin V2 multiplies cosines by.
const LARGEST_SCALE: f64 = 100.0;

/// Describes the patch embedding, each stage's merging (but the first's) and blocks, the head. Without one the mean of the
/// tokens is the last block's part: every graph has products.
pub fn graphs(config: &SwinConfig) -> Vec<Graph> {
    let stages = config.stages();
    let pixels = Shape {
        rows: config.in_chans * config.image_size,
        width: config.image_size,
    };
    let mut graphs = vec![Graph::of(pixels, |pixels| embedding(config, pixels))];
    for (index, stage) in stages.iter().enumerate() {
        if index > 0 {
            let before = stages[index - 1];
            let name = format!("layers.{index}.downsample");
            let merging = Graph::of(tokens(&before), |x| {
                merging(config, &name, before.resolution, x)
            });
            graphs.push(merging);
        }
        graphs.extend((0..stage.depth).map(|number| {
            let name = format!("layers.{index}.blocks.{number}");
            let block = block(config, index, stage.shift(number), name);
            let is_last = index + 1 == stages.len() && number + 1 == stage.depth;
            Graph::of(tokens(stage), |x| match block.of(x) {
                x if is_last && config.classes == 0 => features(config, x),
                x => x,
            })
        }));
    }
    if config.classes > 0 {
        let last = stages[stages.len() - 1];
        graphs.push(Graph::of(tokens(&last), |x| {
            features(config, x).linear("head.fc", config.classes)
        }));
    }
    graphs
}

/// Returns the shape of the value between two blocks of a stage.
fn tokens(stage: &Stage) -> Shape {
    Shape {
        rows: stage.tokens(),
        width: stage.dim,
    }
}

/// Describes the patches' embeddings, normalised.
fn embedding<'g>(config: &SwinConfig, pixels: Value<'g>) -> Value<'g> {
    let grid = PatchGrid {
        channels: config.in_chans,
        image_size: [config.image_size; 2],
        patch_size: config.patch_size,
    };
    let patches = pixels.patches(grid).linear("patch_embed.proj", config.dim);
    patches.layer_norm("patch_embed.norm", config.layer_norm_eps)
}

/// Describes a block of stage `index`, whose windows are shifted by so many tokens.
fn block(config: &SwinConfig, index: usize, shift: usize, name: String) -> Block {
    let stage = config.stages()[index];
    let Stage { window, heads, .. } = stage;
    let (padded, head_dim, apart) = (stage.padded(), stage.dim / heads, apart(config));
    let shifted = match config.shifts_padding {
        true => padded,
        false => stage.resolution,
    };
    let order = window_order(stage.resolution, window, shift, shifted);
    Block {
        attention: Attention {
            windows: stage.windows(),
            heads,
            tokens: window.pow(2),
            head_dim,
            is_pooling: false,
        },
        eps: config.layer_norm_eps,
        mlp: Mlp {
            hidden: stage.mlp_dim,
            gelu: Gelu::Exact,
            is_gated: false,
            norm_eps: None,
        },
        has_qkv_bias: true,
        turns: None,
        cosine_scales: config.v2.then(|| cosine_scales(&name, head_dim)),
        bias: Some(WindowBias {
            bias: match config.v2 {
                true => continuous_bias(&name, window, config.pretrained_window(index), heads),
                false => bias(&name, [window; 2], 0, heads),
            },
            mask: Parameter::constant(move || mask(padded, window, shift, apart)),
        }),
        windows: Some(Arc::new(Arrangement::new(order))),
        has_layer_scale: false,
        has_post_norms: config.v2,
        name,
    }
}

/// Describes what a Swin V2 multiplies each head's cosines by, at most 100, and √d, which the softmax divides them by again.
fn cosine_scales(block: &str, head_dim: usize) -> Parameter {
    Parameter::derived([format!("{block}.attn.logit_scale")], move |[logits]| {
        let root = libm::sqrt(head_dim as f64);
        let scale = |logit: &f32| libm::exp(f64::from(*logit)).min(LARGEST_SCALE) * root;
        logits.iter().map(|logit| scale(logit) as f32).collect()
    })
}

/// Returns what is added to the score of two tokens that only a shift brought together.
fn apart(config: &SwinConfig) -> f32 {
    match config.v2 && config.shifts_padding {
        true => 2.0 * APART,
        false => APART,
    }
}

/// Describes how 2 by 2 tokens become one: their features are joined, normalised, and reduced to half as many, in a Swin V2
/// the other way round.
fn merging<'g>(config: &SwinConfig, name: &str, resolution: usize, x: Value<'g>) -> Value<'g> {
    let dim = x.shape().width;
    let merged = x
        .arrange(&Arc::new(Arrangement::new(merge_order(resolution))))
        .join_rows(4);
    let norm = |x: Value<'g>| x.layer_norm(&format!("{name}.norm"), config.layer_norm_eps);
    let reduction = |x: Value<'g>| x.linear_without_bias(&format!("{name}.reduction"), 2 * dim);
    match config.v2 {
        false => reduction(norm(merged)),
        true => norm(reduction(merged)),
    }
}

/// Describes the mean of the normalised tokens: what a head reads, or the answer.
fn features<'g>(config: &SwinConfig, x: Value<'g>) -> Value<'g> {
    x.layer_norm("norm", config.layer_norm_eps).mean()
}

/// Lists, in the order of the windows (row by row over the image, and within a window), which token of the image each
/// is: timm's `window_partition` after its cyclic shift and its padding. A shift moves the first `side` tokens of each line
/// up and left, around their edges: the image, or the image with its padding. Padding fills the last windows to the right
/// and below.
fn window_order(resolution: usize, window: usize, shift: usize, side: usize) -> Vec<Option<usize>> {
    let shifted = |place: usize| {
        let from = (place < side).then_some((place + shift) % side);
        from.filter(|&from| from < resolution)
    };
    let mut order = Vec::new();
    for (down, across) in pairs(resolution.div_ceil(window)) {
        for (line, column) in pairs(window) {
            let y = shifted(down * window + line);
            let x = shifted(across * window + column);
            order.push(y.zip(x).map(|(y, x)| y * resolution + x));
        }
    }
    order
}

/// Returns `[windows, tokens, tokens]`: zero between tokens that are neighbours in the image, `apart` between those
/// that the shift brought from opposite edges. Without a shift one `[tokens, tokens]` of zeros holds for all windows.
///
/// Padding counts as part of the image here, whose side with it is `padded`: timm, too, takes the last lines of that for
/// those that were shifted around its edge, and has padding attended to.
fn mask(padded: usize, window: usize, shift: usize, apart: f32) -> Vec<f32> {
    let tokens = window * window;
    if shift == 0 {
        return vec![0.0; tokens * tokens];
    }
    // Only the last window of a row or column holds both edges; the shifted-in part is its last `shift` lines.
    let wrapped = |place: usize| place >= padded - shift;
    let mut mask = Vec::with_capacity(padded.pow(2) * tokens);
    for (down, across) in pairs(padded / window) {
        let region = |(line, column): (usize, usize)| {
            (
                wrapped(down * window + line),
                wrapped(across * window + column),
            )
        };
        for query in pairs(window) {
            for key in pairs(window) {
                let together = region(query) == region(key);
                mask.push(if together { 0.0 } else { apart });
            }
        }
    }
    mask
}

/// Lists, in the order of merging, which token of the image each is: 2 by 2 neighbours follow each other, the lower one
/// before the right one (timm's `PatchMerging`). What an odd side lacks is padding.
fn merge_order(resolution: usize) -> Vec<Option<usize>> {
    let mut order = Vec::new();
    for (down, across) in pairs(resolution.div_ceil(2)) {
        for (column, line) in pairs(2) {
            let (y, x) = (2 * down + line, 2 * across + column);
            order.push((y.max(x) < resolution).then_some(y * resolution + x));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other() {
        // Tokens of a 4 by 4 image in windows of 2 by 2, plain and shifted by one.
        let plain = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        assert_eq!(window_order(4, 2, 0, 4), plain.map(Some));
        let shifted = [5, 6, 9, 10, 7, 4, 11, 8, 13, 14, 1, 2, 15, 12, 3, 0];
        assert_eq!(window_order(4, 2, 1, 4), shifted.map(Some));
    }

    #[test]
    fn what_does_not_fill_the_windows_is_padded() {
        // A 3 by 3 image, shifted by one, in windows of 2 by 2: the shift goes around the image, not around the padding.
        let padded = [
            [Some(4), Some(5), Some(7), Some(8)],
            [Some(3), None, Some(6), None],
            [Some(1), Some(2), None, None],
            [Some(0), None, None, None],
        ];
        assert_eq!(window_order(3, 2, 1, 3), padded.concat());
        // Around both, as transformers has it.
        let moved = [
            [Some(4), Some(5), Some(7), Some(8)],
            [None, Some(3), None, Some(6)],
            [None, None, Some(1), Some(2)],
            [None, None, None, Some(0)],
        ];
        assert_eq!(window_order(3, 2, 1, 4), moved.concat());
        let merged = [
            [Some(0), Some(3), Some(1), Some(4)],
            [Some(2), Some(5), None, None],
            [Some(6), None, Some(7), None],
            [Some(8), None, None, None],
        ];
        assert_eq!(merge_order(3), merged.concat());
    }

    #[test]
    fn only_neighbours_attend_to_each_other() {
        // The four windows of the shifted image above: the first holds neighbours only, the last four corners.
        let mask = mask(4, 2, 1, APART);
        let apart = |window: usize| {
            let of_window = &mask[window * 16..][..16];
            of_window.iter().filter(|&&value| value == APART).count()
        };
        assert_eq!([apart(0), apart(1), apart(2), apart(3)], [0, 8, 8, 12]);
        // Window 1 holds the right edge (7, 11) and the left one (4, 8): 7 and 11 are neighbours, 7 and 4 are not.
        assert_eq!(mask[16..20], [0.0, APART, 0.0, APART]);
    }

    #[test]
    fn merged_tokens_go_down_first() {
        assert_eq!(
            merge_order(4),
            [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15].map(Some)
        );
    }
}
