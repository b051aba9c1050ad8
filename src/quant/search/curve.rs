//! What the candidates for a scale reached when it was last searched.

use super::candidates::Scale;
use crate::quant::Side;
use serde::{Deserialize, Serialize};

/// The candidates for one scale, with all others fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreCurve {
    /// The operand that has the scale.
    pub side: Side,
    /// Which of the operand's scales it is.
    pub group: usize,
    /// The number of the chosen candidate.
    pub chosen: usize,
    /// All candidates, in order.
    pub candidates: Vec<CandidateScore>,
}

/// How far a candidate came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateScore {
    /// The candidate.
    pub scale: Scale,
    /// Its error, summed over what it was evaluated on.
    pub sum: f64,
    /// How much of the chosen candidate's score lies in what this one was evaluated on.
    pub reached: f64,
    /// Whether it was evaluated on everything, so that `sum` is its score.
    pub complete: bool,
}

impl CandidateScore {
    /// The score, or what it would be if the rest of it were to the rest of the chosen candidate's as it is so far.
    /// `None` where the chosen one has no error so far.
    pub fn estimate(&self) -> Option<f64> {
        if self.complete {
            return Some(self.sum);
        }
        (self.reached > 0.0).then(|| self.sum / self.reached)
    }
}

impl ScoreCurve {
    /// Brings the scores to another unit.
    pub(in crate::quant) fn scale_scores(&mut self, unit: f64) {
        for candidate in &mut self.candidates {
            candidate.sum *= unit;
        }
    }
}
