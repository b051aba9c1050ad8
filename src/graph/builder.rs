//! The description of a stretch of a network, forward only.

use super::norm::Norm;
use super::operation::{Described, Embedding, Operation, PatchGrid, Stage, Turns};
use super::order::Arrangement;
use super::parameter::Parameter;
use super::shape::Shape;
use super::site::{Attention, Linear, Site, SiteKind};
use super::softmax::WindowBias;
use crate::format::Gelu;
use std::cell::RefCell;
use std::ops::Add;
use std::sync::Arc;

/// Says how a value comes about. Other values are named by their places in the graph.
pub(super) enum Node<S: Stage> {
    /// The input.
    Input,
    /// A product of two values, or of one and a weight.
    Product {
        site: Site,
        a: usize,
        b: Option<usize>,
    },
    /// The result of an operation on other values.
    Operation {
        operation: Operation<S>,
        inputs: Vec<usize>,
    },
}

impl<S: Stage> Node<S> {
    /// Lists the values that this one is made of; one that is both operands is there twice.
    pub(super) fn inputs(&self) -> Vec<usize> {
        match self {
            Self::Input => Vec::new(),
            Self::Product { a, b, .. } => std::iter::once(*a).chain(*b).collect(),
            Self::Operation { inputs, .. } => inputs.clone(),
        }
    }
}

/// Describes a stretch of a network that takes one value and gives one. The first node is its input, the last its
/// output, and a node comes after those that it reads.
pub struct Graph<S: Stage = Described> {
    pub(super) nodes: Vec<Node<S>>,
    /// The shape of each node's value.
    pub(super) shapes: Vec<Shape>,
}

/// Refers to a value of a graph that is being described.
#[derive(Clone, Copy)]
pub struct Value<'g> {
    graph: &'g RefCell<Graph>,
    node: usize,
}

impl Graph {
    /// Records what `describe` makes of an input of this shape.
    pub fn of(input: Shape, describe: impl FnOnce(Value) -> Value) -> Self {
        let graph = RefCell::new(Self {
            nodes: vec![Node::Input],
            shapes: vec![input],
        });
        let node = describe(Value {
            graph: &graph,
            node: 0,
        })
        .node;
        let mut graph = graph.into_inner();
        assert_eq!(node + 1, graph.nodes.len(), "the output is the last value");
        graph.tell_parts();
        graph
    }

    /// Lists the matrix products, first to last.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        sites(&self.nodes)
    }

    /// Marks the products whose outputs are queries, keys and values, or keys and values, or what a gate lets through.
    fn tell_parts(&mut self) {
        let parts = |node: &Node<Described>| match node {
            Node::Product { site, b, .. } => match site.kind {
                SiteKind::Scores(attention) => Some(((*b)?, attention.parts())),
                _ => None,
            },
            Node::Operation {
                operation: Operation::Gate(_),
                inputs,
            } => Some((inputs[0], 2)),
            _ => None,
        };
        let read: Vec<(usize, usize)> = self.nodes.iter().filter_map(parts).collect();
        for (mut node, parts) in read {
            if let Node::Operation {
                operation: Operation::Rotary(..) | Operation::Cosine(..),
                inputs,
            } = &self.nodes[node]
            {
                node = inputs[0];
            }
            if let Node::Product { site, .. } = &mut self.nodes[node]
                && let SiteKind::Linear(linear) = &mut site.kind
            {
                linear.parts = parts;
            }
        }
    }
}

/// Lists the products among `nodes`.
pub(super) fn sites<S: Stage>(nodes: &[Node<S>]) -> impl Iterator<Item = &Site> {
    nodes.iter().filter_map(|node| match node {
        Node::Product { site, .. } => Some(site),
        _ => None,
    })
}

impl<'g> Value<'g> {
    /// Returns the value's shape, for one image.
    pub fn shape(self) -> Shape {
        self.graph.borrow().shapes[self.node]
    }

    fn push(self, node: Node<Described>, shape: Shape) -> Self {
        let mut graph = self.graph.borrow_mut();
        graph.nodes.push(node);
        graph.shapes.push(shape);
        Self {
            graph: self.graph,
            node: graph.nodes.len() - 1,
        }
    }

    fn operation(self, operation: Operation<Described>, shape: Shape) -> Self {
        let inputs = vec![self.node];
        self.push(Node::Operation { operation, inputs }, shape)
    }

    /// Cuts images into patches, a row for each.
    pub fn patches(self, grid: PatchGrid) -> Self {
        let shape = Shape {
            rows: grid
                .image_size
                .map(|side| side / grid.patch_size)
                .iter()
                .product(),
            width: grid.channels * grid.patch_size.pow(2),
        };
        self.operation(Operation::Patches(grid), shape)
    }

    /// Multiplies by the weight `NAME.weight` `[outputs, width]` and adds `NAME.bias`: timm's `Linear`.
    pub fn linear(self, name: &str, outputs: usize) -> Self {
        self.weighted(name, outputs, true)
    }

    /// Multiplies by the weight `NAME.weight` `[outputs, width]`.
    pub fn linear_without_bias(self, name: &str, outputs: usize) -> Self {
        self.weighted(name, outputs, false)
    }

    fn weighted(self, name: &str, outputs: usize, has_bias: bool) -> Self {
        let Shape { rows, width } = self.shape();
        let after_gelu = match self.graph.borrow().nodes[self.node] {
            Node::Operation {
                operation: Operation::Gelu(form),
                ..
            } => Some(form),
            _ => None,
        };
        let linear = Linear {
            has_bias,
            after_gelu,
            ..Linear::new(rows, width, outputs)
        };
        let node = Node::Product {
            site: Site::linear(name, linear),
            a: self.node,
            b: None,
        };
        let width = outputs;
        self.push(node, Shape { rows, width })
    }

    /// Multiplies the queries in this value by the keys in `keys`: q kᵀ of each head. Both are one value, qkv
    /// `[W · N, 3 · dim]`, or where the attention pools q `[1, dim]` and kv `[N, 2 · dim]`.
    pub fn scores(self, name: String, attention: Attention, keys: Self) -> Self {
        let node = Node::Product {
            site: Site {
                name,
                kind: SiteKind::Scores(attention),
            },
            a: self.node,
            b: Some(keys.node),
        };
        let shape = Shape {
            rows: attention.image_queries() * attention.heads,
            width: attention.tokens,
        };
        self.push(node, shape)
    }

    /// Multiplies these probabilities by the values in `values`, qkv or kv: p v of each head, side by side.
    pub fn context(self, name: String, attention: Attention, values: Self) -> Self {
        let node = Node::Product {
            site: Site {
                name,
                kind: SiteKind::Context(attention),
            },
            a: self.node,
            b: Some(values.node),
        };
        let shape = Shape {
            rows: attention.image_queries(),
            width: attention.dim(),
        };
        self.push(node, shape)
    }

    /// Makes a value that is the same for every image, beside this one.
    pub fn constant(self, values: Parameter, shape: Shape) -> Self {
        let node = Node::Operation {
            operation: Operation::Constant(values),
            inputs: Vec::new(),
        };
        self.push(node, shape)
    }

    /// Turns the queries and keys of the patches, the last tokens of this value, which is qkv `[N, 3 · dim]`.
    pub fn rotary(self, attention: Attention, turns: Turns<Parameter>) -> Self {
        self.operation(Operation::Rotary(attention, turns), self.shape())
    }

    /// Brings the queries and keys of each head in this value, which is qkv `[W · N, 3 · dim]`, to length 1, and queries
    /// then to their head's of `scales` `[H]`.
    pub fn cosine(self, attention: Attention, scales: Parameter) -> Self {
        self.operation(Operation::Cosine(attention, scales), self.shape())
    }

    /// Takes softmax(scores / √d) of each row, after `bias` is added.
    pub fn softmax(self, attention: Attention, bias: Option<WindowBias<Parameter>>) -> Self {
        self.operation(Operation::Softmax(attention, bias), self.shape())
    }

    /// Puts the tokens of `prefix` `[prefix_tokens, dim]` before the rows and adds `positions`.
    pub fn embed(self, prefix: Parameter, prefix_tokens: usize, positions: Parameter) -> Self {
        let Shape { rows, width } = self.shape();
        let embedding = Embedding {
            prefix,
            prefix_tokens,
            positions,
        };
        let rows = prefix_tokens + rows;
        self.operation(Operation::Embed(embedding), Shape { rows, width })
    }

    /// Normalises each row by `NAME.weight` and `NAME.bias`.
    pub fn layer_norm(self, name: &str, eps: f32) -> Self {
        let norm = Norm {
            weight: Parameter::tensor(format!("{name}.weight")),
            bias: Parameter::tensor(format!("{name}.bias")),
            eps,
        };
        self.operation(Operation::LayerNorm(norm), self.shape())
    }

    /// Takes GELU, in this form, of each element.
    pub fn gelu(self, form: Gelu) -> Self {
        self.operation(Operation::Gelu(form), self.shape())
    }

    /// Multiplies the GELU, in this form, of each row's first half by its second half: the gate of timm's `GluMlp`
    /// (`gate_last=False`) and `SwiGLU`.
    pub fn gate(self, form: Gelu) -> Self {
        let Shape { rows, width } = self.shape();
        let width = width / 2;
        self.operation(Operation::Gate(form), Shape { rows, width })
    }

    /// Multiplies each feature by its factor in `NAME.gamma`: timm's `LayerScale`.
    pub fn layer_scale(self, name: &str) -> Self {
        let factors = Parameter::tensor(format!("{name}.gamma"));
        self.operation(Operation::Scale(factors), self.shape())
    }

    /// Brings rows into another order.
    pub fn arrange(self, arrangement: &Arc<Arrangement>) -> Self {
        let shape = Shape {
            rows: arrangement.from.len(),
            ..self.shape()
        };
        self.operation(Operation::Arrange(arrangement.clone()), shape)
    }

    /// Brings rows back from that order into the image's.
    pub fn restore(self, arrangement: &Arc<Arrangement>) -> Self {
        let shape = Shape {
            rows: arrangement.tokens,
            ..self.shape()
        };
        self.operation(Operation::Restore(arrangement.clone()), shape)
    }

    /// Takes one row of each image.
    pub fn token(self, token: usize) -> Self {
        self.arrange(&Arc::new(Arrangement::only(token, self.shape().rows)))
    }

    /// Joins each `rows` consecutive rows to one.
    pub fn join_rows(self, rows: usize) -> Self {
        let shape = self.shape();
        let joined = Shape {
            rows: shape.rows / rows,
            width: shape.width * rows,
        };
        self.operation(Operation::Reshape, joined)
    }

    /// Averages the rows of each image.
    pub fn mean(self) -> Self {
        let Shape { width, .. } = self.shape();
        self.operation(Operation::Mean, Shape { rows: 1, width })
    }

    /// Puts the features of another row behind those of this one.
    pub fn beside(self, other: Self) -> Self {
        let row = |place: usize| {
            let mut from = vec![None; 2];
            from[place] = Some(0);
            Arc::new(Arrangement::new(from))
        };
        // Each beside zeros.
        (self.arrange(&row(0)) + other.arrange(&row(1))).join_rows(2)
    }

    fn joined_with(self, other: Self, operation: Operation<Described>) -> Self {
        let inputs = vec![self.node, other.node];
        self.push(Node::Operation { operation, inputs }, self.shape())
    }

    /// Averages this value and another.
    pub fn average(self, other: Self) -> Self {
        self.joined_with(other, Operation::Average)
    }
}

impl Add for Value<'_> {
    type Output = Self;

    /// Adds another value, element by element.
    fn add(self, other: Self) -> Self {
        self.joined_with(other, Operation::Add)
    }
}
