//! The plan: what becomes of every matrix product of a network, decided once.
//!
//! A [`Policy`] (a preset, bits, rules for single sites) makes a [`Plan`] for the sites of a network. Search,
//! execution, evidence, memory, the file and the journal read it. It can be written as TOML, edited and read again.

mod policy;
mod product;
mod scales;
mod scheme;
mod site;

pub use policy::{Policy, Rule, SitePattern, WeightScales, Widths};
pub use product::{CodedProduct, Codes, OperandGroups};
pub use scales::{Side, SiteScales};
pub use scheme::{BITS, Granularity, OperandScheme, SiteScheme};
pub use site::SitePlan;

#[cfg(feature = "files")]
use crate::error::{Error, Result};
#[cfg(feature = "files")]
use crate::file::input;
use crate::graph::Site;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
#[cfg(feature = "files")]
use std::path::Path;

/// Names the format, in the field `format` of a plan's file.
const FORMAT_NAME: &str = "ptq4vit-gpu plan";
/// Numbers the version of the format that this program writes and reads, in the field `format_version`.
const FORMAT_VERSION: u64 = 1;

/// Says what becomes of every site of a network, by the sites' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plan {
    sites: BTreeMap<String, SiteScheme>,
}

/// Holds a plan's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    format: String,
    format_version: u64,
    sites: Plan,
}

impl Plan {
    /// Plans a scheme for each of a network's `sites`.
    pub(in crate::quant) fn new(sites: &[Site], scheme: impl Fn(&Site) -> SiteScheme) -> Self {
        let sites = sites.iter();
        Self {
            sites: sites
                .map(|site| (site.name.clone(), scheme(site)))
                .collect(),
        }
    }

    /// Returns the scheme of `site`, which is one of the network's.
    ///
    /// # Panics
    /// If the plan is another network's.
    pub fn scheme(&self, site: &Site) -> &SiteScheme {
        let scheme = self.sites.get(&site.name);
        scheme.expect("a plan has every site of its network")
    }

    /// Returns the plan of `site`, which is one of the network's; `None` where its product stays in floats.
    ///
    /// # Panics
    /// If the plan is another network's.
    pub fn of(&self, site: &Site) -> Option<SitePlan> {
        match *self.scheme(site) {
            SiteScheme::Float => None,
            SiteScheme::Integer { a, b } => Some(SitePlan {
                site: site.clone(),
                a,
                b,
            }),
        }
    }

    /// Lists the plans of those among `sites` that are computed in integers.
    ///
    /// # Panics
    /// As [`of`](Self::of).
    pub fn integer<'a>(
        &self,
        sites: impl IntoIterator<Item = &'a Site>,
    ) -> impl Iterator<Item = SitePlan> {
        sites.into_iter().filter_map(|site| self.of(site))
    }

    /// Checks that this is a plan of a network with these `sites`: each is there, and its scheme fits.
    ///
    /// # Errors
    /// The site, what was expected and what was found.
    pub fn check(&self, sites: &[Site]) -> std::result::Result<(), String> {
        let names: HashSet<&str> = sites.iter().map(|site| site.name.as_str()).collect();
        if let Some(name) = self.sites.keys().find(|name| !names.contains(&***name)) {
            return Err(format!("`{name}` is no site of the model"));
        }
        for site in sites {
            let Some(scheme) = self.sites.get(&site.name) else {
                return Err(format!("site `{}` is missing", site.name));
            };
            scheme
                .check(site)
                .map_err(|problem| format!("site `{}`: {problem}", site.name))?;
        }
        Ok(())
    }

    /// Finds the smallest and the largest width of weights, and of activations; `None` where there are none in
    /// integers.
    pub fn widths(&self, sites: &[Site]) -> [Option<(u32, u32)>; 2] {
        let mut widths: [Option<(u32, u32)>; 2] = [None; 2];
        for plan in self.integer(sites) {
            let b = usize::from(!plan.site.has_weight());
            for (kind, bits) in [(1, plan.a.bits), (b, plan.b.bits)] {
                let (least, most) = widths[kind].unwrap_or((bits, bits));
                widths[kind] = Some((least.min(bits), most.max(bits)));
            }
        }
        widths
    }

    /// Tells in short the widths of most weights and of most activations in integers, as in `W4A4`.
    pub fn in_short(&self, sites: &[Site]) -> String {
        let mut counts = [[0; 9]; 2];
        for plan in self.integer(sites) {
            let b = usize::from(!plan.site.has_weight());
            for (kind, bits) in [(1, plan.a.bits), (b, plan.b.bits)] {
                counts[kind][bits as usize] += 1;
            }
        }
        let usual = |counts: [usize; 9]| {
            let most = (0..counts.len()).max_by_key(|&bits| counts[bits]);
            most.filter(|&bits| counts[bits] > 0)
        };
        let words = ["W", "A"].into_iter().zip(counts);
        let words = words.map(|(kind, counts)| match usual(counts) {
            Some(bits) => format!("{kind}{bits}"),
            None => format!("{kind}32"),
        });
        words.collect()
    }

    /// Tells in words the widths, which weights have a scale for each output channel, and what stays in floats.
    pub fn in_words(&self, sites: &[Site]) -> String {
        let [weights, activations] = self.widths(sites).map(|widths| match widths {
            None => "none".to_owned(),
            Some((least, most)) if least == most => least.to_string(),
            Some((least, most)) => format!("{least} to {most}"),
        });
        let mut words = format!("weights {weights}, activations {activations}");
        let weights = || self.integer(sites).filter(|plan| plan.site.has_weight());
        let by_channel = |plan: &SitePlan| plan.b.granularity == Granularity::Channel;
        match (weights().filter(by_channel).count(), weights().count()) {
            (0, _) => {}
            (channels, all) if channels == all => words += "; a scale for each output channel",
            (channels, all) => write!(
                words,
                "; a scale for each output channel in {channels} of {all} weights"
            )
            .expect("a string takes text"),
        }
        let floats: Vec<&str> = sites
            .iter()
            .filter(|site| *self.scheme(site) == SiteScheme::Float)
            .map(|site| site.name.as_str())
            .collect();
        match floats[..] {
            [] => {}
            [one] => write!(words, "; {one} in floats").expect("a string takes text"),
            [first, .., last] => write!(
                words,
                "; {} products in floats, {first} to {last}",
                floats.len()
            )
            .expect("a string takes text"),
        }
        words
    }

    #[cfg(feature = "files")]
    /// Reads the plan of a network with these `sites` from a TOML file.
    ///
    /// # Errors
    /// A file that can't be read or understood, and what [`check`](Self::check) finds.
    pub fn open(path: &Path, sites: &[Site]) -> Result<Self> {
        Self::parse(&input::text(path)?, sites).map_err(|problem| Error::input(path, problem))
    }

    /// Reads the plan of a network with these `sites` from the text of its file.
    ///
    /// # Errors
    /// What can't be understood, and what [`check`](Self::check) finds.
    pub fn parse(text: &str, sites: &[Site]) -> std::result::Result<Self, String> {
        let file: PlanFile =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if file.format != FORMAT_NAME || file.format_version != FORMAT_VERSION {
            return Err(format!(
                "expected format \"{FORMAT_NAME}\" {FORMAT_VERSION}, found \"{}\" {}",
                file.format, file.format_version
            ));
        }
        file.sites.check(sites)?;
        Ok(file.sites)
    }

    /// Writes the text of the plan's file: the network's `sites` in their order, a line for each operand.
    pub fn to_toml(&self, sites: &[Site]) -> String {
        let mut text = format!("format = \"{FORMAT_NAME}\"\nformat_version = {FORMAT_VERSION}\n");
        for site in sites {
            let scheme = self.scheme(site);
            write!(text, "\n[sites.\"{}\"]\n{scheme}", site.name).expect("a string takes text");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::sites;
    use crate::format::{Scale, Table};
    use crate::model::recipe::recipe_named;
    use crate::quant::Preset;

    fn swin_tiny() -> Vec<Site> {
        sites(
            &recipe_named("swin_tiny_patch4_window7_224")
                .unwrap()
                .architecture,
        )
    }

    fn text() -> String {
        let policy = Policy {
            rules: vec![Rule::float("head.fc").unwrap()],
            ..Policy::preset(Preset::Ptq4vit, 4, 6)
        };
        policy.plan(&swin_tiny()).unwrap().to_toml(&swin_tiny())
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let text = text();
        assert!(text.contains(
            "[sites.\"layers.0.blocks.0.attn.pv\"]\n\
             a = { bits = 6, format = \"softmax_twin\", granularity = \"tensor\" }\n\
             b = { bits = 6, format = \"uniform\", granularity = \"head\" }\n"
        ));
        assert!(text.ends_with("[sites.\"head.fc\"]\nfloat = true\n"));
        let plan = Plan::parse(&text, &swin_tiny()).unwrap();
        assert_eq!(plan.to_toml(&swin_tiny()), text);
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }

    #[test]
    fn tables_have_levels_where_the_plan_says_so() {
        let text = text()
            .replace("uniform", "table")
            .replace("softmax_twin", "twin_table");
        let plan = Plan::parse(&text, &swin_tiny()).unwrap();
        let site = |name: &str| {
            let sites = swin_tiny();
            let site = sites.iter().find(|site| site.name == name);
            plan.of(site.unwrap()).unwrap()
        };
        let table = |offset: f32, lanes: &[u8]| Table {
            offset,
            lanes: lanes.to_vec(),
        };
        let one = Scale::uniform(0.5);
        let scales = |plan: &SitePlan, tables: [Table; 2]| {
            let [a, b] = tables;
            SiteScales {
                a_tables: vec![a; plan.groups(Side::A)],
                b_tables: vec![b; plan.tables(Side::B)],
                ..SiteScales::new(
                    vec![one; plan.groups(Side::A)],
                    vec![one; plan.groups(Side::B)],
                )
            }
        };
        let (linear, attention) = ("layers.0.blocks.0.mlp.fc1", "layers.0.blocks.0.attn.qk");
        let rising = || table(0.0, &[0xff, 0, 1]);
        for (name, a, b, says) in [
            (linear, rising(), rising(), ""),
            (linear, table(0.25, &[7]), rising(), ""),
            (attention, rising(), rising(), ""),
            (linear, rising(), table(0.25, &[7]), "expected no b.offset"),
            (
                attention,
                table(0.25, &[7]),
                rising(),
                "expected no a.offset",
            ),
            (
                linear,
                table(1e-40, &[7]),
                rising(),
                "expected a.offset that is 0",
            ),
            (
                linear,
                table(f32::NAN, &[7]),
                rising(),
                "expected a.offset that is 0",
            ),
            (
                linear,
                table(0.0, &[1, 1]),
                rising(),
                "a.levels: expected rising levels",
            ),
            (
                attention,
                rising(),
                table(0.0, &[]),
                "b.levels: expected 1 to 64 levels, found 0",
            ),
        ] {
            let plan = site(name);
            let found = plan.check_formats(&scales(&plan, [a, b]));
            match says {
                "" => assert_eq!(found, Ok(())),
                says => assert!(
                    found.clone().unwrap_err().contains(says),
                    "{says}: {found:?}"
                ),
            }
        }
        // One table too many, and none at all.
        let plan = site(linear);
        let mut wrong = scales(&plan, [rising(), rising()]);
        wrong.b_tables.push(rising());
        assert_eq!(
            plan.check_formats(&wrong),
            Err("expected 1 of b.levels, found 2".into())
        );
        let none = SiteScales::new(wrong.a, wrong.b);
        assert_eq!(
            plan.check_formats(&none),
            Err("expected 1 of a.levels, found 0".into())
        );
        // R2 of a table is shifted by 11 at most.
        let plan = site("layers.0.blocks.0.attn.pv");
        let mut shifted = scales(&plan, [table(0.0, &[0, 1]), rising()]);
        shifted.a[0].shift = 12;
        assert_eq!(
            plan.check_formats(&shifted),
            Err("expected a.shift up to 11, found 12".into())
        );
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused_by_what_does_not() {
        let heads = "granularity = \"head\"";
        for (from, to, says) in [
            (
                "ptq4vit-gpu plan",
                "other plan",
                "expected format \"ptq4vit-gpu plan\" 1",
            ),
            (
                "format_version = 1",
                "format_version = 2",
                "found \"ptq4vit-gpu plan\" 2",
            ),
            ("bits = 4", "bits = 9", "b.bits: expected 2 to 8, found 9"),
            ("bits = 4", "bits = \"4\"", "invalid type"),
            (
                "bits = 4,",
                "bits = 4, offset = 1,",
                "unknown field `offset`",
            ),
            ("head.fc", "head.fd", "`head.fd` is no site of the model"),
            (
                "\n[sites.\"head.fc\"]\nfloat = true\n",
                "",
                "site `head.fc` is missing",
            ),
            (
                "float = true",
                "",
                "expected either float = true or both a and b",
            ),
            (
                "float = true",
                "float = false",
                "expected either float = true or both a and b",
            ),
            (
                "format = \"softmax_twin\"",
                "format = \"gelu_twin\"",
                "a.format: expected uniform or softmax_twin or table or twin_table, found gelu_twin",
            ),
            (
                "format = \"softmax_twin\", granularity = \"tensor\"",
                "format = \"softmax_twin\", granularity = \"head\"",
                "a.granularity: expected tensor, found head",
            ),
            (
                heads,
                "granularity = \"third\"",
                "granularity: expected tensor or head, found third",
            ),
            (heads, "granularity = \"row\"", "unknown variant `row`"),
            // The first is of a linear site's activations.
            (
                "format = \"uniform\", granularity = \"tensor\"",
                "format = \"twin_table\", granularity = \"head\"",
                "a.granularity: expected tensor, found head",
            ),
            (
                "format = \"uniform\", granularity = \"third\"",
                "format = \"twin_table\", granularity = \"third\"",
                "b.format: expected uniform or table, found twin_table",
            ),
        ] {
            assert!(text().contains(from), "{from}");
            let problem = Plan::parse(&text().replace(from, to), &swin_tiny()).unwrap_err();
            assert!(problem.contains(says), "{from} -> {to}: {problem}");
        }
    }
}
