//! The kernels at the shapes that a network gives them.

use super::ceilings::{Ceiling, Ceilings, Rate, Unit};
use super::scan;
use super::timing::{Timing, time};
use crate::device::{Device, Strategy};
use crate::error::{Error, Result};
use crate::families::sites;
use crate::format::Values;
use crate::graph::{Attention, Linear, Site, SiteKind};
use crate::kernels::catalogue::{
    Amount, Epilogue, Exercise, NetworkProduct, Prepared, Role, Variant,
};
use crate::kernels::{Format, KERNELS, integer_strategy};
use crate::model::config::{Architecture, Family};
use serde::Serialize;

/// Counts the images of a batch, as inference takes them.
pub(super) const IMAGES: usize = 8;

/// Names what is timed: a kernel of the catalogue, or the search's `scan`.
#[derive(Clone, Copy)]
pub struct TimedKernel {
    /// The name.
    pub name: &'static str,
    /// What it computes, in a few words.
    pub about: &'static str,
    exercises: Exercises,
}

#[derive(Clone, Copy)]
enum Exercises {
    OfKernel(fn(&NetworkProduct) -> Vec<Exercise>),
    OfScan,
}

/// Describes a kernel at a shape.
#[derive(Clone)]
pub struct TimedCase {
    kernel: &'static str,
    /// The product whose shape it is.
    site: String,
    exercise: Exercise,
    /// The way to compute it; `None` for the device's own.
    strategy: Option<Strategy>,
}

/// Holds what was measured of a kernel at a shape.
#[derive(Clone, Debug, Serialize)]
pub struct KernelFigure {
    /// The kernel's name.
    pub kernel: &'static str,
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

impl TimedKernel {
    /// Lists what is timed, by the catalogue's order; the scan is the last.
    pub fn all() -> Vec<Self> {
        let kernels = KERNELS.iter().filter_map(|kernel| {
            let timed = kernel.timed.as_ref()?;
            Some(Self {
                name: kernel.name,
                about: timed.about,
                exercises: Exercises::OfKernel(timed.exercises),
            })
        });
        let scan = Self {
            name: scan::NAME,
            about: scan::ABOUT,
            exercises: Exercises::OfScan,
        };
        kernels.chain([scan]).collect()
    }

    /// Finds what has this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|kernel| kernel.name == name)
    }

    /// Lists its cases at `site`, in the way that the device computes them.
    fn at(self, site: &Site, images: usize, role: Role) -> Vec<TimedCase> {
        let product = network_product(site, images, role);
        let exercises = match self.exercises {
            Exercises::OfKernel(exercises) => exercises(&product),
            Exercises::OfScan => scan::exercises(site, images, &product),
        };
        let case = |exercise| TimedCase {
            kernel: self.name,
            site: site.name.clone(),
            exercise,
            strategy: None,
        };
        exercises.into_iter().map(case).collect()
    }

    /// Lists its cases at a product of a network, with a batch of `images` images.
    pub(super) fn at_site(self, site: &Site, images: usize, is_windowed: bool) -> Vec<TimedCase> {
        self.at(site, images, role(site, is_windowed))
    }

    /// Lists its cases at one shape, M × N × K.
    pub(super) fn at_shape(self, [m, n, k]: [usize; 3]) -> Vec<TimedCase> {
        let site = Site::linear(format!("{m},{n},{k}"), Linear::new(m, k, n));
        self.at(&site, 1, Role::Alone)
    }

    /// Counts the images that it is timed with.
    fn images(self) -> usize {
        match self.exercises {
            Exercises::OfKernel(_) => IMAGES,
            Exercises::OfScan => scan::IMAGES,
        }
    }
}

/// Lists the cases of a network: every kernel among `wanted` at every shape that it meets there, once.
pub fn cases_of(architecture: &Architecture, wanted: &[TimedKernel]) -> Vec<TimedCase> {
    let is_windowed = architecture.family() == Family::Swin;
    let mut cases: Vec<TimedCase> = Vec::new();
    for kernel in wanted {
        for site in sites(architecture) {
            let found = kernel.at_site(&site, kernel.images(), is_windowed);
            for case in found.into_iter().flat_map(TimedCase::by_strategy) {
                if !cases.iter().any(|other| other.is_like(&case)) {
                    cases.push(case);
                }
            }
        }
    }
    cases
}

/// Lists every kernel among `wanted` at one shape, M × N × K; those that are no products take M rows of K, attention M heads of
/// N tokens with K features each. A window's softmax has none of it.
pub fn cases_of_shape(shape: [usize; 3], wanted: &[TimedKernel]) -> Vec<TimedCase> {
    let cases = wanted.iter().flat_map(|kernel| kernel.at_shape(shape));
    cases.flat_map(TimedCase::by_strategy).collect()
}

/// Describes a site's product of `images` images to the kernels.
fn network_product(site: &Site, images: usize, role: Role) -> NetworkProduct {
    let twin = match site.kind {
        SiteKind::Context(_) => Some(Format::SoftmaxTwin),
        SiteKind::Linear(linear) => {
            let values = linear.after_gelu.map(Values::AfterGelu);
            let has_twin = |&values: &Values| Format::GeluTwin.is_for(values);
            values.filter(has_twin).map(|_| Format::GeluTwin)
        }
        SiteKind::Scores(_) => None,
    };
    NetworkProduct {
        product: site.product(images),
        lens: operand_lens(site, images),
        has_bias: site.weight().is_some_and(|linear| linear.has_bias),
        twin,
        epilogue: epilogue(site),
        role,
    }
}

/// Says what a site's product is in its network.
fn role(site: &Site, is_windowed: bool) -> Role {
    match site.kind {
        // The norms of a block come before qkv and before fc1, of one shape.
        SiteKind::Linear(linear) => Role::Linear {
            after_norm: linear.parts == 3,
        },
        SiteKind::Scores(_) => Role::Scores,
        SiteKind::Context(attention) => Role::Context {
            windows: is_windowed.then_some(attention.windows),
            is_pooling: attention.is_pooling,
        },
    }
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

/// Counts the elements of the buffers that A and B lie in; they are one where both are parts of qkv.
fn operand_lens(site: &Site, images: usize) -> [usize; 2] {
    let queries = |a: &Attention| images * a.image_queries() * a.query_parts() * a.dim();
    let tokens = |a: &Attention| images * a.image_tokens() * a.parts() * a.dim();
    let scores = |a: &Attention| images * a.image_queries() * a.heads * a.tokens;
    match &site.kind {
        SiteKind::Linear(sizes) => [
            images * sizes.rows * sizes.inputs,
            sizes.outputs * sizes.inputs,
        ],
        SiteKind::Scores(attention) => [queries(attention), tokens(attention)],
        SiteKind::Context(attention) => [scores(attention), tokens(attention)],
    }
}

impl TimedCase {
    /// Says whether `device` has what the kernel computes in.
    pub fn runs_on(&self, device: &Device) -> bool {
        self.exercise.runs_on(device)
    }

    /// Lists the case under each way to compute it that is timed.
    fn by_strategy(self) -> Vec<Self> {
        if self.exercise.strategies.is_empty() {
            return vec![self];
        }
        let with = |&strategy| Self {
            strategy: Some(strategy),
            ..self.clone()
        };
        self.exercise.strategies.iter().map(with).collect()
    }

    /// Says whether both are one kernel at one shape.
    fn is_like(&self, other: &Self) -> bool {
        let what = |case: &Self| (case.kernel, case.exercise.variant, case.strategy);
        what(self) == what(other) && self.exercise.shape == other.exercise.shape
    }

    /// Names the kernel, and what tells it apart from its other cases at this shape.
    pub fn name(&self) -> String {
        let variant = self.variant();
        format!("{} {variant}", self.kernel).trim_end().to_owned()
    }

    fn variant(&self) -> String {
        let Variant {
            format,
            weight_bits,
            epilogue,
        } = self.exercise.variant;
        let format = format.map(Format::in_words);
        variant(format, weight_bits, epilogue, self.strategy)
    }

    pub(super) fn format(&self) -> Option<Format> {
        self.exercise.variant.format
    }

    pub(super) fn site(&self) -> &str {
        &self.site
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.exercise.shape
    }

    /// Lists the ways to compute it that are timed, where there are several.
    pub(super) fn strategies(&self) -> &'static [Strategy] {
        self.exercise.strategies
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
        let variant = self.exercise.variant;
        let (amount, unit, ceiling) = match self.exercise.amount {
            Amount::Floats(multiply_adds) => (2 * multiply_adds, Unit::Operations, &ceilings.f32),
            Amount::Codes(multiply_adds) => {
                let is_twin = variant.format.is_some_and(Format::is_twin);
                let ceiling = of_codes(device, is_twin, ceilings);
                (2 * multiply_adds, Unit::Operations, ceiling)
            }
            Amount::Dots(multiply_adds) => (2 * multiply_adds, Unit::Operations, &ceilings.int8),
            Amount::Bytes(bytes) => (bytes, Unit::Bytes, &ceilings.copy),
        };
        let rate = Rate::new((amount * jobs as u64) as f64, unit, &timing);
        Ok(KernelFigure {
            kernel: self.kernel,
            format: variant.format.map(Format::in_words),
            epilogue: variant.epilogue,
            weight_bits: variant.weight_bits,
            strategy: self.strategy,
            site: self.site.clone(),
            shape: self.exercise.shape.clone(),
            ceiling: ceiling.kernel,
            fraction: rate.rate / ceiling.rate.rate,
            rate,
            candidates_per_second: (self.kernel == scan::NAME)
                .then(|| jobs as f64 / timing.median_seconds),
            timing,
        })
    }

    /// Makes the kernel with its operands, ready to run on `device`.
    ///
    /// # Errors
    /// Operands that exceed the device's binding limit.
    pub fn prepare(&self, device: &Device) -> Result<Prepared> {
        let bytes = self.exercise.largest.saturating_mul(size_of::<f32>());
        let most = device.max_buffer_bytes();
        if bytes > most {
            let problem = format!(
                "a matrix of {} takes {bytes} bytes, where this device can bind {most}",
                self.site
            );
            return Err(Error::device(device.name(), problem));
        }
        Ok(self.exercise.prepare(device, self.strategy))
    }
}

/// Returns what `device` reaches in the way that it multiplies codes in, twins or others.
fn of_codes<'c>(device: &Device, is_twin: bool, ceilings: &'c Ceilings) -> &'c Ceiling {
    let of_matrices = match integer_strategy(device, is_twin) {
        Some(Strategy::Cooperative) => &ceilings.cooperative,
        Some(Strategy::CooperativeInt8) => &ceilings.cooperative_int8,
        _ => &None,
    };
    of_matrices.as_ref().unwrap_or(&ceilings.int8)
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
