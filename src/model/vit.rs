//! ViT and DeiT: timm's `VisionTransformer` with a class token and learned positions, forward and backward.

use super::config::VitConfig;
use super::network::Network;
use super::products::{Products, Recorder};
use super::site::{Attention, Site, SiteKind};
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::kernels::{
    Embed, LayerNorm, Patches, add, embed, embed_backward, gelu, gelu_backward, layer_norm,
    layer_norm_backward, patches, softmax, softmax_backward,
};

/// A LayerNorm's parameters, `[dim]` each.
struct Norm {
    weight: Buffer<f32>,
    bias: Buffer<f32>,
}

/// The sites of a block, in the order of the forward pass.
const QKV: usize = 0;
const SCORES: usize = 1;
const CONTEXT: usize = 2;
const PROJ: usize = 3;
const FC1: usize = 4;
const FC2: usize = 5;

/// A ViT or DeiT on a device: everything but the weights of its matrix products, which [`Products`] hold.
///
/// Segment 0 is the patch embedding, then come the blocks, last the head.
pub struct Vit {
    config: VitConfig,
    device: Device,
    sites: Vec<Vec<Site>>,
    class_token: Buffer<f32>,
    positions: Buffer<f32>,
    /// `norm1` and `norm2` of each block.
    norms: Vec<[Norm; 2]>,
    final_norm: Norm,
}

impl Vit {
    /// Builds the network; `float` gives a tensor of the `state_dict` by its name.
    ///
    /// # Errors
    /// Those of `float`.
    pub fn new(
        device: &Device,
        config: VitConfig,
        float: impl Fn(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let load = |name: &str| Ok(device.upload(&float(name)?));
        let norm = |name: &str| {
            Ok(Norm {
                weight: load(&format!("{name}.weight"))?,
                bias: load(&format!("{name}.bias"))?,
            })
        };
        let norms = (0..config.depth)
            .map(|block| {
                Ok([
                    norm(&format!("blocks.{block}.norm1"))?,
                    norm(&format!("blocks.{block}.norm2"))?,
                ])
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            class_token: load("cls_token")?,
            positions: load("pos_embed")?,
            norms,
            final_norm: norm("norm")?,
            sites: Self::sites(&config),
            device: device.clone(),
            config,
        })
    }

    /// The matrix products of each segment of a ViT of these sizes.
    pub fn sites(config: &VitConfig) -> Vec<Vec<Site>> {
        let attention = Attention {
            heads: config.heads,
            tokens: config.tokens(),
            head_dim: config.head_dim(),
        };
        let linear = |name: String, rows, inputs, outputs| Site {
            name,
            kind: SiteKind::Linear {
                rows,
                inputs,
                outputs,
                weight_groups: 1,
                after_gelu: false,
            },
        };
        let (dim, mlp_dim, tokens) = (config.dim, config.mlp_dim, config.tokens());
        let patch_len = super::config::CHANNELS * config.patch_size * config.patch_size;
        let embedding = vec![linear(
            "patch_embed.proj".into(),
            config.patches(),
            patch_len,
            dim,
        )];
        let blocks = (0..config.depth).map(|block| {
            let name = |layer: &str| format!("blocks.{block}.{layer}");
            vec![
                Site {
                    name: name("attn.qkv"),
                    kind: SiteKind::Linear {
                        rows: tokens,
                        inputs: dim,
                        outputs: 3 * dim,
                        weight_groups: 3,
                        after_gelu: false,
                    },
                },
                Site {
                    name: name("attn.qk"),
                    kind: SiteKind::Scores(attention),
                },
                Site {
                    name: name("attn.pv"),
                    kind: SiteKind::Context(attention),
                },
                linear(name("attn.proj"), tokens, dim, dim),
                linear(name("mlp.fc1"), tokens, dim, mlp_dim),
                Site {
                    name: name("mlp.fc2"),
                    kind: SiteKind::Linear {
                        rows: tokens,
                        inputs: mlp_dim,
                        outputs: dim,
                        weight_groups: 1,
                        after_gelu: true,
                    },
                },
            ]
        });
        let head = vec![linear("head".into(), 1, dim, config.classes)];
        std::iter::once(embedding)
            .chain(blocks)
            .chain(std::iter::once(head))
            .collect()
    }

    fn embedding(&self, images: usize) -> Embed {
        Embed {
            batch: images,
            patches: self.config.patches(),
            dim: self.config.dim,
        }
    }

    fn patches(&self, images: usize) -> Patches {
        Patches {
            batch: images,
            channels: super::config::CHANNELS,
            image_size: self.config.image_size,
            patch_size: self.config.patch_size,
        }
    }

    /// LayerNorm over every token.
    fn token_norm(&self, images: usize) -> LayerNorm {
        LayerNorm {
            rows: images * self.config.tokens(),
            width: self.config.dim,
            input_stride: self.config.dim,
            eps: self.config.layer_norm_eps,
        }
    }

    /// LayerNorm over the class tokens alone: the head looks at nothing else.
    fn class_token_norm(&self, images: usize) -> LayerNorm {
        LayerNorm {
            rows: images,
            input_stride: self.config.tokens() * self.config.dim,
            ..self.token_norm(images)
        }
    }

    /// softmax(q kᵀ / √d): the rows of attention's scores, and the factor.
    fn attention_rows(&self, images: usize) -> (usize, usize, f32) {
        let tokens = self.config.tokens();
        let factor = 1.0 / (self.config.head_dim() as f32).sqrt();
        (images * self.config.heads * tokens, tokens, factor)
    }

    fn block(
        &self,
        segment: usize,
        products: &mut dyn Products,
        images: usize,
        x: &Buffer<f32>,
    ) -> Buffer<f32> {
        let device = &self.device;
        let sites = &self.sites[segment];
        let [norm1, norm2] = &self.norms[segment - 1];
        let norm = self.token_norm(images);
        let (rows, width, factor) = self.attention_rows(images);

        let normed = layer_norm(device, &norm, x, &norm1.weight, &norm1.bias);
        let qkv = products.product(&sites[QKV], images, &normed, None);
        let scores = products.product(&sites[SCORES], images, &qkv, Some(&qkv));
        let probabilities = softmax(device, rows, width, factor, &scores);
        let context = products.product(&sites[CONTEXT], images, &probabilities, Some(&qkv));
        let attended = products.product(&sites[PROJ], images, &context, None);
        let x = add(device, x, &attended);

        let normed = layer_norm(device, &norm, &x, &norm2.weight, &norm2.bias);
        let hidden = products.product(&sites[FC1], images, &normed, None);
        let hidden = gelu(device, &hidden);
        let mlp = products.product(&sites[FC2], images, &hidden, None);
        add(device, &x, &mlp)
    }

    fn block_backward(
        &self,
        segment: usize,
        recorder: &mut Recorder,
        images: usize,
        x: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Buffer<f32> {
        let device = &self.device;
        let sites = &self.sites[segment];
        let [norm1, norm2] = &self.norms[segment - 1];
        let norm = self.token_norm(images);
        let (rows, width, factor) = self.attention_rows(images);

        let after_attention = add(device, x, &recorder.record(&sites[PROJ]).out);
        let grad_gelu = recorder.backward(&sites[FC2], images, grad.clone(), None, None);
        let hidden = &recorder.record(&sites[FC1]).out;
        let grad_hidden = gelu_backward(device, hidden, &grad_gelu);
        let grad_normed = recorder.backward(&sites[FC1], images, grad_hidden, None, None);
        let through =
            layer_norm_backward(device, &norm, &after_attention, &norm2.weight, &grad_normed);
        let grad = add(device, &grad, &through);

        let grad_context = recorder.backward(&sites[PROJ], images, grad.clone(), None, None);
        let grad_qkv = device.zeros(recorder.record(&sites[QKV]).out.len());
        let grad_probabilities =
            recorder.backward(&sites[CONTEXT], images, grad_context, None, Some(&grad_qkv));
        let probabilities = &recorder.record(&sites[CONTEXT]).a;
        let grad_scores = softmax_backward(
            device,
            rows,
            width,
            factor,
            probabilities,
            &grad_probabilities,
        );
        recorder.backward(
            &sites[SCORES],
            images,
            grad_scores,
            Some(&grad_qkv),
            Some(&grad_qkv),
        );
        let grad_normed = recorder.backward(&sites[QKV], images, grad_qkv, None, None);
        let through = layer_norm_backward(device, &norm, x, &norm1.weight, &grad_normed);
        add(device, &grad, &through)
    }
}

impl Network for Vit {
    fn device(&self) -> &Device {
        &self.device
    }

    fn segments(&self) -> usize {
        self.sites.len()
    }

    fn sites(&self, segment: usize) -> &[Site] {
        &self.sites[segment]
    }

    fn input_len(&self, segment: usize) -> usize {
        if segment == 0 {
            super::config::CHANNELS * self.config.image_size.pow(2)
        } else {
            self.config.tokens() * self.config.dim
        }
    }

    fn largest_buffer_len(&self) -> usize {
        let widest = self.all_sites().into_iter().map(Site::out_len).max();
        widest.unwrap_or(0).max(self.input_len(0))
    }

    fn classes(&self) -> usize {
        self.config.classes
    }

    fn forward(
        &self,
        segment: usize,
        products: &mut dyn Products,
        images: usize,
        input: &Buffer<f32>,
    ) -> Buffer<f32> {
        let device = &self.device;
        if segment == 0 {
            let columns = patches(device, &self.patches(images), input);
            let embedded = products.product(&self.sites[0][0], images, &columns, None);
            embed(
                device,
                &self.embedding(images),
                &embedded,
                &self.class_token,
                &self.positions,
            )
        } else if segment <= self.config.depth {
            self.block(segment, products, images, input)
        } else {
            let norm = self.class_token_norm(images);
            let Norm { weight, bias } = &self.final_norm;
            let class_tokens = layer_norm(device, &norm, input, weight, bias);
            products.product(&self.sites[segment][0], images, &class_tokens, None)
        }
    }

    fn backward(
        &self,
        segment: usize,
        recorder: &mut Recorder,
        images: usize,
        input: &Buffer<f32>,
        grad: Buffer<f32>,
    ) -> Option<Buffer<f32>> {
        let device = &self.device;
        if segment == 0 {
            let grad = embed_backward(device, &self.embedding(images), &grad);
            recorder.keep_gradient(&self.sites[0][0], grad);
            None
        } else if segment <= self.config.depth {
            Some(self.block_backward(segment, recorder, images, input, grad))
        } else {
            let grad = recorder.backward(&self.sites[segment][0], images, grad, None, None);
            Some(layer_norm_backward(
                device,
                &self.class_token_norm(images),
                input,
                &self.final_norm.weight,
                &grad,
            ))
        }
    }
}
