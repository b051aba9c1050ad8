//! The operations that a network is made of besides its matrix products: shapes, values and gradients.

use super::layer_scale::LayerScale;
use super::norm::Norm;
use super::order::{Arrangement, Order};
use super::parameter::Parameter;
use super::shape::Shape;
use super::site::Attention;
use super::softmax::{Probabilities, WindowBias};
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;
use crate::format::Gelu;
use crate::kernels::{
    Cosine, Direction, Embed, MeanTokens, Patches, Rotary, add, average, cosine, cosine_backward,
    embed, embed_backward, gate, gate_backward, gather_rows, gelu, gelu_backward, mean_tokens,
    mean_tokens_backward, patches, rotary,
};
use std::collections::HashMap;
use std::sync::Arc;

/// Says in what form an operation holds its parameters: by name, or as buffers.
pub trait Stage {
    /// Holds the parameters of a LayerNorm.
    type Norm;
    /// Holds the tokens that come before the patches, and the positions.
    type Embedding;
    /// Holds what is added to the scores of attention within windows.
    type Bias;
    /// Holds the factors of a LayerScale.
    type Factors;
    /// Holds an order of tokens.
    type Order;
    /// Holds values as they are.
    type Values;
}

/// Marks operations whose parameters are named only.
pub enum Described {}

/// Marks operations whose parameters are on a device.
pub enum Loaded {}

impl Stage for Described {
    type Norm = Norm<Parameter>;
    type Embedding = Embedding<Parameter>;
    type Bias = WindowBias<Parameter>;
    type Factors = Parameter;
    type Order = Arc<Arrangement>;
    type Values = Parameter;
}

impl Stage for Loaded {
    type Norm = Arc<Norm<Buffer<f32>>>;
    type Embedding = Embedding<Buffer<f32>>;
    type Bias = Arc<WindowBias<Buffer<f32>>>;
    type Factors = Arc<LayerScale>;
    type Order = Arc<Order>;
    type Values = Buffer<f32>;
}

/// Describes how images are cut into square patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchGrid {
    /// Channels of an image.
    pub channels: usize,
    /// Height and width of an image, in pixels.
    pub image_size: [usize; 2],
    /// Pixels of a patch's side.
    pub patch_size: usize,
}

impl PatchGrid {
    fn of(self, images: usize) -> Patches {
        Patches {
            batch: images,
            channels: self.channels,
            image_size: self.image_size,
            patch_size: self.patch_size,
        }
    }
}

/// Holds the parameters that make tokens of the patches' embeddings.
pub struct Embedding<T> {
    /// Tokens that come before the patches, `[prefix_tokens, dim]`.
    pub prefix: T,
    /// The number of these tokens.
    pub prefix_tokens: usize,
    /// What is added to all tokens, `[prefix_tokens + patches, dim]`.
    pub positions: T,
}

impl<T> Embedding<T> {
    fn of(&self, images: usize, patches: Shape) -> Embed {
        Embed {
            batch: images,
            patches: patches.rows,
            prefix: self.prefix_tokens,
            dim: patches.width,
        }
    }
}

/// Holds what the pairs of a head's features are turned by.
#[derive(Clone)]
pub struct Turns<T> {
    /// The cosines and sines of the angles, `[patches, D / 2, 2]`.
    pub of_pairs: T,
    /// Places between the two features of a pair: D / 2, or 1 where they are neighbours.
    pub apart: usize,
}

/// Describes one operation on a value `[images, rows, width]`, on two of them, or on none.
pub enum Operation<S: Stage> {
    /// Gives each image the same values.
    Constant(S::Values),
    /// Makes a row of each patch's pixels (timm's `PatchEmbed`, without its projection).
    Patches(PatchGrid),
    /// Puts tokens before the patches and adds positions.
    Embed(S::Embedding),
    /// Normalises each row.
    LayerNorm(S::Norm),
    /// Turns the queries and keys of the patches, which are an attention's last tokens.
    Rotary(Attention, Turns<S::Values>),
    /// Brings each head's queries to the lengths that these are, `[H]`, and its keys to length 1.
    Cosine(Attention, S::Values),
    /// Computes softmax(scores / √d + bias + mask) of each row.
    Softmax(Attention, Option<S::Bias>),
    /// Computes GELU, in this form, of each element.
    Gelu(Gelu),
    /// Multiplies the GELU, in this form, of each row's first half by its second half. The results have no minimum, as
    /// those of GELU alone have, and so the next product takes them as it takes any values.
    Gate(Gelu),
    /// Multiplies each column by a factor.
    Scale(S::Factors),
    /// Brings rows into another order, with rows of zeros for padding.
    Arrange(S::Order),
    /// Brings rows back from such an order into the image's.
    Restore(S::Order),
    /// Joins several consecutive rows to one.
    Reshape,
    /// Averages an image's rows.
    Mean,
    /// Adds two values.
    Add,
    /// Averages two values.
    Average,
}

/// Brings parameters onto a device.
pub(super) struct Loader<'a> {
    pub device: &'a Device,
    /// Gives a tensor of the `state_dict` by its name.
    pub float: &'a dyn Fn(&str) -> Result<Vec<f32>>,
    /// Orders that were loaded, by the addresses of their descriptions: operations that share an order share its
    /// buffers.
    orders: HashMap<*const Arrangement, Arc<Order>>,
}

impl<'a> Loader<'a> {
    pub fn new(device: &'a Device, float: &'a dyn Fn(&str) -> Result<Vec<f32>>) -> Self {
        Self {
            device,
            float,
            orders: HashMap::new(),
        }
    }

    fn tensor(&self, parameter: &Parameter) -> Result<Buffer<f32>> {
        Ok(self.device.upload(&parameter.values(self.float)?))
    }

    fn order(&mut self, arrangement: &Arc<Arrangement>) -> Arc<Order> {
        let upload = || Arc::new(Order::upload(self.device, arrangement));
        let loaded = self.orders.entry(Arc::as_ptr(arrangement));
        loaded.or_insert_with(upload).clone()
    }
}

impl Operation<Described> {
    /// Loads what the operation needs.
    ///
    /// # Errors
    /// Those of the loader's tensors.
    pub(super) fn load(&self, loader: &mut Loader) -> Result<Operation<Loaded>> {
        Ok(match self {
            Self::Constant(values) => Operation::Constant(loader.tensor(values)?),
            Self::Patches(grid) => Operation::Patches(*grid),
            Self::Embed(embedding) => Operation::Embed(Embedding {
                prefix: loader.tensor(&embedding.prefix)?,
                prefix_tokens: embedding.prefix_tokens,
                positions: loader.tensor(&embedding.positions)?,
            }),
            Self::LayerNorm(norm) => Operation::LayerNorm(Arc::new(Norm {
                weight: loader.tensor(&norm.weight)?,
                bias: loader.tensor(&norm.bias)?,
                eps: norm.eps,
            })),
            Self::Rotary(attention, turns) => {
                let Turns { of_pairs, apart } = turns;
                let (of_pairs, apart) = (loader.tensor(of_pairs)?, *apart);
                Operation::Rotary(*attention, Turns { of_pairs, apart })
            }
            Self::Cosine(attention, scales) => {
                Operation::Cosine(*attention, loader.tensor(scales)?)
            }
            Self::Softmax(attention, None) => Operation::Softmax(*attention, None),
            Self::Softmax(attention, Some(bias)) => {
                let bias = WindowBias {
                    bias: loader.tensor(&bias.bias)?,
                    mask: loader.tensor(&bias.mask)?,
                };
                Operation::Softmax(*attention, Some(Arc::new(bias)))
            }
            Self::Gelu(form) => Operation::Gelu(*form),
            Self::Gate(form) => Operation::Gate(*form),
            Self::Scale(factors) => {
                let factors = factors.values(loader.float)?;
                Operation::Scale(Arc::new(LayerScale::new(loader.device, factors)))
            }
            Self::Arrange(arrangement) => Operation::Arrange(loader.order(arrangement)),
            Self::Restore(arrangement) => Operation::Restore(loader.order(arrangement)),
            Self::Reshape => Operation::Reshape,
            Self::Mean => Operation::Mean,
            Self::Add => Operation::Add,
            Self::Average => Operation::Average,
        })
    }
}

/// Holds the inputs and the result of an operation that was computed for some images, as its gradient needs them.
pub(super) struct Applied<'a> {
    pub images: usize,
    /// The shapes of its inputs.
    pub shapes: &'a [Shape],
    /// Its inputs, where its gradient reads them.
    pub inputs: &'a [Option<&'a Buffer<f32>>],
    /// Its result, where its gradient reads that.
    pub output: Option<&'a Buffer<f32>>,
}

/// Says which values an operation's gradient reads, besides the gradient of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    Nothing,
    Inputs,
    Output,
}

impl Operation<Loaded> {
    /// Computes the operation on `inputs` of these `shapes`.
    pub(super) fn values(
        &self,
        commands: &mut Commands,
        images: usize,
        shapes: &[Shape],
        inputs: &[&Buffer<f32>],
    ) -> Buffer<f32> {
        match self {
            Self::Constant(values) => repeated(commands, images, values),
            Self::Patches(grid) => patches(commands, &grid.of(images), inputs[0]),
            Self::Embed(embedding) => {
                let Embedding {
                    prefix, positions, ..
                } = embedding;
                let shape = embedding.of(images, shapes[0]);
                embed(commands, &shape, inputs[0], prefix, positions)
            }
            Self::LayerNorm(norm) => norm.of(inputs[0]).values(commands, images),
            Self::Rotary(attention, turns) => {
                let (shape, turns) = (attention.rotary(turns), &turns.of_pairs);
                rotary(commands, &shape, Direction::Forward, inputs[0], turns)
            }
            Self::Cosine(attention, scales) => {
                cosine(commands, &attention.cosine(images), inputs[0], scales)
            }
            Self::Softmax(attention, bias) => {
                Probabilities::new(*attention, bias.as_deref(), inputs[0]).values(commands, images)
            }
            Self::Gelu(form) => gelu(commands, *form, inputs[0]),
            Self::Gate(form) => gate(commands, *form, shapes[0].width / 2, inputs[0]),
            Self::Scale(factors) => factors.apply(commands, inputs[0]),
            Self::Arrange(order) => order.apply(commands, shapes[0].width, inputs[0]),
            Self::Restore(order) => order.undo(commands, shapes[0].width, inputs[0]),
            Self::Reshape => inputs[0].clone(),
            Self::Mean => mean_tokens(commands, &mean(images, shapes[0]), inputs[0]),
            Self::Add => add(commands, inputs[0], inputs[1]),
            Self::Average => average(commands, inputs[0], inputs[1]),
        }
    }

    /// Tells what [`gradients`](Self::gradients) reads.
    pub(super) fn gradient_reads(&self) -> Reads {
        match self {
            Self::LayerNorm(_) | Self::Cosine(..) | Self::Gelu(_) | Self::Gate(_) => Reads::Inputs,
            Self::Softmax(..) => Reads::Output,
            Self::Constant(_)
            | Self::Patches(_)
            | Self::Embed(_)
            | Self::Rotary(..)
            | Self::Scale(_)
            | Self::Arrange(_)
            | Self::Restore(_)
            | Self::Reshape
            | Self::Mean
            | Self::Add
            | Self::Average => Reads::Nothing,
        }
    }

    /// Computes the loss's gradient at each input, given `grad`, the gradient at the result; nothing at the pixels,
    /// whose gradient nothing needs.
    pub(super) fn gradients(
        &self,
        commands: &mut Commands,
        applied: &Applied,
        grad: &Buffer<f32>,
    ) -> Vec<Buffer<f32>> {
        let (images, shapes) = (applied.images, applied.shapes);
        let input = || applied.inputs[0].expect("an input that the gradient reads is kept");
        match self {
            Self::Constant(_) | Self::Patches(_) => Vec::new(),
            Self::Embed(embedding) => {
                let shape = embedding.of(images, shapes[0]);
                vec![embed_backward(commands, &shape, grad)]
            }
            Self::LayerNorm(norm) => vec![norm.backward(commands, input(), grad)],
            Self::Rotary(attention, turns) => {
                let (shape, turns) = (attention.rotary(turns), &turns.of_pairs);
                vec![rotary(commands, &shape, Direction::Back, grad, turns)]
            }
            Self::Cosine(attention, scales) => {
                let shape = attention.cosine(images);
                vec![cosine_backward(commands, &shape, input(), scales, grad)]
            }
            Self::Softmax(attention, _) => {
                let output = applied.output;
                let output = output.expect("a result that the gradient reads is kept");
                vec![attention.softmax_backward(commands, images, output, grad)]
            }
            Self::Gelu(form) => vec![gelu_backward(commands, *form, input(), grad)],
            Self::Gate(form) => {
                let width = shapes[0].width / 2;
                vec![gate_backward(commands, *form, width, input(), grad)]
            }
            Self::Scale(factors) => vec![factors.apply(commands, grad)],
            Self::Arrange(order) => vec![order.undo(commands, shapes[0].width, grad)],
            Self::Restore(order) => vec![order.apply(commands, shapes[0].width, grad)],
            Self::Reshape => vec![grad.clone()],
            Self::Mean => vec![mean_tokens_backward(
                commands,
                &mean(images, shapes[0]),
                grad,
            )],
            Self::Add => vec![grad.clone(), grad.clone()],
            Self::Average => {
                let nothing = commands.device().zeros(grad.len());
                let half = average(commands, grad, &nothing);
                vec![half.clone(), half]
            }
        }
    }
}

/// Gives each of the images these values.
fn repeated(commands: &mut Commands, images: usize, values: &Buffer<f32>) -> Buffer<f32> {
    let out = commands.uninitialized(images * values.len());
    gather_rows(commands, values.len(), values, &vec![0; images], &out, 0);
    out
}

impl Attention {
    /// Describes the turning of queries and keys by `turns`.
    fn rotary(&self, turns: &Turns<Buffer<f32>>) -> Rotary {
        Rotary {
            tokens: self.tokens,
            prefix: self.tokens - turns.of_pairs.len() / self.head_dim,
            heads: self.heads,
            head_dim: self.head_dim,
            apart: turns.apart,
        }
    }

    /// Describes the queries, keys and values of so many images.
    fn cosine(&self, images: usize) -> Cosine {
        Cosine {
            tokens: images * self.image_tokens(),
            heads: self.heads,
            head_dim: self.head_dim,
        }
    }
}

fn mean(images: usize, shape: Shape) -> MeanTokens {
    MeanTokens {
        batch: images,
        tokens: shape.rows,
        dim: shape.width,
    }
}
