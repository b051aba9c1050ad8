//! How devices differ, by their reports: in the order of kernels and then of the networks, what must not differ and what
//! may.

use super::models::{distance, top1_flips};
use super::report::{
    CaseReport, DeviceReport, FloatReport, IntegerReport, KernelReport, Kind, ModelReport,
};
use serde::Serialize;
use std::collections::HashSet;

/// Says how much a difference matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something that is the same everywhere isn't, or a bound is not kept to.
    Failure,
    /// Floats that may round in another way, and what follows from them within bounds.
    Allowed,
    /// Something that only one of the reports has.
    Missing,
}

/// Describes one difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// How much it matters.
    pub level: Level,
    /// A kernel, or a model and its site.
    pub place: String,
    /// What differs, and by how much.
    pub what: String,
}

/// Lists the differences of `other` from `first`, which are of the same subject.
pub fn compare(first: &DeviceReport, other: &DeviceReport) -> Vec<Difference> {
    let mut differences = Differences(Vec::new());
    // Both have the kernels and the models of their subject.
    for (kernel, other) in first.kernels.iter().zip(&other.kernels) {
        differences.kernel(kernel, other);
    }
    for model in &first.models {
        if let Some(other) = other.models.iter().find(|other| other.name == model.name) {
            differences.model(model, other);
        }
    }
    differences.0
}

struct Differences(Vec<Difference>);

impl Differences {
    fn push(&mut self, level: Level, place: &str, what: impl Into<String>) {
        self.0.push(Difference {
            level,
            place: place.to_owned(),
            what: what.into(),
        });
    }

    fn kernel(&mut self, first: &KernelReport, other: &KernelReport) {
        let name = &first.kernel;
        let (mut shared, mut floats, mut codes) = (0, 0, 0);
        for case in &first.cases {
            // Divided in the same way, if both can; results don't depend on it.
            let same = |of: &&CaseReport| of.name == case.name;
            let alike = |of: &&CaseReport| same(of) && of.strategy == case.strategy;
            let mut cases = other.cases.iter();
            let other = cases.clone().find(alike).or_else(|| cases.find(same));
            let Some(other) = other else { continue };
            shared += 1;
            for (whose, case) in [("first", case), ("other", other)] {
                if let Some(failure) = &case.failure {
                    let what = format!("{}: wrong in the {whose} report: {failure}", case.title());
                    self.push(Level::Failure, name, what);
                }
            }
            if case.sha256 == other.sha256 {
                continue;
            }
            match case.kind {
                Kind::Exact => {
                    let what = format!("{}: exact results differ", case.title());
                    self.push(Level::Failure, name, what);
                }
                Kind::Close => floats += 1,
                Kind::Codes => codes += 1,
            }
        }
        if floats > 0 {
            let what = format!("floats differ within their bounds in {floats} of {shared} cases");
            self.push(Level::Allowed, name, what);
        }
        if codes > 0 {
            let what = format!("codes differ by no more than a step in {codes} of {shared} cases");
            self.push(Level::Allowed, name, what);
        }
        let names = |report: &KernelReport| -> HashSet<String> {
            report.cases.iter().map(|case| case.name.clone()).collect()
        };
        let only = names(first).symmetric_difference(&names(other)).count();
        if only > 0 {
            self.push(
                Level::Missing,
                name,
                format!("{only} cases are in one report only"),
            );
        }
    }

    fn model(&mut self, first: &ModelReport, other: &ModelReport) {
        for (whose, report) in [("first", first), ("other", other)] {
            if let Some(failure) = &report.failure {
                let what = format!("wrong in the {whose} report: {failure}");
                self.push(Level::Failure, &report.name, what);
            }
        }
        if let (Some(first_float), Some(other)) = (&first.float, &other.float) {
            self.float(&first.name, first_float, other);
        }
        if let (Some(first_integer), Some(other)) = (&first.integer, &other.integer) {
            self.integer(&first.name, first_integer, other);
        }
    }

    fn float(&mut self, model: &str, first: &FloatReport, other: &FloatReport) {
        let bound = first.logits_error.bound + other.logits_error.bound;
        self.logits(
            &format!("{model}, FP32 logits"),
            (&first.logits, &other.logits),
            bound,
            first.top1_flips.is_some(),
        );
        for report in [first, other] {
            for site in report.gradients.iter().filter(|site| !site.figure.holds()) {
                let what = format!(
                    "the gradient errs by {:.1e}, where {:.1e} is allowed",
                    site.figure.error, site.figure.bound
                );
                self.push(Level::Failure, &format!("{model}, {}", site.site), what);
            }
        }
        for choice in &first.scales {
            let Some(other) = other.scales.iter().find(|other| other.site == choice.site) else {
                self.push(
                    Level::Missing,
                    &format!("{model}, {}", choice.site),
                    "scales in one report only",
                );
                continue;
            };
            let (found, other) = (&choice.found, &other.found);
            if found.is_like(other) {
                continue;
            }
            let level = if found.scores_like(other) {
                Level::Allowed
            } else {
                Level::Failure
            };
            let what = format!(
                "other scales: {} with a score of {:e}, and {} with {:e}",
                found, found.score, other, other.score
            );
            self.push(level, &format!("{model}, {}", choice.site), what);
        }
    }

    fn integer(&mut self, model: &str, first: &IntegerReport, other: &IntegerReport) {
        for site in &first.sites {
            let place = format!("{model}, {}", site.site);
            let Some(other) = other.sites.iter().find(|other| other.site == site.site) else {
                self.push(Level::Missing, &place, "integers in one report only");
                continue;
            };
            for (whose, failure) in [("first", &site.failure), ("other", &other.failure)] {
                if let Some(failure) = failure {
                    self.push(
                        Level::Failure,
                        &place,
                        format!("wrong in the {whose} report: {failure}"),
                    );
                }
            }
            if site.sha256 != other.sha256 {
                self.push(Level::Failure, &place, "the integers differ");
            }
        }
        let bound = first.logits_error.bound + other.logits_error.bound;
        self.logits(
            &format!("{model}, integer logits"),
            (&first.logits, &other.logits),
            bound,
            first.top1_flips.is_some(),
        );
    }

    fn logits(
        &mut self,
        place: &str,
        (first, other): (&[Vec<f32>], &[Vec<f32>]),
        bound: f64,
        has_classes: bool,
    ) {
        if first.len() != other.len() || first.first().map(Vec::len) != other.first().map(Vec::len)
        {
            return self.push(
                Level::Failure,
                place,
                "are not finite in one of the reports",
            );
        }
        let distance = distance(&other.concat(), &first.concat());
        if distance == 0.0 {
            return;
        }
        let level = if distance <= bound {
            Level::Allowed
        } else {
            Level::Failure
        };
        let mut what = format!("are {distance:.1e} apart, where {bound:.1e} is allowed");
        if has_classes {
            let (flips, images) = (top1_flips(other, first), first.len());
            what.push_str(&format!("; {flips} of {images} top-1 flip"));
        }
        self.push(level, place, what);
    }
}
