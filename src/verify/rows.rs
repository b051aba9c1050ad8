//! Reports in words, row by row, as people read them.

use super::report::{Codes, Figure, FloatReport, IntegerReport, KernelReport, Kind, ModelReport};
use serde::Serialize;

/// Says in words how something was verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// What was found.
    pub detail: String,
    /// Whether that is as it should be.
    pub verdict: Verdict,
}

/// Says whether what was found is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is.
    Ok,
    /// It isn't.
    Failed,
    /// Nothing was found: the device doesn't offer what it takes.
    Skipped,
}

impl Verdict {
    fn of(failed: bool) -> Self {
        match failed {
            false => Self::Ok,
            true => Self::Failed,
        }
    }

    /// Returns the verdict as it is printed.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "not offered here",
        }
    }
}

impl Codes {
    /// Words how many codes differ, of how many.
    pub fn in_words(&self) -> String {
        match self.all {
            0 => "-".to_owned(),
            all => format!("{} of {all}", self.differing),
        }
    }
}

impl KernelReport {
    /// Says whether the kernel computes as it should.
    pub fn verdict(&self) -> Verdict {
        match self.cases.is_empty() {
            true => Verdict::Skipped,
            false => Verdict::of(self.failure().is_some()),
        }
    }

    /// Says by what the cases are compared.
    pub fn compared(&self) -> &'static str {
        let with = |kind: Kind| self.cases.iter().any(|case| case.kind == kind);
        match (with(Kind::Close), with(Kind::Codes), with(Kind::Exact)) {
            (false, false, false) => "-",
            (false, false, true) => "bit for bit",
            (true, _, false) | (false, true, false) => "by bounds",
            (_, _, true) => "both",
        }
    }

    /// Words the largest error of floats in units of its bound.
    pub fn largest_error(&self) -> String {
        let shares = self.cases.iter().filter_map(|case| case.share_of_bound);
        let largest = shares.reduce(f64::max);
        largest.map_or("-".to_owned(), |share| format!("{share:.3} of bound"))
    }

    /// Adds up how codes differ from the CPU version's.
    pub fn codes(&self) -> Codes {
        let mut codes = Codes::default();
        let of_cases = self.cases.iter().filter_map(|case| case.codes.as_ref());
        of_cases.for_each(|of_case| codes.add(of_case));
        codes
    }

    /// Describes the kernel in a row.
    pub fn row(&self) -> Row {
        let mut detail = match self.cases.len() {
            0 => String::new(),
            1 => format!("1 case, {}", self.compared()),
            cases => format!("{cases} cases, {}", self.compared()),
        };
        if self.cases.iter().any(|case| case.share_of_bound.is_some()) {
            detail += &format!("; largest error: {}", self.largest_error());
        }
        let codes = self.codes();
        if codes.all > 0 {
            detail += &format!("; codes a step off: {}", codes.in_words());
        }
        if let Some((case, failure)) = self.failure() {
            detail += &format!("; {}: {failure}", case.title());
        }
        Row {
            name: self.kernel.clone(),
            detail,
            verdict: self.verdict(),
        }
    }
}

impl ModelReport {
    /// Describes the model in rows.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        rows.extend(self.float.iter().flat_map(FloatReport::rows));
        rows.extend(self.integer.iter().flat_map(IntegerReport::rows));
        rows.extend(self.failure.iter().map(|failure| Row {
            name: "the whole".to_owned(),
            detail: failure.to_string(),
            verdict: Verdict::Failed,
        }));
        rows
    }
}

fn row(name: &str, detail: String, failed: bool) -> Row {
    Row {
        name: name.to_owned(),
        detail,
        verdict: Verdict::of(failed),
    }
}

fn figure(name: &str, figure: &Figure, more: &str) -> Row {
    let Figure { error, bound } = figure;
    let detail = format!("{error:.1e} off, {bound:.1e} allowed{more}");
    row(name, detail, !figure.holds())
}

/// Words how many images are of another class, where there are classes.
fn flips(flips: Option<usize>, images: usize) -> String {
    flips.map_or_else(String::new, |flips| {
        format!(", top-1 flips: {flips} of {images}")
    })
}

impl FloatReport {
    fn rows(&self) -> Vec<Row> {
        let flips = flips(self.top1_flips, self.logits.len());
        let mut rows = vec![figure("FP32 logits", &self.logits_error, &flips)];
        let gradients = self.gradients.iter();
        let worst = gradients.max_by(|one, other| one.figure.error.total_cmp(&other.figure.error));
        rows.extend(worst.map(|worst| {
            let site = format!(" ({})", worst.site);
            figure("gradients", &worst.figure, &site)
        }));
        let choices = self.scales.iter();
        let others = choices.filter(|choice| choice.expected.is_some()).count();
        let (all, same) = (self.scales.len(), self.scales.len() - others);
        let found = format!("{same} of {all} sites' as on the CPU, {others} others");
        let wrong = self.scales.iter().any(|choice| !choice.is_as_good());
        rows.push(row("chosen scales", found, wrong));
        rows
    }
}

impl IntegerReport {
    fn rows(&self) -> Vec<Row> {
        let (mut operands, mut next) = (Codes::default(), Codes::default());
        for site in &self.sites {
            operands.add(&site.operands);
            site.next.iter().for_each(|codes| next.add(codes));
        }
        let wrong = self.sites.iter().any(|site| site.failure.is_some());
        let found = format!(
            "{} sites; codes a step off: {} in, {} out",
            self.sites.len(),
            operands.in_words(),
            next.in_words()
        );
        let flips = flips(self.top1_flips, self.logits.len());
        vec![
            row("integers", found, wrong),
            figure("integer logits", &self.logits_error, &flips),
        ]
    }
}
