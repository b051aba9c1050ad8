//! A contest between the candidates for a scale: which of them to evaluate next, and which one wins.
//!
//! Columns of O don't affect each other. So where each column of a weight has a scale of its own, one contest finds all
//! of them, in as many *lanes*: a product gives every column a candidate of that column's own, and what it costs serves
//! all.

use super::curve::{CandidateScore, ScoreCurve};
use crate::format::Scale;
use crate::quant::plan::Side;
use std::ops::Range;

/// Limits the lanes of a contest whose curves are kept: those with the largest scores. A weight may have thousands.
const MOST_CURVES: usize = 8;

/// Names a chunk of a part.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChunkIndex {
    pub part: usize,
    pub chunk: usize,
}

/// Holds some of the chunks that a score is summed over.
pub(super) struct Step {
    pub chunks: Vec<ChunkIndex>,
    /// What it takes to evaluate a candidate on them.
    pub multiply_adds: u64,
}

/// Describes what a contest decides: which scales of `side` are best for some of its groups.
#[derive(Clone, PartialEq)]
pub(super) struct Question {
    pub side: Side,
    /// A single group, or the groups of one part with a lane each.
    pub groups: Range<usize>,
    /// The parts of the site that have these scales.
    pub parts: Range<usize>,
    /// The other operand's scales, for each of these parts.
    pub fixed: Vec<Vec<Scale>>,
}

/// Holds the best scale for one group, and its score.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub scale: Scale,
    pub score: f64,
}

/// Holds the candidates for the scales that a question is about, and how far each has been evaluated.
pub(super) struct Contest {
    pub question: Question,
    /// The chunks that a score is summed over, step by step.
    pub steps: Vec<Step>,
    lanes: Vec<Lane>,
    /// The number of steps that every candidate which may still win has been through.
    front: usize,
    /// Whether the best candidates at the front have been compared with the leaders.
    challenged: bool,
}

/// Holds the candidates for one scale.
struct Lane {
    candidates: Vec<Scale>,
    /// The sum of each candidate after each of the steps that it has been through.
    sums: Vec<Vec<f64>>,
    /// The best of the candidates that have been through all steps.
    leader: Option<usize>,
}

/// Describes the evaluations that a contest needs next.
pub(super) struct Request {
    pub steps: Range<usize>,
    /// The candidates to evaluate, for each lane.
    lanes: Vec<Vec<usize>>,
    /// Whether these candidates go through all remaining steps, ahead of the others.
    ahead: bool,
}

impl Request {
    /// Counts the products that it takes: each evaluates a candidate of every lane.
    pub fn products(&self) -> usize {
        self.lanes.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Counts the lanes.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

impl Lane {
    fn sum(&self, candidate: usize) -> f64 {
        self.sums[candidate].last().copied().unwrap_or(0.0)
    }

    /// Finds the candidate with the least sum among those that have been through exactly `steps` steps; of equal ones
    /// the first.
    fn best_after(&self, steps: usize) -> Option<usize> {
        (0..self.candidates.len())
            .filter(|&candidate| self.sums[candidate].len() == steps)
            .min_by(|&left, &right| self.sum(left).total_cmp(&self.sum(right)))
    }

    /// Finds the best candidate at the `front`, if its sum is less than the leader's after as many steps.
    fn challenger(&self, front: usize) -> Option<usize> {
        let challenger = self.best_after(front)?;
        let sum = self.sum(challenger);
        let ahead = |leader: usize| sum < self.sums[leader][front - 1];
        self.leader.is_none_or(ahead).then_some(challenger)
    }

    /// Lists the candidates at the `front` that may still win.
    fn entrants(&self, front: usize) -> Vec<usize> {
        let bar = self.leader.map_or(f64::INFINITY, |leader| self.sum(leader));
        (0..self.candidates.len())
            .filter(|&candidate| self.sums[candidate].len() == front && self.sum(candidate) <= bar)
            .collect()
    }

    /// Returns the leader. Without any steps all candidates are equal, and the first one wins.
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

    /// Describes how far each candidate for the scale of `group` came in `steps` steps, and with what sum.
    fn curve(&self, side: Side, group: usize, steps: usize) -> ScoreCurve {
        let winner = self.winner();
        let winners = &self.sums[winner];
        let complete = |candidate: usize| self.sums[candidate].len() == steps;
        let reached = |candidate: usize| match (winners.last(), self.sums[candidate].len()) {
            _ if complete(candidate) => 1.0,
            (Some(&total), been @ 1..) if total > 0.0 => winners[been - 1] / total,
            _ => 0.0,
        };
        let candidates = self.candidates.iter().enumerate();
        ScoreCurve {
            side,
            group,
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

impl Contest {
    /// Starts a contest between the `candidates` of each group in question; nothing is evaluated yet.
    pub fn new(question: Question, candidates: Vec<Vec<Scale>>, steps: Vec<Step>) -> Self {
        let lanes = candidates.into_iter().map(|candidates| Lane {
            sums: vec![Vec::new(); candidates.len()],
            candidates,
            leader: None,
        });
        Self {
            question,
            steps,
            lanes: lanes.collect(),
            front: 0,
            challenged: false,
        }
    }

    /// Says what to evaluate next; `None` at the end. All candidates that may still win go through one step, or through
    /// several that together take no more than `multiply_adds`: some of them needn't have, but who wins is the same.
    pub fn request(&mut self, exhaustive: bool, multiply_adds: u64) -> Option<Request> {
        let steps = self.steps.len();
        if self.front == steps {
            return None;
        }
        if exhaustive {
            let all = |lane: &Lane| (0..lane.candidates.len()).collect();
            return Some(Request {
                steps: 0..steps,
                lanes: self.lanes.iter().map(all).collect(),
                ahead: false,
            });
        }
        // A candidate that is ahead of the leader may end below it: finishing it first lowers the bar for all others.
        if self.front > 0 && !std::mem::replace(&mut self.challenged, true) {
            let challengers = self.lanes.iter().map(|lane| lane.challenger(self.front));
            let request = Request {
                steps: self.front..steps,
                lanes: challengers.map(|one| one.into_iter().collect()).collect(),
                ahead: true,
            };
            if request.products() > 0 {
                return Some(request);
            }
        }
        let entrants = self.lanes.iter().map(|lane| lane.entrants(self.front));
        let mut request = Request {
            steps: self.front..self.front + 1,
            lanes: entrants.collect(),
            ahead: false,
        };
        let products = request.products() as u64;
        let taken = |steps: Range<usize>| {
            let of_a_product: u64 = self.steps[steps]
                .iter()
                .map(|step| step.multiply_adds)
                .sum();
            products * of_a_product
        };
        while request.steps.end < steps && taken(self.front..request.steps.end + 1) <= multiply_adds
        {
            request.steps.end += 1;
        }
        (products > 0).then_some(request)
    }

    /// Lists the scales of a request's `product`, one for each lane; where a lane needs no more, any.
    pub fn scales(&self, request: &Request, product: usize) -> Vec<Scale> {
        let lanes = self.lanes.iter().zip(&request.lanes);
        lanes
            .map(|(lane, wanted)| lane.candidates[wanted.get(product).copied().unwrap_or(0)])
            .collect()
    }

    /// Takes what was requested: `scores` are `[step][product][lane]`.
    pub fn accept(&mut self, request: &Request, scores: &[Vec<Vec<f64>>]) {
        for products in scores {
            for (number, lane) in self.lanes.iter_mut().enumerate() {
                for (&candidate, scores) in request.lanes[number].iter().zip(products) {
                    let sum = lane.sum(candidate) + scores[number];
                    lane.sums[candidate].push(sum);
                }
            }
        }
        if !request.ahead {
            self.front = request.steps.end;
            self.challenged = false;
        }
        for lane in &mut self.lanes {
            lane.leader = lane.best_after(self.steps.len());
        }
    }

    /// Returns the answer for each group.
    pub fn answers(&self) -> Vec<Answer> {
        self.lanes.iter().map(Lane::answer).collect()
    }

    /// Returns the curves of at most [`MOST_CURVES`] groups.
    pub fn curves(&self) -> Vec<ScoreCurve> {
        let mut lanes: Vec<(usize, &Lane)> =
            self.question.groups.clone().zip(&self.lanes).collect();
        lanes.sort_by(|(_, left), (_, right)| right.answer().score.total_cmp(&left.answer().score));
        lanes.truncate(MOST_CURVES);
        lanes.sort_by_key(|&(group, _)| group);
        let (side, steps) = (self.question.side, self.steps.len());
        let curves = lanes
            .into_iter()
            .map(|(group, lane)| lane.curve(side, group, steps));
        curves.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the steps of the contests below.
    const STEPS: usize = 9;

    /// Returns the winners of a contest with these scores, `[lane][candidate][step]`, and how many products it took.
    fn winners(scores: &[Vec<Vec<f64>>], exhaustive: bool, spare: u64) -> (Vec<usize>, usize) {
        let question = Question {
            side: Side::B,
            groups: 0..scores.len(),
            parts: 0..1,
            fixed: Vec::new(),
        };
        let candidates = scores.iter().map(|of_lane| {
            let scales = (1..=of_lane.len()).map(|number| Scale::uniform(number as f32));
            scales.collect()
        });
        let steps = (0..STEPS).map(|step| Step {
            chunks: Vec::new(),
            multiply_adds: step as u64 + 1,
        });
        let mut contest = Contest::new(question, candidates.collect(), steps.collect());
        let mut products = 0;
        while let Some(request) = contest.request(exhaustive, spare) {
            products += request.products() * request.steps.len();
            let of_step = |step: usize| {
                let of_product = |product| {
                    let lanes = contest.scales(&request, product).into_iter().zip(scores);
                    let scores =
                        lanes.map(|(scale, of_lane)| of_lane[scale.scale as usize - 1][step]);
                    scores.collect()
                };
                (0..request.products()).map(of_product).collect()
            };
            let found: Vec<Vec<Vec<f64>>> = request.steps.clone().map(of_step).collect();
            contest.accept(&request, &found);
        }
        let lanes = contest.lanes.iter();
        (lanes.map(Lane::winner).collect(), products)
    }

    #[test]
    fn the_best_candidates_win_however_many_steps_are_taken_at_once() {
        // Scores between 0 and 1, the larger the farther a candidate is from its lane's best one, and uneven.
        let score = |lane: usize, candidate: usize, step: usize| {
            let uneven = (lane * 7919 + candidate * 104_729 + step * 1_299_709) % 1000;
            let far = (candidate as f64 - 13.0 - lane as f64).powi(2) / 900.0;
            0.5 * far + 0.5 * uneven as f64 / 1000.0
        };
        let scores: Vec<Vec<Vec<f64>>> = (0..5)
            .map(|lane| {
                let of_candidate =
                    |candidate| (0..STEPS).map(move |step| score(lane, candidate, step));
                (0..30)
                    .map(|candidate| of_candidate(candidate).collect())
                    .collect()
            })
            .collect();
        let (expected, all) = winners(&scores, true, 0);
        assert_eq!(all, 30 * STEPS);
        for (spare, fewest, most) in [(0, 1, all - 1), (300, 1, all), (u64::MAX, all, all)] {
            let (found, products) = winners(&scores, false, spare);
            assert_eq!(found, expected, "{spare} multiply-adds to spare");
            assert!(
                (fewest..=most).contains(&products),
                "{spare}: {products} of {all}"
            );
        }
    }
}
