//! Quantized products: in integers, and simulated in floats for comparison.

use super::plan::{Codes, OperandScheme, Side, SitePlan, SiteScales};
use crate::device::{Buffer, Commands, Device};
use crate::format::{Gelu, Scale, Table};
use crate::graph::{
    Activation, Addition, FloatProducts, FloatingProducts, LayerScale, Linear, LinearWeights,
    Order, Output, Products, SelfAttention, Site, Then,
};
use crate::kernels::{
    CodedAttention, Destination, Encoding, IntegerProduct, NextCodes, Residual, View, WindowTerms,
    affine, attention, fake_quantize, float_product, fuses_attention, gelu, integer_product,
    integer_product_codes, quantize,
};
use std::collections::HashMap;

/// Holds a linear site's weight as codes, and its bias.
pub struct LinearCodes {
    /// Packed as the right operand of an integer product.
    codes: Codes,
    /// `[outputs]`, where the site has one.
    bias: Option<Vec<f32>>,
    /// The bias on the device, as an integer product takes it.
    affine: Option<Buffer<f32>>,
}

impl LinearCodes {
    /// Uploads `codes` `[outputs, inputs]`, which are as `scheme` says, in little more than their bits, and, where there
    /// is one, `bias` `[outputs]`.
    pub fn upload(
        device: &Device,
        sizes: &Linear,
        scheme: &OperandScheme,
        codes: &[i8],
        bias: Option<&[f32]>,
    ) -> Self {
        Self {
            codes: Codes::of_weight(device, codes, sizes.inputs, scheme),
            bias: bias.map(<[f32]>::to_vec),
            affine: affine(None, bias).map(|affine| device.upload(&affine)),
        }
    }
}

/// Holds what it takes to compute a site in integers.
struct IntegerSite {
    plan: SitePlan,
    scales: SiteScales,
    /// The records of A's encoders, on the device and on the host.
    left: Buffer<u32>,
    left_records: Vec<u32>,
    /// The records of B's encoders, where B is an activation.
    right: Option<Buffer<u32>>,
    /// What one unit of the integers is worth, as [`CodedProduct::output_scales`](super::CodedProduct::output_scales)
    /// says.
    output_scales: Buffer<f32>,
    linear: Option<LinearCodes>,
}

impl IntegerSite {
    /// Computes A's codes, by the kernel that computes A where that can write codes.
    fn left(&self, commands: &mut Commands, images: usize, a: Activation) -> Codes {
        let (plan, encoders) = (&self.plan, &self.left);
        let (format, bits) = (plan.a.format, plan.a.bits);
        let words = match a {
            Activation::Output(Output::Codes(words)) => words.clone(),
            Activation::Norm(normed) => normed.codes(commands, images, format, bits, encoders),
            Activation::Probabilities(probabilities) => {
                probabilities.codes(commands, images, format, bits, encoders)
            }
            Activation::Output(Output::Values(values)) => quantize(
                commands,
                &plan.quantizer(Side::A, images, 1),
                values,
                encoders,
            ),
        };
        Codes::shared(words)
    }

    /// Says how A's values become codes.
    fn left_encoding(&self) -> Encoding<'_> {
        Encoding {
            format: self.plan.a.format,
            bits: self.plan.a.bits,
            encoders: &self.left_records,
        }
    }

    /// Returns what one unit of the integers is worth in each group of O.
    fn units(&self) -> Vec<Scale> {
        let groups = 0..self.plan.output_groups();
        let unit = |group| {
            let [a, b] = self.scales.of(group);
            Scale {
                scale: a.scale * b.scale,
                ..a
            }
        };
        groups.map(unit).collect()
    }

    /// Computes B's codes, where B is an activation.
    fn right(&self, commands: &mut Commands, images: usize, b: &Output) -> Codes {
        let quantizer = self.plan.quantizer(Side::B, images, 1);
        let encoders = self.right.as_ref().expect("B is an activation");
        Codes::shared(quantize(commands, &quantizer, b.values(), encoders))
    }

    /// Returns the codes of B, and the factors and biases of O's columns where there are any.
    fn right_operand<'a>(
        &'a self,
        codes: &'a OperandCodes,
    ) -> (&'a Codes, Option<&'a Buffer<f32>>) {
        match (&self.linear, &codes.b) {
            (Some(linear), _) => (&linear.codes, linear.affine.as_ref()),
            (None, Some(codes)) => (codes, None),
            (None, None) => unreachable!("a site has a weight or two activations"),
        }
    }

    /// Computes the factors and biases of O's columns with a layer scale: γ, and γ · bias.
    fn scaled(&self, device: &Device, scale: &LayerScale) -> Buffer<f32> {
        let factors = scale.factors();
        let bias = self.linear.as_ref().and_then(|linear| linear.bias.as_ref());
        let biases: Option<Vec<f32>> =
            bias.map(|bias| factors.iter().zip(bias).map(|(f, b)| f * b).collect());
        let affine = affine(Some(factors), biases.as_deref());
        device.upload(&affine.expect("there are factors"))
    }

    /// Describes A's codes as another product's epilogue can write them; `None` unless one encoder serves all of A.
    fn next_codes(&self, gelu: Option<Gelu>) -> Option<NextCodes<'_>> {
        (self.scales.a.len() == 1).then_some(NextCodes {
            gelu,
            format: self.plan.a.format,
            bits: self.plan.a.bits,
            encoder: &self.left,
        })
    }
}

/// Holds the codes of a site's operands.
pub struct OperandCodes {
    /// The left operand's codes.
    pub a: Codes,
    /// The right operand's codes, where it is an activation.
    pub b: Option<Codes>,
}

/// Computes products of integers: activations are quantized as they are made, sums are exact, scale and bias come last.
/// Products that the plan leaves in floats are computed in floats.
pub struct IntegerProducts {
    device: Device,
    sites: HashMap<String, IntegerSite>,
    float: FloatProducts,
}

impl IntegerProducts {
    /// Holds products of no site yet.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            sites: HashMap::new(),
            float: FloatProducts::default(),
        }
    }

    /// Adds a site that stays in floats; `linear` is its weight, unless B is an activation.
    pub fn insert_float(&mut self, site: &Site, linear: Option<LinearWeights>) {
        if let Some(linear) = linear {
            self.float.insert(site, linear);
        }
    }

    /// Says whether the product of `site` is one of integers.
    pub fn is_integer(&self, site: &Site) -> bool {
        self.sites.contains_key(&site.name)
    }

    /// Adds a site; `linear` is its weight, unless B is an activation.
    pub fn insert(&mut self, plan: SitePlan, scales: SiteScales, linear: Option<LinearCodes>) {
        let device = &self.device;
        let one_job = std::slice::from_ref(&scales);
        let records = |side| {
            let (scales, tables) = scales.operand(side);
            plan.operand(side).format.encoders(scales, tables)
        };
        let left_records = records(Side::A);
        let site = IntegerSite {
            left: device.upload(&left_records),
            left_records,
            right: linear.is_none().then(|| device.upload(&records(Side::B))),
            output_scales: plan.product(1).output_scales(device, one_job),
            scales,
            linear,
            plan,
        };
        self.sites.insert(site.plan.site.name.clone(), site);
    }
}

impl IntegerProducts {
    /// Computes the codes of the operands of a site in integers.
    pub fn codes(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: Activation,
        b: Option<&Output>,
    ) -> OperandCodes {
        let site = &self.sites[&site.name];
        OperandCodes {
            a: site.left(commands, images, a),
            b: b.map(|b| site.right(commands, images, b)),
        }
    }

    /// Describes the codes of A of `next`, where they are integers that a product's epilogue can write.
    fn next_codes(&self, next: &Site, gelu: Option<Gelu>) -> Option<NextCodes<'_>> {
        self.sites.get(&next.name)?.next_codes(gelu)
    }

    /// Computes the site's integers as floats, laid out as O is, without scales and bias.
    pub fn integers(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        codes: &OperandCodes,
    ) -> Buffer<f32> {
        let site = &self.sites[&site.name];
        let (b, _) = site.right_operand(codes);
        let units = |scales: &[Scale]| -> Vec<Scale> {
            scales
                .iter()
                .map(|&scale| Scale {
                    scale: 1.0,
                    ..scale
                })
                .collect()
        };
        let units = SiteScales::new(units(&site.scales.a), units(&site.scales.b));
        let product = site.plan.product(images);
        product.integer_product(commands, &codes.a, b, &[units], None)
    }

    /// Computes O of a site, with its bias, from the codes of its operands, and does with it what `then` says.
    pub fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        codes: &OperandCodes,
        then: Then,
    ) -> Output {
        let site = &self.sites[&site.name];
        let (b, affine) = site.right_operand(codes);
        // The layer scale joins the epilogue.
        let scaled = match then {
            Then::Add(Addition {
                scale: Some(scale), ..
            }) => Some(site.scaled(&self.device, scale)),
            _ => None,
        };
        let affine = scaled.as_ref().or(affine);
        let product = site.plan.product(images);
        let shape = product.shape(1, &codes.a, b);
        let operands = product.operands(&codes.a, b, &site.output_scales, affine);

        let next = match then {
            Then::Gelu(form, next) => self.next_codes(next, Some(form)),
            Then::Feed(next) => self.next_codes(next, None),
            Then::Keep | Then::Add(_) => None,
        };
        if let (Some(next), Some((out, words))) = (next, shape.words_of_rows()) {
            let codes = commands.uninitialized(words);
            let shape = IntegerProduct { out, ..shape };
            integer_product_codes(commands, &shape, &operands, &next, &codes);
            return Output::Codes(codes);
        }
        // Where rows are put back in an image's order, padding is left out.
        let len = match then {
            Then::Add(Addition { stream, .. }) => stream.len(),
            _ => shape.job_stride,
        };
        let out = commands.uninitialized(len);
        let residual = match then {
            Then::Add(Addition { stream, order, .. }) => Some(Residual {
                values: stream,
                order: order.map(Order::forward),
            }),
            _ => None,
        };
        integer_product(commands, &shape, &operands, residual, &out);
        Output::Values(match then {
            Then::Gelu(form, _) => gelu(commands, form, &out),
            _ => out,
        })
    }
}

impl IntegerProducts {
    /// Computes attention by one kernel, where the device does so and both products are integers.
    fn fused_attention(
        &self,
        commands: &mut Commands,
        what: &SelfAttention,
        images: usize,
        then: Then,
    ) -> Option<Output> {
        let scores = self.sites.get(&what.scores.name)?;
        let context = self.sites.get(&what.context.name)?;
        let tokens = what.attention.tokens;
        if !fuses_attention(&self.device, tokens, scores.plan.a.format) {
            return None;
        }
        let next = match then {
            Then::Keep => None,
            Then::Feed(next) => self.sites.get(&next.name),
            Then::Gelu(..) | Then::Add(_) => return None,
        };
        let q = scores.left(commands, images, Activation::Output(what.q));
        let k = scores.right(commands, images, what.k);
        let v = context.right(commands, images, what.v);
        let shape = context.plan.product(images).shape(1, &q, &v);
        let coded = CodedAttention {
            batch: shape.batch,
            tokens,
            head_dim: what.attention.head_dim,
            q: &q.words,
            q_format: scores.plan.a.format,
            k: &k.words,
            v: &v.words,
            score_units: &scores.units(),
            factor: what.attention.factor(),
            windows: what.bias.map(|windows| WindowTerms {
                bias: &windows.bias,
                mask: &windows.mask,
                masks: windows.masks(tokens),
            }),
            p: context.left_encoding(),
            value_units: &context.units(),
            out: shape.out,
        };
        // One encoder must serve all of the next product's operand.
        let next = next.filter(|next| next.scales.a.len() == 1);
        if let (Some(next), Some((out, words))) = (next, shape.words_of_rows()) {
            let codes = commands.uninitialized(words);
            let coded = CodedAttention { out, ..coded };
            let to = Destination::Codes(next.left_encoding(), &codes);
            attention(commands, &coded, to);
            return Some(Output::Codes(codes));
        }
        let values = commands.uninitialized(shape.job_stride);
        attention(commands, &coded, Destination::Values(&values));
        Some(Output::Values(values))
    }
}

impl Products for IntegerProducts {
    fn product(
        &mut self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: Activation,
        b: Option<&Output>,
        then: Then,
    ) -> Output {
        if !self.is_integer(site) {
            return self.float.product(commands, site, images, a, b, then);
        }
        let codes = self.codes(commands, site, images, a, b);
        self.multiply(commands, site, images, &codes, then)
    }

    fn attention(
        &mut self,
        commands: &mut Commands,
        what: &SelfAttention,
        images: usize,
        then: Then,
    ) -> Output {
        match self.fused_attention(commands, what, images, then) {
            Some(output) => output,
            None => what.by_products(self, commands, images, then),
        }
    }
}

/// Computes the same quantization in floats: both operands rounded to what their codes stand for, and an f32 product.
/// Sites without a plan have the f32 product only. This is what published code runs; here it is the reference that
/// [`IntegerProducts`] are compared with.
pub struct FakeQuantizedProducts {
    float: FloatProducts,
    sites: HashMap<String, (SitePlan, SiteScales)>,
}

impl FakeQuantizedProducts {
    /// Quantizes the products of `float` as `sites` say.
    pub fn new(
        float: FloatProducts,
        sites: impl IntoIterator<Item = (SitePlan, SiteScales)>,
    ) -> Self {
        Self {
            float,
            sites: sites
                .into_iter()
                .map(|(plan, scales)| (plan.site.name.clone(), (plan, scales)))
                .collect(),
        }
    }
}

impl FloatingProducts for FakeQuantizedProducts {
    fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let Some((plan, scales)) = self.sites.get(&site.name) else {
            return self.float.multiply(commands, site, images, a, b);
        };
        let operands = [Side::A, Side::B].map(|side| Some(scales.operand(side)));
        rounded_product(commands, &self.float, plan, images, (a, b), operands)
    }
}

/// Computes the FP network's products, but one operand of the site of `plan` is rounded to what its codes stand for.
pub(super) struct OneRounded<'a> {
    pub float: &'a FloatProducts,
    pub plan: &'a SitePlan,
    pub side: Side,
    /// The scales of the operand's groups.
    pub scales: &'a [Scale],
}

impl FloatingProducts for OneRounded<'_> {
    fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        if site.name != self.plan.site.name {
            return self.float.multiply(commands, site, images, a, b);
        }
        let of_side = |side| (side == self.side).then_some((self.scales, &[][..]));
        let operands = [Side::A, Side::B].map(of_side);
        rounded_product(commands, self.float, self.plan, images, (a, b), operands)
    }
}

/// Computes O of the site of `plan` in f32, with its bias, from operands A and B: those that have `scales` and tables are
/// rounded to what their codes stand for.
fn rounded_product(
    commands: &mut Commands,
    float: &FloatProducts,
    plan: &SitePlan,
    images: usize,
    (a, b): (&Buffer<f32>, Option<&Buffer<f32>>),
    scales: [Option<(&[Scale], &[Table])>; 2],
) -> Buffer<f32> {
    let site = &plan.site;
    let mut product = site.product(images);
    let inner = product.batch[1];
    // Rounded operands are contiguous: [problem][m][k], and B transposed, [problem][n][k].
    let compact = |rows: usize, columns: usize| {
        let matrix = rows * columns;
        View::new(0, [inner * matrix, matrix], columns, 1)
    };
    let rounded = |commands: &mut Commands, side, source, (scales, tables): (&[_], &[_])| {
        let quantizer = plan.quantizer(side, images, 1);
        let encoders = quantizer.format.encoders(scales, tables);
        let encoders = commands.device().upload(&encoders);
        let decoders = quantizer.format.decoders(scales, tables);
        fake_quantize(commands, &quantizer, source, &encoders, &decoders)
    };
    let (b, bias) = match b {
        Some(b) => (b, None),
        None => {
            let linear = float.linear(site);
            (&linear.weight, linear.bias.as_ref())
        }
    };
    let [of_a, of_b] = scales;
    let a = match of_a {
        Some(scales) => {
            product.a = compact(product.m, product.k);
            rounded(commands, Side::A, a, scales)
        }
        None => a.clone(),
    };
    let b = match of_b {
        Some(scales) => {
            product.b = compact(product.n, product.k).transposed();
            rounded(commands, Side::B, b, scales)
        }
        None => b.clone(),
    };
    let out = commands.uninitialized(images * site.out_len());
    float_product(commands, &product, &a, &b, bias, &out);
    out
}
