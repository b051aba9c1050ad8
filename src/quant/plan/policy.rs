//! How a plan is made: what holds for every site, and rules for single ones.

use super::scheme::values;
use super::{BITS, Granularity, OperandScheme, Plan, Side, SiteScheme};
use crate::format::Format;
use crate::graph::{Site, SiteKind};
use crate::quant::Preset;
use glob::Pattern;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// Counts the bits of what an integer product multiplies.
const LANE_BITS: u32 = 8;
/// Holds the choices that decide a plan, given the network's sites.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Bits of a weight's code.
    pub weight_bits: u32,
    /// Bits of an activation's code.
    pub activation_bits: u32,
    /// Which values of a weight share a scale.
    pub weight_scales: WeightScales,
    /// Whether codes are looked up in tables of levels, as long as there are fewer than lanes of a product; this comes
    /// before twins.
    pub tables: bool,
    /// Whether attention's probabilities are quantized in two ranges.
    pub softmax_twin: bool,
    /// Whether GELU's output is quantized in two ranges.
    pub gelu_twin: bool,
    /// Whether the first product of a network and its heads, which are few and matter much, have 8 bits where no rule says
    /// otherwise.
    pub wide_ends: bool,
    /// Rules for single sites. Of two rules for one site the later one holds.
    pub rules: Vec<Rule>,
}

/// Says which values of a weight share a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum WeightScales {
    /// All values, or in `attn.qkv` those of each of q, k and v.
    #[default]
    Tensor,
    /// The values of each output channel.
    Channel,
}

/// Says what becomes of the sites whose names match a pattern.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Their codes have these widths.
    Bits(Pattern, Widths),
    /// Their products stay in floats.
    Float(Pattern),
}

/// Holds widths as in `w4a8`. A width that is missing changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// Bits of the weight's code.
    pub weight: Option<u32>,
    /// Bits of the activations' codes.
    pub activation: Option<u32>,
}

impl Policy {
    /// Returns the choices that `preset` stands for, at the given widths.
    pub fn preset(preset: Preset, weight_bits: u32, activation_bits: u32) -> Self {
        let paper = |twins| Self {
            weight_bits,
            activation_bits,
            weight_scales: WeightScales::Tensor,
            tables: false,
            softmax_twin: twins,
            gelu_twin: twins,
            wide_ends: false,
            rules: Vec::new(),
        };
        match preset {
            Preset::Ptq4vit => paper(true),
            Preset::BasePtq => paper(false),
            Preset::Best => Self {
                weight_scales: WeightScales::Channel,
                tables: true,
                wide_ends: true,
                ..paper(false)
            },
        }
    }

    /// Makes the plan for a network with these `sites`.
    ///
    /// # Errors
    /// A width out of range; a rule that is for no site, or tells a weight's width where no site that it is for has
    /// one.
    pub fn plan(&self, sites: &[Site]) -> Result<Plan, String> {
        for (what, bits) in [
            ("weights", self.weight_bits),
            ("activations", self.activation_bits),
        ] {
            if !BITS.contains(&bits) {
                return Err(format!(
                    "expected {} to {} bits for {what}, found {bits}",
                    BITS.start(),
                    BITS.end()
                ));
            }
        }
        for rule in &self.rules {
            rule.check(sites)?;
        }
        Ok(Plan::new(sites, |site| self.scheme(site)))
    }

    fn scheme(&self, site: &Site) -> SiteScheme {
        let (mut weight, mut activation) = match self.wide_ends && is_end(site) {
            true => (LANE_BITS, LANE_BITS),
            false => (self.weight_bits, self.activation_bits),
        };
        let mut float = false;
        for rule in &self.rules {
            match rule {
                Rule::Bits(pattern, widths) if pattern.matches(&site.name) => {
                    weight = widths.weight.unwrap_or(weight);
                    activation = widths.activation.unwrap_or(activation);
                    float = false;
                }
                Rule::Float(pattern) if pattern.matches(&site.name) => float = true,
                Rule::Bits(..) | Rule::Float(_) => {}
            }
        }
        if float {
            return SiteScheme::Float;
        }
        let operand = |bits, format, granularity| OperandScheme {
            bits,
            format,
            granularity,
        };
        // Of 8 bits every lane is a level.
        let levels = |bits| match self.tables && bits < LANE_BITS {
            true => Format::Table,
            false => Format::Uniform,
        };
        let heads = operand(activation, levels(activation), Granularity::Head);
        let (a, b) = match &site.kind {
            SiteKind::Linear(linear) => {
                // What a gate lets through has either sign and any size, so no twin is made for it.
                let has_twin = Format::GeluTwin.is_for(values(site, Side::A));
                let format = match (self.tables, linear.after_gelu.is_some()) {
                    // The smallest level is an offset, which a bias makes up for.
                    (true, true) if linear.has_bias => Format::TwinTable,
                    (true, _) => Format::Table,
                    (false, _) if self.gelu_twin && has_twin => Format::GeluTwin,
                    (false, _) => Format::Uniform,
                };
                let granularity = match self.weight_scales {
                    WeightScales::Channel => Granularity::Channel,
                    WeightScales::Tensor => Granularity::of_parts(linear.parts),
                };
                (
                    operand(activation, format, Granularity::Tensor),
                    operand(weight, levels(weight), granularity),
                )
            }
            SiteKind::Scores(_) => (heads, heads),
            SiteKind::Context(_) => {
                let probabilities = match (self.tables, self.softmax_twin) {
                    (true, _) => operand(activation, Format::TwinTable, Granularity::Head),
                    (false, true) => operand(activation, Format::SoftmaxTwin, Granularity::Tensor),
                    (false, false) => heads,
                };
                (probabilities, heads)
            }
        };
        SiteScheme::Integer { a, b }
    }
}

/// Says whether a site is the first product of a network, or one of its heads, of which it may have none.
fn is_end(site: &Site) -> bool {
    site.name == "patch_embed.proj" || site.name.starts_with("head")
}

impl Rule {
    /// Checks that the rule changes something for a network with these `sites`.
    fn check(&self, sites: &[Site]) -> Result<(), String> {
        let (Self::Bits(pattern, _) | Self::Float(pattern)) = self;
        let matching = matching(pattern, sites)?;
        if let Self::Bits(_, widths) = self
            && let Some(bits) = widths.weight
            && !matching.iter().any(|site| site.has_weight())
        {
            return Err(format!(
                "w{bits} is for weights, but none of the sites that match `{pattern}` has one"
            ));
        }
        Ok(())
    }
}

impl FromStr for Widths {
    type Err = String;

    /// Reads `w4a8`, `w4` or `a8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected bits of 2 to 8 as in w4a8, w4 or a8, found {text:?}");
        let bits = |digits: &str| match digits.parse() {
            Ok(bits) if BITS.contains(&bits) => Ok(bits),
            _ => Err(wrong()),
        };
        let (weight, activation) = match text.split_once('a') {
            Some((weight, activation)) => (weight, Some(bits(activation)?)),
            None => (text, None),
        };
        let weight = match weight.strip_prefix('w') {
            Some(weight) => Some(bits(weight)?),
            None if weight.is_empty() && activation.is_some() => None,
            None => return Err(wrong()),
        };
        Ok(Self { weight, activation })
    }
}

impl FromStr for Rule {
    type Err = String;

    /// Reads `PATTERN=w4a8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((pattern, widths)) = text.rsplit_once('=') else {
            return Err(format!("expected PATTERN=w4a8, found {text:?}"));
        };
        Ok(Self::Bits(parse_pattern(pattern)?, widths.parse()?))
    }
}

impl Rule {
    /// Reads the pattern of sites that stay in floats.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn float(pattern: &str) -> Result<Self, String> {
        parse_pattern(pattern).map(Self::Float)
    }
}

/// Names sites by a pattern, as in `*.mlp.fc2`.
#[derive(Clone, Debug, PartialEq)]
pub struct SitePattern(Pattern);

impl SitePattern {
    /// Returns those among a network's `sites` that the pattern matches, in their order.
    ///
    /// # Errors
    /// That there are none, and which sites there are.
    pub fn select<'s>(&self, sites: &'s [Site]) -> Result<Vec<&'s Site>, String> {
        matching(&self.0, sites)
    }
}

impl FromStr for SitePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_pattern(text).map(Self)
    }
}

impl Display for SitePattern {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Finds those among `sites` that `pattern` matches, of which there has to be one.
fn matching<'s>(pattern: &Pattern, sites: &'s [Site]) -> Result<Vec<&'s Site>, String> {
    let found = sites.iter().filter(|site| pattern.matches(&site.name));
    let found: Vec<&Site> = found.collect();
    if found.is_empty() {
        let names: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
        return Err(format!(
            "`{pattern}` matches no site; those of the model are {}",
            names.join(", ")
        ));
    }
    Ok(found)
}

fn parse_pattern(pattern: &str) -> Result<Pattern, String> {
    Pattern::new(pattern).map_err(|error| format!("pattern `{pattern}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::sites;
    use crate::model::recipe::recipe_named;

    fn deit_tiny() -> Vec<Site> {
        sites(&recipe_named("deit_tiny_patch16_224").unwrap().architecture)
    }

    fn plan(rules: &[Rule]) -> Result<Plan, String> {
        let policy = Policy {
            rules: rules.to_vec(),
            ..Policy::preset(Preset::Ptq4vit, 4, 5)
        };
        policy.plan(&deit_tiny())
    }

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    /// `None` where it stays in floats.
    fn bits(plan: &Plan, name: &str) -> Option<[u32; 2]> {
        let sites = deit_tiny();
        let plan = plan.of(sites.iter().find(|site| site.name == name).unwrap())?;
        Some([plan.a.bits, plan.b.bits])
    }

    #[test]
    fn weights_and_activations_have_their_own_widths() {
        let plan = plan(&[]).unwrap();
        assert_eq!(bits(&plan, "blocks.3.mlp.fc1"), Some([5, 4]));
        assert_eq!(bits(&plan, "blocks.3.attn.qk"), Some([5, 5]));
    }

    #[test]
    fn rules_change_what_they_name_and_the_later_one_holds() {
        let float = Rule::float("*.attn.qk").unwrap();
        let plan = plan(&[
            rule("*.mlp.fc2=w8a7"),
            rule("blocks.1?.mlp.*=a6"),
            float,
            rule("blocks.0.*=w3"),
        ])
        .unwrap();
        assert_eq!(bits(&plan, "blocks.9.mlp.fc2"), Some([7, 8]));
        assert_eq!(bits(&plan, "blocks.10.mlp.fc2"), Some([6, 8]));
        assert_eq!(bits(&plan, "blocks.10.mlp.fc1"), Some([6, 4]));
        assert_eq!(bits(&plan, "blocks.9.attn.qk"), None);
        // A rule about bits takes it back, and w3 says nothing of activations.
        assert_eq!(bits(&plan, "blocks.0.attn.qk"), Some([5, 5]));
        assert_eq!(bits(&plan, "blocks.0.mlp.fc2"), Some([7, 3]));
        assert_eq!(
            plan.in_words(&deit_tiny()),
            "weights 3 to 8, activations 5 to 7; 11 products in floats, blocks.1.attn.qk to blocks.11.attn.qk"
        );
    }

    #[test]
    fn ends_are_wide_unless_a_rule_says_otherwise() {
        let policy = Policy {
            rules: vec![rule("head=w4a4")],
            ..Policy::preset(Preset::Best, 4, 4)
        };
        let plan = policy.plan(&deit_tiny()).unwrap();
        assert_eq!(bits(&plan, "patch_embed.proj"), Some([8, 8]));
        assert_eq!(bits(&plan, "blocks.0.mlp.fc1"), Some([4, 4]));
        assert_eq!(bits(&plan, "head"), Some([4, 4]));
        // A network that answers with features has no head.
        let recipe = recipe_named("vit_small_patch14_dinov2").unwrap();
        let policy = Policy::preset(Preset::Best, 4, 4);
        assert!(policy.plan(&sites(&recipe.architecture)).is_ok());
    }

    #[test]
    fn rules_that_say_nothing_are_refused() {
        let says = |rule: Rule| plan(&[rule]).unwrap_err();
        assert!(
            says(rule("*.fc3=w4"))
                .starts_with("`*.fc3` matches no site; those of the model are patch_embed.proj, ")
        );
        assert!(says(Rule::float("heads").unwrap()).contains("matches no site"));
        assert!(
            says(rule("*.attn.qk=w4a4"))
                .contains("none of the sites that match `*.attn.qk` has one")
        );
    }

    #[test]
    fn widths_are_read() {
        let widths = |weight, activation| Ok(Widths { weight, activation });
        assert_eq!("w4a8".parse(), widths(Some(4), Some(8)));
        assert_eq!("w4".parse(), widths(Some(4), None));
        assert_eq!("a8".parse(), widths(None, Some(8)));
        for wrong in [
            "", "w", "a", "4", "w4a", "wa", "w9", "w1a4", "a4w4", "w4a8 ", "W4A8", "w4a8a8",
        ] {
            let problem = wrong.parse::<Widths>().unwrap_err();
            assert!(
                problem.ends_with(&format!("found {wrong:?}")),
                "{wrong}: {problem}"
            );
        }
        assert!("head".parse::<Rule>().unwrap_err().contains("PATTERN=w4a8"));
        assert!("[=w4".parse::<Rule>().unwrap_err().contains("pattern `[`"));
    }
}
