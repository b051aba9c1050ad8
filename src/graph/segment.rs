//! A stretch of a network on a device, and its way forward.

use super::activation::{Activation, Addition, Output, Then};
use super::builder::{Graph, Node, sites};
use super::fusion::{After, AttentionSteps, Fused, Left, Step, steps};
use super::operation::{Described, Loaded, Loader, Operation, Reads};
use super::products::{Products, SelfAttention};
use super::shape::Shape;
use super::site::Site;
use super::softmax::Probabilities;
use crate::device::{Buffer, Commands};
use crate::error::Result;

/// Holds a link of a network's chain on a device: an embedding, a block, a merging or a head. It has all parameters but
/// the weights and biases of its matrix products, which [`Products`] hold.
pub struct Segment {
    pub(super) graph: Graph<Loaded>,
    sites: Vec<Site>,
    steps: Vec<Step>,
    /// The values that no step after this one reads, for each step.
    last_read: Vec<Vec<usize>>,
    /// Whether a gradient or a site's record needs the value, for each value.
    pub(super) is_kept: Vec<bool>,
    /// Whether the loss's gradient there is needed, for a product or for the segment before, for each value.
    pub(super) has_gradient: Vec<bool>,
    /// Whether a product reads it, for each value.
    pub(super) is_operand: Vec<bool>,
}

impl Segment {
    /// Loads what a graph describes.
    ///
    /// # Errors
    /// Those of the loader's tensors.
    pub(super) fn load(graph: &Graph<Described>, loader: &mut Loader) -> Result<Self> {
        let mut nodes = Vec::new();
        for node in &graph.nodes {
            nodes.push(match node {
                Node::Input => Node::Input,
                Node::Product { site, a, b } => Node::Product {
                    site: site.clone(),
                    a: *a,
                    b: *b,
                },
                Node::Operation { operation, inputs } => Node::Operation {
                    operation: operation.load(loader)?,
                    inputs: inputs.clone(),
                },
            });
        }
        let graph = Graph {
            nodes,
            shapes: graph.shapes.clone(),
        };
        let steps = steps(&graph);
        Ok(Self {
            sites: sites(&graph.nodes).cloned().collect(),
            last_read: last_read(&graph, &steps),
            is_kept: kept(&graph),
            has_gradient: with_gradients(&graph),
            is_operand: operands(&graph),
            steps,
            graph,
        })
    }

    /// Lists the matrix products, in the order of the forward pass; there is at least one.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Counts the values that one image takes at the input.
    pub fn input_len(&self) -> usize {
        self.graph.shapes[0].elements()
    }

    /// Counts the values that one image takes at the output.
    pub fn output_len(&self) -> usize {
        self.graph.shapes.last().map_or(0, Shape::elements)
    }

    /// Counts the elements that the largest value has of one image.
    pub fn largest(&self) -> usize {
        self.graph
            .shapes
            .iter()
            .map(Shape::elements)
            .max()
            .unwrap_or(0)
    }

    /// Computes the segment for `images` images.
    pub fn forward(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        input: &Buffer<f32>,
    ) -> Buffer<f32> {
        let mut values = self.go(commands, products, images, input, &|_| false);
        let output = values.pop().flatten();
        output
            .expect("the last step leaves the output")
            .into_values()
    }

    /// Computes the operands that the product of `site` has for `images` images, in floats: A's buffer, and B's unless
    /// that is the weight. `products` compute the products before it, and hand on floats to this one.
    ///
    /// # Panics
    /// If the site is none of the segment's.
    pub fn operands(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        input: &Buffer<f32>,
        site: &Site,
    ) -> (Buffer<f32>, Option<Buffer<f32>>) {
        let is_it = |fused: &Fused| fused.site.name == site.name;
        let values = self.go(commands, products, images, input, &is_it);
        let mut products = self.steps.iter().flat_map(Step::products);
        let fused = products.find(|fused| is_it(fused));
        let fused = fused.expect("the site is one of the segment's");
        let a = fused.left(&values).values(commands, images);
        let b = fused.b.map(|b| is_there(&values, b).values().clone());
        (a, b)
    }

    /// Goes through the steps, up to the first product that is `wanted`, and returns the values that are still there.
    fn go(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        input: &Buffer<f32>,
        wanted: &dyn Fn(&Fused) -> bool,
    ) -> Vec<Option<Output>> {
        let mut values: Vec<Option<Output>> = self.graph.nodes.iter().map(|_| None).collect();
        values[0] = Some(Output::Values(input.clone()));
        for (step, last_read) in self.steps.iter().zip(&self.last_read) {
            let output = match step {
                Step::Product(fused) if wanted(fused) => break,
                Step::Operation(node) => {
                    let value = |input: usize| is_there(&values, input).values();
                    Output::Values(self.graph.operate(commands, images, *node, value))
                }
                Step::Product(fused) => fused.compute(commands, products, images, &values),
                Step::Attention(both) if wanted(&both.scores) => break,
                Step::Attention(both) if wanted(&both.context) => {
                    let scores = both.scores.compute(commands, products, images, &values);
                    values[both.scores.leaves] = Some(scores);
                    break;
                }
                Step::Attention(both) => both.compute(commands, products, images, &values),
            };
            values[step.leaves()] = Some(output);
            for &value in last_read {
                values[value] = None;
            }
        }
        values
    }
}

impl Graph<Loaded> {
    /// Computes the operation at `node` by its own kernel from the values of others.
    pub(super) fn operate<'v>(
        &self,
        commands: &mut Commands,
        images: usize,
        node: usize,
        value: impl Fn(usize) -> &'v Buffer<f32>,
    ) -> Buffer<f32> {
        let Node::Operation { operation, inputs } = &self.nodes[node] else {
            unreachable!("only operations have kernels of their own");
        };
        let shapes: Vec<Shape> = inputs.iter().map(|&input| self.shapes[input]).collect();
        let inputs: Vec<&Buffer<f32>> = inputs.iter().map(|&input| value(input)).collect();
        operation.values(commands, images, &shapes, &inputs)
    }
}

impl Fused {
    /// Returns the left operand, of what is there.
    fn left<'a>(&'a self, values: &'a [Option<Output>]) -> Activation<'a> {
        match &self.left {
            Left::Value(value) => Activation::Output(is_there(values, *value)),
            Left::Norm {
                norm,
                input,
                token,
                order,
            } => {
                let input = is_there(values, *input).values();
                Activation::Norm(norm.of(input).only(*token).in_order(order.as_deref()))
            }
            Left::Probabilities {
                attention,
                bias,
                scores,
            } => {
                let scores = is_there(values, *scores).values();
                let bias = bias.as_deref();
                Activation::Probabilities(Probabilities::new(*attention, bias, scores))
            }
        }
    }

    fn compute(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        values: &[Option<Output>],
    ) -> Output {
        let a = self.left(values);
        let b = self.b.map(|b| is_there(values, b));
        let then = self.then(values);
        products.product(commands, &self.site, images, a, b, then)
    }

    /// Returns what becomes of the result, given what is there.
    fn then<'a>(&'a self, values: &'a [Option<Output>]) -> Then<'a> {
        match &self.after {
            After::Keep => Then::Keep,
            After::Gelu(form, next) => Then::Gelu(*form, next),
            After::Feed(next) => Then::Feed(next),
            After::Add {
                stream,
                order,
                scale,
            } => Then::Add(Addition {
                stream: is_there(values, *stream).values(),
                order: order.as_deref(),
                scale: scale.as_deref(),
            }),
        }
    }
}

impl AttentionSteps {
    fn compute(
        &self,
        commands: &mut Commands,
        products: &mut dyn Products,
        images: usize,
        values: &[Option<Output>],
    ) -> Output {
        let Self { scores, context } = self;
        let (
            Left::Value(q),
            Left::Probabilities {
                attention, bias, ..
            },
        ) = (&scores.left, &context.left)
        else {
            unreachable!("q is a value, and p a softmax");
        };
        let right = |fused: &Fused| {
            let value = fused.b.expect("k and v are values");
            is_there(values, value)
        };
        let what = SelfAttention {
            scores: &scores.site,
            context: &context.site,
            q: is_there(values, *q),
            k: right(scores),
            v: right(context),
            attention: *attention,
            bias: bias.as_deref(),
        };
        products.attention(commands, &what, images, context.then(values))
    }
}

fn is_there(values: &[Option<Output>], value: usize) -> &Output {
    let value = values[value].as_ref();
    value.expect("a value is there until it was last read")
}

/// Lists per step the values that no later one reads.
fn last_read(graph: &Graph<Loaded>, steps: &[Step]) -> Vec<Vec<usize>> {
    let mut last: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    for (step, what) in steps.iter().enumerate() {
        for value in what.reads(graph) {
            last[value] = Some(step);
        }
    }
    let of_step = |step| {
        let values = (0..last.len()).filter(|&value| last[value] == Some(step));
        values.collect()
    };
    (0..steps.len()).map(of_step).collect()
}

/// Says which values a record of a site consists of or a gradient reads; the output is among them.
fn kept(graph: &Graph<Loaded>) -> Vec<bool> {
    let mut kept = vec![false; graph.nodes.len()];
    kept[graph.nodes.len() - 1] = true;
    for (index, node) in graph.nodes.iter().enumerate() {
        let (inputs, output) = match node {
            Node::Input => (false, false),
            Node::Product { .. } => (true, true),
            Node::Operation { operation, .. } => {
                let reads = operation.gradient_reads();
                (reads == Reads::Inputs, reads == Reads::Output)
            }
        };
        kept[index] |= output;
        for input in node.inputs() {
            kept[input] |= inputs;
        }
    }
    kept
}

/// Says which values products read.
fn operands(graph: &Graph<Loaded>) -> Vec<bool> {
    let mut is_operand = vec![false; graph.nodes.len()];
    for node in &graph.nodes {
        if let Node::Product { a, b, .. } = node {
            is_operand[*a] = true;
            if let Some(b) = b {
                is_operand[*b] = true;
            }
        }
    }
    is_operand
}

/// Says at which values a gradient is needed: at the results of products and at what these are made of, but not at
/// pixels.
fn with_gradients(graph: &Graph<Loaded>) -> Vec<bool> {
    let cuts = |node: &Node<Loaded>| {
        matches!(
            node,
            Node::Operation {
                operation: Operation::Patches(_),
                ..
            }
        )
    };
    let is_pixels = graph.nodes.iter().any(cuts);
    let mut needed: Vec<bool> = Vec::new();
    for node in &graph.nodes {
        needed.push(match node {
            Node::Input => !is_pixels,
            Node::Product { .. } => true,
            Node::Operation { inputs, .. } => inputs.iter().any(|&input| needed[input]),
        });
    }
    needed
}
