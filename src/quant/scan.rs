//! One step of a search: many candidates of one operand are quantized, multiplied and compared with O.

use super::candidates::Scale;
use super::plan::{Codes, Side, SitePlan, SiteScales};
use super::settings::Metric;
use crate::device::{Buffer, Commands};
use crate::kernels::{Lines, row_error, weighted_error};
use crate::model::{LinearWeights, Record};

/// Bytes of candidates' outputs and codes that are computed in one go: enough work for a large GPU,
/// little beside a site's own tensors, and within every adapter's binding limit.
pub(super) const JOB_BYTES: usize = 32 << 20;

/// The products that candidates are compared on.
pub struct Scan<'a> {
    /// Sizes and formats.
    pub plan: &'a SitePlan,
    /// How Ô is compared with O.
    pub metric: Metric,
    /// How many of what `plan.site` calls an image there are.
    pub units: usize,
    /// A, B, O and its gradient.
    pub record: &'a Record,
    /// The weight and bias, if B is a weight.
    pub linear: Option<&'a LinearWeights>,
}

impl Scan<'_> {
    /// The buffer that one operand lies in.
    pub(super) fn source(&self, side: Side) -> &Buffer<f32> {
        match (side, &self.record.b, self.linear) {
            (Side::A, _, _) => &self.record.a,
            (Side::B, Some(b), _) => b,
            (Side::B, None, Some(linear)) => &linear.weight,
            (Side::B, None, None) => unreachable!("a site without an activation B has a weight"),
        }
    }

    /// Codes of one operand under the scales of each job.
    pub fn codes(&self, commands: &mut Commands, side: Side, jobs: &[Vec<Scale>]) -> Codes {
        self.plan
            .codes(commands, side, self.units, self.source(side), jobs)
    }

    /// Bytes that a candidate of `searched` takes while it is computed: its codes, Ô where that is ever in memory, and parts
    /// of the error.
    pub(super) fn job_bytes(&self, searched: Side) -> usize {
        job_bytes(self.plan, self.metric, searched, self.units)
    }

    /// Candidates of `searched` that are computed in one go.
    pub fn jobs_at_once(&self, searched: Side) -> usize {
        (JOB_BYTES / self.job_bytes(searched).max(1)).max(1)
    }

    /// `[job][group]`: the error of each job's Ô in the groups that `lines` makes of O's elements.
    pub fn scores(
        &self,
        commands: &mut Commands,
        lines: &Lines,
        a: &Codes,
        b: &Codes,
        scales: &[SiteScales],
    ) -> Buffer<f32> {
        let (plan, units) = (self.plan, self.units);
        let bias = self.linear.and_then(|linear| linear.bias.as_ref());
        let out = &self.record.out;
        let weight = self.metric.needs_gradient().then(|| {
            let grad = self.record.grad.as_ref();
            grad.expect("the backward pass has been at this site")
        });
        if self.sums_errors() && *lines == plan.lines(units) {
            return plan.integer_product_error(commands, units, a, b, scales, bias, out, weight);
        }
        let outputs = plan.integer_product(commands, units, a, b, scales, bias);
        let jobs = scales.len();
        match self.metric {
            Metric::Hessian | Metric::Mse => {
                weighted_error(commands, lines, jobs, &outputs, out, weight)
            }
            Metric::Cosine | Metric::Pearson => {
                let centered = self.metric == Metric::Pearson;
                row_error(commands, lines, jobs, centered, &outputs, out)
            }
        }
    }

    fn sums_errors(&self) -> bool {
        sums_errors(self.plan, self.metric)
    }
}

/// [`Scan::job_bytes`] for so many units.
pub(super) fn job_bytes(plan: &SitePlan, metric: Metric, searched: Side, units: usize) -> usize {
    let codes = plan.quantizer(searched, units, 1).len();
    let lines = plan.lines(units);
    let errors = if sums_errors(plan, metric) {
        // One part for four rows by four columns.
        let product = plan.site.product(units);
        product.problems() * product.m.div_ceil(4) * product.n.div_ceil(4)
    } else {
        // One for a line, or for eight elements at least.
        lines.elements() + lines.rows.max(lines.elements() / 8 + 64)
    };
    (codes + errors) * size_of::<f32>()
}

/// Whether the product can add up the errors of a group as it computes them, so that no Ô is ever in memory.
fn sums_errors(plan: &SitePlan, metric: Metric) -> bool {
    metric.sums_squares() && plan.sums_errors()
}
