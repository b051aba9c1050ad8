//! Whole models against the same on the CPU: in floats, and in integers site by site.

use super::report::{
    Choice, Failure, Figure, FloatReport, IntegerReport, ModelReport, ScaleRecord, SiteChoice,
    SiteFigure,
};
use super::subject::{Subject, method};
use super::trace::{self, Trace};
use crate::device::{Commands, Device, Strategy};
use crate::error::Result;
use crate::families::sites;
use crate::file::weights::Weights;
use crate::graph::FloatProducts;
use crate::inference::{Model, build};
use crate::kernels::cross_entropy_backward;
use crate::model::config::Architecture;
use crate::model::recipe::Resolved;
use crate::quant::{Calibration, Scale, SiteScales};

/// Counts the images that go backwards, are searched on and are traced: enough to be a batch.
pub(super) const TRACED: usize = 2;
/// Bounds the relative difference of scales that are the same candidates: the maxima that they are fractions of are
/// rounded.
const SAME_SCALE: f32 = 1e-5;
/// Bounds the relative difference of two scores of which either choice is as good: a code that float rounding moves by
/// a step moves a score by so much, where candidates that are apart, by a tenth or more, differ by percents.
const SAME_SCORE: f64 = 1e-3;

/// Holds a model, and what the CPU makes of it.
pub(super) struct Reference {
    pub subject: Subject,
    float: Option<FloatResults>,
    integer: Option<IntegerResults>,
}

/// Holds the FP network's results.
struct FloatResults {
    logits: Vec<Vec<f32>>,
    /// ∂L/∂O of every site, by name.
    gradients: Vec<(String, Vec<f32>)>,
    choices: Vec<(String, Choice)>,
}

/// Holds the integer network's results.
struct IntegerResults {
    logits: Vec<Vec<f32>>,
    trace: Trace,
}

impl Reference {
    /// Computes everything on the CPU.
    ///
    /// # Errors
    /// Weights that are not finite, or activations of theirs.
    pub fn new(subject: Subject) -> Result<Self> {
        let cpu = Device::cpu();
        Ok(Self {
            float: cpu.wait(float_results(&cpu, &subject))?,
            integer: cpu.wait(integer_results(&cpu, &subject, None))?,
            subject,
        })
    }

    /// Computes everything on `device` and compares.
    pub async fn check(&self, device: &Device) -> ModelReport {
        let mut report = ModelReport {
            name: self.subject.name.clone(),
            float: None,
            integer: None,
            failure: None,
        };
        match self.check_float(device).await {
            Ok(float) => report.float = float,
            Err(error) => {
                report.failure = Some(Failure::of(error));
                return report;
            }
        }
        match self.check_integer(device).await {
            Ok(integer) => report.integer = integer,
            Err(error) => report.failure = Some(Failure::of(error)),
        }
        report
    }

    async fn check_float(&self, device: &Device) -> Result<Option<FloatReport>> {
        let (Some(expected), Some((_, resolved))) = (&self.float, &self.subject.float) else {
            return Ok(None);
        };
        let Some(found) = float_results(device, &self.subject).await? else {
            return Ok(None);
        };
        let logit_bound = logit_bound(resolved);
        let largest = expected
            .logits
            .iter()
            .flatten()
            .fold(0.0f32, |a, x| a.max(x.abs()));
        let gradients = found.gradients.iter().zip(&expected.gradients);
        let gradients = gradients.map(|((site, found), (_, expected))| SiteFigure {
            site: site.clone(),
            figure: Figure {
                error: distance(found, expected),
                // There and back, and a probability errs by what the logit errs by, not in proportion to it.
                bound: 2.0 * logit_bound * (1.0 + f64::from(largest)),
            },
        });
        let choices = found.choices.iter().zip(&expected.choices);
        let scales = choices.map(|((site, found), (_, expected))| SiteChoice {
            site: site.clone(),
            expected: (!found.is_like(expected)).then(|| expected.clone()),
            found: found.clone(),
        });
        Ok(Some(FloatReport {
            logits_error: logits_figure(&found.logits, &expected.logits, logit_bound),
            top1_flips: has_classes(&resolved.architecture)
                .then(|| top1_flips(&found.logits, &expected.logits)),
            gradients: gradients.collect(),
            scales: scales.collect(),
            logits: finite(found.logits),
        }))
    }

    async fn check_integer(&self, device: &Device) -> Result<Option<IntegerReport>> {
        let (Some(expected), Some(model)) = (&self.integer, &self.subject.quantized) else {
            return Ok(None);
        };
        let Some(found) = integer_results(device, &self.subject, Some(&expected.trace)).await?
        else {
            return Ok(None);
        };
        // No more than if a step of a code, beside the largest one, were added at every site, at random.
        let [_, activations] = model.method.plan.widths(&sites(&model.architecture));
        let q = f64::from(1u32 << (activations.map_or(8, |(least, _)| least) - 1));
        let bound = (model.sites.len() as f64).sqrt() / q;
        Ok(Some(IntegerReport {
            sites: trace::compare(model, &found.trace, &expected.trace),
            logits_error: logits_figure(&found.logits, &expected.logits, bound),
            top1_flips: has_classes(&model.architecture)
                .then(|| top1_flips(&found.logits, &expected.logits)),
            logits: finite(found.logits),
        }))
    }
}

/// Returns the bound of the logits' error: four times what a random walk of rounding errors over all sums of the
/// forward pass comes to, in proportion to the logits. Both sides err, and a network passes errors on without making
/// them much larger.
fn logit_bound(resolved: &Resolved) -> f64 {
    let sites = sites(&resolved.architecture);
    let steps: usize = sites.iter().map(|site| site.product(1).k).sum();
    4.0 * (steps as f64).sqrt() * f64::from(f32::EPSILON)
}

/// Computes ‖found - expected‖ / ‖expected‖; NaN where something isn't finite.
pub(super) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = found.iter().zip(expected);
    let difference = norm(&mut pairs.map(|(f, e)| f64::from(*f) - f64::from(*e)));
    match difference {
        // A gradient may be zero altogether.
        0.0 => 0.0,
        _ => difference / norm(&mut expected.iter().map(|&e| f64::from(e))),
    }
}

fn logits_figure(found: &[Vec<f32>], expected: &[Vec<f32>], bound: f64) -> Figure {
    let error = distance(&found.concat(), &expected.concat());
    Figure {
        // JSON has no NaN.
        error: if error.is_finite() { error } else { f64::MAX },
        bound,
    }
}

fn has_classes(architecture: &Architecture) -> bool {
    architecture.classes() > 0
}

/// Counts the images whose largest logit is another.
pub(super) fn top1_flips(found: &[Vec<f32>], expected: &[Vec<f32>]) -> usize {
    let top = |logits: &[f32]| {
        (0..logits.len()).fold(0, |top, at| if logits[at] > logits[top] { at } else { top })
    };
    let pairs = found.iter().zip(expected);
    pairs
        .filter(|(found, expected)| top(found) != top(expected))
        .count()
}

/// Returns the logits if all are finite, else none, because a report can't hold others.
fn finite(logits: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let all = logits.iter().flatten().all(|logit| logit.is_finite());
    if all { logits } else { Vec::new() }
}

impl Choice {
    fn new(scales: &SiteScales, score: f64) -> Self {
        let records = |scales: &[Scale]| {
            let records = scales
                .iter()
                .map(|&Scale { scale, shift }| ScaleRecord { scale, shift });
            records.collect()
        };
        Self {
            a: records(&scales.a),
            b: records(&scales.b),
            score,
        }
    }

    /// Says whether both choices are the same candidates.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = |one: &[ScaleRecord], other: &[ScaleRecord]| {
            let close = |one: f32, other: f32| (one / other - 1.0).abs() <= SAME_SCALE;
            let mut pairs = one.iter().zip(other);
            one.len() == other.len()
                && pairs
                    .all(|(one, other)| one.shift == other.shift && close(one.scale, other.scale))
        };
        same(&self.a, &other.a) && same(&self.b, &other.b)
    }

    /// Says whether both choices' scores are as good.
    pub(super) fn scores_like(&self, other: &Self) -> bool {
        (self.score - other.score).abs() <= SAME_SCORE * self.score.abs().max(other.score.abs())
    }
}

async fn float_results(device: &Device, subject: &Subject) -> Result<Option<FloatResults>> {
    let Some((weights, resolved)) = &subject.float else {
        return Ok(None);
    };
    let architecture = &resolved.architecture;
    let mut model = Model::float(device, weights, architecture, &resolved.preprocessing)?;
    let logits = model.logits_async(&subject.images).await?;
    let traced = &subject.images[..subject.images.len().min(TRACED)];
    let calibration = Calibration::builder(device, weights, architecture)
        .method(&method(architecture))
        .images(traced)
        .run_async()
        .await?;
    let choices = calibration.reports.iter().map(|report| {
        let scales = &calibration.sites[&report.site].scales;
        (report.site.clone(), Choice::new(scales, report.score))
    });
    Ok(Some(FloatResults {
        logits,
        gradients: gradients(device, weights, resolved, traced).await?,
        choices: choices.collect(),
    }))
}

/// Computes ∂L/∂O of every site, first to last.
async fn gradients(
    device: &Device,
    weights: &Weights,
    resolved: &Resolved,
    images: &[Vec<f32>],
) -> Result<Vec<(String, Vec<f32>)>> {
    let network = build(device, weights, &resolved.architecture)?;
    let mut products = FloatProducts::load(device, weights, network.sites())?;
    let count = images.len();
    let commands = &mut Commands::new(device);
    let mut values = device.upload(&images.concat());
    let mut inputs = Vec::new();
    for segment in network.segments() {
        let output = segment.forward(commands, &mut products, count, &values);
        inputs.push(std::mem::replace(&mut values, output));
    }
    // Features serve as logits here: any loss shows the same of a device.
    let mut grad = cross_entropy_backward(commands, count, network.answer_len(), &values);
    let mut gradients = Vec::new();
    for (segment, input) in network.segments().iter().zip(&inputs).rev() {
        let mut tape = segment.record(commands, &products, count, input);
        let before = tape.backward(commands, grad.clone());
        let records = tape.into_records();
        for site in segment.sites().iter().rev() {
            let of_site = records[&site.name].grad.as_ref();
            let of_site = of_site.expect("the backward pass goes through every site");
            gradients.push((site.name.clone(), commands.read_async(of_site).await?));
        }
        if let Some(before) = before {
            grad = before;
        }
    }
    gradients.reverse();
    Ok(gradients)
}

async fn integer_results(
    device: &Device,
    subject: &Subject,
    given: Option<&Trace>,
) -> Result<Option<IntegerResults>> {
    let Some(model) = &subject.quantized else {
        return Ok(None);
    };
    let traced = &subject.images[..subject.images.len().min(TRACED)];
    let mut network = Model::quantized(device, model)?;
    Ok(Some(IntegerResults {
        logits: network.logits_async(&subject.images).await?,
        trace: trace::record(device, model, traced, given).await?,
    }))
}

/// Words how products divide their work on `device`.
pub(super) fn strategy_names(device: &Device) -> std::collections::BTreeMap<String, String> {
    let strategies = crate::kernels::STRATEGY_NAMES.into_iter();
    strategies
        .filter_map(|name| {
            let strategy: Strategy = crate::kernels::strategy_of(device, name)?;
            Some((name.to_owned(), strategy.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(scale: f32, score: f64) -> Choice {
        let record = |scale| vec![ScaleRecord { scale, shift: 0 }];
        Choice {
            a: record(scale),
            b: record(1.0),
            score,
        }
    }

    #[test]
    fn choices_are_alike_up_to_rounding() {
        let one = choice(0.5, 2.0);
        assert!(one.is_like(&choice(0.500_001, 2.0)));
        assert!(!one.is_like(&choice(0.5001, 2.0)));
        assert!(one.scores_like(&choice(0.1, 2.001)));
        assert!(!one.scores_like(&choice(0.1, 2.01)));
        assert!(!one.scores_like(&choice(0.1, f64::NAN)));
    }

    #[test]
    fn a_logit_that_is_not_finite_keeps_to_no_bound() {
        let expected = [vec![1.0, 2.0]];
        assert_eq!(logits_figure(&expected, &expected, 0.0).error, 0.0);
        assert!(!logits_figure(&[vec![f32::NAN, 2.0]], &expected, 1.0).holds());
        assert!(finite(vec![vec![f32::INFINITY]]).is_empty());
        assert_eq!(
            top1_flips(
                &[vec![3.0, 2.0], vec![0.0, 1.0]],
                &[vec![1.0, 2.0], vec![0.0, 1.0]]
            ),
            1
        );
    }
}
