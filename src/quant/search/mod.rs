//! Algorithm 1 at one site: the scales of A and B that minimise the error of O.
//!
//! A candidate's score is a sum of non-negative terms. So a candidate whose partial sum has passed a complete score
//! can't win, and what is left of it is not evaluated; the choice is that of the exhaustive search. The terms come in
//! chunks, those that tell candidates apart first (`pieces.rs`).
//!
//! A contest (`contest.rs`) finds the scale of one group, or of each column of a part. Scales of B belong to one part
//! of the site (a third of qkv, a head), so the parts' contests are independent; A's scale is one for all parts, or one
//! for each. What is independent is searched side by side, so that a step of all of them waits for the device once.

mod candidates;
mod contest;
mod curve;
pub(super) mod pieces;
mod problem;
mod scan;

pub use curve::{CandidateScore, ScoreCurve};
pub use pieces::Batch;
pub use scan::{Scan, errors};

use super::plan::{Codes, Side, SitePlan, SiteScales};
use super::settings::Settings;
use crate::device::{Buffer, Commands, Device};
use crate::error::{Error, Result};
use crate::format::Scale;
use crate::graph::LinearWeights;
use crate::kernels::row_maximum;
use candidates::{candidates, covering};
use contest::{Answer, ChunkIndex, Contest, Question, Request, Step};
use pieces::{Chunk, Cutter, FIRST_SHARE, GROWTH, Part};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::{AddAssign, Range};

/// Limits the bytes of candidates' outputs and codes that are appended before the search waits for the device, where
/// memory isn't scarce: until then the device holds them all.
pub(super) const STEP_BYTES: usize = 64 << 20;

/// Holds the chosen scales of a site, and what it took to find them.
#[derive(Clone, Debug)]
pub struct Found {
    /// The chosen scales.
    pub scales: SiteScales,
    /// Their score, summed over the groups.
    pub score: f64,
    /// Rounds in which any scale was searched.
    pub rounds: usize,
    /// What was computed.
    pub work: Work,
    /// What the candidates reached when each scale was last searched: A's scales, then B's.
    pub curves: Vec<ScoreCurve>,
    /// The largest of A's values, or of their magnitudes where A's format is signed.
    pub largest_a: f32,
}

/// Counts the work of a search, in multiply-adds of integer products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What was computed.
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

/// Searches the scales of one site.
pub struct SiteSearch<'a> {
    plan: &'a SitePlan,
    settings: &'a Settings,
    /// Bytes of candidates that may be appended before the device is waited for.
    step_bytes: usize,
    parts: Vec<Part>,
    /// The largest values of A's and of B's groups.
    maxima: [Vec<f32>; 2],
    /// What the search has computed already to put its pieces in order, and what the exhaustive search would compute in
    /// all.
    work: Work,
}

/// Describes candidates to evaluate on one chunk, for one step of a contest's request.
struct Task {
    request: usize,
    step: usize,
    chunk: ChunkIndex,
    /// Which of the request's products these are.
    products: Range<usize>,
}

impl<'a> SiteSearch<'a> {
    /// Prepares the search for the scales of the site of `plan`. `linear` has the weight and bias, if B is a weight;
    /// `batches` are what went through the site. Candidates take `step_bytes` on the device at once, or what one of
    /// them takes.
    ///
    /// # Errors
    /// A format of tables, which no search finds; those of the device; and an activation that is not a number.
    pub fn new(
        commands: &mut Commands,
        plan: &'a SitePlan,
        settings: &'a Settings,
        linear: Option<&'a LinearWeights>,
        batches: &[Batch],
        step_bytes: usize,
    ) -> Result<Self> {
        let device = commands.device().clone();
        device.wait(Self::new_async(
            commands, plan, settings, linear, batches, step_bytes,
        ))
    }

    /// Does what [`new`](Self::new) does, without waiting, as a browser needs it. On a native target it blocks the thread.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub async fn new_async(
        commands: &mut Commands,
        plan: &'a SitePlan,
        settings: &'a Settings,
        linear: Option<&'a LinearWeights>,
        batches: &[Batch],
        step_bytes: usize,
    ) -> Result<Self> {
        let maxima = [
            maxima(commands, plan, Side::A, linear, batches).await?,
            maxima(commands, plan, Side::B, linear, batches).await?,
        ];
        let cutter = Cutter {
            plan,
            settings,
            linear,
            maxima: &maxima,
        };
        let (parts, done) = cutter.cut(commands, batches).await?;
        let images = batches.iter().map(|batch| batch.images).sum();
        let count = |side| candidates(plan.operand(side), plan.values(side), 1.0, settings).len();
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

    /// Searches in turn A's scales with B's fixed and B's with A's fixed, starting from the B that clips nothing, for
    /// as many rounds as the settings say or until a round could change nothing.
    ///
    /// # Errors
    /// Those of the device; and a gradient or score that is not a number.
    pub fn run(&self, commands: &mut Commands) -> Result<Found> {
        commands.device().clone().wait(self.run_async(commands))
    }

    /// Does what [`run`](Self::run) does, without waiting, as a browser needs it. On a native target it blocks the thread.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_async(&self, commands: &mut Commands) -> Result<Found> {
        let bits = self.plan.b.bits;
        let [maxima_a, maxima_b] = &self.maxima;
        let mut found = Found {
            scales: SiteScales::new(
                vec![Scale::uniform(f32::NAN); maxima_a.len()],
                maxima_b.iter().map(|&max| covering(max, bits)).collect(),
            ),
            score: f64::NAN,
            rounds: 0,
            work: self.work,
            curves: Vec::new(),
            largest_a: maxima_a.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        };
        let mut known: Vec<(Question, Vec<Answer>, Vec<ScoreCurve>)> = Vec::new();
        for round in 1..=self.settings.rounds {
            for side in [Side::A, Side::B] {
                let questions = self.questions(side, &found.scales);
                // With the same fixed scales as in an earlier half-round, the answer is the same.
                let is_new = |question: &&Question| known.iter().all(|(old, ..)| old != *question);
                let mut contests: Vec<Contest> = questions
                    .iter()
                    .filter(is_new)
                    .map(|question| self.contest(question))
                    .collect();
                if !contests.is_empty() {
                    self.play(commands, &mut contests, &mut found.work).await?;
                    found.rounds = round;
                }
                known.extend(contests.into_iter().map(|contest| {
                    let (answers, curves) = (contest.answers(), contest.curves());
                    (contest.question, answers, curves)
                }));
                found.score = 0.0;
                found.curves.retain(|curve| curve.side != side);
                for question in &questions {
                    let (_, answers, curves) = known
                        .iter()
                        .find(|(old, ..)| old == question)
                        .expect("every question has been answered");
                    let scales = match side {
                        Side::A => &mut found.scales.a,
                        Side::B => &mut found.scales.b,
                    };
                    for (group, answer) in question.groups.clone().zip(answers) {
                        scales[group] = answer.scale;
                        found.score += answer.score;
                    }
                    found.curves.extend(curves.iter().cloned());
                }
            }
        }
        Ok(found)
    }

    /// Lists the questions about the scales of `side`, with the other operand's fixed as in `scales`.
    fn questions(&self, side: Side, scales: &SiteScales) -> Vec<Question> {
        let (searched, fixed) = match side {
            Side::A => (&scales.a, &scales.b),
            Side::B => (&scales.b, &scales.a),
        };
        let parts = self.parts.len();
        // The groups of one part make one question.
        let count = searched.len().min(parts);
        let share = |number: usize, of: usize| number * of / count..(number + 1) * of / count;
        let questions = (0..count).map(|number| {
            let parts_in_question = share(number, parts);
            let each = (fixed.len() / parts).max(1);
            // A's one scale serves every part.
            let of_part = |part: usize| fixed[part * each % fixed.len()..][..each].to_vec();
            Question {
                side,
                groups: share(number, searched.len()),
                fixed: parts_in_question.clone().map(of_part).collect(),
                parts: parts_in_question,
            }
        });
        questions.collect()
    }

    fn contest(&self, question: &Question) -> Contest {
        let (plan, side) = (self.plan, question.side);
        let maxima = match side {
            Side::A => &self.maxima[0],
            Side::B => &self.maxima[1],
        };
        let maxima = &maxima[question.groups.clone()];
        let (operand, values) = (plan.operand(side), plan.values(side));
        let candidates = maxima
            .iter()
            .map(|&max| candidates(operand, values, max, self.settings));
        let steps = self.steps(question.parts.clone());
        Contest::new(question.clone(), candidates.collect(), steps)
    }

    /// Lists the chunks of some parts step by step, those that contribute most for their work first.
    fn steps(&self, parts: Range<usize>) -> Vec<Step> {
        let mut chunks: Vec<ChunkIndex> = parts
            .flat_map(|part| {
                let chunks = 0..self.parts[part].chunks.len();
                chunks.map(move |chunk| ChunkIndex { part, chunk })
            })
            .collect();
        let density = |at: &ChunkIndex| self.parts[at.part].chunks[at.chunk].density;
        chunks.sort_by(|left, right| density(right).total_cmp(&density(left)));
        let work = |at: &ChunkIndex| self.chunk(*at).product.multiply_adds();
        let all: u64 = chunks.iter().map(work).sum();
        let mut enough = all as f64 * FIRST_SHARE;
        let mut steps = Vec::new();
        let (mut step, mut done) = (Vec::new(), 0);
        let finish = |step: &mut Vec<ChunkIndex>| Step {
            multiply_adds: step.iter().map(work).sum(),
            chunks: std::mem::take(step),
        };
        for at in chunks {
            done += work(&at);
            step.push(at);
            if done as f64 >= enough {
                steps.push(finish(&mut step));
                enough = done as f64 * GROWTH;
            }
        }
        steps.extend((!step.is_empty()).then(|| finish(&mut step)));
        steps
    }

    /// Takes every contest to its end, all step by step together. They are of one side.
    async fn play(
        &self,
        commands: &mut Commands,
        contests: &mut [Contest],
        work: &mut Work,
    ) -> Result<()> {
        let mut fixed_codes: HashMap<ChunkIndex, Codes> = HashMap::new();
        // What may be computed in vain so that the host waits less often, for each of the contests.
        let spare = commands.device().multiply_adds_of_a_wait() / contests.len().max(1) as u64;
        loop {
            let mut requests: Vec<(&mut Contest, Request)> = contests
                .iter_mut()
                .filter_map(|contest| {
                    let request = contest.request(self.settings.exhaustive, spare)?;
                    Some((contest, request))
                })
                .collect();
            if requests.is_empty() {
                return Ok(());
            }
            let mut tasks = Vec::new();
            for (index, (contest, request)) in requests.iter().enumerate() {
                let (question, count) = (&contest.question, request.products());
                for step in request.steps.clone() {
                    for &at in &contest.steps[step].chunks {
                        let scan = self.scan(at);
                        let allowed = self.step_bytes / scan.job_bytes(question.side);
                        let at_once = scan.jobs_at_once(question.side).min(allowed).max(1);
                        tasks.extend((0..count).step_by(at_once).map(|first| Task {
                            request: index,
                            step: step - request.steps.start,
                            chunk: at,
                            products: first..(first + at_once).min(count),
                        }));
                        work.done += count as u64 * self.chunk(at).product.multiply_adds();
                        fixed_codes
                            .entry(self.fixed_chunk(question.side, at))
                            .or_insert_with(|| self.fixed_codes(commands, question, at));
                    }
                }
            }
            let evaluate = |commands: &mut Commands, task: &Task| {
                let (contest, request) = &requests[task.request];
                let fixed = &fixed_codes[&self.fixed_chunk(contest.question.side, task.chunk)];
                let products = task.products.clone();
                let searched = products.map(|product| contest.scales(request, product));
                self.evaluate(
                    commands,
                    &contest.question,
                    task.chunk,
                    searched.collect(),
                    fixed,
                )
            };
            // [request][step][product][lane].
            let mut scores: Vec<Vec<Vec<Vec<f64>>>> = requests
                .iter()
                .map(|(_, request)| {
                    let products = vec![vec![0.0; request.lanes()]; request.products()];
                    vec![products; request.steps.len()]
                })
                .collect();
            for tasks in self.submissions(&tasks, &requests) {
                let found: Vec<Buffer<f32>> = match commands.device().clone() {
                    // Tasks run side by side, since one alone may leave cores idle.
                    cpu @ Device::Cpu(_) => tasks
                        .par_iter()
                        .map(|task| evaluate(&mut Commands::new(&cpu), task))
                        .collect(),
                    Device::Gpu(_) => {
                        let found = tasks.iter().map(|task| evaluate(commands, task));
                        found.collect()
                    }
                };
                let found = commands.read_all_async(&found).await?;
                for (task, found) in tasks.iter().zip(found) {
                    let sums = &mut scores[task.request][task.step][task.products.clone()];
                    let groups = found.len() / sums.len();
                    for (lanes, found) in sums.iter_mut().zip(found.chunks_exact(groups)) {
                        // A column is a lane of B's contest; in A's they add up.
                        let each = groups / lanes.len();
                        for (group, &score) in found.iter().enumerate() {
                            if !score.is_finite() {
                                let what = "the score of a candidate";
                                return Err(not_finite(commands.device(), self.plan, what, score));
                            }
                            lanes[group / each] += f64::from(score);
                        }
                    }
                }
            }
            for ((contest, request), scores) in requests.iter_mut().zip(&scores) {
                contest.accept(request, scores);
            }
        }
    }

    /// Divides `tasks` into portions that the device may hold at once.
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
                bytes += task.products.len() * self.scan(task.chunk).job_bytes(side);
                bytes <= self.step_bytes
            });
            let (portion, rest) = tasks.split_at(fitting.count().max(1));
            submissions.push(portion);
            tasks = rest;
        }
        submissions
    }

    fn scan(&self, at: ChunkIndex) -> Scan<'_> {
        let chunk = self.chunk(at);
        Scan {
            product: &chunk.product,
            metric: self.settings.metric,
            record: &chunk.record,
            linear: self.parts[at.part].linear.as_ref(),
        }
    }

    fn chunk(&self, at: ChunkIndex) -> &Chunk {
        &self.parts[at.part].chunks[at.chunk]
    }

    /// Names the chunk under which the codes of the operand that isn't searched are kept: a weight's serve all chunks.
    fn fixed_chunk(&self, searched: Side, at: ChunkIndex) -> ChunkIndex {
        match (searched, &self.parts[at.part].linear) {
            (Side::A, Some(_)) => ChunkIndex { chunk: 0, ..at },
            _ => at,
        }
    }

    fn fixed_codes(&self, commands: &mut Commands, question: &Question, at: ChunkIndex) -> Codes {
        let side = match question.side {
            Side::A => Side::B,
            Side::B => Side::A,
        };
        let scales = question.fixed[at.part - question.parts.start].clone();
        self.scan(at).codes(commands, side, &[scales])
    }

    /// Computes the scores on one chunk of several sets of the scales in question, `[set][group]`.
    fn evaluate(
        &self,
        commands: &mut Commands,
        question: &Question,
        at: ChunkIndex,
        searched: Vec<Vec<Scale>>,
        fixed_codes: &Codes,
    ) -> Buffer<f32> {
        let fixed = &question.fixed[at.part - question.parts.start];
        let scan = self.scan(at);
        let codes = scan.codes(commands, question.side, &searched);
        let scales = |searched: Vec<Scale>| match question.side {
            Side::A => SiteScales::new(searched, fixed.clone()),
            Side::B => SiteScales::new(fixed.clone(), searched),
        };
        let scales: Vec<SiteScales> = searched.into_iter().map(scales).collect();
        let (a, b) = match question.side {
            Side::A => (&codes, fixed_codes),
            Side::B => (fixed_codes, &codes),
        };
        scan.scores(commands, scan.product.lines(), a, b, &scales)
    }
}

/// Lists the candidates for the scales of one operand, `[candidate][group]`; each group has as many.
///
/// # Errors
/// Those of the device, and an activation that is not a number.
pub(in crate::quant) async fn candidates_of_groups(
    commands: &mut Commands,
    plan: &SitePlan,
    side: Side,
    linear: Option<&LinearWeights>,
    batches: &[Batch],
    settings: &Settings,
) -> Result<Vec<Vec<Scale>>> {
    let maxima = maxima(commands, plan, side, linear, batches).await?;
    let (operand, values) = (plan.operand(side), plan.values(side));
    let of_groups = maxima
        .iter()
        .map(|&max| candidates(operand, values, max, settings));
    let of_groups: Vec<Vec<Scale>> = of_groups.collect();
    let numbers = 0..of_groups[0].len();
    let of_number = |number: usize| of_groups.iter().map(|all| all[number]).collect();
    Ok(numbers.map(of_number).collect())
}

/// Finds the largest value or magnitude of each group of one operand.
async fn maxima(
    commands: &mut Commands,
    plan: &SitePlan,
    side: Side,
    linear: Option<&LinearWeights>,
    batches: &[Batch],
) -> Result<Vec<f32>> {
    let mut maxima = vec![f32::NEG_INFINITY; plan.groups(side)];
    // A weight is the same for all batches.
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
        for (index, max) in commands.read_async(&rows).await?.into_iter().enumerate() {
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
