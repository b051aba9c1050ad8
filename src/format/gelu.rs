//! The forms of GELU that networks have.

use serde::{Deserialize, Serialize};

/// Names a form of GELU as timm names it: x times a share of it that rises from 0 to 1. The numbers are the shaders'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gelu {
    /// x · Φ(x), Φ the normal distribution's cumulative function.
    #[default]
    #[serde(rename = "gelu")]
    Exact,
    /// x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
    #[serde(rename = "gelu_tanh")]
    Tanh,
    /// x · σ(1.702 x), σ the logistic function.
    #[serde(rename = "quick_gelu")]
    Quick,
    /// x · σ(x): SiLU, which is no approximation of GELU, but of its kind.
    #[serde(rename = "silu")]
    Silu,
    /// x where it is positive, else 0: ReLU, whose share has no values between.
    #[serde(rename = "relu")]
    Relu,
}

impl Gelu {
    /// Lists all forms, by their numbers in shaders.
    pub const ALL: [Self; 5] = [Self::Exact, Self::Tanh, Self::Quick, Self::Silu, Self::Relu];

    /// Returns timm's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "gelu",
            Self::Tanh => "gelu_tanh",
            Self::Quick => "quick_gelu",
            Self::Silu => "silu",
            Self::Relu => "relu",
        }
    }

    /// Returns the smallest value. The exact form's is the number that PTQ4ViT's code has, which lies 3.5e-8 below it.
    pub fn minimum(self) -> f64 {
        match self {
            Self::Exact => -0.169_971_242_547_035_22,
            Self::Tanh => -0.170_040_750_571_254_06,
            Self::Quick => -0.163_610_189_636_353_57,
            Self::Silu => -0.278_464_542_761_073_8,
            Self::Relu => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::{FRAC_2_PI, SQRT_2};

    #[test]
    fn no_value_lies_below_the_minimum() {
        for (place, form) in Gelu::ALL.into_iter().enumerate() {
            assert_eq!(form as usize, place);
            let json = serde_json::to_value(form).unwrap();
            assert_eq!(json, form.name());
            let value = |x: f64| match form {
                Gelu::Exact => 0.5 * x * libm::erfc(-x / SQRT_2),
                Gelu::Tanh => {
                    0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                }
                Gelu::Quick => x / (1.0 + (-1.702 * x).exp()),
                Gelu::Silu => x / (1.0 + (-x).exp()),
                Gelu::Relu => x.max(0.0),
            };
            // From one step to the next a value near the minimum changes by less than 1e-10.
            let lowest = (-30_000_000..0)
                .step_by(10)
                .map(|step| value(f64::from(step) * 1e-6));
            let lowest = lowest.fold(0.0, f64::min);
            let above = lowest - form.minimum();
            let allowed = if form == Gelu::Exact { 3.6e-8 } else { 1e-10 };
            assert!((-1e-15..allowed).contains(&above), "{form:?}: {lowest}");
        }
    }
}
