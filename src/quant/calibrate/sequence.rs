//! Calibration in sequence: sites are decided in the order of the forward pass, each on what the network in integers
//! gives it so far. So a bias can make up for what came before.
//!
//! One forward pass of the FP network stores each segment's input, one backward sweep the gradients at each segment's
//! output. Then segment by segment: the Fisher weights of all its values, its sites one after the other, its output in
//! integers, and how well its sites do. Device memory holds some images of one segment; host memory holds all images of
//! one segment, and what goes from one to the next.

use super::fisher::{Probes, SegmentFisher};
use super::memory::Memory;
use super::{
    Budget, Calibration, Chosen, Event, Phase, Progress, SiteReport, append, forward, run,
    take_batches,
};
use crate::device::Commands;
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, Network, Segment, Site};
use crate::model::config::Answer;
use crate::quant::execution::{IntegerProducts, LinearCodes};
use crate::quant::plan::SitePlan;
use crate::quant::search::{Work, not_finite};
use crate::quant::tables::{LinearSite, SiteValues, quantize_site};
use crate::quant::{Method, QuantizedSite, Sequence};
use rayon::prelude::*;
use std::collections::HashMap;
use web_time::Instant;

/// Sets how many values one task looks at.
const BLOCK: usize = 1 << 16;

/// Holds what a calibration in sequence is of.
pub(super) struct InSequence<'a> {
    pub network: &'a Network,
    /// What the network answers for an image.
    pub answer: Answer,
    pub weights: &'a Weights,
    pub method: &'a Method,
    pub sequence: &'a Sequence,
    /// The preprocessed images, `[3, S, S]` each.
    pub images: &'a [Vec<f32>],
    pub budget: Budget,
    /// Whether a site is to be in integers.
    pub wanted: &'a dyn Fn(&Site) -> bool,
    /// What an earlier run decided, by the sites' names.
    pub known: &'a HashMap<String, QuantizedSite>,
}

/// Holds a site that is decided, before it is known how well it does.
struct Decided {
    plan: SitePlan,
    quantized: QuantizedSite,
    score: f64,
    seconds: f64,
    largest_a: f32,
}

impl InSequence<'_> {
    /// Decides every wanted site that isn't known yet.
    ///
    /// # Errors
    /// Those of [`calibrate`](super::calibrate()).
    pub async fn run(&self, on_event: &mut dyn FnMut(Event) -> Result<()>) -> Result<Calibration> {
        self.method.settings.validate()?;
        if self.images.is_empty() {
            return Err(Error::setting(
                Setting::Count,
                "expected at least 1 image, found 0",
            ));
        }
        let mut calibration = Calibration::default();
        let segments = self.network.segments();
        let is_open = |segment: &Segment| segment.sites().iter().any(|site| self.is_open(site));
        let open: Vec<bool> = segments.iter().map(is_open).collect();
        let Some(first) = open.iter().position(|&open| open) else {
            return Ok(calibration);
        };
        let last = open.iter().rposition(|&open| open).unwrap_or(first);

        let device = self.network.device();
        let count = self.images.len();
        let is_wanted = |site: &Site| self.is_wanted(site);
        let memory = Memory::new(
            self.network,
            self.weights,
            self.method,
            count,
            self.budget,
            &is_wanted,
        )
        .await?;
        let at_once = memory.forward_images();
        device.memory().reset_peak();
        let commands = &mut Commands::new(device);
        let start = Instant::now();
        let (weights, images) = (self.weights, self.images);
        let checkpoints =
            forward(commands, segments, weights, images, at_once, None, on_event).await?;
        calibration.forward = start.elapsed();
        let start = Instant::now();
        let probes = Probes::new(
            commands,
            segments,
            weights,
            &checkpoints,
            (self.sequence.probes, self.answer),
            (first, at_once),
            on_event,
        )
        .await?;
        calibration.backward = start.elapsed();

        let work = |site: &Site| site.product(count).multiply_adds();
        let sites = self.network.sites();
        let total: u64 = sites.filter(|site| self.is_open(site)).map(work).sum();
        let mut done = 0;
        let mut values: Vec<f32> = images.concat();
        for (index, segment) in segments[..=last].iter().enumerate() {
            let float = FloatProducts::load(device, weights, segment.sites())?;
            let inputs = &checkpoints.inputs[index];
            let start = Instant::now();
            let fisher = match open[index] {
                true => Some(
                    SegmentFisher::new(
                        commands,
                        segment,
                        &float,
                        inputs,
                        (&probes, index - first),
                        at_once,
                    )
                    .await?,
                ),
                false => None,
            };
            calibration.backward += start.elapsed();

            let start = Instant::now();
            let mut products = IntegerProducts::new(device);
            let mut decided = Vec::new();
            for site in segment.sites() {
                let plan = self.method.plan.of(site).filter(|_| self.is_wanted(site));
                let Some(plan) = plan else {
                    let linear = site.has_weight().then(|| float.linear(site).clone());
                    products.insert_float(site, linear);
                    continue;
                };
                if let (Some(fisher), None) = (&fisher, self.known.get(&site.name)) {
                    on_event(Event::Progress(Progress {
                        phase: Phase::Search,
                        site: &site.name,
                        done: done as f64 / total as f64,
                    }))?;
                    let through = self
                        .operands(commands, segment, &mut products, site, &values, at_once)
                        .await?;
                    let found = self.decide(plan.clone(), fisher, &through)?;
                    insert(&mut products, commands, &plan, &found.quantized);
                    decided.push(found);
                    done += work(site);
                } else if let Some(known) = self.known.get(&site.name) {
                    insert(&mut products, commands, &plan, known);
                }
            }
            values = through(commands, segment, &mut products, &values, at_once).await?;
            calibration.search += start.elapsed();

            let start = Instant::now();
            let gradients = match decided.is_empty() {
                true => Vec::new(),
                false => probes.at_output(index - first, 0),
            };
            self.report(
                commands,
                &mut calibration,
                (segment, &float),
                (&memory, index),
                (inputs, &gradients, probes.exponent),
                decided,
                on_event,
            )
            .await?;
            calibration.evidence += start.elapsed();
        }
        calibration.peak_device_bytes = device.memory().peak();
        Ok(calibration)
    }

    fn is_wanted(&self, site: &Site) -> bool {
        self.method.plan.of(site).is_some() && (self.wanted)(site)
    }

    /// Says whether a site is still to be decided.
    fn is_open(&self, site: &Site) -> bool {
        self.is_wanted(site) && !self.known.contains_key(&site.name)
    }

    /// Computes the operands of a site for all images.
    async fn operands(
        &self,
        commands: &mut Commands,
        segment: &Segment,
        products: &mut IntegerProducts,
        site: &Site,
        values: &[f32],
        at_once: usize,
    ) -> Result<[Vec<f32>; 2]> {
        let mut operands = [Vec::new(), Vec::new()];
        for chunk in values.chunks(at_once * segment.input_len()) {
            let images = chunk.len() / segment.input_len();
            let input = commands.device().upload(chunk);
            let (a, b) = segment.operands(commands, products, images, &input, site);
            append(&mut operands[0], commands.read_async(&a).await?);
            if let Some(b) = b {
                append(&mut operands[1], commands.read_async(&b).await?);
            }
        }
        Ok(operands)
    }

    /// Decides a site from its operands of all images.
    fn decide(
        &self,
        plan: SitePlan,
        fisher: &SegmentFisher,
        [a, b]: &[Vec<f32>; 2],
    ) -> Result<Decided> {
        let start = Instant::now();
        let device = self.network.device();
        let has_weight = plan.site.has_weight();
        let blocks = || a.par_chunks(BLOCK);
        let found = blocks()
            .chain(b.par_chunks(BLOCK))
            .find_map_first(|values| {
                let mut values = values.iter();
                values.find(|value| !value.is_finite())
            });
        if let Some(value) = found {
            let what = "an operand in the network in integers";
            return Err(not_finite(device, &plan, what, f64::from(*value)));
        }
        let [a_fisher, b_fisher, out_fisher] = fisher.of(&plan.site.name);
        let values = SiteValues {
            images: self.images.len(),
            a,
            b: (!has_weight).then_some(b),
            a_fisher,
            b_fisher,
            out_fisher: out_fisher.expect("a product's result has a gradient"),
        };
        let tensor = |part: &str| self.weights.float(&format!("{}.{part}", plan.site.name));
        let linear = match plan.site.weight() {
            Some(sizes) => Some((
                tensor("weight")?,
                sizes.has_bias.then(|| tensor("bias")).transpose()?,
            )),
            None => None,
        };
        let linear = linear.as_ref().map(|(weight, bias)| LinearSite {
            weight,
            bias: bias.as_deref(),
        });
        let corrects_bias = self.method.settings.bias_correction;
        let (quantized, score) = quantize_site(&plan, &values, linear.as_ref(), corrects_bias);
        plan.check_scales(&quantized.scales).map_err(|problem| {
            Error::device(device.name(), format!("{}: {problem}", plan.site.name))
        })?;
        Ok(Decided {
            largest_a: blocks().map(largest).reduce(|| f32::NEG_INFINITY, f32::max),
            plan,
            quantized,
            score,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Reports how well the sites of a segment do on the FP network's values, which `inputs` lead to.
    #[expect(clippy::too_many_arguments)]
    async fn report(
        &self,
        commands: &mut Commands,
        calibration: &mut Calibration,
        (segment, float): (&Segment, &FloatProducts),
        (memory, index): (&Memory<'_>, usize),
        (inputs, gradients, exponent): (&[f32], &[f32], i32),
        decided: Vec<Decided>,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let is_decided = |site: &Site| {
            let mut names = decided.iter().map(|decided| &decided.plan.site.name);
            names.any(|name| *name == site.name)
        };
        if decided.is_empty() {
            return Ok(());
        }
        let mut evidence = HashMap::new();
        for pass in memory.passes(index, &is_decided) {
            let (mut batches, _) =
                run(commands, segment, float, &pass, inputs, Some(gradients)).await?;
            for site in &pass.sites {
                let records = take_batches(&mut batches, site);
                let mut all = decided.iter();
                let found = all.find(|decided| decided.plan.site.name == site.name);
                let found = found.expect("a pass has the sites that are decided");
                let chosen = Chosen {
                    plan: &found.plan,
                    metric: self.method.settings.metric,
                    linear: site.has_weight().then(|| float.linear(site)),
                    batches: &records,
                    quantized: &found.quantized,
                    largest_a: found.largest_a,
                    score_unit: 4f64.powi(-exponent),
                };
                evidence.insert(site.name.clone(), chosen.evidence(commands).await?);
            }
        }
        for found in decided {
            let name = &found.plan.site.name;
            let measured = evidence.remove(name);
            let (evidence, histograms) = measured.expect("the passes have every decided site");
            let report = SiteReport {
                site: name.clone(),
                score: found.score,
                rounds: 1,
                work: Work::default(),
                seconds: found.seconds,
                evidence,
                curves: Vec::new(),
                histograms,
            };
            on_event(Event::Found(&report, &found.quantized))?;
            calibration.reports.push(report);
            calibration.sites.insert(name.clone(), found.quantized);
        }
        Ok(())
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Adds a site to the network in integers.
fn insert(
    products: &mut IntegerProducts,
    commands: &Commands,
    plan: &SitePlan,
    quantized: &QuantizedSite,
) {
    let device = commands.device();
    let QuantizedSite { scales, weight } = quantized;
    let linear = plan.site.weight().zip(weight.as_ref());
    let linear = linear.map(|(sizes, weight)| {
        let bias = weight.bias.as_deref();
        LinearCodes::upload(device, &sizes, &plan.b, &weight.codes, bias)
    });
    products.insert(plan.clone(), scales.clone(), linear);
}

/// Sends all images through a segment in integers.
async fn through(
    commands: &mut Commands,
    segment: &Segment,
    products: &mut IntegerProducts,
    values: &[f32],
    at_once: usize,
) -> Result<Vec<f32>> {
    let mut outputs = Vec::new();
    for chunk in values.chunks(at_once * segment.input_len()) {
        let images = chunk.len() / segment.input_len();
        let input = commands.device().upload(chunk);
        let output = segment.forward(commands, products, images, &input);
        append(&mut outputs, commands.read_async(&output).await?);
    }
    Ok(outputs)
}
