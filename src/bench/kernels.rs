//! The kernels at the shapes that a network gives them.

use super::ceilings::{Ceiling, Ceilings, Rate, Unit};
use super::random::uniform;
use super::timing::{Timing, time};
use crate::device::{Buffer, Commands, Device, Strategy};
use crate::error::{Error, Result};
use crate::families::sites;
use crate::format::{Gelu, Values};
use crate::graph::{Attention, Linear, LinearWeights, Record, Site, SiteKind};
use crate::kernels::{
    CodedAttention, Destination, Encoding, Format, IntegerProduct, LayerNorm, NextCodes, Residual,
    RowCodes, ToHalf, Width, WindowSoftmax, WindowTerms, affine, attention, attention_by,
    float_product, gelu, half_product, integer_product, integer_product_codes, integer_strategy,
    layer_norm, layer_norm_codes, quantize, softmax, softmax_codes, to_half, window_softmax,
    window_softmax_codes,
};
use crate::model::config::{Architecture, Family};
use crate::quant::{
    CodedProduct, Codes, MAX_SHIFT, Metric, OperandScheme, Policy, Preset, Scale, Scan, Side,
    SitePlan, SiteScales, Table,
};
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Counts the images of a batch, as inference takes them.
pub(super) const IMAGES: usize = 8;
/// Counts the images of one chunk of a search, as a calibration with 32 images takes them.
const SCANNED_IMAGES: usize = 2;
/// Counts the candidates of one operand, as the paper has them. As many as the search computes in one go are timed.
const CANDIDATES: usize = 100;
/// Counts the bits of codes. A lane has eight however many are used.
const BITS: u32 = 8;
/// Counts the bits of weights that are packed.
const PACKED_BITS: u32 = 6;

/// Lists the ways to compute attention that are timed.
pub(super) const ATTENTION_STRATEGIES: [Strategy; 5] = [
    Strategy::Separate,
    Strategy::Fused { queries: 4 },
    Strategy::Fused { queries: 8 },
    Strategy::Fused { queries: 16 },
    Strategy::Fused { queries: 32 },
];

/// Names what is timed: a kernel by the name of its file, or the search's `scan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(
    feature = "cli",
    derive(clap::ValueEnum),
    value(rename_all = "snake_case")
)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// Matrix products in f32.
    FloatProduct,
    /// Matrix products of operands in f16, on a device that has it.
    HalfProduct,
    /// Matrix products of codes, exact.
    IntegerProduct,
    /// Floats to packed codes.
    Quantize,
    /// Floats to f16, on a device that has it.
    ToHalf,
    /// LayerNorm.
    LayerNorm,
    /// Softmax of attention.
    Softmax,
    /// Softmax of attention within windows.
    WindowSoftmax,
    /// Attention from codes of q, k and v on, to codes: by separate kernels and by one.
    FusedAttention,
    /// GELU.
    Gelu,
    /// Candidates of a scale: quantized, multiplied and compared with the FP network's output.
    Scan,
}

/// Says what an integer product does with its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Epilogue {
    /// It writes the values.
    Values,
    /// It adds the residual stream to the values.
    Residual,
    /// It writes the codes of the next product.
    Codes,
    /// It writes the codes of the values' GELU.
    GeluCodes,
}

/// Describes a kernel at a shape.
#[derive(Clone, Debug)]
pub struct Case {
    kernel: Kernel,
    /// The format of the left operand's codes, where there are some; of the result's, where a kernel of rows writes
    /// codes.
    format: Option<Format>,
    /// What an integer product does with its values.
    epilogue: Epilogue,
    /// Bits that an integer product's right operand is stored in.
    weight_bits: u32,
    /// Whether attention is within windows, where biases and masks are added to scores.
    windowed: bool,
    /// The product whose shape it is; the kernels that are no products take its left operand.
    site: Site,
    images: usize,
    /// How attention is computed; `None` for as the device does it, and of the other kernels.
    strategy: Option<Strategy>,
}

/// Holds what was measured of a kernel at a shape.
#[derive(Clone, Debug, Serialize)]
pub struct KernelFigure {
    /// The kernel.
    pub kernel: Kernel,
    /// `uniform`, `softmax twin` or `gelu twin`, where there are codes.
    pub format: Option<&'static str>,
    /// Of an integer product: what it does with its values.
    pub epilogue: Option<Epilogue>,
    /// Of an integer product: the bits that a code of its right operand is stored in.
    pub weight_bits: Option<u32>,
    /// Of attention: how it is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// The first product of the network that has this shape.
    pub site: String,
    /// Of a product `[matrices, M, N, K]`, of attention `[matrices, tokens, features]`, else `[rows, columns]`.
    pub shape: Vec<usize>,
    /// How long it takes.
    #[serde(flatten)]
    pub timing: Timing,
    /// Of a product, or of attention's two, what the M · N · K multiply-adds come to, whatever a kernel computes besides;
    /// otherwise the operands and results, each read or written once.
    #[serde(flatten)]
    pub rate: Rate,
    /// The peak kernel that the rate is compared with.
    pub ceiling: &'static str,
    /// The share of it that is reached.
    pub fraction: f64,
    /// Of a scan: candidates a second, each on two images (of a given shape, on its M rows).
    pub candidates_per_second: Option<f64>,
}

impl Kernel {
    /// Returns the kernel's name as it is printed and written.
    pub fn name(self) -> String {
        let json = serde_json::to_string(&self).expect("plain data is always JSON");
        json.trim_matches('"').to_owned()
    }
}

impl KernelFigure {
    /// Words what tells figures of one kernel at one shape apart; empty where nothing need.
    pub fn variant(&self) -> String {
        variant(self.format, self.weight_bits, self.epilogue, self.strategy)
    }
}

fn variant(
    format: Option<&str>,
    weight_bits: Option<u32>,
    epilogue: Option<Epilogue>,
    strategy: Option<Strategy>,
) -> String {
    let weights = weight_bits.map(|bits| format!("{bits} bits"));
    let result = epilogue.map(|epilogue| epilogue.name().to_owned());
    let strategy = strategy.map(|strategy| strategy.to_string());
    let parts = [format.map(str::to_owned), weights, result, strategy];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Lists the cases of a network: every kernel among `wanted` at every shape that it meets there, once.
pub fn cases_of(architecture: &Architecture, wanted: &[Kernel]) -> Vec<Case> {
    let windowed = architecture.family() == Family::Swin;
    let mut cases: Vec<Case> = Vec::new();
    for &kernel in wanted {
        for site in sites(architecture) {
            for format in formats(kernel, &site, windowed) {
                let mut case = Case::new(kernel, format, site.clone());
                case.windowed = windowed;
                if kernel == Kernel::Scan {
                    case.images = SCANNED_IMAGES;
                }
                if kernel == Kernel::IntegerProduct {
                    case.epilogue = epilogue(&site);
                }
                let packed = Case {
                    weight_bits: PACKED_BITS,
                    ..case.clone()
                };
                let packs = kernel == Kernel::IntegerProduct && site.has_weight();
                let variants = match kernel {
                    Kernel::FusedAttention => case.by_strategy(),
                    _ if packs => vec![case, packed],
                    _ => vec![case],
                };
                for case in variants {
                    if !cases.iter().any(|other| other.is_like(&case)) {
                        cases.push(case);
                    }
                }
            }
        }
    }
    cases
}

/// Lists every kernel among `wanted` at one shape, M × N × K; those that are no products take M rows of K, attention M heads of
/// N tokens with K features each. A window's softmax has none of it.
pub fn cases_of_shape([m, n, k]: [usize; 3], wanted: &[Kernel]) -> Vec<Case> {
    let site = Site::linear(format!("{m},{n},{k}"), Linear::new(m, k, n));
    let all = Format::ALL.map(Some);
    // Tables are not searched.
    let searched = Format::ALL
        .into_iter()
        .filter(|format| format.lanes().is_none());
    let searched: Vec<Option<Format>> = searched.map(Some).collect();
    let mut cases = Vec::new();
    for &kernel in wanted {
        let formats = match kernel {
            Kernel::IntegerProduct | Kernel::Quantize => &all[..],
            Kernel::Scan => &searched,
            Kernel::LayerNorm => &[None, Some(Format::Uniform), Some(Format::Table)],
            Kernel::Softmax => &[None, Some(Format::SoftmaxTwin), Some(Format::TwinTable)],
            Kernel::WindowSoftmax | Kernel::FusedAttention => &[],
            _ => &[None],
        };
        cases.extend(formats.iter().map(|&format| Case {
            images: 1,
            ..Case::new(kernel, format, site.clone())
        }));
        if kernel == Kernel::FusedAttention {
            cases.extend(Case::of_heads([m, n, k]).by_strategy());
        }
        if kernel == Kernel::IntegerProduct {
            let plain = Case {
                images: 1,
                ..Case::new(kernel, Some(Format::Uniform), site.clone())
            };
            cases.push(Case {
                weight_bits: PACKED_BITS,
                ..plain.clone()
            });
            let others = [Epilogue::Residual, Epilogue::Codes, Epilogue::GeluCodes];
            cases.extend(others.map(|epilogue| Case {
                epilogue,
                ..plain.clone()
            }));
        }
    }
    cases
}

/// Says what a quantized network does with a site's values.
fn epilogue(site: &Site) -> Epilogue {
    match site.kind {
        SiteKind::Context(_) => Epilogue::Codes,
        SiteKind::Linear(linear) if linear.after_gelu.is_some() => Epilogue::Residual,
        _ if site.name.ends_with("attn.proj") => Epilogue::Residual,
        _ if site.name.ends_with("mlp.fc1") => Epilogue::GeluCodes,
        _ => Epilogue::Values,
    }
}

/// Lists the formats in which `kernel` meets `site` in a network: none where it doesn't.
fn formats(kernel: Kernel, site: &Site, windowed: bool) -> Vec<Option<Format>> {
    let twin = match site.kind {
        SiteKind::Context(_) => Some(Format::SoftmaxTwin),
        SiteKind::Linear(linear) => {
            let values = linear.after_gelu.map(Values::AfterGelu);
            let has_twin = |&values: &Values| Format::GeluTwin.is_for(values);
            values.filter(has_twin).map(|_| Format::GeluTwin)
        }
        SiteKind::Scores(_) => None,
    };
    let here = |meets: bool| if meets { vec![None] } else { Vec::new() };
    // In floats, and in codes at once.
    let both = |meets: bool, format| match meets {
        true => vec![None, Some(format)],
        false => Vec::new(),
    };
    match kernel {
        Kernel::FloatProduct | Kernel::HalfProduct | Kernel::ToHalf => vec![None],
        Kernel::IntegerProduct | Kernel::Quantize => {
            let formats = std::iter::once(Format::Uniform).chain(twin);
            formats.map(Some).collect()
        }
        // As the paper's method searches it.
        Kernel::Scan => vec![Some(twin.unwrap_or(Format::Uniform))],
        // The norms of a block come before qkv and before fc1, of one shape.
        Kernel::LayerNorm => both(
            matches!(site.kind, SiteKind::Linear(l) if l.parts == 3),
            Format::Uniform,
        ),
        Kernel::Softmax => both(
            twin == Some(Format::SoftmaxTwin) && !windowed,
            Format::SoftmaxTwin,
        ),
        Kernel::WindowSoftmax => both(
            twin == Some(Format::SoftmaxTwin) && windowed,
            Format::SoftmaxTwin,
        ),
        Kernel::FusedAttention => match site.kind {
            SiteKind::Context(attention) if !attention.is_pooling => vec![twin],
            _ => Vec::new(),
        },
        Kernel::Gelu => here(twin == Some(Format::GeluTwin)),
    }
}

/// Holds the operands of a site's product.
struct Operands {
    a: Buffer<f32>,
    /// The other activation, or a weight.
    b: Buffer<f32>,
    bias: Option<Vec<f32>>,
}

/// Runs a kernel on operands that it holds; on a GPU it records the dispatches.
type Run = Box<dyn Fn(&mut Commands)>;

/// Holds a case with its operands on a device.
pub struct Prepared {
    /// Appends the kernel to commands.
    pub run: Run,
    /// Candidates of a scan; 1 otherwise.
    pub jobs: usize,
}

impl Prepared {
    /// Measures how long the kernel takes on `device`, which has its operands.
    ///
    /// # Errors
    /// The device's errors.
    pub(super) fn time(&self, device: &Device) -> Result<Timing> {
        device.wait(time(device, &self.run))
    }
}

impl Case {
    /// Says whether `device` has what the kernel computes in.
    pub fn runs_on(&self, device: &Device) -> bool {
        !matches!(self.kernel, Kernel::HalfProduct | Kernel::ToHalf) || device.has_f16()
    }

    /// Makes the case of `kernel` at a product of a network, with a batch of images.
    pub(super) fn new(kernel: Kernel, format: Option<Format>, site: Site) -> Self {
        Self {
            kernel,
            format,
            epilogue: Epilogue::Values,
            weight_bits: BITS,
            windowed: false,
            site,
            images: IMAGES,
            strategy: None,
        }
    }

    /// Changes how many images the batch has.
    pub(super) fn with_images(self, images: usize) -> Self {
        Self { images, ..self }
    }

    /// Makes the case of attention that has so many heads, of one image, tokens, and features of each.
    fn of_heads([heads, tokens, head_dim]: [usize; 3]) -> Self {
        let site = Site {
            name: format!("{heads},{tokens},{head_dim}"),
            kind: SiteKind::Context(Attention {
                windows: 1,
                heads,
                tokens,
                head_dim,
                is_pooling: false,
            }),
        };
        Self {
            images: 1,
            ..Self::new(Kernel::FusedAttention, Some(Format::SoftmaxTwin), site)
        }
    }

    /// Lists the case under each way to compute attention.
    fn by_strategy(self) -> Vec<Self> {
        let with = |strategy| Self {
            strategy: Some(strategy),
            ..self.clone()
        };
        ATTENTION_STRATEGIES.into_iter().map(with).collect()
    }

    /// Says whether both are one kernel at one shape.
    fn is_like(&self, other: &Self) -> bool {
        let what = |case: &Self| {
            (
                case.kernel,
                case.format,
                case.epilogue,
                case.weight_bits,
                case.strategy,
            )
        };
        what(self) == what(other) && self.shape() == other.shape()
    }

    /// Names the kernel, and what tells it apart from its other cases at this shape.
    pub fn name(&self) -> String {
        let is_product = self.kernel == Kernel::IntegerProduct;
        let variant = variant(
            self.format.map(Format::in_words),
            is_product.then_some(self.weight_bits),
            is_product.then_some(self.epilogue),
            self.strategy,
        );
        format!("{} {variant}", self.kernel.name())
            .trim_end()
            .to_owned()
    }

    pub(super) fn format(&self) -> Option<Format> {
        self.format
    }

    pub(super) fn site_name(&self) -> &str {
        &self.site.name
    }

    fn is_product(&self) -> bool {
        matches!(
            self.kernel,
            Kernel::FloatProduct | Kernel::HalfProduct | Kernel::IntegerProduct | Kernel::Scan
        )
    }

    /// Returns `[matrices, M, N, K]` of a product, `[matrices, tokens, features]` of attention, else `[rows, columns]` of
    /// the left operand.
    pub(super) fn shape(&self) -> Vec<usize> {
        let product = self.site.product(self.images);
        if self.kernel == Kernel::FusedAttention {
            vec![product.problems(), product.m, product.n]
        } else if self.is_product() {
            vec![product.problems(), product.m, product.n, product.k]
        } else {
            vec![product.problems() * product.m, product.k]
        }
    }

    /// Measures the case on `device`, whose `ceilings` are known.
    ///
    /// # Errors
    /// Operands that exceed the device's binding limit, and the device's errors.
    pub fn measure(&self, device: &Device, ceilings: &Ceilings) -> Result<KernelFigure> {
        device.wait(self.measure_async(device, ceilings))
    }

    /// Does what [`measure`](Self::measure) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub async fn measure_async(
        &self,
        device: &Device,
        ceilings: &Ceilings,
    ) -> Result<KernelFigure> {
        let Prepared { run, jobs } = self.prepare(device)?;
        let timing = time(device, &run).await?;
        // q kᵀ has as many as p v.
        let products = match self.kernel {
            Kernel::FusedAttention => 2,
            _ => jobs as u64,
        };
        let multiply_adds = self.site.product(self.images).multiply_adds() * products;
        let rate = if self.is_product() || self.kernel == Kernel::FusedAttention {
            Rate::new(2.0 * multiply_adds as f64, Unit::Operations, &timing)
        } else {
            Rate::new(self.bytes() as f64, Unit::Bytes, &timing)
        };
        let ceiling = self.ceiling(device, ceilings);
        Ok(KernelFigure {
            kernel: self.kernel,
            format: self.format.map(Format::in_words),
            epilogue: (self.kernel == Kernel::IntegerProduct).then_some(self.epilogue),
            weight_bits: (self.kernel == Kernel::IntegerProduct).then_some(self.weight_bits),
            strategy: self.strategy,
            site: self.site.name.clone(),
            shape: self.shape(),
            ceiling: ceiling.kernel,
            fraction: rate.rate / ceiling.rate.rate,
            rate,
            candidates_per_second: (self.kernel == Kernel::Scan)
                .then(|| jobs as f64 / timing.median_seconds),
            timing,
        })
    }

    /// Makes the kernel with its operands, ready to run on `device`.
    ///
    /// # Errors
    /// Operands that exceed the device's binding limit.
    pub fn prepare(&self, device: &Device) -> Result<Prepared> {
        self.check_size(device)?;
        let operands = self.operands(device);
        let device = device.clone();
        let run = match self.kernel {
            Kernel::FloatProduct => self.float_product(device, operands),
            Kernel::HalfProduct => self.half_product(device, operands),
            Kernel::IntegerProduct => self.integer_product(device, operands),
            Kernel::Quantize => self.quantize(device, operands),
            Kernel::ToHalf => self.to_half(operands),
            Kernel::FusedAttention => self.attention(device, operands),
            Kernel::Scan => return Ok(self.scan(device, operands)),
            _ => self.row_kernel(device, operands),
        };
        Ok(Prepared { run, jobs: 1 })
    }

    fn ceiling<'c>(&self, device: &Device, ceilings: &'c Ceilings) -> &'c Ceiling {
        match (self.kernel, device) {
            // Products of values in f16 are summed in f32.
            (Kernel::FloatProduct | Kernel::HalfProduct, _) => &ceilings.f32,
            (Kernel::IntegerProduct | Kernel::Scan, _) => {
                let is_twin = self.format.is_some_and(Format::is_twin);
                let of_matrices = match integer_strategy(device, is_twin) {
                    Some(Strategy::Cooperative) => &ceilings.cooperative,
                    Some(Strategy::CooperativeInt8) => &ceilings.cooperative_int8,
                    _ => &None,
                };
                of_matrices.as_ref().unwrap_or(&ceilings.int8)
            }
            (Kernel::FusedAttention, _) => &ceilings.int8,
            _ => &ceilings.copy,
        }
    }

    /// Counts the bytes that a kernel which is no product reads and writes.
    fn bytes(&self) -> usize {
        let [rows, columns] = self.shape()[..] else {
            unreachable!("a kernel that is no product has rows and columns")
        };
        let values = rows * columns * size_of::<f32>();
        match self.kernel {
            // Floats in, codes out.
            _ if self.format.is_some() => values + rows * columns.next_multiple_of(4),
            Kernel::ToHalf => values + rows * columns.next_multiple_of(4) * size_of::<f16>(),
            Kernel::LayerNorm => 2 * values + 2 * columns * size_of::<f32>(),
            Kernel::WindowSoftmax => {
                // Biases and masks are read for every row, but there are few of them: they stay in a cache.
                2 * values
            }
            _ => 2 * values,
        }
    }

    fn plan(&self) -> SitePlan {
        let policy = Policy::preset(Preset::Ptq4vit, BITS, BITS);
        let plan = policy.plan(std::slice::from_ref(&self.site));
        let plan = plan.expect("the widths are in range").of(&self.site);
        let plan = plan.expect("the preset leaves nothing in floats");
        SitePlan {
            a: OperandScheme {
                format: self.format.unwrap_or(Format::Uniform),
                ..plan.a
            },
            ..plan
        }
    }

    /// Counts the elements of the buffers that A and B lie in; they are one where both are parts of qkv.
    fn operand_lens(&self) -> [usize; 2] {
        let queries = |a: &Attention| self.images * a.image_queries() * a.query_parts() * a.dim();
        let tokens = |a: &Attention| self.images * a.image_tokens() * a.parts() * a.dim();
        let scores = |a: &Attention| self.images * a.image_queries() * a.heads * a.tokens;
        match &self.site.kind {
            SiteKind::Linear(sizes) => [
                self.images * sizes.rows * sizes.inputs,
                sizes.outputs * sizes.inputs,
            ],
            SiteKind::Scores(attention) => [queries(attention), tokens(attention)],
            SiteKind::Context(attention) => [scores(attention), tokens(attention)],
        }
    }

    fn check_size(&self, device: &Device) -> Result<()> {
        let out = self.images * self.site.out_len();
        let lens = self.operand_lens().into_iter().chain([out]);
        let bytes = lens.max().unwrap_or(0).saturating_mul(size_of::<f32>());
        let most = device.max_buffer_bytes();
        if bytes > most {
            let problem = format!(
                "a matrix of {} takes {bytes} bytes, where this device can bind {most}",
                self.site.name
            );
            return Err(Error::device(device.name(), problem));
        }
        Ok(())
    }

    /// Makes random operands; a twin's left one is what it stands for, the output of a softmax or a GELU.
    fn operands(&self, device: &Device) -> Operands {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let [a, b] = self.operand_lens();
        let a = device.upload(&uniform(&mut random, a, 3.0));
        let product = self.site.product(self.images);
        let commands = &mut Commands::new(device);
        let a = match self.format {
            Some(Format::SoftmaxTwin) => softmax(commands, a.len() / product.k, product.k, 1.0, &a),
            Some(Format::GeluTwin) => gelu(commands, Gelu::Exact, &a),
            _ => a,
        };
        let b = match self.site.kind {
            SiteKind::Scores(attention) if !attention.is_pooling => a.clone(),
            _ => device.upload(&uniform(&mut random, b, 1.0)),
        };
        let with_bias = self.site.weight().is_some_and(|linear| linear.has_bias);
        let bias = with_bias.then(|| uniform(&mut random, product.n, 1.0));
        Operands { a, b, bias }
    }

    fn float_product(&self, device: Device, operands: Operands) -> Run {
        let Operands { a, b, bias } = operands;
        let product = self.site.product(self.images);
        let out = device.zeros(self.images * self.site.out_len());
        let bias = bias.map(|bias| device.upload(&bias));
        Box::new(move |commands| float_product(commands, &product, &a, &b, bias.as_ref(), &out))
    }

    fn half_product(&self, device: Device, operands: Operands) -> Run {
        let Operands { a, b, bias } = operands;
        let product = self.site.product(self.images);
        let commands = &mut Commands::new(&device);
        let a = to_half(commands, &ToHalf::left(&product), &a);
        let b = to_half(commands, &ToHalf::right(&product), &b);
        let out = device.zeros(self.images * self.site.out_len());
        let bias = bias.map(|bias| device.upload(&bias));
        Box::new(move |commands| half_product(commands, &product, &a, &b, bias.as_ref(), &out))
    }

    fn integer_product(&self, device: Device, operands: Operands) -> Run {
        let Operands { a, b, bias } = operands;
        let plan = self.plan();
        let product = plan.product(self.images);
        let scales = scales(&plan, 1.0);
        let commands = &mut Commands::new(&device);
        let mut codes = |side, source| {
            let (scales, tables) = scales.operand(side);
            product.codes(commands, side, source, &[scales.to_vec()], tables)
        };
        let a = codes(Side::A, &a);
        let b = match self.site.weight() {
            // Which codes they are doesn't matter; how they are stored does.
            Some(sizes) => {
                let codes = uniform(
                    &mut ChaCha8Rng::seed_from_u64(2),
                    sizes.inputs * sizes.outputs,
                    (1 << (self.weight_bits - 1)) as f32,
                );
                let codes: Vec<i8> = codes.iter().map(|&code| code as i8).collect();
                let width = Width::holding(self.weight_bits);
                Codes {
                    width,
                    ..Codes::shared(device.upload(&width.pack(&codes, sizes.inputs)))
                }
            }
            None => codes(Side::B, &b),
        };
        let scales = product.output_scales(&device, std::slice::from_ref(&scales));
        let shape = product.shape(1, &a, &b);
        let values = device.zeros::<f32>(shape.job_stride);
        let residual = device.zeros(shape.job_stride);
        // Where codes of two heads would share a word, the network keeps the values too.
        let words = shape
            .words_of_rows()
            .filter(|_| matches!(self.epilogue, Epilogue::Codes | Epilogue::GeluCodes));
        let next_format = match self.epilogue {
            Epilogue::GeluCodes => Format::GeluTwin,
            _ => Format::Uniform,
        };
        let encoder = encoder(&device, next_format, 1.0 / 16.0);
        let gelu = (self.epilogue == Epilogue::GeluCodes).then_some(Gelu::Exact);
        let next_codes = device.zeros(words.map_or(1, |(_, len)| len));
        let adds = self.epilogue == Epilogue::Residual;
        let affine = affine(None, bias.as_deref()).map(|affine| device.upload(&affine));
        Box::new(move |commands| {
            let operands = product.operands(&a, &b, &scales, affine.as_ref());
            match words {
                Some((out, _)) => {
                    let shape = IntegerProduct { out, ..shape };
                    let next = NextCodes {
                        gelu,
                        format: next_format,
                        bits: BITS,
                        encoder: &encoder,
                    };
                    integer_product_codes(commands, &shape, &operands, &next, &next_codes);
                }
                None => {
                    let residual = adds.then_some(Residual {
                        values: &residual,
                        order: None,
                    });
                    integer_product(commands, &shape, &operands, residual, &values);
                }
            }
        })
    }

    fn quantize(&self, device: Device, operands: Operands) -> Run {
        let plan = self.plan();
        let quantizer = plan.quantizer(Side::A, self.images, 1);
        let scales = scales(&plan, 1.0);
        let (scales, tables) = scales.operand(Side::A);
        let encoders = device.upload(&quantizer.format.encoders(scales, tables));
        Box::new(move |commands| drop(quantize(commands, &quantizer, &operands.a, &encoders)))
    }

    fn to_half(&self, operands: Operands) -> Run {
        let what = ToHalf::left(&self.site.product(self.images));
        Box::new(move |commands| drop(to_half(commands, &what, &operands.a)))
    }

    fn row_kernel(&self, device: Device, operands: Operands) -> Run {
        let [rows, width] = self.shape()[..] else {
            unreachable!("a kernel that is no product has rows and columns")
        };
        let a = operands.a;
        let format = self.format;
        let encoder = encoder(&device, format.unwrap_or(Format::Uniform), 1.0 / 64.0);
        // Probabilities are a matrix for each head, normalised tokens a single one.
        let matrix_rows = match self.format {
            Some(Format::SoftmaxTwin) => self.site.product(1).m,
            _ => rows,
        };
        match (self.kernel, &self.site.kind) {
            (Kernel::LayerNorm, _) => {
                let norm = LayerNorm {
                    rows,
                    width,
                    input_offset: 0,
                    input_stride: width,
                    eps: 1e-6,
                };
                let (weight, bias) = (device.upload(&vec![1.0; width]), device.zeros(width));
                Box::new(
                    move |commands| match row_codes(format, matrix_rows, &encoder) {
                        None => drop(layer_norm(commands, &norm, &a, &weight, &bias)),
                        Some(codes) => drop(layer_norm_codes(
                            commands, &norm, None, &a, &weight, &bias, &codes,
                        )),
                    },
                )
            }
            (Kernel::WindowSoftmax, SiteKind::Context(attention)) => {
                let matrix = attention.tokens.pow(2);
                let shape = WindowSoftmax {
                    images: self.images,
                    windows: attention.windows,
                    heads: attention.heads,
                    tokens: attention.tokens,
                    factor: 1.0,
                };
                let bias = device.zeros(attention.heads * matrix);
                let mask = device.zeros(attention.windows * matrix);
                Box::new(
                    move |commands| match row_codes(format, matrix_rows, &encoder) {
                        None => drop(window_softmax(commands, &shape, &a, &bias, &mask)),
                        Some(codes) => {
                            drop(window_softmax_codes(
                                commands, &shape, &a, &bias, &mask, &codes,
                            ));
                        }
                    },
                )
            }
            (Kernel::Softmax, _) => {
                Box::new(
                    move |commands| match row_codes(format, matrix_rows, &encoder) {
                        None => drop(softmax(commands, rows, width, 1.0, &a)),
                        Some(codes) => drop(softmax_codes(commands, rows, width, 1.0, &a, &codes)),
                    },
                )
            }
            (Kernel::Gelu, _) => Box::new(move |commands| drop(gelu(commands, Gelu::Exact, &a))),
            (kernel, kind) => unreachable!("{kernel:?} at {kind:?}"),
        }
    }

    /// Makes attention from random codes of q and k, whose scores have a deviation of 1, to the next product's codes.
    fn attention(&self, device: Device, operands: Operands) -> Run {
        let SiteKind::Context(sizes) = self.site.kind else {
            unreachable!("attention at {:?}", self.site.kind)
        };
        let Attention {
            windows,
            heads,
            tokens,
            head_dim,
            is_pooling: _,
        } = sizes;
        let context = self.plan().product(self.images);
        let unit = scales(&self.plan(), 1.0);
        let one = std::slice::from_ref(&unit.b);
        let commands = &mut Commands::new(&device);
        let v = context.codes(commands, Side::B, &operands.b, one, &[]);
        let shape = context.shape(1, &v, &v);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut tokens_of_heads = || {
            let len = shape.batch[0] * heads * head_dim.div_ceil(4) * tokens.next_multiple_of(4);
            let words: Vec<u32> = (0..len).map(|_| random.random()).collect();
            device.upload(&words)
        };
        let (q, k) = (tokens_of_heads(), tokens_of_heads());
        let window = if self.windowed {
            [heads, windows]
        } else {
            [0, 0]
        };
        let [bias, mask] = window.map(|matrices| device.zeros(matrices * tokens * tokens));
        // A byte's deviation is 74.
        let deviation = (head_dim as f32).sqrt() * 74.0 * 74.0;
        let p = Scale {
            scale: 1.0 / 2048.0,
            shift: 4,
        };
        let encoder = |format: Format, scale| format.encoders(&[scale], &[]);
        let p_encoder = encoder(Format::SoftmaxTwin, p);
        let next_encoder = encoder(Format::Uniform, Scale::uniform(1.0 / 16.0));
        let words = shape.words_of_rows();
        let codes = device.zeros(words.map_or(1, |(_, len)| len));
        let values = device.zeros(shape.job_stride);
        let (windowed, strategy) = (self.windowed, self.strategy);
        Box::new(move |commands| {
            let what = CodedAttention {
                batch: shape.batch,
                tokens,
                head_dim,
                q: &q,
                q_format: Format::Uniform,
                k: &k,
                v: &v.words,
                score_units: &vec![Scale::uniform(1.0 / deviation); heads],
                factor: 1.0,
                windows: windowed.then_some(WindowTerms {
                    bias: &bias,
                    mask: &mask,
                    masks: windows,
                }),
                p: Encoding {
                    format: Format::SoftmaxTwin,
                    bits: BITS,
                    encoders: &p_encoder,
                },
                value_units: &vec![p; heads],
                out: words.map_or(shape.out, |(out, _)| out),
            };
            let next = Encoding {
                format: Format::Uniform,
                bits: BITS,
                encoders: &next_encoder,
            };
            // Where codes of two heads would share a word, the network keeps the values.
            let to = match words {
                Some(_) => Destination::Codes(next, &codes),
                None => Destination::Values(&values),
            };
            match strategy {
                Some(strategy) => attention_by(commands, strategy, &what, to),
                None => attention(commands, &what, to),
            }
        })
    }

    /// Makes one step of a search for A's scale: as many candidates as it computes in one go.
    fn scan(&self, device: Device, operands: Operands) -> Prepared {
        let (plan, images) = (self.plan(), self.images);
        let Operands { a, b, bias } = operands;
        let fixed = scales(&plan, 1.0);
        let one = std::slice::from_ref(&fixed.b);
        let product = plan.product(images);
        let fixed_codes = product.codes(&mut Commands::new(&device), Side::B, &b, one, &[]);
        let (linear, b) = match self.site.weight() {
            Some(_) => {
                let linear = LinearWeights::new(b, &device, bias.as_deref());
                (Some(linear), None)
            }
            None => (None, Some(b)),
        };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut matrix = || device.upload(&uniform(&mut random, images * self.site.out_len(), 1.0));
        let record = Record {
            a,
            b,
            out: matrix(),
            grad: Some(matrix()),
        };
        let candidates = match plan.a.format {
            Format::SoftmaxTwin => MAX_SHIFT as usize,
            _ => CANDIDATES,
        };
        let at_once = scan_of(&product, &record, linear.as_ref());
        let jobs = at_once.jobs_at_once(Side::A).min(candidates);
        let candidates: Vec<SiteScales> = (1..=jobs)
            .map(|job| {
                let a = scales(&plan, job as f32 / jobs as f32).a;
                SiteScales::new(a, fixed.b.clone())
            })
            .collect();
        let searched: Vec<Vec<Scale>> = candidates.iter().map(|scales| scales.a.clone()).collect();
        let run = move |commands: &mut Commands| {
            let scan = scan_of(&product, &record, linear.as_ref());
            let codes = scan.codes(commands, Side::A, &searched);
            drop(scan.scores(commands, product.lines(), &codes, &fixed_codes, &candidates));
        };
        Prepared {
            run: Box::new(run),
            jobs,
        }
    }
}

fn scan_of<'a>(
    product: &'a CodedProduct,
    record: &'a Record,
    linear: Option<&'a LinearWeights>,
) -> Scan<'a> {
    Scan {
        product,
        metric: Metric::Hessian,
        record,
        linear,
    }
}

fn row_codes(
    format: Option<Format>,
    matrix_rows: usize,
    encoders: &Buffer<u32>,
) -> Option<RowCodes<'_>> {
    format.map(|format| RowCodes {
        format,
        bits: BITS,
        encoders,
        matrix_rows,
        groups: 1,
    })
}

/// Returns scales that cover the operands, times `part`; a twin's R2 is 16 times as coarse as its R1. Tables have every
/// lane.
fn scales(plan: &SitePlan, part: f32) -> SiteScales {
    let one = |side| {
        let unit = part * 4.0 / (1 << BITS) as f32;
        match plan.operand(side).format.is_twin() {
            false => Scale::uniform(unit),
            true => Scale {
                scale: unit / 16.0,
                shift: 4,
            },
        }
    };
    let tables = |side| vec![table(plan.operand(side).format); plan.tables(side)];
    SiteScales {
        a_tables: tables(Side::A),
        b_tables: tables(Side::B),
        ..SiteScales::new(
            vec![one(Side::A); plan.groups(Side::A)],
            vec![one(Side::B); plan.groups(Side::B)],
        )
    }
}

/// Makes a table of every lane, whose R2 continues R1 at 16 times its scale.
fn table(format: Format) -> Table {
    let lanes = match format.is_twin() {
        false => (0x80..=0xff).chain(0..=0x7f).collect(),
        true => (0..=0x7f).chain(0x88..=0xff).collect(),
    };
    Table { offset: 0.0, lanes }
}

/// Uploads the encoder of one group under `scale_1`; R2 is 16 times as coarse.
fn encoder(device: &Device, format: Format, scale: f32) -> Buffer<u32> {
    let scale = Scale { scale, shift: 4 };
    device.upload(&format.encoders(&[scale], &[table(format)]))
}

impl Epilogue {
    /// Returns the epilogue's name, as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Residual => "residual",
            Self::Codes => "codes",
            Self::GeluCodes => "gelu codes",
        }
    }
}
