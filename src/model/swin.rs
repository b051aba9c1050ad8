//! Swin: timm's `SwinTransformer`. Attention within windows, which every other block shifts; stages that merge patches.

use super::block::{Block, BlockShape, Windows};
use super::config::{CHANNELS, Stage, SwinConfig};
use super::network::{Parameters, Segment};
use super::norm::Norm;
use super::order::Order;
use super::products::{Activation, Products, Recorder, Then};
use super::site::{Attention, Linear, Site};
use crate::device::{Buffer, Commands};
use crate::error::Result;
use crate::kernels::{MeanTokens, Patches, mean_tokens, mean_tokens_backward, patches};

/// What a mask adds to the score of two tokens that a shift brought together (timm's value).
const APART: f32 = -100.0;

/// The segments: the patch embedding, each stage's merging (but the first's) and blocks, the head.
///
/// # Errors
/// Those of `parameters`.
pub fn segments(config: &SwinConfig, parameters: &Parameters) -> Result<Vec<Box<dyn Segment>>> {
    let mut segments: Vec<Box<dyn Segment>> = vec![Box::new(Embedding::load(config, parameters)?)];
    for (index, stage) in config.stages().iter().enumerate() {
        if index > 0 {
            let merging = Merging::load(config, index, stage, parameters)?;
            segments.push(Box::new(merging));
        }
        for (block, shape) in blocks(index, stage).iter().enumerate() {
            let windows = windows(stage, stage.shift(block), &shape.name, parameters)?;
            let block = Block::load(shape, config.layer_norm_eps, Some(windows), parameters)?;
            segments.push(Box::new(block));
        }
    }
    segments.push(Box::new(Head::load(config, parameters)?));
    Ok(segments)
}

/// The matrix products, first to last.
pub fn sites(config: &SwinConfig) -> Vec<Site> {
    let mut sites = vec![embedding(config)];
    for (index, stage) in config.stages().iter().enumerate() {
        if index > 0 {
            sites.push(reduction(index, stage));
        }
        sites.extend(blocks(index, stage).iter().flat_map(BlockShape::sites));
    }
    sites.push(head(config));
    sites
}

fn embedding(config: &SwinConfig) -> Site {
    let patch_len = CHANNELS * config.patch_size.pow(2);
    let patches = config.stages()[0].tokens();
    Site::linear(
        "patch_embed.proj",
        Linear::new(patches, patch_len, config.dim),
    )
}

/// The product that turns four merged tokens into one of this stage.
fn reduction(index: usize, stage: &Stage) -> Site {
    let linear = Linear {
        has_bias: false,
        ..Linear::new(stage.tokens(), 2 * stage.dim, stage.dim)
    };
    Site::linear(format!("layers.{index}.downsample.reduction"), linear)
}

fn blocks(index: usize, stage: &Stage) -> Vec<BlockShape> {
    let attention = Attention {
        windows: stage.windows(),
        heads: stage.heads,
        tokens: stage.window.pow(2),
        head_dim: stage.dim / stage.heads,
    };
    (0..stage.depth)
        .map(|block| BlockShape {
            name: format!("layers.{index}.blocks.{block}"),
            tokens: stage.tokens(),
            attention,
            mlp_dim: stage.mlp_dim,
            layer_scale: false,
        })
        .collect()
}

fn head(config: &SwinConfig) -> Site {
    Site::linear("head.fc", Linear::new(1, config.last_dim(), config.classes))
}

/// The windows of a block: timm's `window_partition` after its cyclic shift and its padding, its relative position bias, its
/// mask.
fn windows(stage: &Stage, shift: usize, block: &str, parameters: &Parameters) -> Result<Windows> {
    let table = (parameters.float)(&format!("{block}.attn.relative_position_bias_table"))?;
    let order = window_order(stage.resolution, stage.window, shift);
    let device = parameters.device;
    Ok(Windows {
        order: Order::upload(device, &order),
        bias: device.upload(&relative_position_bias(stage.window, stage.heads, &table)),
        mask: device.upload(&mask(stage.padded(), stage.window, shift)),
    })
}

/// Per token in the order of the windows (row by row over the image, and within a window), which token of the image it
/// is. A shift moves the image up and left, around its edges; then padding fills the last windows to the right and below.
fn window_order(resolution: usize, window: usize, shift: usize) -> Vec<Option<usize>> {
    let shifted = |place: usize| (place < resolution).then_some((place + shift) % resolution);
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

/// `[heads, tokens, tokens]`: what the table `[(2 window - 1)², heads]` says about each query's and key's distance, down
/// and across.
fn relative_position_bias(window: usize, heads: usize, table: &[f32]) -> Vec<f32> {
    let mut bias = Vec::with_capacity(heads * window.pow(4));
    for head in 0..heads {
        for (query_y, query_x) in pairs(window) {
            for (key_y, key_x) in pairs(window) {
                let down = query_y + window - 1 - key_y;
                let across = query_x + window - 1 - key_x;
                bias.push(table[(down * (2 * window - 1) + across) * heads + head]);
            }
        }
    }
    bias
}

/// `[windows, tokens, tokens]`: zero between tokens that are neighbours in the image, [`APART`] between those that the
/// shift brought from opposite edges. Without a shift one `[tokens, tokens]` of zeros holds for all windows.
///
/// Padding counts as part of the image here, whose side with it is `padded`: timm takes the last lines of that for those that
/// were shifted around its edge, and has padding attended to.
fn mask(padded: usize, window: usize, shift: usize) -> Vec<f32> {
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
                mask.push(if together { 0.0 } else { APART });
            }
        }
    }
    mask
}

/// Per token in the order of merging, which token of the image it is: 2 by 2 neighbours follow each other, the lower one
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

/// (0, 0), (0, 1), … (count - 1, count - 1).
fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count * count).map(move |at| (at / count, at % count))
}

/// Pixels to tokens: the patches' embeddings, normalised.
struct Embedding {
    image_size: usize,
    patch_size: usize,
    sites: [Site; 1],
    norm: Norm,
}

impl Embedding {
    fn load(config: &SwinConfig, parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            image_size: config.image_size,
            patch_size: config.patch_size,
            sites: [embedding(config)],
            norm: Norm::load(parameters, "patch_embed.norm", config.layer_norm_eps)?,
        })
    }
}

impl Segment for Embedding {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn input_len(&self) -> usize {
        CHANNELS * self.image_size.pow(2)
    }

    fn forward(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        pixels: &Buffer<f32>,
    ) -> Buffer<f32> {
        let shape = Patches {
            batch: images,
            channels: CHANNELS,
            image_size: self.image_size,
            patch_size: self.patch_size,
        };
        let columns = patches(commands, &shape, pixels);
        let columns = Activation::Values(&columns);
        let embedded =
            products.product(commands, &self.sites[0], images, columns, None, Then::Keep);
        self.norm.of(embedded.values()).values(commands, images)
    }

    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        _images: usize,
        _pixels: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let embedded = &recorder.record(&self.sites[0]).out;
        let grad = self.norm.backward(commands, embedded, &grad);
        recorder.keep_gradient(&self.sites[0], grad);
        None
    }
}

/// 2 by 2 tokens to one: their features one after the other, normalised, and reduced to half as many.
struct Merging {
    input_len: usize,
    /// Features of a token before it.
    dim: usize,
    sites: [Site; 1],
    norm: Norm,
    order: Order,
}

impl Merging {
    /// The merging into stage `index`.
    fn load(
        config: &SwinConfig,
        index: usize,
        stage: &Stage,
        parameters: &Parameters,
    ) -> Result<Self> {
        let before = config.stages()[index - 1];
        let order = merge_order(before.resolution);
        let norm = format!("layers.{index}.downsample.norm");
        Ok(Self {
            input_len: before.tokens() * before.dim,
            dim: before.dim,
            sites: [reduction(index, stage)],
            norm: Norm::load(parameters, &norm, config.layer_norm_eps)?,
            order: Order::upload(parameters.device, &order),
        })
    }
}

impl Segment for Merging {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn input_len(&self) -> usize {
        self.input_len
    }

    fn forward(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        x: &Buffer<f32>,
    ) -> Buffer<f32> {
        let merged = self.order.apply(commands, self.dim, x);
        let normed = Activation::Norm(self.norm.of(&merged));
        let reduced = products.product(commands, &self.sites[0], images, normed, None, Then::Keep);
        reduced.into_values()
    }

    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let grad = recorder.backward(commands, &self.sites[0], images, grad, None, None);
        let merged = self.order.apply(commands, self.dim, x);
        let grad = self.norm.backward(commands, &merged, &grad);
        Some(self.order.undo(commands, self.dim, &grad))
    }
}

/// The logits of the tokens' mean, normalised before it.
struct Head {
    tokens: usize,
    dim: usize,
    sites: [Site; 1],
    norm: Norm,
}

impl Head {
    fn load(config: &SwinConfig, parameters: &Parameters) -> Result<Self> {
        let last = config.stages()[config.depths.len() - 1];
        Ok(Self {
            tokens: last.tokens(),
            dim: last.dim,
            sites: [head(config)],
            norm: Norm::load(parameters, "norm", config.layer_norm_eps)?,
        })
    }

    fn mean(&self, images: usize) -> MeanTokens {
        MeanTokens {
            batch: images,
            tokens: self.tokens,
            dim: self.dim,
        }
    }
}

impl Segment for Head {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn input_len(&self) -> usize {
        self.tokens * self.dim
    }

    fn forward(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        x: &Buffer<f32>,
    ) -> Buffer<f32> {
        let normed = self.norm.of(x).values(commands, images);
        let mean = mean_tokens(commands, &self.mean(images), &normed);
        let mean = Activation::Values(&mean);
        let logits = products.product(commands, &self.sites[0], images, mean, None, Then::Keep);
        logits.into_values()
    }

    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let grad = recorder.backward(commands, &self.sites[0], images, grad, None, None);
        let grad = mean_tokens_backward(commands, &self.mean(images), &grad);
        Some(self.norm.backward(commands, x, &grad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other() {
        // Tokens of a 4 by 4 image in windows of 2 by 2, plain and shifted by one.
        let plain = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        assert_eq!(window_order(4, 2, 0), plain.map(Some));
        let shifted = [5, 6, 9, 10, 7, 4, 11, 8, 13, 14, 1, 2, 15, 12, 3, 0];
        assert_eq!(window_order(4, 2, 1), shifted.map(Some));
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
        assert_eq!(window_order(3, 2, 1), padded.concat());
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
        let mask = mask(4, 2, 1);
        let apart = |window: usize| {
            let of_window = &mask[window * 16..][..16];
            of_window.iter().filter(|&&value| value == APART).count()
        };
        assert_eq!([apart(0), apart(1), apart(2), apart(3)], [0, 8, 8, 12]);
        // Window 1 holds the right edge (7, 11) and the left one (4, 8): 7 and 11 are neighbours, 7 and 4 are not.
        assert_eq!(mask[16..20], [0.0, APART, 0.0, APART]);
    }

    #[test]
    fn biases_go_by_distance() {
        // A window of 2 has distances -1, 0, 1 down and across; this table holds 10 · down + across, two heads.
        let table: Vec<f32> = (0..9)
            .flat_map(|at| {
                let (down, across) = (at / 3 - 1, at % 3 - 1);
                [(10 * down + across) as f32, 1000.0]
            })
            .collect();
        let bias = relative_position_bias(2, 2, &table);
        // From the first token to all four, then from the last one.
        assert_eq!(bias[..4], [0.0, -1.0, -10.0, -11.0]);
        assert_eq!(bias[12..16], [11.0, 10.0, 1.0, 0.0]);
        assert_eq!(bias[16..], [1000.0; 16]);
    }

    #[test]
    fn merged_tokens_go_down_first() {
        assert_eq!(
            merge_order(4),
            [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15].map(Some)
        );
    }
}
