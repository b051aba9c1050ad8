//! ViT and DeiT: timm's `VisionTransformer` with a class token and learned positions, with LayerScale or without, and
//! `VisionTransformerDistilled`.

use super::block::{Block, BlockShape};
use super::config::{CHANNELS, VitConfig};
use super::network::{Parameters, Segment};
use super::norm::Norm;
use super::products::{Activation, Products, Recorder, Then};
use super::site::{Attention, Linear, Site};
use crate::device::{Buffer, Commands};
use crate::error::Result;
use crate::kernels::{Embed, Patches, add, average, embed, embed_backward, patches};

/// The segments: the patch embedding, the blocks, the head.
///
/// # Errors
/// Those of `parameters`.
pub fn segments(config: &VitConfig, parameters: &Parameters) -> Result<Vec<Box<dyn Segment>>> {
    let mut segments: Vec<Box<dyn Segment>> = vec![Box::new(Embedding::load(config, parameters)?)];
    for shape in blocks(config) {
        let block = Block::load(&shape, config.layer_norm_eps, None, parameters)?;
        segments.push(Box::new(block));
    }
    segments.push(Box::new(Head::load(config, parameters)?));
    Ok(segments)
}

/// The matrix products, first to last.
pub fn sites(config: &VitConfig) -> Vec<Site> {
    let blocks = blocks(config);
    std::iter::once(embedding(config))
        .chain(blocks.iter().flat_map(BlockShape::sites))
        .chain(heads(config))
        .collect()
}

fn embedding(config: &VitConfig) -> Site {
    let patch_len = CHANNELS * config.patch_size.pow(2);
    let linear = Linear::new(config.patches(), patch_len, config.dim);
    Site::linear("patch_embed.proj", linear)
}

fn blocks(config: &VitConfig) -> Vec<BlockShape> {
    let attention = Attention {
        windows: 1,
        heads: config.heads,
        tokens: config.tokens(),
        head_dim: config.head_dim(),
    };
    (0..config.depth)
        .map(|block| BlockShape {
            name: format!("blocks.{block}"),
            tokens: config.tokens(),
            attention,
            mlp_dim: config.mlp_dim,
            layer_scale: config.layer_scale,
        })
        .collect()
}

/// A head for each token before the patches, in their order.
fn heads(config: &VitConfig) -> Vec<Site> {
    let linear = Linear::new(1, config.dim, config.classes);
    let names: &[&str] = if config.distilled {
        &["head", "head_dist"]
    } else {
        &["head"]
    };
    names
        .iter()
        .map(|name| Site::linear(*name, linear))
        .collect()
}

/// Pixels to tokens: the patches' embeddings after the class token (and the distillation token), with positions.
struct Embedding {
    config: VitConfig,
    sites: [Site; 1],
    /// `[prefix, dim]`.
    prefix: Buffer<f32>,
    /// `[prefix + patches, dim]`.
    positions: Buffer<f32>,
}

impl Embedding {
    fn load(config: &VitConfig, parameters: &Parameters) -> Result<Self> {
        let mut prefix = (parameters.float)("cls_token")?;
        if config.distilled {
            prefix.extend((parameters.float)("dist_token")?);
        }
        // Tokens without a position of their own have zeros for it.
        let unembedded = config.prefix() - config.embedded_prefix();
        let mut positions = vec![0.0; unembedded * config.dim];
        positions.extend((parameters.float)("pos_embed")?);
        Ok(Self {
            sites: [embedding(config)],
            prefix: parameters.device.upload(&prefix),
            positions: parameters.device.upload(&positions),
            config: config.clone(),
        })
    }

    fn shape(&self, images: usize) -> Embed {
        Embed {
            batch: images,
            patches: self.config.patches(),
            prefix: self.config.prefix(),
            dim: self.config.dim,
        }
    }
}

impl Segment for Embedding {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn input_len(&self) -> usize {
        CHANNELS * self.config.image_size.pow(2)
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
            image_size: self.config.image_size,
            patch_size: self.config.patch_size,
        };
        let columns = patches(commands, &shape, pixels);
        let columns = Activation::Values(&columns);
        let embedded =
            products.product(commands, &self.sites[0], images, columns, None, Then::Keep);
        embed(
            commands,
            &self.shape(images),
            embedded.values(),
            &self.prefix,
            &self.positions,
        )
    }

    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        images: usize,
        _pixels: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let grad = embed_backward(commands, &self.shape(images), &grad);
        recorder.keep_gradient(&self.sites[0], grad);
        None
    }
}

/// The class token's logits; of a distilled network the average with those of the distillation token, as timm
/// evaluates it.
struct Head {
    input_len: usize,
    sites: Vec<Site>,
    norm: Norm,
}

impl Head {
    fn load(config: &VitConfig, parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            input_len: config.tokens() * config.dim,
            sites: heads(config),
            norm: Norm::load(parameters, "norm", config.layer_norm_eps)?,
        })
    }
}

impl Segment for Head {
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
        // The heads look at no other token, so no other is normalised.
        let mut average_logits = None;
        for (token, site) in self.sites.iter().enumerate() {
            let normed = Activation::Norm(self.norm.of(x).only(token));
            let logits = products.product(commands, site, images, normed, None, Then::Keep);
            let logits = logits.into_values();
            average_logits = Some(match average_logits {
                None => logits,
                Some(other) => average(commands, &other, &logits),
            });
        }
        average_logits.expect("a network has a head")
    }

    fn backward(
        &self,
        commands: &mut Commands,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let grad = match self.sites.len() {
            1 => grad,
            // Each head has half of the average.
            _ => {
                let nothing = commands.device().zeros(grad.len());
                average(commands, &grad, &nothing)
            }
        };
        let mut sum = None;
        for (token, site) in self.sites.iter().enumerate() {
            let grad = recorder.backward(commands, site, images, grad.clone(), None, None);
            let through = self.norm.backward_token(commands, images, token, x, &grad);
            sum = Some(match sum {
                None => through,
                Some(others) => add(commands, &others, &through),
            });
        }
        sum
    }
}
