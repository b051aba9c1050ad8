//! Mixed precision: which operand gets how many bits.
//!
//! What each operand costs by itself in each width is measured on the calibration images (`calibrate/costs.rs`), in nats of
//! KL divergence or in squared error of features. Costs are taken to add up, so the widths with the least sum within a
//! given number of bits follow by dynamic programming (`choice.rs`). The result is a [`Plan`] as any other.

mod choice;

use super::Preset;
use super::calibrate::{Budget, Calibrator, CostMeter, Event};
use super::plan::{Plan, Policy, Side, SiteScheme};
use super::transform::prepare;
use crate::device::Device;
use crate::error::{Error, Result, Setting};
use crate::families::{graphs, sites};
use crate::graph::{Network, Site};
use crate::model::config::Architecture;
use choice::{Widths, choose};
use serde::Serialize;
use std::ops::{Range, RangeInclusive};

/// Limits the bits that an operand is allotted.
pub const ALLOTTED_BITS: RangeInclusive<u32> = 3..=8;

/// Counts the means of bits that a curve has from one width to the next.
const MEANS_PER_BIT: u32 = 4;

/// Names the kinds of operands, each of which has bits of its own to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperandKind {
    /// The network's weights: bits are weighed by their number.
    Weight,
    /// What products read otherwise: bits are weighed by the number of values that one image has.
    Activation,
}

impl OperandKind {
    /// Lists the kinds.
    pub const ALL: [Self; 2] = [Self::Weight, Self::Activation];

    /// Returns what operands of the kind are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight => "weights",
            Self::Activation => "activations",
        }
    }
}

/// Shows what the operands of one kind are estimated to cost, over the bits that they have on average.
///
/// It is what an allotment makes least: the sum of what each operand costs by itself on the calibration images, in nats of KL
/// divergence or in half the features' squared error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AllotmentCurve {
    /// Whose operands.
    pub kind: OperandKind,
    /// The plan that was made.
    pub chosen: AllotmentPoint,
    /// What would have been chosen for each of some means, which rise from the narrowest to the widest of the
    /// [`ALLOTTED_BITS`].
    pub points: Vec<AllotmentPoint>,
}

/// Holds what an allotment has and costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AllotmentPoint {
    /// The mean bits of a value.
    pub mean_bits: f64,
    /// The estimated cost.
    pub cost: f64,
}

/// Holds the operands of a network that bits are allotted to, with what each costs in each width.
///
/// A policy's rules and its wide ends stay: what they decide is not allotted, and counts in no average.
pub struct Allotment {
    sites: Vec<Site>,
    /// The policy's plan with each of the [`ALLOTTED_BITS`] for what is allotted.
    plans: Vec<Plan>,
    operands: Vec<Operand>,
}

/// Says what bits are allotted for: with the images and the settings of a calibration, all that decides the widths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AllotmentGoal {
    /// The plan with the fewest bits for what is allotted.
    narrowest: Plan,
    /// Total bits of weights, where a mean is wanted.
    weight_bits: Option<u64>,
    /// Total bits of activations, likewise.
    activation_bits: Option<u64>,
    /// The most bytes that the file may have, where that is wanted.
    max_bytes: Option<u64>,
}

/// Holds one operand that is allotted bits.
struct Operand {
    site: Site,
    side: Side,
    kind: OperandKind,
    /// The number of its values, of one image where it is an activation.
    len: u64,
    /// What it costs in each width; empty before it is measured.
    costs: Vec<f64>,
}

impl AllotmentGoal {
    /// Returns the plan with the fewest bits for what is allotted.
    pub fn narrowest(&self) -> &Plan {
        &self.narrowest
    }
}

impl Allotment {
    /// Finds the operands of these `kinds` whose widths `policy` leaves open in the network of this `architecture`. Those
    /// of other kinds have the policy's bits.
    ///
    /// # Errors
    /// What [`Policy::plan`] finds wrong, and a policy that leaves nothing open of a kind.
    pub fn new(
        policy: &Policy,
        kinds: &[OperandKind],
        architecture: &Architecture,
    ) -> std::result::Result<Self, String> {
        let sites = sites(architecture);
        let plan = |bits| {
            let has = |kind| kinds.contains(&kind);
            let policy = Policy {
                weight_bits: if has(OperandKind::Weight) {
                    bits
                } else {
                    policy.weight_bits
                },
                activation_bits: if has(OperandKind::Activation) {
                    bits
                } else {
                    policy.activation_bits
                },
                ..policy.clone()
            };
            policy.plan(&sites)
        };
        let plans: Vec<Plan> = ALLOTTED_BITS
            .map(plan)
            .collect::<std::result::Result<_, _>>()?;
        let mut operands = Vec::new();
        for site in &sites {
            let (Some(narrow), Some(wide)) = (plans[0].of(site), plans[plans.len() - 1].of(site))
            else {
                continue;
            };
            for side in [Side::A, Side::B] {
                if narrow.operand(side).bits == wide.operand(side).bits {
                    continue;
                }
                let is_weight = side == Side::B && site.has_weight();
                operands.push(Operand {
                    site: site.clone(),
                    side,
                    kind: if is_weight {
                        OperandKind::Weight
                    } else {
                        OperandKind::Activation
                    },
                    len: narrow.values_len(side) as u64,
                    costs: Vec::new(),
                });
            }
        }
        for kind in kinds {
            if !operands.iter().any(|operand| operand.kind == *kind) {
                let name = kind.name();
                return Err(format!("no {name} are left whose bits could be chosen"));
            }
        }
        Ok(Self {
            sites,
            plans,
            operands,
        })
    }

    /// Returns the plan that has the most bits.
    pub(super) fn widest(&self) -> &Plan {
        &self.plans[self.plans.len() - 1]
    }

    /// Measures what each operand costs in each width, by `calibrator`, whose method has the widest plan. If `device` is lost,
    /// there is another in its place afterwards.
    ///
    /// # Errors
    /// Settings that decide no sites in sequence, too few images, and those of a calibration.
    pub(super) async fn measure(
        &mut self,
        calibrator: &Calibrator<'_>,
        device: &mut Device,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        if calibrator.method.settings.sequence.is_none() {
            let problem = format!("only {} allots bits", Preset::Best.name());
            return Err(Error::setting(Setting::MeanBits, problem));
        }
        calibrator.method.settings.validate()?;
        let costs = calibrator
            .overcome_faults(device, on_event, async |device, budget, on_event| {
                self.costs(calibrator, device, budget, on_event).await
            })
            .await?;
        for (operand, costs) in self.operands.iter_mut().zip(costs) {
            log::debug!("{} {:?}: {costs:?}", operand.site.name, operand.side);
            operand.costs = costs;
        }
        Ok(())
    }

    async fn costs(
        &self,
        calibrator: &Calibrator<'_>,
        device: &Device,
        budget: Budget,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        let (architecture, images) = (calibrator.architecture, calibrator.images);
        let prepared = prepare(
            device,
            architecture,
            calibrator.weights,
            calibrator.method,
            images,
            budget,
            on_event,
        )
        .await?;
        let weights = prepared.as_ref().unwrap_or(calibrator.weights);
        let network = Network::load(device, &graphs(architecture), |name| weights.float(name))?;
        let meter = CostMeter {
            network: &network,
            answer: architecture.answer(),
            weights,
            method: calibrator.method,
            plans: &self.plans,
            images,
            budget,
        };
        let asked = self.operands.iter();
        let asked: Vec<(Site, Side)> = asked
            .map(|operand| (operand.site.clone(), operand.side))
            .collect();
        meter.measure(&asked, on_event).await
    }

    /// Says what is wanted: so many `mean_bits` of the operands of some kinds, or a file of `max_bytes`.
    pub fn goal(&self, mean_bits: &[(OperandKind, f64)], max_bytes: Option<u64>) -> AllotmentGoal {
        let total = |kind| {
            let (_, mean) = mean_bits.iter().find(|(of, _)| *of == kind)?;
            Some(self.total_bits(kind, *mean))
        };
        AllotmentGoal {
            narrowest: self.plans[0].clone(),
            weight_bits: total(OperandKind::Weight),
            activation_bits: total(OperandKind::Activation),
            max_bytes,
        }
    }

    /// Counts the bits of the operands of one kind if each value had `mean_bits`, rounded down.
    fn total_bits(&self, kind: OperandKind, mean_bits: f64) -> u64 {
        (self.len(kind) as f64 * mean_bits) as u64
    }

    fn len(&self, kind: OperandKind) -> u64 {
        self.of_kind(kind).map(|(_, operand)| operand.len).sum()
    }

    fn of_kind(&self, kind: OperandKind) -> impl Iterator<Item = (usize, &Operand)> {
        let operands = self.operands.iter().enumerate();
        operands.filter(move |(_, operand)| operand.kind == kind)
    }

    /// Makes the plan that costs the least of all that meet `goal`; `size` counts the bytes of a plan's file.
    ///
    /// # Errors
    /// The least size that is possible and the size that is wanted, where that is less.
    ///
    /// # Panics
    /// If nothing was measured.
    pub fn plan_for(
        &self,
        goal: &AllotmentGoal,
        size: impl Fn(&Plan) -> u64,
    ) -> std::result::Result<Plan, [u64; 2]> {
        if let Some(most) = goal.max_bytes {
            let plan = self.plan_within(most, goal.activation_bits, size);
            return plan.map_err(|least| [least, most]);
        }
        let totals = [
            (OperandKind::Weight, goal.weight_bits),
            (OperandKind::Activation, goal.activation_bits),
        ];
        let totals = totals
            .into_iter()
            .filter_map(|(kind, total)| Some((kind, total?)));
        let plan = self.plan(&totals.collect::<Vec<_>>());
        Ok(plan.expect("a mean of 3 bits or more is enough for 3 bits each"))
    }

    /// Makes the plan whose operands of each kind cost the least within these total bits; `None` where 3 bits each are more.
    /// A kind that isn't allotted needs no total.
    ///
    /// # Panics
    /// If nothing was measured.
    fn plan(&self, totals: &[(OperandKind, u64)]) -> Option<Plan> {
        let mut chosen: Vec<Option<usize>> = vec![None; self.operands.len()];
        for &(kind, most) in totals {
            for (place, width) in self.widths(kind, most)? {
                chosen[place] = Some(width);
            }
        }
        Some(Plan::new(&self.sites, |site| self.scheme(site, &chosen)))
    }

    /// Chooses the widths with which the operands of one kind cost the least within `most` bits in total: the places of the
    /// operands, and of their widths. `None` where 3 bits each are more.
    ///
    /// # Panics
    /// If nothing was measured.
    fn widths(&self, kind: OperandKind, most: u64) -> Option<Vec<(usize, usize)>> {
        let open = self.open_widths(kind, most)?;
        let widths = |(_, operand): (usize, &Operand)| {
            assert!(!operand.costs.is_empty(), "costs are measured");
            let bits = ALLOTTED_BITS.skip(open.start).take(open.len());
            Widths {
                sizes: bits.map(|bits| u64::from(bits) * operand.len).collect(),
                costs: operand.costs[open.clone()].to_vec(),
            }
        };
        let widths: Vec<Widths> = self.of_kind(kind).map(widths).collect();
        let places = self.of_kind(kind).map(|(place, _)| place);
        let chosen = choose(&widths, most)?.into_iter();
        Some(places.zip(chosen.map(|width| open.start + width)).collect())
    }

    /// Estimates what the operands of each kind that is allotted cost in `plan`, which this made, and what they would cost with
    /// other means of bits. Empty where nothing was measured.
    pub fn curves(&self, plan: &Plan) -> Vec<AllotmentCurve> {
        if self.operands.iter().any(|operand| operand.costs.is_empty()) {
            return Vec::new();
        }
        let least = f64::from(*ALLOTTED_BITS.start());
        let steps = MEANS_PER_BIT * (ALLOTTED_BITS.end() - ALLOTTED_BITS.start());
        let is_allotted = |kind: &OperandKind| self.len(*kind) > 0;
        let curve = |kind| {
            let point = |step| {
                let mean = least + f64::from(step) / f64::from(MEANS_PER_BIT);
                let widths = self.widths(kind, self.total_bits(kind, mean));
                let widths = widths.expect("a mean of 3 bits or more is enough for 3 bits each");
                self.estimate(kind, widths)
            };
            let of_plan = self.of_kind(kind).map(|(place, operand)| {
                let width = operand.bits(plan) - ALLOTTED_BITS.start();
                (place, width as usize)
            });
            AllotmentCurve {
                kind,
                chosen: self.estimate(kind, of_plan),
                points: (0..=steps).map(point).collect(),
            }
        };
        let kinds = OperandKind::ALL.into_iter().filter(is_allotted);
        kinds.map(curve).collect()
    }

    /// Adds up what the operands of one kind have and cost in these widths, which are as [`widths`](Self::widths) has them.
    fn estimate(
        &self,
        kind: OperandKind,
        widths: impl IntoIterator<Item = (usize, usize)>,
    ) -> AllotmentPoint {
        let (mut bits, mut cost) = (0, 0.0);
        for (place, width) in widths {
            let operand = &self.operands[place];
            bits += (u64::from(*ALLOTTED_BITS.start()) + width as u64) * operand.len;
            cost += operand.costs[width];
        }
        AllotmentPoint {
            mean_bits: bits as f64 / self.len(kind) as f64,
            cost,
        }
    }

    /// Returns the places of the widths that operands of one kind may be given if `most` bits are there for all; `None` where
    /// the narrowest ones are more.
    ///
    /// A weight's is one of the two around the mean: what it costs is too uncertain for more (ACCURACY.md), and with any
    /// width open, networks lost by it.
    fn open_widths(&self, kind: OperandKind, most: u64) -> Option<Range<usize>> {
        let all = 0..self.plans.len();
        let len = self.len(kind);
        let (mean, rest) = (most / len, most % len);
        let below = mean.checked_sub(u64::from(*ALLOTTED_BITS.start()))? as usize;
        Some(match kind {
            OperandKind::Activation => all,
            OperandKind::Weight if below >= all.end => all.end - 1..all.end,
            OperandKind::Weight => below..(below + 1 + usize::from(rest > 0)).min(all.end),
        })
    }

    /// Makes the plan whose weights cost the least while its `size` in bytes is no more than `most`. `activations` are as
    /// [`plan`](Self::plan) takes them.
    ///
    /// # Errors
    /// The least size that is possible, where it is more.
    ///
    /// # Panics
    /// As [`plan`](Self::plan), and where weights aren't allotted.
    fn plan_within(
        &self,
        most: u64,
        activations: Option<u64>,
        size: impl Fn(&Plan) -> u64,
    ) -> std::result::Result<Plan, u64> {
        let with = |weights: u64| {
            let activations = activations.map(|total| (OperandKind::Activation, total));
            let totals: Vec<_> = activations
                .into_iter()
                .chain([(OperandKind::Weight, weights)])
                .collect();
            self.plan(&totals)
                .expect("as many bits as the narrowest widths take")
        };
        let len = self.len(OperandKind::Weight);
        let [least, all] =
            [ALLOTTED_BITS.start(), ALLOTTED_BITS.end()].map(|&bits| u64::from(bits) * len);
        let mut total = all;
        loop {
            let plan = with(total);
            let size = size(&plan);
            match size.checked_sub(most) {
                None | Some(0) => return Ok(plan),
                Some(_) if total == least => return Err(size),
                // Scales and tables hardly depend on the widths, so this comes to an end after a few rounds.
                Some(excess) => {
                    let taken = self.bits(&plan, OperandKind::Weight);
                    total = taken.saturating_sub(8 * excess).max(least);
                }
            }
        }
    }

    /// Puts a site's scheme together from those of the widths that its operands were given.
    fn scheme(&self, site: &Site, chosen: &[Option<usize>]) -> SiteScheme {
        let mut scheme = *self.plans[0].scheme(site);
        for (operand, width) in self.operands.iter().zip(chosen) {
            let Some(width) = width.filter(|_| operand.site.name == site.name) else {
                continue;
            };
            let SiteScheme::Integer {
                a: other_a,
                b: other_b,
            } = *self.plans[width].scheme(site)
            else {
                continue;
            };
            if let SiteScheme::Integer { a, b } = &mut scheme {
                match operand.side {
                    Side::A => *a = other_a,
                    Side::B => *b = other_b,
                }
            }
        }
        scheme
    }

    /// Computes the mean bits of the operands of one kind in a plan that this made; `None` where there are none.
    pub fn mean_bits(&self, plan: &Plan, kind: OperandKind) -> Option<f64> {
        let len = self.len(kind);
        (len > 0).then(|| self.bits(plan, kind) as f64 / len as f64)
    }

    /// Counts the bits of all operands of one kind in a plan that this made.
    fn bits(&self, plan: &Plan, kind: OperandKind) -> u64 {
        let bits = |(_, operand): (usize, &Operand)| u64::from(operand.bits(plan)) * operand.len;
        self.of_kind(kind).map(bits).sum()
    }
}

impl Operand {
    /// Returns its bits in a plan that was made for it.
    fn bits(&self, plan: &Plan) -> u32 {
        let plan = plan.of(&self.site).expect("an operand is one of integers");
        plan.operand(self.side).bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::recipe_named;
    use crate::quant::Rule;

    /// Two products of DeiT-Ti, whose weights are of one size and whose activations are as 1 to 4, with costs that are made
    /// up.
    fn allotment() -> Allotment {
        let architecture = &recipe_named("deit_tiny_patch16_224").unwrap().architecture;
        let float = |pattern: &str| Rule::float(pattern).unwrap();
        let policy = Policy {
            rules: ["patch_embed.proj", "head", "*.attn.*", "blocks.[1-9]*"]
                .map(float)
                .to_vec(),
            ..Policy::preset(Preset::Best, 8, 8)
        };
        let mut allotment = Allotment::new(&policy, &OperandKind::ALL, architecture).unwrap();
        let costs = [
            (
                "blocks.0.mlp.fc1",
                Side::A,
                [10.0, 5.0, 3.0, 2.0, 1.5, 1.25],
            ),
            ("blocks.0.mlp.fc1", Side::B, [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]),
            (
                "blocks.0.mlp.fc2",
                Side::A,
                [90.0, 30.0, 10.0, 5.0, 4.0, 3.0],
            ),
            ("blocks.0.mlp.fc2", Side::B, [7.0, 2.0, 1.5, 1.25, 1.0, 0.5]),
        ];
        assert_eq!(allotment.operands.len(), costs.len());
        for (operand, (site, side, costs)) in allotment.operands.iter_mut().zip(costs) {
            assert_eq!((&*operand.site.name, operand.side), (site, side));
            operand.costs = costs.to_vec();
        }
        allotment
    }

    #[test]
    fn curves_are_those_of_allotments_by_hand() {
        let allotment = allotment();
        let means = [(OperandKind::Weight, 4.5), (OperandKind::Activation, 4.5)];
        let goal = allotment.goal(&means, None);
        let plan = allotment.plan_for(&goal, |_| 0).unwrap();
        let [weights, activations] = &allotment.curves(&plan)[..] else {
            panic!("a curve of each kind");
        };
        let point = |mean_bits, cost| AllotmentPoint { mean_bits, cost };
        assert_eq!(weights.kind, OperandKind::Weight);
        assert_eq!(activations.kind, OperandKind::Activation);
        // Half a bit a weight is one bit for one of the two: for fc2's at 3 and at 7 bits, where that saves more, else for
        // fc1's.
        let by_hand = [
            [(3.0, 15.0), (3.0, 15.0), (3.5, 10.0), (3.5, 10.0)],
            [(4.0, 6.0), (4.0, 6.0), (4.5, 4.0), (4.5, 4.0)],
            [(5.0, 3.5), (5.0, 3.5), (5.5, 2.5), (5.5, 2.5)],
            [(6.0, 2.25), (6.0, 2.25), (6.5, 1.75), (6.5, 1.75)],
            [(7.0, 1.5), (7.0, 1.5), (7.5, 1.0), (7.5, 1.0)],
        ];
        let last = point(8.0, 0.75);
        let by_hand = by_hand
            .concat()
            .into_iter()
            .map(|(bits, cost)| point(bits, cost));
        assert_eq!(weights.points, by_hand.chain([last]).collect::<Vec<_>>());
        assert_eq!(weights.chosen, point(4.5, 4.0));
        // A bit of fc1's activations takes a fifth of a bit on average, one of fc2's four fifths, and saves the more. So up to
        // 3.75 all bits are fc1's; from 4 on fc2's have one, and fc1's what is left.
        let found: Vec<AllotmentPoint> = activations.points[..7].to_vec();
        let by_hand = [
            (3.0, 100.0),
            (3.2, 95.0),
            (3.4, 93.0),
            (3.6, 92.0),
            (4.0, 35.0),
            (4.2, 33.0),
            (4.4, 32.0),
        ];
        assert_eq!(found, by_hand.map(|(bits, cost)| point(bits, cost)));
        assert_eq!(activations.chosen, point(4.4, 32.0));
        assert_eq!(activations.points[20], point(8.0, 4.25));
        assert!(
            activations
                .points
                .is_sorted_by(|left, right| left.cost >= right.cost)
        );
    }

    #[test]
    fn what_was_not_measured_has_no_curve() {
        let mut allotment = allotment();
        let plan = allotment.plans[0].clone();
        assert_eq!(allotment.curves(&plan).len(), 2);
        allotment.operands[0].costs.clear();
        assert!(allotment.curves(&plan).is_empty());
    }
}
