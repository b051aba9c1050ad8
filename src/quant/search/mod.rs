//! Algorithm 1 at one site: the scales of A and B that minimise the error of O.
//!
//! A candidate's score is a sum of non-negative terms. So a candidate whose partial sum has passed a complete score can't
//! win, and what is left of it is not evaluated; the choice is that of the exhaustive search. The terms come in chunks,
//! those that tell candidates apart first (`pieces.rs`).
//!
//! A contest finds one scale. A scale of B belongs to one part of the site (a third of qkv, a head), so the parts'
//! contests are independent; A's scale is one for all parts, or one for each. What is independent is searched side by
//! side, so that a step of all of them waits for the device once.

mod candidates;
mod curve;
pub(super) mod pieces;
mod problem;
mod scan;

pub use candidates::{GELU_MINIMUM, MAX_SHIFT, Scale};
pub use curve::{CandidateScore, ScoreCurve};
pub use pieces::Batch;
pub use scan::Scan;

use super::plan::{Codes, Side, SitePlan, SiteScales};
use super::settings::Settings;
use crate::device::{Buffer, Commands, Device};
use crate::error::{Error, Result};
use crate::kernels::row_maximum;
use crate::model::LinearWeights;
use candidates::{candidates, covering};
use pieces::{Chunk, Cutter, FIRST_SHARE, GROWTH, Part};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::{AddAssign, Range};

/// Bytes of candidates' outputs and codes that are appended before the device is waited for, where memory isn't scarce:
/// until then it holds them all.
pub(super) const STEP_BYTES: usize = 64 << 20;

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
    /// What the candidates reached when each scale was last searched: A's scales, then B's.
    pub curves: Vec<ScoreCurve>,
    /// The largest of A's values, or of their magnitudes where A's format is signed.
    pub largest_a: f32,
}

/// Work of a search, in multiply-adds of integer products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    plan: &'a SitePlan,
    settings: &'a Settings,
    /// Bytes of candidates that may be appended before the device is waited for.
    step_bytes: usize,
    parts: Vec<Part>,
    /// The largest values of A's and of B's groups.
    maxima: [Vec<f32>; 2],
    /// What putting the pieces in order took, and what the exhaustive search would take.
    work: Work,
}

/// A chunk of a part.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    part: usize,
    chunk: usize,
}

/// What a contest answers: which scale of `side`'s `group` is best.
#[derive(Clone, PartialEq)]
struct Question {
    side: Side,
    group: usize,
    /// The parts of the site that have this scale.
    parts: Range<usize>,
    /// The other operand's scale of each of these parts.
    fixed: Vec<Scale>,
}

/// The answer, and its score.
#[derive(Clone, Copy)]
struct Answer {
    scale: Scale,
    score: f64,
}

/// The candidates for one scale, and what is known of them.
struct Contest {
    question: Question,
    candidates: Vec<Scale>,
    /// What a score is summed over, in order.
    steps: Vec<Vec<Place>>,
    /// Per candidate, its sum after each of the steps that it has been through.
    sums: Vec<Vec<f64>>,
    /// The best of those that have been through all steps.
    leader: Option<usize>,
    /// Steps that every candidate has been through, unless it is out.
    front: usize,
    /// Whether the best candidate at the front has been compared with the leader.
    challenged: bool,
}

/// What a contest needs to know next.
struct Request {
    steps: Range<usize>,
    candidates: Vec<usize>,
    /// Whether this takes one candidate to the end, ahead of the others.
    ahead: bool,
}

/// Candidates to evaluate on one chunk, for one step of a contest's request.
struct Task {
    request: usize,
    step: usize,
    place: Place,
    candidates: Range<usize>,
}

impl Contest {
    fn sum(&self, candidate: usize) -> f64 {
        self.sums[candidate].last().copied().unwrap_or(0.0)
    }

    /// The candidate with the least sum among those that have been through as many steps; the smaller index of equals.
    fn best_after(&self, steps: usize) -> Option<usize> {
        (0..self.candidates.len())
            .filter(|&candidate| self.sums[candidate].len() == steps)
            .min_by(|&left, &right| self.sum(left).total_cmp(&self.sum(right)))
    }

    /// What to evaluate next; `None` at the end.
    fn request(&mut self, exhaustive: bool) -> Option<Request> {
        let steps = self.steps.len();
        if self.front == steps {
            return None;
        }
        if exhaustive {
            return Some(Request {
                steps: 0..steps,
                candidates: (0..self.candidates.len()).collect(),
                ahead: false,
            });
        }
        // A candidate that is ahead of the leader as far as both have come may end below it: finishing it first lowers
        // the bar for all others.
        if self.front > 0 && !std::mem::replace(&mut self.challenged, true) {
            let challenger = self.best_after(self.front)?;
            let sum = self.sum(challenger);
            let ahead = |leader: usize| sum < self.sums[leader][self.front - 1];
            if self.leader.is_none_or(ahead) {
                return Some(Request {
                    steps: self.front..steps,
                    candidates: vec![challenger],
                    ahead: true,
                });
            }
        }
        let bar = self.leader.map_or(f64::INFINITY, |leader| self.sum(leader));
        let entrants: Vec<usize> = (0..self.candidates.len())
            .filter(|&candidate| {
                self.sums[candidate].len() == self.front && self.sum(candidate) <= bar
            })
            .collect();
        (!entrants.is_empty()).then_some(Request {
            steps: self.front..self.front + 1,
            candidates: entrants,
            ahead: false,
        })
    }

    /// Takes what was requested: `scores` are per step and candidate.
    fn accept(&mut self, request: &Request, scores: &[Vec<f64>]) {
        for scores in scores {
            for (&candidate, score) in request.candidates.iter().zip(scores) {
                let sum = self.sum(candidate) + score;
                self.sums[candidate].push(sum);
            }
        }
        if !request.ahead {
            self.front = request.steps.end;
            self.challenged = false;
        }
        self.leader = self.best_after(self.steps.len());
    }

    /// Without any steps all candidates are equal.
    fn winner(&self) -> usize {
        self.leader.unwrap_or(0)
    }

    fn answer(&self) -> Answer {
        let winner = self.winner();
        Answer {
            scale: self.candidates[winner],
            score: self.sum(winner),
        }
    }

    /// What all candidates reached.
    fn curve(&self) -> ScoreCurve {
        let winner = self.winner();
        let winners = &self.sums[winner];
        let complete = |candidate: usize| self.sums[candidate].len() == self.steps.len();
        let reached = |candidate: usize| match winners.last() {
            _ if complete(candidate) => 1.0,
            Some(&total) if total > 0.0 => winners[self.sums[candidate].len() - 1] / total,
            _ => 0.0,
        };
        let candidates = self.candidates.iter().enumerate();
        ScoreCurve {
            side: self.question.side,
            group: self.question.group,
            chosen: winner,
            candidates: candidates
                .map(|(candidate, &scale)| CandidateScore {
                    scale,
                    sum: self.sum(candidate),
                    reached: reached(candidate),
                    complete: complete(candidate),
                })
                .collect(),
        }
    }
}

impl<'a> SiteSearch<'a> {
    /// Prepares the search for the scales of the site of `plan`. `linear` has the weight and bias, if B is a weight;
    /// `batches` are what went through the site. Candidates take `step_bytes` on the device at once, or what one of them
    /// takes.
    ///
    /// # Errors
    /// Those of the device; and an activation that is not a number.
    pub fn new(
        commands: &mut Commands,
        plan: &'a SitePlan,
        settings: &'a Settings,
        linear: Option<&'a LinearWeights>,
        batches: &[Batch],
        step_bytes: usize,
    ) -> Result<Self> {
        let maxima = [
            maxima(commands, plan, Side::A, linear, batches)?,
            maxima(commands, plan, Side::B, linear, batches)?,
        ];
        let cutter = Cutter {
            plan,
            settings,
            linear,
            maxima: &maxima,
        };
        let (parts, done) = cutter.cut(commands, batches)?;
        let images = batches.iter().map(|batch| batch.images).sum();
        let count = |side| candidates(plan.operand(side), 1.0, settings).len();
        let evaluations = settings.rounds * (count(Side::A) + count(Side::B));
        let work = Work {
            done,
            exhaustive: evaluations as u64 * plan.site.product(images).multiply_adds(),
        };
        Ok(Self {
            plan,
            settings,
            step_bytes,
            parts,
            maxima,
            work,
        })
    }

    /// Searches in turn A's scales with B's fixed and B's with A's fixed, starting from the B that clips nothing, for as
    /// many rounds as the settings say or until a round could change nothing.
    ///
    /// # Errors
    /// Those of the device; and a gradient or score that is not a number.
    pub fn run(&self, commands: &mut Commands) -> Result<Found> {
        let bits = self.plan.b.bits;
        let [maxima_a, maxima_b] = &self.maxima;
        let mut found = Found {
            scales: SiteScales {
                a: vec![Scale::uniform(f32::NAN); maxima_a.len()],
                b: maxima_b.iter().map(|&max| covering(max, bits)).collect(),
            },
            score: f64::NAN,
            rounds: 0,
            work: self.work,
            curves: Vec::new(),
            largest_a: maxima_a.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        };
        let mut known: Vec<(Question, Answer, ScoreCurve)> = Vec::new();
        for round in 1..=self.settings.rounds {
            for side in [Side::A, Side::B] {
                let questions = self.questions(side, &found.scales);
                // A half-round whose fixed scales have not changed since one before asks nothing new.
                let is_new = |question: &&Question| known.iter().all(|(old, ..)| old != *question);
                let mut contests: Vec<Contest> = questions
                    .iter()
                    .filter(is_new)
                    .map(|question| self.contest(question))
                    .collect();
                if !contests.is_empty() {
                    self.play(commands, &mut contests, &mut found.work)?;
                    found.rounds = round;
                }
                known.extend(contests.into_iter().map(|contest| {
                    let (answer, curve) = (contest.answer(), contest.curve());
                    (contest.question, answer, curve)
                }));
                found.score = 0.0;
                found.curves.retain(|curve| curve.side != side);
                for question in &questions {
                    let (_, answer, curve) = known
                        .iter()
                        .find(|(old, ..)| old == question)
                        .expect("every question has been answered");
                    let scales = match side {
                        Side::A => &mut found.scales.a,
                        Side::B => &mut found.scales.b,
                    };
                    scales[question.group] = answer.scale;
                    found.score += answer.score;
                    found.curves.push(curve.clone());
                }
            }
        }
        Ok(found)
    }

    /// What is to be found out about the scales of `side`, the other operand's being as in `scales`.
    fn questions(&self, side: Side, scales: &SiteScales) -> Vec<Question> {
        let (groups, fixed) = match side {
            Side::A => (scales.a.len(), &scales.b),
            Side::B => (scales.b.len(), &scales.a),
        };
        let parts = self.parts.len();
        let questions = (0..groups).map(|group| {
            let parts = group * parts / groups..(group + 1) * parts / groups;
            Question {
                side,
                group,
                // A's one scale serves every part.
                fixed: parts
                    .clone()
                    .map(|part| fixed[part % fixed.len()])
                    .collect(),
                parts,
            }
        });
        questions.collect()
    }

    fn contest(&self, question: &Question) -> Contest {
        let (plan, side) = (self.plan, question.side);
        let max = match side {
            Side::A => self.maxima[0][question.group],
            Side::B => self.maxima[1][question.group],
        };
        let candidates = candidates(plan.operand(side), max, self.settings);
        Contest {
            question: question.clone(),
            steps: self.steps(question.parts.clone()),
            sums: vec![Vec::new(); candidates.len()],
            candidates,
            leader: None,
            front: 0,
            challenged: false,
        }
    }

    /// The chunks of some parts, those that contribute most for their work first.
    fn steps(&self, parts: Range<usize>) -> Vec<Vec<Place>> {
        let mut places: Vec<Place> = parts
            .flat_map(|part| {
                let chunks = 0..self.parts[part].chunks.len();
                chunks.map(move |chunk| Place { part, chunk })
            })
            .collect();
        let density = |place: &Place| self.parts[place.part].chunks[place.chunk].density;
        places.sort_by(|left, right| density(right).total_cmp(&density(left)));
        let work = |place: &Place| self.chunk(*place).product.multiply_adds() as f64;
        let mut enough = places.iter().map(work).sum::<f64>() * FIRST_SHARE;
        let mut steps = Vec::new();
        let (mut step, mut done) = (Vec::new(), 0.0);
        for place in places {
            done += work(&place);
            step.push(place);
            if done >= enough {
                steps.push(std::mem::take(&mut step));
                enough = done * GROWTH;
            }
        }
        steps.extend((!step.is_empty()).then_some(step));
        steps
    }

    /// Takes every contest to its end, all step by step together. They are of one side.
    fn play(
        &self,
        commands: &mut Commands,
        contests: &mut [Contest],
        work: &mut Work,
    ) -> Result<()> {
        let mut fixed_codes: HashMap<Place, Codes> = HashMap::new();
        loop {
            let mut requests: Vec<(&mut Contest, Request)> = contests
                .iter_mut()
                .filter_map(|contest| {
                    let request = contest.request(self.settings.exhaustive)?;
                    Some((contest, request))
                })
                .collect();
            if requests.is_empty() {
                return Ok(());
            }
            let mut tasks = Vec::new();
            for (index, (contest, request)) in requests.iter().enumerate() {
                let (question, count) = (&contest.question, request.candidates.len());
                for step in request.steps.clone() {
                    for &place in &contest.steps[step] {
                        let scan = self.scan(place);
                        let allowed = self.step_bytes / scan.job_bytes(question.side);
                        let at_once = scan.jobs_at_once(question.side).min(allowed).max(1);
                        tasks.extend((0..count).step_by(at_once).map(|first| Task {
                            request: index,
                            step: step - request.steps.start,
                            place,
                            candidates: first..(first + at_once).min(count),
                        }));
                        work.done += count as u64 * self.chunk(place).product.multiply_adds();
                        fixed_codes
                            .entry(self.fixed_place(question.side, place))
                            .or_insert_with(|| self.fixed_codes(commands, question, place));
                    }
                }
            }
            let evaluate = |commands: &mut Commands, task: &Task| {
                let (contest, request) = &requests[task.request];
                let fixed = &fixed_codes[&self.fixed_place(contest.question.side, task.place)];
                let candidates = &request.candidates[task.candidates.clone()];
                self.evaluate(commands, contest, task.place, candidates, fixed)
            };
            let mut scores: Vec<Vec<Vec<f64>>> = requests
                .iter()
                .map(|(_, request)| vec![vec![0.0; request.candidates.len()]; request.steps.len()])
                .collect();
            for tasks in self.submissions(&tasks, &requests) {
                let found: Vec<Buffer<f32>> = match commands.device().clone() {
                    // What one of them leaves idle of the cores, another can use.
                    cpu @ Device::Cpu(_) => tasks
                        .par_iter()
                        .map(|task| evaluate(&mut Commands::new(&cpu), task))
                        .collect(),
                    Device::Gpu(_) => {
                        let found = tasks.iter().map(|task| evaluate(commands, task));
                        found.collect()
                    }
                };
                for (task, found) in tasks.iter().zip(commands.read_all(&found)?) {
                    let sums = &mut scores[task.request][task.step][task.candidates.clone()];
                    for (sum, score) in sums.iter_mut().zip(found) {
                        if !score.is_finite() {
                            let what = "the score of a candidate";
                            return Err(not_finite(commands.device(), self.plan, what, score));
                        }
                        *sum += f64::from(score);
                    }
                }
            }
            for ((contest, request), scores) in requests.iter_mut().zip(&scores) {
                contest.accept(request, scores);
            }
        }
    }

    /// `tasks` in such portions as the device may hold at once.
    fn submissions<'t>(
        &self,
        mut tasks: &'t [Task],
        requests: &[(&mut Contest, Request)],
    ) -> Vec<&'t [Task]> {
        let mut submissions = Vec::new();
        while !tasks.is_empty() {
            let mut bytes = 0;
            let fitting = tasks.iter().take_while(|task| {
                let side = requests[task.request].0.question.side;
                bytes += task.candidates.len() * self.scan(task.place).job_bytes(side);
                bytes <= self.step_bytes
            });
            let (portion, rest) = tasks.split_at(fitting.count().max(1));
            submissions.push(portion);
            tasks = rest;
        }
        submissions
    }

    fn scan(&self, place: Place) -> Scan<'_> {
        let chunk = self.chunk(place);
        Scan {
            product: &chunk.product,
            metric: self.settings.metric,
            record: &chunk.record,
            linear: self.parts[place.part].linear.as_ref(),
        }
    }

    fn chunk(&self, place: Place) -> &Chunk {
        &self.parts[place.part].chunks[place.chunk]
    }

    /// Where the codes of the operand that isn't searched are kept: a weight's serve all chunks.
    fn fixed_place(&self, searched: Side, place: Place) -> Place {
        match (searched, &self.parts[place.part].linear) {
            (Side::A, Some(_)) => Place { chunk: 0, ..place },
            _ => place,
        }
    }

    fn fixed_codes(&self, commands: &mut Commands, question: &Question, place: Place) -> Codes {
        let side = match question.side {
            Side::A => Side::B,
            Side::B => Side::A,
        };
        let scale = question.fixed[place.part - question.parts.start];
        self.scan(place).codes(commands, side, &[vec![scale]])
    }

    /// The scores of some of a contest's candidates on one chunk.
    fn evaluate(
        &self,
        commands: &mut Commands,
        contest: &Contest,
        place: Place,
        candidates: &[usize],
        fixed_codes: &Codes,
    ) -> Buffer<f32> {
        let question = &contest.question;
        let fixed = question.fixed[place.part - question.parts.start];
        let searched: Vec<Vec<Scale>> = candidates
            .iter()
            .map(|&candidate| vec![contest.candidates[candidate]])
            .collect();
        let scan = self.scan(place);
        let codes = scan.codes(commands, question.side, &searched);
        let scales = |searched: Vec<Scale>| match question.side {
            Side::A => SiteScales {
                a: searched,
                b: vec![fixed],
            },
            Side::B => SiteScales {
                a: vec![fixed],
                b: searched,
            },
        };
        let scales: Vec<SiteScales> = searched.into_iter().map(scales).collect();
        let (a, b) = match question.side {
            Side::A => (&codes, fixed_codes),
            Side::B => (fixed_codes, &codes),
        };
        scan.scores(commands, scan.product.lines(), a, b, &scales)
    }
}

/// The largest value or magnitude of each group of one operand.
fn maxima(
    commands: &mut Commands,
    plan: &SitePlan,
    side: Side,
    linear: Option<&LinearWeights>,
    batches: &[Batch],
) -> Result<Vec<f32>> {
    let mut maxima = vec![f32::NEG_INFINITY; plan.groups(side)];
    // One stands for all where B is a weight.
    let shared = side == Side::B && linear.is_some();
    let batches = if shared { &batches[..1] } else { batches };
    for batch in batches {
        let quantizer = plan.quantizer(side, batch.images, 1);
        let source = match (side, linear) {
            (Side::A, _) => &batch.record.a,
            (Side::B, Some(linear)) => &linear.weight,
            (Side::B, None) => {
                let b = batch.record.b.as_ref();
                b.expect("a site has a weight or two activations")
            }
        };
        let rows = row_maximum(commands, &plan.product(batch.images).maximum(side), source);
        for (index, max) in commands.read(&rows)?.into_iter().enumerate() {
            let inner = index / quantizer.rows % quantizer.batch[1];
            let group =
                inner * quantizer.inner_groups + index % quantizer.rows / quantizer.group_rows;
            if !max.is_finite() {
                let what = "the largest value of an operand";
                return Err(not_finite(commands.device(), plan, what, max));
            }
            maxima[group] = maxima[group].max(max);
        }
    }
    Ok(maxima)
}

pub(in crate::quant) fn not_finite(
    device: &Device,
    plan: &SitePlan,
    what: &str,
    value: impl std::fmt::Display,
) -> Error {
    Error::device(
        device.name(),
        format!("{what} of {} is {value}", plan.site.name),
    )
}
