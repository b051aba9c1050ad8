//! The backward pass through a segment: the values that its forward pass keeps, and the gradient of the loss at each.

use super::builder::Node;
use super::operation::Applied;
use super::products::{FloatProducts, FloatingProducts};
use super::segment::Segment;
use super::shape::Shape;
use super::site::Site;
use crate::device::{Buffer, Commands};
use crate::kernels::{Product, add, float_product};
use std::collections::HashMap;

/// Holds what went through a site for a few images: A, B (unless it is the weight), O, and after the backward pass
/// ∂L/∂O. Laid out as [`Site::product`] says.
pub struct Record {
    /// The left operand's buffer.
    pub a: Buffer<f32>,
    /// The right operand's buffer, where it isn't the weight.
    pub b: Option<Buffer<f32>>,
    /// The product.
    pub out: Buffer<f32>,
    /// The loss's gradient with respect to the product.
    pub grad: Option<Buffer<f32>>,
}

/// Holds the values that a segment of the FP network computed for some images, as far as the backward pass and the
/// sites' records need them.
pub struct Tape<'a> {
    segment: &'a Segment,
    products: &'a FloatProducts,
    images: usize,
    /// The values of the graph, where they are kept.
    values: Vec<Option<Buffer<f32>>>,
    /// ∂L/∂O of each value that is a product's result, and where they are asked for, those of operands.
    gradients: Vec<Option<Buffer<f32>>>,
}

/// Holds the loss's gradients around one product, laid out as the buffers of its [`Record`] are.
pub struct SiteGradients<'a> {
    /// The product.
    pub site: &'a Site,
    /// At A; none at pixels.
    pub a: Option<Buffer<f32>>,
    /// At B, where it isn't the weight.
    pub b: Option<Buffer<f32>>,
    /// At O.
    pub out: Buffer<f32>,
}

impl Segment {
    /// Computes the segment operation by operation and keeps the values that the backward pass needs.
    pub fn record<'a>(
        &'a self,
        commands: &mut Commands,
        products: &'a FloatProducts,
        images: usize,
        input: &Buffer<f32>,
    ) -> Tape<'a> {
        let nodes = &self.graph.nodes;
        let mut last_reader: Vec<usize> = (0..nodes.len()).collect();
        for (reader, node) in nodes.iter().enumerate() {
            for input in node.inputs() {
                last_reader[input] = reader;
            }
        }
        let mut values: Vec<Option<Buffer<f32>>> = vec![None; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            let value = |value: usize| {
                let value: &Option<Buffer<f32>> = &values[value];
                value
                    .as_ref()
                    .expect("a value is there until it was last read")
            };
            let made = match node {
                Node::Input => input.clone(),
                Node::Product { site, a, b } => {
                    products.multiply(commands, site, images, value(*a), b.map(value))
                }
                Node::Operation { .. } => self.graph.operate(commands, images, index, value),
            };
            values[index] = Some(made);
            for value in node.inputs().into_iter().chain([index]) {
                if last_reader[value] == index && !self.is_kept[value] {
                    values[value] = None;
                }
            }
        }
        Tape {
            segment: self,
            products,
            images,
            values,
            gradients: vec![None; nodes.len()],
        }
    }
}

impl Tape<'_> {
    /// Returns what the segment made of the images.
    pub fn output(&self) -> &Buffer<f32> {
        self.value(self.values.len() - 1)
    }

    /// Back-propagates `grad`, the loss's gradient at the segment's output, to its input, and keeps ∂L/∂O of every
    /// site. Returns the gradient at the input, unless that is pixels, whose gradient nothing needs.
    pub fn backward(&mut self, commands: &mut Commands, grad: Buffer<f32>) -> Option<Buffer<f32>> {
        self.back(commands, grad, false)
    }

    /// Back-propagates `grad`, the loss's gradient at the segment's output, and returns the gradients around each
    /// product, in the order of the forward pass. May be called for one gradient after the other.
    pub fn site_gradients(
        &mut self,
        commands: &mut Commands,
        grad: Buffer<f32>,
    ) -> Vec<SiteGradients<'_>> {
        self.back(commands, grad, true);
        let nodes = self.segment.graph.nodes.iter().enumerate();
        let gradients = nodes.filter_map(|(index, node)| {
            let Node::Product { site, a, b } = node else {
                return None;
            };
            Some(SiteGradients {
                site,
                a: self.gradients[*a].clone(),
                b: b.and_then(|b| self.gradients[b].clone()),
                out: self.gradients[index].clone()?,
            })
        });
        gradients.collect()
    }

    fn back(
        &mut self,
        commands: &mut Commands,
        grad: Buffer<f32>,
        keep_operands: bool,
    ) -> Option<Buffer<f32>> {
        let segment = self.segment;
        let nodes = segment.graph.nodes.iter().enumerate();
        let mut gradients = Gradients(vec![None; nodes.len()]);
        gradients.add(commands, nodes.len() - 1, grad);
        for (index, node) in nodes.rev() {
            if matches!(node, Node::Input) || !segment.has_gradient[index] {
                continue;
            }
            let grad = gradients.take(index);
            if keep_operands && segment.is_operand[index] {
                self.gradients[index] = Some(grad.clone());
            }
            match node {
                Node::Input => {}
                Node::Product { site, a, b } => {
                    self.through_product(commands, site, *a, *b, &grad, &mut gradients);
                    self.gradients[index] = Some(grad);
                }
                Node::Operation { operation, inputs } => {
                    let given: Vec<Option<&Buffer<f32>>> = inputs
                        .iter()
                        .map(|&input| self.values[input].as_ref())
                        .collect();
                    let shapes: Vec<Shape> = inputs
                        .iter()
                        .map(|&input| segment.graph.shapes[input])
                        .collect();
                    let applied = Applied {
                        images: self.images,
                        shapes: &shapes,
                        inputs: &given,
                        output: self.values[index].as_ref(),
                    };
                    let found = operation.gradients(commands, &applied, &grad);
                    for (&input, grad) in inputs.iter().zip(found) {
                        gradients.add(commands, input, grad);
                    }
                }
            }
        }
        gradients.0.swap_remove(0)
    }

    /// Adds to the gradients of a product's operands what follows from `grad`, the gradient of its result.
    fn through_product(
        &self,
        commands: &mut Commands,
        site: &Site,
        a: usize,
        b: Option<usize>,
        grad: &Buffer<f32>,
        gradients: &mut Gradients,
    ) {
        let product = site.product(self.images);
        if self.segment.has_gradient[a] {
            let right = match b {
                Some(b) => self.value(b),
                None => &self.products.linear(site).weight,
            };
            let len = self.value(a).len();
            gradients.add_product(commands, (a, len), &product.backward_a(), [grad, right]);
        }
        if let Some(b) = b {
            let operands = [self.value(a), grad];
            let len = self.value(b).len();
            gradients.add_product(commands, (b, len), &product.backward_b(), operands);
        }
    }

    fn value(&self, value: usize) -> &Buffer<f32> {
        let value = self.values[value].as_ref();
        value.expect("what goes through a product or out is kept")
    }

    /// Returns the sites' records, by the sites' names.
    pub fn into_records(self) -> HashMap<String, Record> {
        let nodes = self.segment.graph.nodes.iter().enumerate();
        nodes
            .filter_map(|(index, node)| {
                let Node::Product { site, a, b } = node else {
                    return None;
                };
                let record = Record {
                    a: self.value(*a).clone(),
                    b: b.map(|b| self.value(b).clone()),
                    out: self.value(index).clone(),
                    grad: self.gradients[index].clone(),
                };
                Some((site.name.clone(), record))
            })
            .collect()
    }
}

/// Holds the loss's gradient at each value: the sum of what its readers have added so far.
struct Gradients(Vec<Option<Buffer<f32>>>);

impl Gradients {
    fn take(&mut self, value: usize) -> Buffer<f32> {
        let gradient = self.0[value].take();
        gradient.expect("every value is read by something with a gradient")
    }

    fn add(&mut self, commands: &mut Commands, value: usize, gradient: Buffer<f32>) {
        self.0[value] = Some(match self.0[value].take() {
            None => gradient,
            Some(others) => add(commands, &others, &gradient),
        });
    }

    /// Adds a product of floats to the gradient of a `value` of `len` elements. Where the product covers only a part of
    /// them, no other product covers that part: q, k and v each have theirs in qkv.
    fn add_product(
        &mut self,
        commands: &mut Commands,
        (value, len): (usize, usize),
        product: &Product,
        [a, b]: [&Buffer<f32>; 2],
    ) {
        if product.problems() * product.m * product.n < len {
            let whole = self.0[value].get_or_insert_with(|| commands.device().zeros(len));
            float_product(commands, product, a, b, None, whole);
        } else {
            let out = commands.uninitialized(len);
            float_product(commands, product, a, b, None, &out);
            self.add(commands, value, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::format::Gelu;
    use crate::graph::operation::Loader;
    use crate::graph::{
        Arrangement, Attention, Graph, LinearWeights, Parameter, Turns, Value, WindowBias,
    };
    use std::sync::Arc;

    /// Reads a value more than twice, by operations of every kind that have a gradient, in no order that a network has.
    fn everything(x: Value<'_>) -> Value<'_> {
        let attention = Attention {
            windows: 2,
            heads: 2,
            tokens: 3,
            head_dim: 2,
            is_pooling: false,
        };
        let order = [Some(4), Some(0), None, Some(2), Some(3), Some(1)];
        let order = Arc::new(Arrangement::new(order.to_vec()));
        let windows = WindowBias {
            bias: Parameter::constant(|| (0..18).map(|at| (at as f32).sin()).collect()),
            mask: Parameter::constant(|| vec![0.0; 9]),
        };
        let normed = x.layer_norm("norm", 1e-6);
        let turns = Parameter::constant(|| (0..4).map(|at| (2.0 * at as f32).cos()).collect());
        let qkv = normed.arrange(&order).linear("qkv", 12);
        let all = Attention {
            windows: 1,
            tokens: 6,
            ..attention
        };
        let turns = Turns {
            of_pairs: turns,
            apart: 1,
        };
        let scales = Parameter::constant(|| vec![1.5, 0.8]);
        let qkv = qkv.rotary(all, turns).cosine(attention, scales);
        let probabilities = qkv.scores("qk".into(), attention, qkv);
        let probabilities = probabilities.softmax(attention, Some(windows));
        let context = probabilities
            .context("pv".into(), attention, qkv)
            .layer_scale("ls");
        let x = x
            .average(x + context.restore(&order) + normed)
            .gelu(Gelu::Quick);
        let x = x + x.linear("fc1", 8).gate(Gelu::Silu);
        let prefix = Parameter::constant(|| vec![0.5; 4]);
        let positions = Parameter::constant(|| (0..24).map(|at| 0.1 * at as f32).collect());
        let x = x.embed(prefix, 1, positions);
        let token = x.token(1).linear("token", 3);
        let pooled = pooled(x).linear("pooled", 3);
        x.join_rows(2).mean().linear_without_bias("mean", 3) + token + pooled
    }

    /// Attention of one query, the same for every image, to all tokens.
    fn pooled(x: Value<'_>) -> Value<'_> {
        let attention = Attention {
            windows: 1,
            heads: 2,
            tokens: x.shape().rows,
            head_dim: 2,
            is_pooling: true,
        };
        let query = Parameter::constant(|| vec![0.7, -0.4, 0.2, 0.9]);
        let query = x.constant(query, Shape { rows: 1, width: 4 });
        let kv = x.linear("kv", 8);
        let probabilities = query.scores("pool.qk".into(), attention, kv);
        let probabilities = probabilities.softmax(attention, None);
        probabilities.context("pool.pv".into(), attention, kv)
    }

    /// A small pseudo-random value, the same for the same name and place.
    fn value(name: &str, at: usize) -> f32 {
        let seed = name.bytes().fold(at as u64 + 1, |seed, byte| {
            seed.wrapping_mul(31) + u64::from(byte)
        });
        ((seed.wrapping_mul(2_654_435_761) % 1000) as f32 / 1000.0 - 0.5) * 1.2
    }

    fn values(name: &str, count: usize) -> Vec<f32> {
        (0..count).map(|at| value(name, at)).collect()
    }

    /// The gradient at the input is that of differences, whoever reads a value and how often.
    #[test]
    fn gradients_are_those_of_differences() {
        let (found, expected) = both(everything);
        for (at, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            // Differences leave a third derivative times step² and f32's rounding over the step: some 1e-4 each.
            let error = (f64::from(found) - expected).abs();
            assert!(error < 1e-3, "at {at}: {found} for {expected}");
        }
    }

    /// The gradient at the input by a tape and by differences.
    fn both(describe: impl FnOnce(Value) -> Value) -> (Vec<f32>, Vec<f64>) {
        let (rows, width, images) = (5, 4, 2);
        let device = Device::cpu();
        let commands = &mut Commands::new(&device);
        let graph = Graph::of(Shape { rows, width }, describe);
        let float = |name: &str| Ok(values(name, width));
        let segment = Segment::load(&graph, &mut Loader::new(&device, &float)).unwrap();
        let mut products = FloatProducts::default();
        for site in segment.sites() {
            if let Some(sizes) = site.weight() {
                let weight = device.upload(&values(&site.name, sizes.inputs * sizes.outputs));
                let bias = values("bias", sizes.outputs);
                let bias = sizes.has_bias.then_some(&bias[..]);
                products.insert(site, LinearWeights::new(weight, &device, bias));
            }
        }
        // Rows that vary much, so that a LayerNorm bends little from one difference to the other.
        let input = values("input", images * rows * width);
        let input: Vec<f32> = input.into_iter().map(|value| 4.0 * value).collect();
        let grad = values("grad", images * 3);
        let mut loss = |input: &[f32]| -> f64 {
            let input = device.upload(input);
            let out = segment.forward(commands, &mut products, images, &input);
            let out = commands.read(&out).unwrap();
            let terms = out.iter().zip(&grad);
            terms
                .map(|(out, grad)| f64::from(*out) * f64::from(*grad))
                .sum()
        };
        let step = 1e-2;
        let expected: Vec<f64> = (0..input.len())
            .map(|at| {
                let mut moved = |by: f32| {
                    let mut input = input.clone();
                    input[at] += by;
                    loss(&input)
                };
                (moved(step) - moved(-step)) / (2.0 * f64::from(step))
            })
            .collect();
        let commands = &mut Commands::new(&device);
        let mut tape = segment.record(commands, &products, images, &device.upload(&input));
        let found = tape.backward(commands, device.upload(&grad)).unwrap();
        let found = commands.read(&found).unwrap();
        (found, expected)
    }
}
