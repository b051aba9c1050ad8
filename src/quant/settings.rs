//! What the user can choose about a calibration.

use crate::error::{Error, Result, Setting};
use serde::{Deserialize, Serialize};

/// Limits the candidates for each scale: a hundred times the paper's.
const MAX_CANDIDATES: usize = 10_000;
/// Limits the rounds: a search settles after a few.
const MAX_ROUNDS: usize = 100;
/// Limits the draws of labels for an image: each costs a backward pass.
const MAX_PROBES: usize = 64;
/// Limits how fine a candidate can be, as a fraction of the scale that covers the largest value: what an f32 of that
/// size is rounded by.
const MIN_FRACTION: f64 = 1.0 / (1 << 24) as f64;
/// Limits how coarse a candidate can be: beyond it 8 bits round everything to zero.
const MAX_FRACTION: f64 = 256.0;

/// Says how a candidate's output Ô is compared with the FP network's O (paper, equation 7 and Table 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Metric {
    /// Σ G² (Ô - O)², with G the loss's gradient at O: the paper's Hessian-guided metric.
    Hessian,
    /// Σ (Ô - O)².
    Mse,
    /// Σ over rows of 1 - cos(Ô, O).
    Cosine,
    /// Σ over rows of 1 - Pearson's correlation of Ô and O.
    Pearson,
}

impl Metric {
    /// Lists all metrics.
    pub const ALL: [Self; 4] = [Self::Hessian, Self::Mse, Self::Cosine, Self::Pearson];

    /// Says whether the metric weighs errors by the loss's gradient, so that a calibration has to go back through the
    /// network.
    pub fn needs_gradient(self) -> bool {
        match self {
            Self::Hessian => true,
            Self::Mse | Self::Cosine | Self::Pearson => false,
        }
    }

    /// Says whether the metric adds up squares of errors, weighted or not, which a product can do by itself.
    pub fn sums_squares(self) -> bool {
        match self {
            Self::Hessian | Self::Mse => true,
            Self::Cosine | Self::Pearson => false,
        }
    }

    /// Returns its name, as files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hessian => "hessian",
            Self::Mse => "mse",
            Self::Cosine => "cosine",
            Self::Pearson => "pearson",
        }
    }
}

/// Names a set of choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preset {
    /// The paper's method: Hessian metric, both twins, three rounds.
    Ptq4vit,
    /// The paper's baseline: cosine metric, no twins, α = 0.5, one round.
    BasePtq,
    /// The most accurate one: levels from tables, a scale for each output channel, sites decided in sequence.
    Best,
}

impl Preset {
    /// Returns its name, as files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ptq4vit => "ptq4vit",
            Self::BasePtq => "base-ptq",
            Self::Best => "best",
        }
    }
}

/// Says how sites are decided one after the other, each on what the network in integers gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The labels drawn for each image from the network's probabilities: how often the gradients are computed that tell
    /// which errors matter.
    pub probes: usize,
}

/// Names a change of weights that leaves the network's function as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// Centres each channel that a LayerNorm gives and scales it to one range; the weights of the products that follow
    /// make up for it.
    LayerNorm,
}

impl Transform {
    /// Returns its name, as files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LayerNorm => "layer-norm",
        }
    }
}

/// Says how a calibration chooses scales, given the plan, the model and the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How candidates are compared.
    pub metric: Metric,
    /// Smallest candidate scale, as a fraction of the one that covers the largest value (excluded).
    pub alpha: f64,
    /// Largest candidate scale, as a fraction of the same (included).
    pub beta: f64,
    /// Candidates for each scale.
    pub candidates: usize,
    /// Rounds of choosing A's scale, then B's.
    pub rounds: usize,
    /// Whether every candidate is evaluated on every image, even those that can't win any more.
    pub exhaustive: bool,
    /// Changes made to the checkpoint beforehand, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
    /// Whether the mean error of each output is subtracted from its bias.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias_correction: bool,
    /// How sites are decided in sequence. Without it they are searched independently of each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
}

impl Settings {
    /// Returns the choices that `preset` stands for.
    pub fn preset(preset: Preset) -> Self {
        let paper = Self {
            metric: Metric::Hessian,
            alpha: 0.0,
            beta: 1.2,
            candidates: 100,
            rounds: 3,
            exhaustive: false,
            transforms: Vec::new(),
            bias_correction: false,
            sequence: None,
        };
        match preset {
            Preset::Ptq4vit => paper,
            Preset::BasePtq => Self {
                metric: Metric::Cosine,
                alpha: 0.5,
                rounds: 1,
                ..paper
            },
            Preset::Best => Self {
                transforms: vec![Transform::LayerNorm],
                bias_correction: true,
                sequence: Some(Sequence { probes: 2 }),
                ..paper
            },
        }
    }

    /// Tells in words how scales are chosen.
    pub fn choices(&self) -> String {
        let mut words = match &self.sequence {
            Some(Sequence { probes }) => format!("in sequence, probes: {probes}"),
            None => format!(
                "{} metric, {} candidates from {} to {}, rounds: {}",
                self.metric.name(),
                self.candidates,
                self.alpha,
                self.beta,
                self.rounds,
            ),
        };
        for transform in &self.transforms {
            words += ", ";
            words += transform.name();
        }
        if self.bias_correction {
            words += ", bias correction";
        }
        words
    }

    /// Checks that a calibration can use these settings.
    ///
    /// # Errors
    /// An [`Error::InvalidSetting`] about what is out of range.
    pub fn validate(&self) -> Result<()> {
        for (setting, value, most) in [
            (Setting::Candidates, self.candidates, MAX_CANDIDATES),
            (Setting::Rounds, self.rounds, MAX_ROUNDS),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::setting(
                    setting,
                    format!("expected 1 to {most}, found {value}"),
                ));
            }
        }
        for (index, transform) in self.transforms.iter().enumerate() {
            if self.transforms[..index].contains(transform) {
                let problem = format!("{} is there twice", transform.name());
                return Err(Error::setting(Setting::Transform, problem));
            }
        }
        if let Some(Sequence { probes }) = self.sequence
            && !(1..=MAX_PROBES).contains(&probes)
        {
            let problem = format!("expected 1 to {MAX_PROBES}, found {probes}");
            return Err(Error::setting(Setting::Probes, problem));
        }
        let Self { alpha, beta, .. } = *self;
        let invalid = |problem| Err(Error::setting(Setting::CandidateRange, problem));
        if !(alpha >= 0.0 && alpha < beta && beta.is_finite()) {
            return invalid(format!(
                "expected 0 <= alpha < beta, found alpha {alpha:?} and beta {beta:?}"
            ));
        }
        // The smallest candidate, of which `alpha` is no part.
        let first = alpha + (beta - alpha) / self.candidates as f64;
        if first < MIN_FRACTION || beta > MAX_FRACTION {
            return invalid(format!(
                "expected candidates from {MIN_FRACTION:?} to {MAX_FRACTION:?} times the scale that covers the largest value, found {first:?} to {beta:?}"
            ));
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn no_metric_is_left_out() {
        assert_eq!(Metric::ALL, Metric::value_variants());
        for metric in Metric::ALL {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
    }
}
