//! Calibration: one forward pass, then one backward sweep that searches a segment's sites while their tensors are
//! there.
//!
//! Sites don't affect each other, since O and G come from the FP network. So the sweep goes from the last segment to
//! the first, recomputes a segment from its stored input, back-propagates through it, searches its sites, and drops it:
//! device memory holds one segment's tensors, never the network's. Segments' inputs wait in host memory.

mod builder;
mod costs;
mod fisher;
mod gradient_squares;
#[cfg(feature = "files")]
mod journal;
mod landscape;
mod loss;
mod memory;
mod recovery;
mod sequence;

pub use builder::CalibrationBuilder;
#[cfg(feature = "files")]
pub use journal::{CalibrationIdentity, Journal, JournalLock, journal_of};
pub use landscape::{Landscape, LandscapePoint};
pub use memory::parse_bytes;
pub(super) use recovery::Calibrator;
pub use recovery::Finding;

use super::correction::correct_bias;
use super::evidence::{Chosen, Histograms, SiteEvidence};
use super::method::Method;
use super::plan::SitePlan;
use super::quantized_site::QuantizedSite;
use super::rounding::nearest_codes_async;
use super::search::{Batch, ScoreCurve, SiteSearch, Work};
use super::settings::Settings;
use crate::device::Commands;
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, Network, Record, Segment, Site};
use crate::model::config::Answer;
pub(super) use costs::CostMeter;
use memory::Pass;
pub(super) use memory::{Budget, Memory};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use web_time::{Duration, Instant};

/// Names a phase of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The forward pass that stores each segment's input.
    Forward,
    /// Recomputing a segment and back-propagating through it.
    Backward,
    /// Searching the scales of a site.
    Search,
    /// Computing the network's loss under the candidates for a site's scales.
    Landscape,
    /// Measuring what the operands of a segment cost in few bits.
    Allotment,
}

impl Phase {
    /// Names the phase in a word, for a progress bar.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Search => "search",
            Self::Landscape => "loss",
            Self::Allotment => "allot",
        }
    }
}

/// Says how far a calibration has come.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The phase that it is in.
    pub phase: Phase,
    /// The site that is searched next, or the first of the segment that is computed.
    pub site: &'a str,
    /// The share of the search's work that is done, 0 to 1.
    pub done: f64,
}

/// Tells what happens while a calibration runs.
#[non_exhaustive]
pub enum Event<'a> {
    /// How far it has come.
    Progress(Progress<'a>),
    /// A site is finished: its report, and what it is in integers.
    Found(&'a SiteReport, &'a QuantizedSite),
    /// Something went wrong, and the calibration goes on nevertheless.
    Recovery(&'a str),
}

/// Reports what the search found out about one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// The site's name.
    pub site: String,
    /// The score of the chosen scales, in the metric that was minimised.
    pub score: f64,
    /// Rounds in which any scale was searched.
    pub rounds: usize,
    /// Multiply-adds of the search.
    pub work: Work,
    /// Seconds of the search.
    pub seconds: f64,
    /// How well the chosen scales do.
    pub evidence: SiteEvidence,
    /// What the candidates of each scale reached: A's scales, then B's.
    pub curves: Vec<ScoreCurve>,
    /// How A's values are distributed, where they are a softmax's or a GELU's.
    pub histograms: Option<Histograms>,
}

/// Holds the outcome of a calibration.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Calibration {
    /// Scales and codes of every site, by name.
    pub sites: HashMap<String, QuantizedSite>,
    /// The report of every site, in the order of the network.
    pub reports: Vec<SiteReport>,
    /// What transforms made of the checkpoint, where there were any: the network that was calibrated.
    pub prepared: Option<Arc<Weights>>,
    /// Time of the forward pass.
    pub forward: Duration,
    /// Time of recomputing and back-propagating.
    pub backward: Duration,
    /// Time of the search.
    pub search: Duration,
    /// Time of computing how well the chosen scales do.
    pub evidence: Duration,
    /// The most bytes that device buffers held at once.
    pub peak_device_bytes: u64,
}

/// Describes a site whose scales are to be chosen.
struct SiteTask<'a> {
    plan: &'a SitePlan,
    settings: &'a Settings,
    /// The products of the site's segment.
    products: &'a FloatProducts,
    /// What went through the site.
    batches: &'a [Batch],
    /// What scores and errors have to be multiplied by.
    score_unit: f64,
    /// Bytes of candidates that the device takes at once.
    step_bytes: usize,
}

impl Calibration {
    /// Adds up the seconds of all phases.
    pub fn seconds(&self) -> f64 {
        (self.forward + self.backward + self.search + self.evidence).as_secs_f64()
    }

    /// Adds up the multiply-adds of all searches.
    pub fn work(&self) -> Work {
        let mut total = Work::default();
        for report in &self.reports {
            total += report.work;
        }
        total
    }

    /// Chooses the scales of a site and computes how well they do; adds the time to the phases'.
    async fn search_site(
        &mut self,
        commands: &mut Commands,
        task: &SiteTask<'_>,
    ) -> Result<(SiteReport, QuantizedSite)> {
        let start = Instant::now();
        let linear = task
            .plan
            .site
            .has_weight()
            .then(|| task.products.linear(&task.plan.site));
        let search = SiteSearch::new_async(
            commands,
            task.plan,
            task.settings,
            linear,
            task.batches,
            task.step_bytes,
        )
        .await?;
        let mut found = search.run_async(commands).await?;
        let weight = match linear {
            Some(linear) => {
                Some(nearest_codes_async(commands, task.plan, linear, &found.scales).await?)
            }
            None => None,
        };
        let mut quantized = QuantizedSite {
            scales: found.scales.clone(),
            weight,
        };
        if task.settings.bias_correction {
            correct_bias(commands, task.plan, task.batches, &mut quantized).await?;
        }
        let searching = start.elapsed();
        let chosen = Chosen {
            plan: task.plan,
            metric: task.settings.metric,
            linear,
            batches: task.batches,
            quantized: &quantized,
            largest_a: found.largest_a,
            score_unit: task.score_unit,
        };
        let (evidence, histograms) = chosen.evidence(commands).await?;
        self.search += searching;
        self.evidence += start.elapsed() - searching;
        for curve in &mut found.curves {
            curve.scale_scores(task.score_unit);
        }
        let report = SiteReport {
            site: task.plan.site.name.clone(),
            score: found.score * task.score_unit,
            rounds: found.rounds,
            work: found.work,
            seconds: searching.as_secs_f64(),
            evidence,
            curves: found.curves,
            histograms,
        };
        Ok((report, quantized))
    }
}

/// Holds the calibration images as they enter each segment, on the host.
pub(super) struct Checkpoints {
    /// The inputs of each segment, `[images][input_len]`.
    inputs: Vec<Vec<f32>>,
    /// The outputs of the last segment: the logits, if all segments were gone through.
    outputs: Vec<f32>,
}

/// Chooses by `method` the scales of every site of the prepared `network`, which gives this `answer`, that is `wanted` and doesn't stay in floats,
/// on the preprocessed `images`, `[3, S, S]` each. The network's matrix weights are in `weights`. A site's scales don't
/// depend on which others are wanted. `budget` bounds the bytes that the device holds, without changing what is found.
///
/// # Errors
/// Settings out of range, a budget that can't be kept to, weights or activations that are not finite, a loss whose
/// gradient is zero for every image (`hessian` only), the device's errors, and those of `on_event`.
pub(super) async fn calibrate(
    (network, answer): (&Network, Answer),
    weights: &Weights,
    method: &Method,
    images: &[Vec<f32>],
    budget: Budget,
    wanted: &dyn Fn(&Site) -> bool,
    on_event: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Calibration> {
    let Method { plan, settings } = method;
    settings.validate()?;
    method.check_searchable(network.sites())?;
    let wanted = &|site: &Site| plan.of(site).is_some() && wanted(site);
    if images.is_empty() {
        return Err(Error::setting(
            Setting::Count,
            "expected at least 1 image, found 0",
        ));
    }
    let mut calibration = Calibration::default();
    // Segments before the first one with a wanted site need no backward pass; those after the last one need a forward
    // pass only where the metric needs the loss.
    let segments = network.segments();
    let is_wanted = || {
        segments
            .iter()
            .map(|segment| segment.sites().iter().any(wanted))
    };
    let Some(first) = is_wanted().position(|wanted| wanted) else {
        return Ok(calibration);
    };
    let last = is_wanted().rposition(|wanted| wanted).unwrap_or(first);
    let needs_gradients = settings.metric.needs_gradient();
    let needed = if needs_gradients {
        segments
    } else {
        &segments[..=last]
    };

    let device = network.device();
    let memory = Memory::new(network, weights, method, images.len(), budget, wanted).await?;
    device.memory().reset_peak();
    let commands = &mut Commands::new(device);
    let start = Instant::now();
    let at_once = memory.forward_images();
    let checkpoints = forward(commands, needed, weights, images, at_once, None, on_event).await?;
    calibration.forward = start.elapsed();

    let (loss_gradients, exponent) = if needs_gradients {
        loss::gradients(commands, answer, &checkpoints.outputs).await?
    } else {
        (Vec::new(), 0)
    };
    // Scores are quadratic in the gradients.
    let score_unit = 4f64.powi(-exponent);
    // The loss's gradient at the output of the segment that is worked at; like the checkpoints, on the host.
    let mut gradients = loss_gradients;
    let total: u64 = network
        .sites()
        .filter(|site| wanted(site))
        .map(|site| site.product(images.len()).multiply_adds())
        .sum();
    let mut searched = 0u64;
    let needed = needed.iter().zip(&checkpoints.inputs);
    for (index, (segment, inputs)) in needed.enumerate().skip(first).rev() {
        if !needs_gradients && !segment.sites().iter().any(wanted) {
            continue;
        }
        let products = FloatProducts::load(device, weights, segment.sites())?;
        let mut gradients_before = Vec::new();
        for pass in memory.passes(index, wanted) {
            let start = Instant::now();
            on_event(Event::Progress(Progress {
                phase: Phase::Backward,
                site: &segment.sites()[0].name,
                done: searched as f64 / total as f64,
            }))?;
            let grads = needs_gradients.then_some(&gradients[..]);
            let mut batches;
            (batches, gradients_before) =
                run(commands, segment, &products, &pass, inputs, grads).await?;
            calibration.backward += start.elapsed();

            for site in &pass.sites {
                on_event(Event::Progress(Progress {
                    phase: Phase::Search,
                    site: &site.name,
                    done: searched as f64 / total as f64,
                }))?;
                let records = take_batches(&mut batches, site);
                let plan = plan.of(site).expect("a wanted site has a plan");
                let task = SiteTask {
                    plan: &plan,
                    settings,
                    products: &products,
                    batches: &records,
                    score_unit,
                    step_bytes: pass.step_bytes,
                };
                let (report, quantized) = calibration.search_site(commands, &task).await?;
                on_event(Event::Found(&report, &quantized))?;
                calibration.reports.push(report);
                calibration.sites.insert(site.name.clone(), quantized);
                searched += site.product(images.len()).multiply_adds();
            }
        }
        gradients = gradients_before;
    }
    calibration.reports.reverse();
    calibration.peak_device_bytes = device.memory().peak();
    Ok(calibration)
}

/// Holds the number of some images, and the records of some sites for them.
type BatchRecords = (usize, HashMap<String, Record>);

/// Takes what went through one site out of the records of a pass.
fn take_batches(batches: &mut [BatchRecords], site: &Site) -> Vec<Batch> {
    let batches = batches.iter_mut().map(|(images, records)| Batch {
        images: *images,
        record: records
            .remove(&site.name)
            .expect("the forward pass visits every site"),
    });
    batches.collect()
}

/// Sends all images forward through a segment and, if the loss's `gradients` at its output are given, back. Returns the
/// records of the pass's sites, batch by batch, and the gradients at the segment's input, if it has any.
async fn run(
    commands: &mut Commands,
    segment: &Segment,
    products: &FloatProducts,
    pass: &Pass,
    inputs: &[f32],
    gradients: Option<&[f32]>,
) -> Result<(Vec<BatchRecords>, Vec<f32>)> {
    let device = commands.device().clone();
    let images = inputs.len() / segment.input_len();
    let mut batches = Vec::new();
    let mut gradients_before = Vec::new();
    for first in (0..images).step_by(pass.images) {
        let count = pass.images.min(images - first);
        let batch = |values: &[f32]| {
            let len = values.len() / images;
            device.upload(&values[first * len..][..count * len])
        };
        let input = batch(inputs);
        let mut tape = segment.record(commands, products, count, &input);
        if let Some(gradients) = gradients {
            let gradients = batch(gradients);
            if let Some(before) = tape.backward(commands, gradients) {
                append(&mut gradients_before, commands.read_async(&before).await?);
            }
        }
        let mut records = tape.into_records();
        records.retain(|name, _| pass.sites.iter().any(|site| site.name == *name));
        batches.push((count, records));
        // What only this batch needed is freed before the next one comes.
        commands.synchronize_async().await?;
    }
    Ok((batches, gradients_before))
}

/// Appends `values` to `all`, without a copy where there were none.
fn append(all: &mut Vec<f32>, values: Vec<f32>) {
    match all.is_empty() {
        true => *all = values,
        false => all.extend(values),
    }
}

/// Looks at the left operands of sites as images pass.
pub(super) trait Observer {
    /// Says whether it looks at `site`.
    fn wants(&self, site: &Site) -> bool;

    /// Takes the left operands of the wanted sites of a segment, by the sites' names, one image after the other.
    ///
    /// # Errors
    /// Its own.
    fn see(&mut self, operands: HashMap<String, Vec<f32>>) -> Result<()>;
}

/// Sends all images forward through the first segments of the FP network, one segment after the other, so that only one
/// segment's weights are on the device at a time.
pub(super) async fn forward(
    commands: &mut Commands,
    segments: &[Segment],
    weights: &Weights,
    images: &[Vec<f32>],
    at_once: usize,
    mut observer: Option<&mut dyn Observer>,
    on_event: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Checkpoints> {
    let device = commands.device().clone();
    let mut values: Vec<f32> = images.concat();
    let mut inputs = Vec::new();
    for segment in segments {
        on_event(Event::Progress(Progress {
            phase: Phase::Forward,
            site: &segment.sites()[0].name,
            done: 0.0,
        }))?;
        let mut products = FloatProducts::load(&device, weights, segment.sites())?;
        let mut outputs = Vec::new();
        let mut operands: HashMap<String, Vec<f32>> = HashMap::new();
        for chunk in values.chunks(at_once * segment.input_len()) {
            let count = chunk.len() / segment.input_len();
            let input = device.upload(chunk);
            let Some(observer) = &observer else {
                let output = segment.forward(commands, &mut products, count, &input);
                append(&mut outputs, commands.read_async(&output).await?);
                continue;
            };
            let tape = segment.record(commands, &products, count, &input);
            append(&mut outputs, commands.read_async(tape.output()).await?);
            let records = tape.into_records();
            for site in segment.sites().iter().filter(|site| observer.wants(site)) {
                let values = commands.read_async(&records[&site.name].a).await?;
                append(operands.entry(site.name.clone()).or_default(), values);
            }
        }
        if let Some(at) = outputs.iter().position(|value| !value.is_finite()) {
            let image = at / (outputs.len() / images.len());
            let input = &values[image * segment.input_len()..][..segment.input_len()];
            let place = first_not_finite(commands, segment, &products, input).await?;
            return Err(Error::NotFinite {
                image,
                problem: format!(
                    "in the FP network {} on {}, {place}, where finite values are expected",
                    weights.path().display(),
                    device.name()
                ),
            });
        }
        if let Some(observer) = &mut observer {
            observer.see(operands)?;
        }
        inputs.push(std::mem::replace(&mut values, outputs));
    }
    Ok(Checkpoints {
        inputs,
        outputs: values,
    })
}

/// Finds where in a segment one image's values cease to be finite, and tells it in words.
async fn first_not_finite(
    commands: &mut Commands,
    segment: &Segment,
    products: &FloatProducts,
    input: &[f32],
) -> Result<String> {
    let input = commands.device().upload(input);
    let records = segment.record(commands, products, 1, &input).into_records();
    for site in segment.sites() {
        let record = &records[&site.name];
        for (what, values) in [("is given", &record.a), ("gives", &record.out)] {
            let values = commands.read_async(values).await?;
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Ok(format!("{} {what} {value}", site.name));
            }
        }
    }
    let last = segment.sites().last().expect("a segment has sites");
    Ok(format!("what follows {} is not finite", last.name))
}
