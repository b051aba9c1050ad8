//! ViT and DeiT: timm's `VisionTransformer` with a class token and learned positions, and `VisionTransformerDistilled`.

use super::block::{Block, BlockShape};
use super::config::{CHANNELS, VitConfig};
use super::network::{Parameters, Segment};
use super::norm::Norm;
use super::products::{Activation, Products, Recorder, Then};
use super::site::{Attention, Linear, Site};
use crate::device::{Buffer, Device};
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
    positions: Buffer<f32>,
}

impl Embedding {
    fn load(config: &VitConfig, parameters: &Parameters) -> Result<Self> {
        let mut prefix = (parameters.float)("cls_token")?;
        if config.distilled {
            prefix.extend((parameters.float)("dist_token")?);
        }
        Ok(Self {
            sites: [embedding(config)],
            prefix: parameters.device.upload(&prefix),
            positions: parameters.load("pos_embed")?,
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
        device: &Device,
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
        let columns = patches(device, &shape, pixels);
        let columns = Activation::Values(&columns);
        let embedded = products.product(&self.sites[0], images, columns, None, Then::Keep);
        embed(
            device,
            &self.shape(images),
            embedded.values(),
            &self.prefix,
            &self.positions,
        )
    }

    fn backward(
        &self,
        device: &Device,
        recorder: &mut Recorder,
        images: usize,
        _pixels: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let grad = embed_backward(device, &self.shape(images), &grad);
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
        device: &Device,
        products: &mut dyn Products,
        images: usize,
        x: &Buffer<f32>,
    ) -> Buffer<f32> {
        // The heads look at no other token, so no other is normalised.
        let mut logits = self.sites.iter().enumerate().map(|(token, site)| {
            let normed = Activation::Norm(self.norm.of(x).only(token));
            let logits = products.product(site, images, normed, None, Then::Keep);
            logits.into_values()
        });
        let first = logits.next().expect("a network has a head");
        logits.fold(first, |one, other| average(device, &one, &other))
    }

    fn backward(
        &self,
        device: &Device,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let grad = match self.sites.len() {
            1 => grad,
            // Each head has half of the average.
            _ => average(device, &grad, &device.zeros(grad.len())),
        };
        let through = self.sites.iter().enumerate().map(|(token, site)| {
            let grad = recorder.backward(site, images, grad.clone(), None, None);
            self.norm.backward_token(device, images, token, x, &grad)
        });
        through.reduce(|one, other| add(device, &one, &other))
    }
}
