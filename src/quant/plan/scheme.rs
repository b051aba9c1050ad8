//! What becomes of one matrix product: its operands' widths, formats and scales, or none of it.

use super::Side;
use crate::format::{Format, Values};
use crate::graph::{Site, SiteKind};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::ops::RangeInclusive;

/// Limits the bits that a code can have.
pub const BITS: RangeInclusive<u32> = 2..=8;

/// Says which values of an operand share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// All values.
    Tensor,
    /// The values of each of q, k and v: a third of the outputs of `attn.qkv`.
    Third,
    /// The values of each of k and v: a half of the outputs of `attn_pool.kv`.
    Half,
    /// The values of each head of an attention.
    Head,
    /// The values of each row of a weight, which makes one column of the output.
    Channel,
}

/// Says how one operand of a product becomes codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperandScheme {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// How a code stands for a value.
    pub format: Format,
    /// Which values share a scale.
    pub granularity: Granularity,
}

/// Says whether a site's product is computed in floats or in integers, and how its operands become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredScheme", into = "StoredScheme")]
pub enum SiteScheme {
    /// The product stays one of floats.
    Float,
    /// The product is one of codes.
    Integer {
        /// How the left operand becomes codes.
        a: OperandScheme,
        /// How the right operand, a weight or an activation, becomes codes.
        b: OperandScheme,
    },
}

/// Holds a [`SiteScheme`] as files have it: `float = true`, or `a` and `b`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredScheme {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    float: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<OperandScheme>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<OperandScheme>,
}

impl TryFrom<StoredScheme> for SiteScheme {
    type Error = &'static str;

    fn try_from(StoredScheme { float, a, b }: StoredScheme) -> Result<Self, Self::Error> {
        match (float, a, b) {
            (true, None, None) => Ok(Self::Float),
            (false, Some(a), Some(b)) => Ok(Self::Integer { a, b }),
            _ => Err("expected either float = true or both a and b"),
        }
    }
}

impl From<SiteScheme> for StoredScheme {
    fn from(scheme: SiteScheme) -> Self {
        let (a, b) = match scheme {
            SiteScheme::Float => (None, None),
            SiteScheme::Integer { a, b } => (Some(a), Some(b)),
        };
        Self {
            float: scheme == SiteScheme::Float,
            a,
            b,
        }
    }
}

/// Writes a scheme as lines of TOML.
impl Display for SiteScheme {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self::Integer { a, b } = self else {
            return writeln!(f, "float = true");
        };
        for (name, operand) in [("a", a), ("b", b)] {
            let OperandScheme {
                bits,
                format,
                granularity,
            } = operand;
            writeln!(
                f,
                "{name} = {{ bits = {bits}, format = \"{}\", granularity = \"{}\" }}",
                format.name(),
                granularity.name(),
            )?;
        }
        Ok(())
    }
}

impl Granularity {
    /// Returns that of a weight whose outputs are so many equal parts, a scale for each.
    pub(super) fn of_parts(parts: usize) -> Self {
        match parts {
            3 => Self::Third,
            2 => Self::Half,
            _ => Self::Tensor,
        }
    }

    /// Returns its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Third => "third",
            Self::Half => "half",
            Self::Head => "head",
            Self::Channel => "channel",
        }
    }
}

impl SiteScheme {
    /// Checks that `site` can be computed like this.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub(super) fn check(&self, site: &Site) -> Result<(), String> {
        let Self::Integer { a, b } = self else {
            return Ok(());
        };
        for (side, name, operand) in [(Side::A, "a", a), (Side::B, "b", b)] {
            if !BITS.contains(&operand.bits) {
                return Err(format!(
                    "{name}.bits: expected {} to {}, found {}",
                    BITS.start(),
                    BITS.end(),
                    operand.bits
                ));
            }
            let values = values(site, side);
            // The right operand's lanes have no range flag.
            let fits =
                |format: Format| format.is_for(values) && (side == Side::A || !format.is_twin());
            if !fits(operand.format) {
                let formats = Format::ALL.into_iter().filter(|&one| fits(one));
                return Err(format!(
                    "{name}.format: expected {}, found {}",
                    one_of(formats.map(Format::name)),
                    operand.format.name()
                ));
            }
            let granularities = granularities(site, side, operand.format);
            if !granularities.contains(&operand.granularity) {
                return Err(format!(
                    "{name}.granularity: expected {}, found {}",
                    one_of(granularities.iter().map(|one| one.name())),
                    operand.granularity.name()
                ));
            }
        }
        Ok(())
    }
}

/// Says what kind of values one operand of `site` has.
pub(super) fn values(site: &Site, side: Side) -> Values {
    match (side, &site.kind) {
        (Side::A, SiteKind::Context(_)) => Values::Probabilities,
        (Side::A, SiteKind::Linear(linear)) => {
            linear.after_gelu.map_or(Values::Any, Values::AfterGelu)
        }
        _ => Values::Any,
    }
}

/// Lists the ways in which the values of one operand of `site` can share scales.
fn granularities(site: &Site, side: Side, format: Format) -> &'static [Granularity] {
    match (side, &site.kind) {
        (Side::B, SiteKind::Linear(linear)) => match Granularity::of_parts(linear.parts) {
            Granularity::Third => &[
                Granularity::Tensor,
                Granularity::Third,
                Granularity::Channel,
            ],
            Granularity::Half => &[Granularity::Tensor, Granularity::Half, Granularity::Channel],
            _ => &[Granularity::Tensor, Granularity::Channel],
        },
        (_, SiteKind::Scores(_) | SiteKind::Context(_))
            if !format.is_twin() || format.lanes().is_some() =>
        {
            &[Granularity::Tensor, Granularity::Head]
        }
        _ => &[Granularity::Tensor],
    }
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(" or ")
}
