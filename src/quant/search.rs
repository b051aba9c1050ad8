//! Algorithm 1 at one site: the scales of A and B that minimise the error of O.
//!
//! A candidate's score is a sum of non-negative terms over the images. So a candidate whose partial sum has passed a
//! complete score can't win, and is not evaluated on the images that are left; the choice is that of the exhaustive
//! search. Images come in chunks, those with the largest gradients first, where candidates differ most.

use super::candidates::{Scale, candidates, covering};
use super::plan::{Codes, Side, SitePlan, SiteScales};
use super::settings::{Metric, Settings};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::kernels::{row_error, row_maximum, weighted_error};
use crate::model::{LinearWeights, Record};
use std::ops::AddAssign;

/// Bytes of candidates' outputs, or codes if those are larger, that are computed in one go: enough work for a large GPU,
/// little beside a site's own tensors, and within every adapter's binding limit.
const JOB_BYTES: usize = 32 << 20;

/// What went through a site for the images of one chunk.
pub struct Chunk {
    /// The number of images.
    pub images: usize,
    /// A, B, O and its gradient.
    pub record: Record,
}

/// The chosen scales of a site, and what they cost.
#[derive(Clone, Debug)]
pub struct Found {
    /// The chosen scales.
    pub scales: SiteScales,
    /// Their score, summed over the groups.
    pub score: f64,
    /// Rounds in which something was searched.
    pub rounds: usize,
    /// What was computed.
    pub work: Work,
}

/// Work of a search, in multiply-adds of integer products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Work {
    /// Computed.
    pub done: u64,
    /// What evaluating every candidate on every image in every round would have computed.
    pub exhaustive: u64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.exhaustive += other.exhaustive;
    }
}

/// The search at one site.
pub struct SiteSearch<'a> {
    /// Where it runs.
    pub device: &'a Device,
    /// The site's formats and widths.
    pub plan: &'a SitePlan,
    /// Metric, candidates and rounds.
    pub settings: &'a Settings,
    /// The weight and bias, if B is a weight.
    pub linear: Option<&'a LinearWeights>,
    /// The images.
    pub chunks: &'a [Chunk],
}

/// A candidate of one group while a search is under way.
#[derive(Clone, Copy, Default)]
struct Trial {
    /// The sum over the chunks evaluated so far.
    sum: f64,
    /// How many those are; always the first ones, in order.
    chunks: usize,
}

/// The candidates of one side, and what is known of each.
struct Contest {
    side: Side,
    /// `[candidate][group]`.
    scales: Vec<Vec<Scale>>,
    /// `[group][candidate]`.
    trials: Vec<Vec<Trial>>,
}

/// A complete score, and the sums on the way to it.
struct Leader {
    total: f64,
    /// The sum after each chunk.
    sums: Vec<f64>,
}

impl Contest {
    fn groups(&self) -> usize {
        self.trials.len()
    }

    /// The candidate of `group` with the least sum among those that `admit` admits; the smaller index of equals.
    fn best(&self, group: usize, admit: impl Fn(&Trial) -> bool) -> Option<usize> {
        self.trials[group]
            .iter()
            .enumerate()
            .filter(|(_, trial)| admit(trial))
            .min_by(|(_, left), (_, right)| left.sum.total_cmp(&right.sum))
            .map(|(candidate, _)| candidate)
    }
}

impl SiteSearch<'_> {
    /// Searches in turn A's scales with B's fixed and B's with A's fixed, starting from the B that clips nothing, for as
    /// many rounds as the settings say or until a round could change nothing.
    ///
    /// # Errors
    /// Those of the device; and an activation, gradient or score that is not a number.
    pub fn run(&self) -> Result<Found> {
        let maxima_a = self.maxima(Side::A)?;
        let maxima_b = self.maxima(Side::B)?;
        let bits = self.plan.bits(Side::B);
        let mut scales = SiteScales {
            a: vec![Scale::uniform(f32::NAN); self.plan.groups(Side::A)],
            b: maxima_b.iter().map(|&max| covering(max, bits)).collect(),
        };
        let mut found = Found {
            scales: scales.clone(),
            score: f64::NAN,
            rounds: 0,
            work: Work::default(),
        };
        for round in 0..self.settings.rounds {
            for (side, maxima) in [(Side::A, &maxima_a), (Side::B, &maxima_b)] {
                found.work.exhaustive +=
                    self.candidate_count(side) as u64 * self.products(self.chunks);
                // Nothing that this search depends on has changed since it last ran.
                let settled = round > 0
                    && match side {
                        Side::A => scales.b == found.scales.b,
                        Side::B => scales.a == found.scales.a,
                    };
                if settled {
                    continue;
                }
                let fixed = scales.clone();
                let (best, score) = self.search(side, maxima, &fixed, &mut found.work)?;
                // `found` holds what the other side's last search was made with.
                match side {
                    Side::A => {
                        found.scales.b.clone_from(&scales.b);
                        scales.a = best;
                    }
                    Side::B => {
                        found.scales.a.clone_from(&scales.a);
                        scales.b = best;
                    }
                }
                found.score = score;
                found.rounds = round + 1;
            }
        }
        found.scales = scales;
        Ok(found)
    }

    fn candidate_count(&self, side: Side) -> usize {
        candidates(
            self.plan.format(side),
            self.plan.bits(side),
            1.0,
            self.settings,
        )
        .len()
    }

    /// Multiply-adds of one candidate on some chunks.
    fn products(&self, chunks: &[Chunk]) -> u64 {
        chunks
            .iter()
            .map(|chunk| self.plan.site.product(chunk.images).multiply_adds())
            .sum()
    }

    fn source<'c>(&'c self, side: Side, chunk: &'c Chunk) -> &'c Buffer<f32> {
        match (side, &chunk.record.b, self.linear) {
            (Side::A, _, _) => &chunk.record.a,
            (Side::B, Some(b), _) => b,
            (Side::B, None, Some(linear)) => &linear.weight,
            (Side::B, None, None) => unreachable!("a site without an activation B has a weight"),
        }
    }

    /// The chunks whose B differs: one stands for all where B is a weight.
    fn sources(&self, side: Side) -> &[Chunk] {
        if side == Side::B && self.linear.is_some() {
            &self.chunks[..1]
        } else {
            self.chunks
        }
    }

    /// The largest value or magnitude of each group of one operand.
    fn maxima(&self, side: Side) -> Result<Vec<f32>> {
        let mut maxima = vec![f32::NEG_INFINITY; self.plan.groups(side)];
        for chunk in self.sources(side) {
            let quantizer = self.plan.quantizer(side, chunk.images, 1);
            let source = self.source(side, chunk);
            let rows = row_maximum(self.device, &self.plan.maximum(side, chunk.images), source);
            for (index, max) in self.device.read(&rows)?.into_iter().enumerate() {
                let inner = index / quantizer.rows % quantizer.batch[1];
                let group =
                    inner * quantizer.inner_groups + index % quantizer.rows / quantizer.group_rows;
                if !max.is_finite() {
                    return Err(self.not_finite("the largest value of an operand", max.into()));
                }
                maxima[group] = maxima[group].max(max);
            }
        }
        Ok(maxima)
    }

    fn not_finite(&self, what: &str, value: f64) -> Error {
        Error::device(
            self.device.name(),
            format!("{what} of {} is {value}", self.plan.site.name),
        )
    }

    /// The best candidate of each group of `side`, with the other operand's scales fixed, and the sum of their scores.
    fn search(
        &self,
        side: Side,
        maxima: &[f32],
        fixed: &SiteScales,
        work: &mut Work,
    ) -> Result<(Vec<Scale>, f64)> {
        let by_group: Vec<Vec<Scale>> = maxima
            .iter()
            .map(|&max| {
                candidates(
                    self.plan.format(side),
                    self.plan.bits(side),
                    max,
                    self.settings,
                )
            })
            .collect();
        let count = by_group[0].len();
        let mut contest = Contest {
            side,
            scales: (0..count)
                .map(|candidate| by_group.iter().map(|scales| scales[candidate]).collect())
                .collect(),
            trials: vec![vec![Trial::default(); count]; maxima.len()],
        };
        let fixed_codes = self.fixed_codes(side, fixed);
        let mut evaluate = |contest: &mut Contest, chunk: usize, entrants: &[Vec<usize>]| {
            let jobs = entrants.iter().map(Vec::len).max().unwrap_or(0);
            work.done += jobs as u64 * self.products(&self.chunks[chunk..=chunk]);
            let codes = &fixed_codes[chunk.min(fixed_codes.len() - 1)];
            self.evaluate(contest, chunk, entrants, fixed, codes)
        };

        let everyone: Vec<Vec<usize>> = vec![(0..count).collect(); contest.groups()];
        if self.settings.exhaustive {
            for chunk in 0..self.chunks.len() {
                evaluate(&mut contest, chunk, &everyone)?;
            }
        } else {
            evaluate(&mut contest, 0, &everyone)?;
            let mut leaders: Vec<Option<Leader>> = contest.trials.iter().map(|_| None).collect();
            for chunk in 1..self.chunks.len() {
                // A candidate that is ahead of the leader as far as both have come may end below it: finishing it first
                // lowers the bar for all others.
                let challengers: Vec<Option<usize>> = leaders
                    .iter()
                    .enumerate()
                    .map(|(group, leader)| {
                        let at_front = contest.best(group, |trial| trial.chunks == chunk)?;
                        let sum = contest.trials[group][at_front].sum;
                        leader
                            .as_ref()
                            .is_none_or(|leader| sum < leader.sums[chunk - 1])
                            .then_some(at_front)
                    })
                    .collect();
                self.finish(
                    &mut contest,
                    chunk,
                    &challengers,
                    &mut leaders,
                    &mut evaluate,
                )?;
                let entrants: Vec<Vec<usize>> = leaders
                    .iter()
                    .zip(&contest.trials)
                    .map(|(leader, trials)| {
                        let bar = leader.as_ref().map_or(f64::INFINITY, |leader| leader.total);
                        (0..count)
                            .filter(|&candidate| {
                                let trial = trials[candidate];
                                trial.chunks == chunk && trial.sum <= bar
                            })
                            .collect()
                    })
                    .collect();
                evaluate(&mut contest, chunk, &entrants)?;
            }
        }

        let mut best = Vec::new();
        let mut total = 0.0;
        for group in 0..contest.groups() {
            let complete = |trial: &Trial| trial.chunks == self.chunks.len();
            let winner = contest
                .best(group, complete)
                .expect("a leader is always complete");
            total += contest.trials[group][winner].sum;
            best.push(contest.scales[winner][group]);
        }
        Ok((best, total))
    }

    /// Evaluates one challenger per group on all chunks from `chunk` on; those that end below the leader take its place.
    fn finish(
        &self,
        contest: &mut Contest,
        chunk: usize,
        challengers: &[Option<usize>],
        leaders: &mut [Option<Leader>],
        evaluate: &mut impl FnMut(&mut Contest, usize, &[Vec<usize>]) -> Result<()>,
    ) -> Result<()> {
        if challengers.iter().all(Option::is_none) {
            return Ok(());
        }
        let entrants: Vec<Vec<usize>> = challengers
            .iter()
            .map(|challenger| challenger.iter().copied().collect())
            .collect();
        let sum = |contest: &Contest, group: usize| {
            challengers[group].map_or(f64::INFINITY, |c| contest.trials[group][c].sum)
        };
        // Sums before `chunk` are not needed any more: challenges only look at later ones.
        let mut sums: Vec<Vec<f64>> = (0..contest.groups())
            .map(|group| vec![sum(contest, group); chunk])
            .collect();
        for later in chunk..self.chunks.len() {
            evaluate(contest, later, &entrants)?;
            for (group, sums) in sums.iter_mut().enumerate() {
                sums.push(sum(contest, group));
            }
        }
        for (group, (leader, sums)) in leaders.iter_mut().zip(sums).enumerate() {
            let total = sum(contest, group);
            let leads = leader.as_ref().is_none_or(|leader| total < leader.total);
            if challengers[group].is_some() && leads {
                *leader = Some(Leader { total, sums });
            }
        }
        Ok(())
    }

    /// Codes of the operand that isn't searched, for each chunk, or once where B is a weight.
    fn fixed_codes(&self, searched: Side, fixed: &SiteScales) -> Vec<Codes> {
        let (side, scales) = match searched {
            Side::A => (Side::B, &fixed.b),
            Side::B => (Side::A, &fixed.a),
        };
        self.sources(side)
            .iter()
            .map(|chunk| {
                let jobs = std::slice::from_ref(scales);
                let source = self.source(side, chunk);
                self.plan
                    .codes(self.device, side, chunk.images, source, jobs)
            })
            .collect()
    }

    /// Adds the scores on one chunk of `entrants`, `[group][…]` candidates, to their trials.
    fn evaluate(
        &self,
        contest: &mut Contest,
        chunk: usize,
        entrants: &[Vec<usize>],
        fixed: &SiteScales,
        fixed_codes: &Codes,
    ) -> Result<()> {
        let jobs = entrants.iter().map(Vec::len).max().unwrap_or(0);
        let jobs_at_once = self.jobs_at_once(contest.side, chunk);
        for first in (0..jobs).step_by(jobs_at_once) {
            let last = (first + jobs_at_once).min(jobs);
            // Groups are evaluated side by side, each with its own candidate; one that has fewer repeats its last (or
            // any, if it has none), whose score is then not looked at.
            let scales: Vec<SiteScales> = (first..last)
                .map(|job| {
                    let searched = (0..contest.groups())
                        .map(|group| {
                            let list = &entrants[group];
                            let candidate = list.get(job).or(list.last()).copied().unwrap_or(0);
                            contest.scales[candidate][group]
                        })
                        .collect();
                    match contest.side {
                        Side::A => SiteScales {
                            a: searched,
                            b: fixed.b.clone(),
                        },
                        Side::B => SiteScales {
                            a: fixed.a.clone(),
                            b: searched,
                        },
                    }
                })
                .collect();
            let scores = self.scores(contest.side, chunk, &scales, fixed_codes);
            let scores = self.device.read(&scores)?;
            let groups = self.plan.site.groups();
            for (job, scores) in (first..last).zip(scores.chunks_exact(groups)) {
                for (group, list) in entrants.iter().enumerate() {
                    let Some(&candidate) = list.get(job) else {
                        continue;
                    };
                    let score = if contest.groups() == groups {
                        f64::from(scores[group])
                    } else {
                        scores.iter().map(|&score| f64::from(score)).sum()
                    };
                    if !score.is_finite() {
                        return Err(self.not_finite("the score of a candidate", score));
                    }
                    let trial = &mut contest.trials[group][candidate];
                    trial.sum += score;
                    trial.chunks += 1;
                }
            }
        }
        Ok(())
    }

    /// Candidates of `searched` that are computed in one go on one chunk.
    pub fn jobs_at_once(&self, searched: Side, chunk: usize) -> usize {
        let images = self.chunks[chunk].images;
        let output_bytes = images * self.plan.site.out_len() * size_of::<f32>();
        let code_bytes = self.plan.quantizer(searched, images, 1).len() * size_of::<u32>();
        (JOB_BYTES / output_bytes.max(code_bytes)).max(1)
    }

    /// `[job][group]`: the error of each job's Ô on one chunk, where `scales` are the jobs' and `fixed_codes` those of
    /// the operand that isn't searched.
    pub fn scores(
        &self,
        searched: Side,
        chunk: usize,
        scales: &[SiteScales],
        fixed_codes: &Codes,
    ) -> Buffer<f32> {
        let Chunk { images, record } = &self.chunks[chunk];
        let candidates: Vec<Vec<Scale>> = scales
            .iter()
            .map(|scales| match searched {
                Side::A => scales.a.clone(),
                Side::B => scales.b.clone(),
            })
            .collect();
        let source = self.source(searched, &self.chunks[chunk]);
        let codes = self
            .plan
            .codes(self.device, searched, *images, source, &candidates);
        let (a, b) = match searched {
            Side::A => (&codes, fixed_codes),
            Side::B => (fixed_codes, &codes),
        };
        let bias = self.linear.and_then(|linear| linear.bias.as_ref());
        let (device, plan, images) = (self.device, self.plan, *images);
        let quadratic = matches!(self.settings.metric, Metric::Hessian | Metric::Mse);
        let weight = (self.settings.metric == Metric::Hessian).then(|| {
            let grad = record.grad.as_ref();
            grad.expect("the backward pass has been at this site")
        });
        if quadratic {
            let reference = &record.out;
            let errors =
                plan.integer_product_error(device, images, a, b, scales, bias, reference, weight);
            if let Some(errors) = errors {
                return errors;
            }
        }
        let outputs = plan.integer_product(device, images, a, b, scales, bias);
        let (lines, jobs) = (plan.site.lines(images), scales.len());
        if quadratic {
            weighted_error(device, &lines, jobs, &outputs, &record.out, weight)
        } else {
            let centered = self.settings.metric == Metric::Pearson;
            row_error(device, &lines, jobs, centered, &outputs, &record.out)
        }
    }
}
