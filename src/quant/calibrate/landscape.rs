//! The loss of the whole network beside the metrics that stand for it, over all candidates for an operand's scales: the
//! paper's Figure 5.
//!
//! One operand of one product is rounded. The product's other operand and all other products stay in floats, so that a curve
//! shows what that operand does and nothing else. Of operands with several scales (thirds, heads, channels), each takes its
//! candidate of the same number.
//!
//! Beside the loss stands the KL divergence, which needs no label: what makes the network surer of the FP network's class
//! lowers the cross-entropy below what it is in floats, but no KL.

use super::memory::{Budget, Memory};
use super::recovery::Calibrator;
use super::{Checkpoints, Event, Phase, Progress, append, forward, loss, run, take_batches};
use crate::device::{Commands, Device};
use crate::error::{Error, Result, Setting};
use crate::families::graphs;
use crate::file::weights::Weights;
use crate::format::Scale;
use crate::graph::{FloatProducts, FloatingProducts, Network, Segment, Site};
use crate::kernels::Lines;
use crate::model::config::Answer;
use crate::quant::execution::OneRounded;
use crate::quant::search::{Batch, candidates_of_groups, errors, not_finite};
use crate::quant::transform::prepare;
use crate::quant::{Method, Metric, Settings, Side, SitePlan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Shows what the candidates for the scales of one operand do to the network's loss, and what each metric says of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Landscape {
    /// The product's name.
    pub site: String,
    /// The operand that is rounded.
    pub side: Side,
    /// The loss of the FP network.
    pub float_loss: f64,
    /// All candidates, in order.
    pub candidates: Vec<LandscapePoint>,
}

/// Holds what one candidate does. The scores are sums over the product's elements or rows on all images, as the search has
/// them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LandscapePoint {
    /// The candidate of each of the operand's groups.
    pub scales: Vec<Scale>,
    /// The network's loss, a mean over the images: of logits the cross-entropy against the class that the FP network
    /// chooses, of features the squared distance from the FP network's.
    pub loss: f64,
    /// The mean over the images of the KL divergence of the FP network's probabilities to the network's, in nats; `None` where
    /// it answers with features.
    pub kl: Option<f64>,
    /// The score under each metric.
    #[serde(flatten)]
    pub scores: BTreeMap<Metric, f64>,
}

impl Landscape {
    /// Finds the index of the candidate whose `value` is least, the first of several.
    pub fn least(&self, value: impl Fn(&LandscapePoint) -> f64) -> usize {
        let values: Vec<f64> = self.candidates.iter().map(value).collect();
        least(&values)
    }

    /// Finds the index of the candidate whose KL divergence is least, likewise; `None` where there is none.
    pub fn least_kl(&self) -> Option<usize> {
        self.kl().map(|kl| least(&kl))
    }

    /// Returns the KL divergences of all candidates; `None` where the network answers with features.
    pub fn kl(&self) -> Option<Vec<f64>> {
        self.candidates.iter().map(|point| point.kl).collect()
    }
}

/// Finds the index of the least value, the first of several.
fn least(values: &[f64]) -> usize {
    let least = |best, at: usize| match values[at] < values[best] {
        true => at,
        false => best,
    };
    (0..values.len()).fold(0, least)
}

/// Holds what candidates are evaluated with.
struct Survey<'a> {
    network: &'a Network,
    answer: Answer,
    weights: &'a Weights,
    settings: &'a Settings,
    memory: &'a Memory<'a>,
    checkpoints: &'a Checkpoints,
    /// What a sum of squares of the gradients has to be multiplied by.
    score_unit: f64,
    float_loss: f64,
    /// Multiply-adds of all candidates, of which so many are done.
    total: f64,
    done: f64,
}

impl Calibrator<'_> {
    /// Computes a landscape of A and one of B for each wanted site, in the network's order. If `device` is lost, there is
    /// another in its place afterwards.
    ///
    /// # Errors
    /// Those of a calibration with the Hessian metric.
    pub async fn landscapes(
        &self,
        device: &mut Device,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Vec<Landscape>> {
        // All metrics are computed, of which this one needs the most memory.
        let method = &Method {
            plan: self.method.plan.clone(),
            settings: Settings {
                metric: Metric::Hessian,
                ..self.method.settings.clone()
            },
        };
        method.settings.validate()?;
        let surveyor = Calibrator { method, ..*self };
        surveyor
            .overcome_faults(device, on_event, async |device, budget, on_event| {
                surveyor.survey(device, budget, on_event).await
            })
            .await
    }

    async fn survey(
        &self,
        device: &Device,
        budget: Budget,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Vec<Landscape>> {
        let (architecture, method, images) = (self.architecture, self.method, self.images);
        if images.is_empty() {
            return Err(Error::setting(
                Setting::Count,
                "expected at least 1 image, found 0",
            ));
        }
        let prepared = prepare(
            device,
            architecture,
            self.weights,
            method,
            images,
            budget,
            on_event,
        )
        .await?;
        let weights = prepared.as_ref().unwrap_or(self.weights);
        let network = &Network::load(device, &graphs(architecture), |name| weights.float(name))?;
        let wanted = &|site: &Site| method.plan.of(site).is_some() && (self.wanted)(site);
        method.check_searchable(network.sites().filter(|site| wanted(site)))?;

        let answer = architecture.answer();
        let memory = &Memory::new(network, weights, method, images.len(), budget, wanted).await?;
        let commands = &mut Commands::new(device);
        let segments = network.segments();
        let at_once = memory.forward_images();
        let checkpoints =
            &forward(commands, segments, weights, images, at_once, None, on_event).await?;
        let (mut gradients, exponent) =
            loss::gradients(commands, answer, &checkpoints.outputs).await?;
        let mut survey = Survey {
            network,
            answer,
            weights,
            settings: &method.settings,
            memory,
            checkpoints,
            score_unit: 4f64.powi(-exponent),
            float_loss: loss::mean(answer, &checkpoints.outputs, &checkpoints.outputs),
            total: 0.0,
            done: 0.0,
        };
        for (index, segment) in segments.iter().enumerate() {
            let sites = segment.sites().iter().filter(|site| wanted(site)).count();
            survey.total += sites as f64 * 2.0 * survey.work(index);
        }
        let mut landscapes = Vec::new();
        let first = segments
            .iter()
            .position(|segment| segment.sites().iter().any(wanted));
        for (index, segment) in segments
            .iter()
            .enumerate()
            .skip(first.unwrap_or(segments.len()))
            .rev()
        {
            let inputs = &checkpoints.inputs[index];
            let mut gradients_before = Vec::new();
            for pass in memory.passes(index, wanted) {
                on_event(Event::Progress(Progress {
                    phase: Phase::Backward,
                    site: &segment.sites()[0].name,
                    done: survey.done / survey.total,
                }))?;
                let products = FloatProducts::load(device, weights, segment.sites())?;
                let mut batches;
                (batches, gradients_before) = run(
                    commands,
                    segment,
                    &products,
                    &pass,
                    inputs,
                    Some(&gradients),
                )
                .await?;
                let mut scored = Vec::new();
                for site in &pass.sites {
                    let batches = take_batches(&mut batches, site);
                    let plan = method.plan.of(site).expect("a wanted site has a plan");
                    for side in [Side::B, Side::A] {
                        let landscape = survey
                            .scores(commands, &plan, side, &products, &batches)
                            .await?;
                        scored.push((plan.clone(), landscape));
                    }
                }
                // These are gone when the rest of the network comes.
                drop((products, batches));
                for (plan, mut landscape) in scored {
                    survey
                        .losses(commands, index, &plan, &mut landscape, on_event)
                        .await?;
                    landscapes.push(landscape);
                }
            }
            gradients = gradients_before;
        }
        landscapes.reverse();
        Ok(landscapes)
    }
}

impl Survey<'_> {
    /// Counts the multiply-adds of one image from a segment on, which tell how far the survey is.
    fn work(&self, segment: usize) -> f64 {
        let rest = self.network.segments()[segment..].iter();
        let sites = rest.flat_map(Segment::sites);
        sites
            .map(|site| site.product(1).multiply_adds() as f64)
            .sum()
    }

    /// Computes what the metrics say of all candidates for the scales of `side`; losses and KL are yet to come.
    async fn scores(
        &self,
        commands: &mut Commands,
        plan: &SitePlan,
        side: Side,
        float: &FloatProducts,
        batches: &[Batch],
    ) -> Result<Landscape> {
        let site = &plan.site;
        let linear = site.has_weight().then(|| float.linear(site));
        let candidates =
            candidates_of_groups(commands, plan, side, linear, batches, self.settings).await?;
        let mut points = Vec::new();
        for scales in candidates {
            let rounded = OneRounded {
                float,
                plan,
                side,
                scales: &scales,
            };
            let mut sums = [0.0; Metric::ALL.len()];
            for Batch { images, record } in batches {
                // Each image by itself, so that no sum depends on how the images are divided.
                let parts = plan.part_lines(*images);
                let lines = Lines {
                    group_rows: parts.rows / images,
                    row_groups: *images,
                    ..parts
                };
                let estimate =
                    rounded.multiply(commands, site, *images, &record.a, record.b.as_ref());
                let scores = Metric::ALL
                    .map(|metric| errors(commands, metric, &lines, 1, &estimate, record));
                for (sum, scores) in sums.iter_mut().zip(commands.read_all_async(&scores).await?) {
                    for image in 0..*images {
                        let of_image = scores[image..].iter().step_by(*images);
                        *sum += of_image.copied().map(f64::from).sum::<f64>();
                    }
                }
            }
            if let Some(score) = sums.iter().find(|score| !score.is_finite()) {
                let what = "the score of a candidate";
                return Err(not_finite(commands.device(), plan, what, score));
            }
            let unit = |metric: Metric| match metric.needs_gradient() {
                true => self.score_unit,
                false => 1.0,
            };
            let scores = Metric::ALL.into_iter().zip(sums);
            points.push(LandscapePoint {
                scales,
                loss: self.float_loss,
                kl: None,
                scores: scores
                    .map(|(metric, sum)| (metric, sum * unit(metric)))
                    .collect(),
            });
        }
        Ok(Landscape {
            site: site.name.clone(),
            side,
            float_loss: self.float_loss,
            candidates: points,
        })
    }

    /// Computes the network's loss and KL under all candidates of `landscape`, from the segment at `index` on, whose inputs no
    /// candidate changes.
    async fn losses(
        &mut self,
        commands: &mut Commands,
        index: usize,
        plan: &SitePlan,
        landscape: &mut Landscape,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let device = commands.device().clone();
        let segments = &self.network.segments()[index..];
        let load = |segments: &[Segment]| {
            let sites = segments.iter().flat_map(Segment::sites);
            FloatProducts::load(&device, self.weights, sites)
        };
        // All weights at once, where the budget has room for them; else a segment's, loaded anew for each candidate.
        let end = index + segments.len();
        let with_all = self.memory.images_with(index..end, plan);
        let all = with_all.map(|_| load(segments)).transpose()?;
        let with_each = || {
            let each = (index..end).map(|index| self.memory.images_with(index..index + 1, plan));
            each.min().flatten()
        };
        let at_once = with_all.or_else(with_each).unwrap_or(1);
        let work = self.work(index) / landscape.candidates.len() as f64;
        for point in &mut landscape.candidates {
            on_event(Event::Progress(Progress {
                phase: Phase::Landscape,
                site: &plan.site.name,
                done: self.done / self.total,
            }))?;
            let mut values: Option<Vec<f32>> = None;
            for segment in segments {
                let loaded;
                let float = match &all {
                    Some(float) => float,
                    None => {
                        loaded = load(std::slice::from_ref(segment))?;
                        &loaded
                    }
                };
                let mut products = OneRounded {
                    float,
                    plan,
                    side: landscape.side,
                    scales: &point.scales,
                };
                let inputs = values.as_ref().unwrap_or(&self.checkpoints.inputs[index]);
                let mut outputs = Vec::new();
                for chunk in inputs.chunks(at_once * segment.input_len()) {
                    let images = chunk.len() / segment.input_len();
                    let input = device.upload(chunk);
                    let output = segment.forward(commands, &mut products, images, &input);
                    append(&mut outputs, commands.read_async(&output).await?);
                }
                values = Some(outputs);
            }
            let answers = values.expect("there is a segment at least");
            let float = &self.checkpoints.outputs;
            point.loss = loss::mean(self.answer, float, &answers);
            point.kl = loss::mean_kl(self.answer, float, &answers);
            if !point.loss.is_finite() {
                let what = "the network's loss under a candidate for the scale";
                return Err(not_finite(&device, plan, what, point.loss));
            }
            self.done += work;
        }
        Ok(())
    }
}
