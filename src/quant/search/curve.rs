//! How far the candidates for a scale came when it was last searched, and with which scores.

use crate::format::Scale;
use crate::quant::Side;
use serde::{Deserialize, Serialize};

/// Holds the scores of the candidates for one scale, with all other scales fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreCurve {
    /// The operand that has the scale.
    pub side: Side,
    /// Which of the operand's scales it is.
    pub group: usize,
    /// The index of the chosen candidate.
    pub chosen: usize,
    /// All candidates, in order.
    pub candidates: Vec<CandidateScore>,
}

/// Holds how far a candidate was evaluated, and its error so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateScore {
    /// The candidate.
    pub scale: Scale,
    /// Its error, summed over what it was evaluated on.
    pub sum: f64,
    /// The share of the chosen candidate's score that lies in what this one was evaluated on.
    pub reached: f64,
    /// Whether it was evaluated on everything, so that `sum` is its score.
    pub complete: bool,
}

impl CandidateScore {
    /// Estimates the score: `sum` itself where it is complete, and otherwise `sum` divided by `reached`. `None` where
    /// the chosen candidate has no error in what this one was evaluated on.
    pub fn estimate(&self) -> Option<f64> {
        if self.complete {
            return Some(self.sum);
        }
        (self.reached > 0.0).then(|| self.sum / self.reached)
    }
}

impl ScoreCurve {
    /// Multiplies the scores by a unit.
    pub(in crate::quant) fn scale_scores(&mut self, unit: f64) {
        for candidate in &mut self.candidates {
            candidate.sum *= unit;
        }
    }
}
