//! The search: that its score is that of its scales, that no better scales are missed, and that what it leaves out
//! changes nothing.

use crate::common::devices;
use crate::literal::Tensors;
use crate::network::{Golden, plans, six_bits};
use crate::oracle::{golden_scales, golden_score, methods, nudged};
use ptq4vit_gpu::device::{Commands, Device};
use ptq4vit_gpu::quant::{Batch, Metric, Preset, Side, SitePlan, SiteScales, SiteSearch};

/// The oracle's scores are those of the formulas: what the other tests here compare with is right.
pub fn the_literal_score_is_the_oracles(golden: &Golden) {
    let network = golden.network(&Device::cpu());
    let sites = network
        .sites()
        .map(|site| Tensors::of_the_oracle(golden, site));
    let tensors: Vec<Tensors> = sites.collect();
    for (setting, method) in methods(&network) {
        for (plan, tensors) in plans(&network, &method).iter().zip(&tensors) {
            let scales = golden_scales(golden, &setting, plan);
            let score = tensors.score(plan, method.settings.metric, &scales);
            let expected = golden_score(golden, &setting, plan);
            // The files' tensors are rounded to f32, which moves the few values that lie on a rounding boundary.
            assert!(
                (score / expected - 1.0).abs() < 5e-4,
                "{setting}/{}: {score:e}, the oracle's {expected:e}",
                plan.site.name
            );
        }
    }
}

/// With every metric: the score that is reported is the formula's for the chosen scales, and no worse than that of the
/// oracle's scales.
pub fn every_setting_reaches_the_golden_scores(golden: &Golden) {
    let mut failures = Vec::new();
    for device in devices() {
        let network = golden.network(&device);
        let (_, records) = golden.records(&network);
        let tensors: Vec<Tensors> = network
            .sites()
            .map(|site| Tensors::recorded(golden, &device, site, &records[&site.name]))
            .collect();
        for (setting, method) in methods(&network) {
            let found = golden.calibrate(&device, &method, None);
            for (index, plan) in plans(&network, &method).iter().enumerate() {
                let outcome = Outcome {
                    plan,
                    metric: method.settings.metric,
                    tensors: &tensors[index],
                    chosen: &found.sites[&plan.site.name].scales,
                    reported: found.reports[index].score,
                };
                if let Err(failure) = outcome.check(&golden_scales(golden, &setting, plan)) {
                    let (device, site) = (device.name(), &plan.site.name);
                    failures.push(format!("{device}: {setting}/{site}: {failure}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One site by itself, all images in one batch: the search without calibration's bookkeeping.
pub fn a_single_site_reaches_the_golden_score(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let (_, mut records) = golden.records(&network);
        let (setting, method) = methods(&network).remove(2);
        let float = golden.float_products(&network);
        let commands = &mut Commands::new(&device);
        for plan in plans(&network, &method) {
            let site = &plan.site;
            let record = records.remove(&site.name).expect("a record of each site");
            let tensors = Tensors::recorded(golden, &device, site, &record);
            let batch = Batch {
                images: golden.images("input").len(),
                record,
            };
            let linear = site.has_weight().then(|| float.linear(site));
            let settings = &method.settings;
            let search =
                SiteSearch::new(commands, &plan, settings, linear, &[batch], 64 << 20).unwrap();
            let found = search.run(commands).unwrap();
            let outcome = Outcome {
                plan: &plan,
                metric: settings.metric,
                tensors: &tensors,
                chosen: &found.scales,
                reported: found.score,
            };
            let checked = outcome.check(&golden_scales(golden, &setting, &plan));
            checked.unwrap_or_else(|failure| panic!("{}: {}: {failure}", device.name(), site.name));
        }
    }
}

/// What a search found at a site.
struct Outcome<'a> {
    plan: &'a SitePlan,
    metric: Metric,
    /// What it had to go by.
    tensors: &'a Tensors,
    chosen: &'a SiteScales,
    /// The score that it says they have.
    reported: f64,
}

impl Outcome<'_> {
    /// Checks that the reported score is the formula's for the chosen scales, and that this is no worse than the formula's
    /// for the oracle's scales.
    fn check(&self, oracles: &SiteScales) -> Result<(), String> {
        let (plan, reported) = (self.plan, self.reported);
        let score_of = |scales: &SiteScales| self.tensors.score(plan, self.metric, scales);
        let (score, bar) = (score_of(self.chosen), score_of(oracles));
        // An error is about 2^-bits of Ô, which is rounded some four times to f32; a score is quadratic in the errors.
        let bound = 8.0 * 2f64.powi(plan.a.bits.max(plan.b.bits) as i32 - 24);
        let is_score = (reported / score - 1.0).abs() <= bound;
        if !is_score {
            return Err(format!(
                "{reported:e} is reported, the chosen scales' score is {score:e}"
            ));
        }
        // The oracle's tensors differ from ours by rounding, so a value on a boundary between two codes may have one there
        // and the other here, and the two searches rank neighbours differently. What either's scales are worth if they are
        // rounded otherwise has to overlap, but for what is between the ends of two such ways (1.4e-4 was seen).
        let reaches = |score: f64, bar: f64| score <= bar * (1.0 + 2e-4);
        let rounded = |scales: &SiteScales| -> Vec<f64> {
            let nudges = (0..50).map(|attempt| score_of(&nudged(scales.clone(), attempt)));
            nudges.collect()
        };
        let reaches_rounded = || {
            let least = rounded(self.chosen)
                .into_iter()
                .fold(f64::INFINITY, f64::min);
            reaches(least, rounded(oracles).into_iter().fold(0.0, f64::max))
        };
        if !reaches(score, bar) && !reaches_rounded() {
            return Err(format!(
                "the chosen scales' score is {score:e}, the oracle's scales' {bar:e}"
            ));
        }
        Ok(())
    }
}

/// The search finds what the exhaustive one finds.
pub fn abandoning_candidates_early_changes_no_choice(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        for (setting, method) in methods(&network) {
            let mut exhaustive = method.clone();
            exhaustive.settings.exhaustive = true;
            let run = |method| golden.calibrate(&device, method, None);
            let (quick, full) = (run(&method), run(&exhaustive));
            assert_eq!(quick.sites, full.sites, "{}: {setting}", device.name());
            assert!(quick.work().done <= full.work().done);
        }
    }
}

/// A candidate that was left early has, as far as it came, no more than the exhaustive search finds, and would have lost.
pub fn what_candidates_reached_is_what_the_exhaustive_search_finds(golden: &Golden) {
    let network = golden.network(&Device::cpu());
    let run = |exhaustive| {
        let mut method = six_bits(Preset::Ptq4vit, &network);
        method.settings.exhaustive = exhaustive;
        golden.calibrate(&Device::cpu(), &method, None).reports
    };
    let mut early = 0;
    for (quick, full) in run(false).iter().zip(&run(true)) {
        assert_eq!(quick.curves.len(), full.curves.len(), "{}", quick.site);
        let mut chosen_scores = 0.0;
        for (quick, full) in quick.curves.iter().zip(&full.curves) {
            assert_eq!((quick.side, quick.group), (full.side, full.group));
            assert_eq!(quick.chosen, full.chosen);
            let best = full.candidates[full.chosen].sum;
            assert_eq!(quick.candidates[full.chosen].sum, best);
            for (index, (quick, full)) in quick.candidates.iter().zip(&full.candidates).enumerate()
            {
                assert!(full.complete);
                assert_eq!((full.reached, full.estimate()), (1.0, Some(full.sum)));
                assert_eq!(quick.scale, full.scale);
                assert!(best <= full.sum, "candidate {index}");
                if quick.complete {
                    assert_eq!(quick.sum, full.sum);
                } else {
                    early += 1;
                    assert!(quick.sum <= full.sum && full.sum > best);
                    assert!((0.0..=1.0).contains(&quick.reached));
                    // What it was out for is a part of its error alone.
                    assert!(quick.estimate().is_none_or(|estimate| estimate > best));
                }
            }
            chosen_scores += if matches!(quick.side, Side::B) {
                best
            } else {
                0.0
            };
        }
        assert!(
            (chosen_scores / quick.score - 1.0).abs() < 1e-12,
            "{}",
            quick.site
        );
    }
    assert!(early > 1000, "{early} were left early");
}
