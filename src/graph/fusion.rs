//! Fusion: which operations join a matrix product. It takes the results of those just before it as codes, and its
//! epilogue computes those just after it. The two products of attention, with the softmax between them, are one step.

use super::builder::{Graph, Node};
use super::layer_scale::LayerScale;
use super::norm::Norm;
use super::operation::{Loaded, Operation};
use super::order::Order;
use super::site::{Attention, Site};
use super::softmax::WindowBias;
use crate::device::Buffer;
use crate::format::Gelu;
use std::sync::Arc;

/// Computes one value of a graph from those before it.
pub(super) enum Step {
    /// Runs the operation's own kernel.
    Operation(usize),
    /// Computes a product and the operations that have joined it.
    Product(Box<Fused>),
    /// Computes attention from q, k and v on.
    Attention(Box<AttentionSteps>),
}

/// Describes q kᵀ and p v, where p is the softmax of the first and nothing else reads either: both can be one.
pub(super) struct AttentionSteps {
    /// q kᵀ.
    pub scores: Fused,
    /// p v, with p as what its left operand is made of.
    pub context: Fused,
}

/// Describes a product with what has joined it.
pub(super) struct Fused {
    pub site: Site,
    pub left: Left,
    /// The right operand, unless that is a weight.
    pub b: Option<usize>,
    pub after: After,
    /// The value that is computed in the end.
    pub leaves: usize,
}

/// Says what the left operand is made of.
pub(super) enum Left {
    Value(usize),
    /// A LayerNorm of this value.
    Norm {
        norm: Arc<Norm<Buffer<f32>>>,
        input: usize,
        /// The only token of each image that is read.
        token: Option<usize>,
        /// The order that the result is brought into.
        order: Option<Arc<Order>>,
    },
    /// The softmax of these scores.
    Probabilities {
        attention: Attention,
        bias: Option<Arc<WindowBias<Buffer<f32>>>>,
        scores: usize,
    },
}

/// Says what becomes of the result.
pub(super) enum After {
    Keep,
    /// GELU in this form, for the product at this site alone.
    Gelu(Gelu, Site),
    /// The left operand of the product at this site alone.
    Feed(Site),
    Add {
        stream: usize,
        order: Option<Arc<Order>>,
        scale: Option<Arc<LayerScale>>,
    },
}

impl Step {
    /// Makes one of a product, and of the product of its scores where that joins it.
    fn of(scores: Option<Self>, product: Fused) -> Self {
        match scores {
            Some(Self::Product(scores)) => Self::Attention(Box::new(AttentionSteps {
                scores: *scores,
                context: product,
            })),
            _ => Self::Product(Box::new(product)),
        }
    }

    /// Lists the values that are read.
    pub fn reads(&self, graph: &Graph<Loaded>) -> Vec<usize> {
        match self {
            Self::Operation(node) => graph.nodes[*node].inputs(),
            Self::Product(fused) => fused.reads(),
            Self::Attention(both) => {
                let AttentionSteps { scores, context } = &**both;
                let of_context = context.reads().into_iter();
                let others = of_context.filter(|&value| value != scores.leaves);
                scores.reads().into_iter().chain(others).collect()
            }
        }
    }

    /// Lists the products that are computed.
    pub fn products(&self) -> Vec<&Fused> {
        match self {
            Self::Operation(_) => Vec::new(),
            Self::Product(fused) => vec![fused],
            Self::Attention(both) => vec![&both.scores, &both.context],
        }
    }

    /// Names the value that is computed.
    pub fn leaves(&self) -> usize {
        match self {
            Self::Operation(node) => *node,
            Self::Product(fused) => fused.leaves,
            Self::Attention(both) => both.context.leaves,
        }
    }
}

impl Fused {
    fn reads(&self) -> Vec<usize> {
        let left = match self.left {
            Left::Value(value) => value,
            Left::Norm { input, .. } => input,
            Left::Probabilities { scores, .. } => scores,
        };
        let stream = match self.after {
            After::Add { stream, .. } => Some(stream),
            After::Keep | After::Gelu(..) | After::Feed(_) => None,
        };
        let others = self.b.into_iter().chain(stream);
        std::iter::once(left).chain(others).collect()
    }
}

/// Lists the steps that compute a graph.
pub(super) fn steps(graph: &Graph<Loaded>) -> Vec<Step> {
    let mut readers = vec![Vec::new(); graph.nodes.len()];
    for (node, reader) in graph.nodes.iter().enumerate() {
        for input in reader.inputs() {
            readers[input].push(node);
        }
    }
    let mut fusion = Fusion {
        graph,
        readers,
        has_joined: vec![false; graph.nodes.len()],
    };
    let products: Vec<Option<Fused>> = (0..graph.nodes.len())
        .map(|node| fusion.product(node))
        .collect();
    let mut steps = Vec::new();
    for (node, product) in products.into_iter().enumerate() {
        match (&graph.nodes[node], product) {
            (_, Some(product)) => {
                let before = steps.pop_if(|step| fusion.joins_attention(step, &product));
                steps.push(Step::of(before, product));
            }
            (Node::Operation { .. }, None) if !fusion.has_joined[node] => {
                steps.push(Step::Operation(node));
            }
            _ => {}
        }
    }
    steps
}

struct Fusion<'a> {
    graph: &'a Graph<Loaded>,
    /// The nodes that read each value.
    readers: Vec<Vec<usize>>,
    /// Whether a product computes the node, for each node.
    has_joined: Vec<bool>,
}

impl<'a> Fusion<'a> {
    fn product(&mut self, node: usize) -> Option<Fused> {
        let Node::Product { site, a, b } = &self.graph.nodes[node] else {
            return None;
        };
        let left = self.left(*a);
        let (after, leaves) = self.after(node);
        Some(Fused {
            site: site.clone(),
            left,
            b: *b,
            after,
            leaves,
        })
    }

    /// Returns the operation at `node` and its first input, if there is an operation that has one.
    fn operation(&self, node: usize) -> Option<(&'a Operation<Loaded>, usize)> {
        match &self.graph.nodes[node] {
            Node::Operation { operation, inputs } => Some((operation, *inputs.first()?)),
            Node::Input | Node::Product { .. } => None,
        }
    }

    /// Finds the reader of a value that has only one.
    fn sole_reader(&self, value: usize) -> Option<usize> {
        match self.readers[value][..] {
            [reader] => Some(reader),
            _ => None,
        }
    }

    /// Finds what the left operand `a` of a product is made of. An operation joins the product only if nothing else
    /// reads its result.
    fn left(&mut self, a: usize) -> Left {
        let left = match self.operation(a) {
            _ if self.sole_reader(a).is_none() => None,
            Some((Operation::Softmax(attention, bias), scores)) => Some(Left::Probabilities {
                attention: *attention,
                bias: bias.clone(),
                scores,
            }),
            Some((Operation::LayerNorm(norm), input)) => Some(self.normed(norm, input, None)),
            Some((Operation::Arrange(order), normed)) => match self.operation(normed) {
                Some((Operation::LayerNorm(norm), input)) if self.sole_reader(normed).is_some() => {
                    self.has_joined[normed] = true;
                    Some(self.normed(norm, input, Some(order.clone())))
                }
                _ => None,
            },
            _ => None,
        };
        self.has_joined[a] |= left.is_some();
        left.unwrap_or(Left::Value(a))
    }

    /// Says whether `step` computes the scores whose softmax is the left operand of `context`, of queries that are as many
    /// as the keys, and nothing else reads them.
    fn joins_attention(&self, step: &Step, context: &Fused) -> bool {
        match (step, &context.left) {
            (
                Step::Product(product),
                Left::Probabilities {
                    attention, scores, ..
                },
            ) => {
                !attention.is_pooling
                    && product.leaves == *scores
                    && self.sole_reader(*scores).is_some()
            }
            _ => false,
        }
    }

    /// Describes the LayerNorm of `input`. Where `input` is one token of each image, the norm reads it from among all
    /// tokens.
    fn normed(
        &mut self,
        norm: &Arc<Norm<Buffer<f32>>>,
        input: usize,
        order: Option<Arc<Order>>,
    ) -> Left {
        let (mut input, mut token) = (input, None);
        if let Some((Operation::Arrange(one), all)) = self.operation(input)
            && one.single().is_some()
            && self.sole_reader(input).is_some()
            && order.is_none()
        {
            self.has_joined[input] = true;
            (input, token) = (all, one.single());
        }
        Left::Norm {
            norm: norm.clone(),
            input,
            token,
            order,
        }
    }

    /// Finds what becomes of the result of the product at node `product`, and the value that is computed in the end.
    fn after(&mut self, product: usize) -> (After, usize) {
        let Some(reader) = self.sole_reader(product) else {
            return (After::Keep, product);
        };
        if let Some(site) = self.product_of(product, reader) {
            return (After::Feed(site), product);
        }
        if let Some((Operation::Gelu(form), _)) = self.operation(reader)
            && let Some(next) = self.sole_reader(reader)
            && let Some(site) = self.product_of(reader, next)
        {
            self.has_joined[reader] = true;
            return (After::Gelu(*form, site), reader);
        }
        self.addition(product).unwrap_or((After::Keep, product))
    }

    /// Returns the site at `node`, if that is a product whose left operand is `a`.
    fn product_of(&self, a: usize, node: usize) -> Option<Site> {
        match &self.graph.nodes[node] {
            Node::Product { site, a: left, .. } if *left == a => Some(site.clone()),
            _ => None,
        }
    }

    /// Finds the addition that takes the result of the product at node `product`, after a scale and a return from
    /// another order where there are these. The other value must be computed before the product. Only products with
    /// weights can join: their rows are the other value's, while attention's heads lie side by side in one row.
    fn addition(&mut self, product: usize) -> Option<(After, usize)> {
        let Node::Product { b: None, .. } = &self.graph.nodes[product] else {
            return None;
        };
        let (mut scale, mut order) = (None, None);
        let (mut value, mut joined) = (product, Vec::new());
        loop {
            let reader = self.sole_reader(value)?;
            joined.push(reader);
            let Node::Operation { operation, inputs } = &self.graph.nodes[reader] else {
                return None;
            };
            match operation {
                Operation::Scale(factors) if scale.is_none() && order.is_none() => {
                    scale = Some(factors.clone());
                }
                Operation::Restore(of) if order.is_none() => order = Some(of.clone()),
                Operation::Add => {
                    let stream = inputs.iter().copied().find(|&input| input != value)?;
                    if stream > product {
                        return None;
                    }
                    for node in joined {
                        self.has_joined[node] = true;
                    }
                    let after = After::Add {
                        stream,
                        order,
                        scale,
                    };
                    return Some((after, reader));
                }
                _ => return None,
            }
            value = reader;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::graph::operation::Loader;
    use crate::graph::{Attention, Segment, Shape, Value};

    /// The steps of a graph with four tokens of four features, in words.
    fn steps_of(describe: impl FnOnce(Value) -> Value) -> Vec<String> {
        let graph = Graph::of(Shape { rows: 4, width: 4 }, describe);
        let device = Device::cpu();
        let float = |_: &str| Ok(vec![1.0; 4]);
        let segment = Segment::load(&graph, &mut Loader::new(&device, &float)).unwrap();
        let product = |fused: &Fused| {
            let left = match &fused.left {
                Left::Value(_) => "value",
                Left::Norm { token: Some(_), .. } => "norm of a token",
                Left::Norm { order: Some(_), .. } => "norm in order",
                Left::Norm { .. } => "norm",
                Left::Probabilities { .. } => "softmax",
            };
            let after = match &fused.after {
                After::Keep => String::new(),
                After::Gelu(form, site) => format!(", {} for {}", form.name(), site.name),
                After::Feed(site) => format!(", for {}", site.name),
                After::Add { scale, .. } => {
                    format!(
                        ", {}added",
                        if scale.is_some() { "scaled and " } else { "" }
                    )
                }
            };
            format!("{left}: {}{after}", fused.site.name)
        };
        let word = |step: &Step| match step {
            Step::Operation(node) => format!("operation {node}"),
            step => {
                let products: Vec<String> = step.products().into_iter().map(product).collect();
                products.join(" and ")
            }
        };
        steps(&segment.graph).iter().map(word).collect()
    }

    #[test]
    fn every_operation_of_a_block_joins_a_product() {
        let attention = Attention {
            windows: 1,
            heads: 2,
            tokens: 4,
            head_dim: 2,
            is_pooling: false,
        };
        let found = steps_of(|x| {
            let qkv = x.layer_norm("norm", 1e-6).linear("qkv", 12);
            let scores = qkv
                .scores("qk".into(), attention, qkv)
                .softmax(attention, None);
            let context = scores.context("pv".into(), attention, qkv);
            let x = x + context.linear("proj", 4).layer_scale("ls");
            let hidden = x.layer_norm("norm", 1e-6).linear("fc1", 8);
            let hidden = hidden.gelu(Gelu::Quick);
            x + hidden.linear("fc2", 4)
        });
        let expected = [
            "norm: qkv",
            "value: qk and softmax: pv, for proj",
            "value: proj, scaled and added",
            "norm: fc1, quick_gelu for fc2",
            "value: fc2, added",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_value_that_something_else_reads_is_computed_by_itself() {
        // The first GELU and the LayerNorm are read twice, the other two by no product.
        let found = steps_of(|x| {
            let hidden = x.linear("a", 4).gelu(Gelu::Exact);
            let normed = (hidden.linear("b", 4) + hidden).layer_norm("norm", 1e-6);
            let (c, d) = (normed.linear("c", 4), normed.linear("d", 4));
            c.gelu(Gelu::Exact) + d.gelu(Gelu::Exact)
        });
        let expected = [
            "value: a",
            "operation 2",
            "value: b, added",
            "operation 5",
            "value: c",
            "value: d",
            "operation 8",
            "operation 9",
            "operation 10",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn scores_that_something_else_reads_are_left_to_it() {
        let attention = Attention {
            windows: 1,
            heads: 1,
            tokens: 4,
            head_dim: 4,
            is_pooling: false,
        };
        let found = steps_of(|x| {
            let qkv = x.linear("qkv", 12);
            let scores = qkv.scores("qk".into(), attention, qkv);
            let context = scores
                .softmax(attention, None)
                .context("pv".into(), attention, qkv);
            context.linear("proj", 4) + scores
        });
        let expected = [
            "value: qkv",
            "value: qk",
            "softmax: pv, for proj",
            "value: proj, added",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_token_is_normalised_among_all() {
        let found = steps_of(|x| x.token(2).layer_norm("norm", 1e-6).linear("head", 3));
        assert_eq!(found, ["norm of a token: head"]);
    }
}
