//! One step of a search: many candidates of one operand are quantized, multiplied and compared with O.

use crate::device::{Buffer, Commands};
use crate::format::Scale;
use crate::graph::{LinearWeights, Record};
use crate::kernels::{Lines, row_error, weighted_error};
use crate::quant::plan::{CodedProduct, Codes, Side, SiteScales};
use crate::quant::settings::Metric;

/// Limits the bytes of candidates' outputs and codes that are computed in one go: enough work for a large GPU, little
/// beside a site's own tensors, and within every adapter's binding limit.
pub(super) const JOB_BYTES: usize = 32 << 20;

/// Describes the products that candidates are compared on.
pub struct Scan<'a> {
    /// What is multiplied.
    pub product: &'a CodedProduct,
    /// How Ô is compared with O.
    pub metric: Metric,
    /// A, B, O and its gradient.
    pub record: &'a Record,
    /// The weight and bias, if B is a weight.
    pub linear: Option<&'a LinearWeights>,
}

impl Scan<'_> {
    /// Returns the buffer that one operand lies in.
    pub(super) fn source(&self, side: Side) -> &Buffer<f32> {
        match (side, &self.record.b, self.linear) {
            (Side::A, _, _) => &self.record.a,
            (Side::B, Some(b), _) => b,
            (Side::B, None, Some(linear)) => &linear.weight,
            (Side::B, None, None) => unreachable!("a site without an activation B has a weight"),
        }
    }

    /// Computes the codes of one operand under the scales of each job.
    pub fn codes(&self, commands: &mut Commands, side: Side, jobs: &[Vec<Scale>]) -> Codes {
        self.product
            .codes(commands, side, self.source(side), jobs, &[])
    }

    /// Counts the bytes that a candidate of `searched` takes while it is computed: its codes, Ô where that is ever in
    /// memory, and parts of the error.
    pub(super) fn job_bytes(&self, searched: Side) -> usize {
        job_bytes(self.product, self.metric, searched)
    }

    /// Counts the candidates of `searched` that are computed in one go.
    pub fn jobs_at_once(&self, searched: Side) -> usize {
        (JOB_BYTES / self.job_bytes(searched).max(1)).max(1)
    }

    /// Computes `[job][group]`: the error of each job's Ô in the groups that `lines` makes of O's elements.
    pub fn scores(
        &self,
        commands: &mut Commands,
        lines: &Lines,
        a: &Codes,
        b: &Codes,
        scales: &[SiteScales],
    ) -> Buffer<f32> {
        let product = self.product;
        let affine = self.linear.and_then(|linear| linear.affine.as_ref());
        if sums_errors(product, self.metric) && lines == product.lines() {
            let out = &self.record.out;
            let weight = weight(self.metric, self.record);
            return product.integer_product_error(commands, a, b, scales, affine, out, weight);
        }
        let outputs = product.integer_product(commands, a, b, scales, affine);
        let jobs = scales.len();
        errors(commands, self.metric, lines, jobs, &outputs, self.record)
    }
}

/// Computes `[job][group]`: the error of each job's Ô, `estimates`, in the groups that `lines` makes of the elements of O, which
/// `record` has.
pub fn errors(
    commands: &mut Commands,
    metric: Metric,
    lines: &Lines,
    jobs: usize,
    estimates: &Buffer<f32>,
    record: &Record,
) -> Buffer<f32> {
    let out = &record.out;
    match metric {
        Metric::Hessian | Metric::Mse => {
            let weight = weight(metric, record);
            weighted_error(commands, lines, jobs, estimates, out, weight)
        }
        Metric::Cosine | Metric::Pearson => {
            let centered = metric == Metric::Pearson;
            row_error(commands, lines, jobs, centered, estimates, out)
        }
    }
}

/// Returns what `metric` weighs errors by: the gradient at O, or nothing.
fn weight(metric: Metric, record: &Record) -> Option<&Buffer<f32>> {
    let grad = || record.grad.as_ref();
    metric
        .needs_gradient()
        .then(|| grad().expect("the backward pass has been at this site"))
}

/// Counts the bytes that [`Scan::job_bytes`] says, for this product.
pub(super) fn job_bytes(product: &CodedProduct, metric: Metric, searched: Side) -> usize {
    let codes = product.quantizer(searched, 1).len() * size_of::<u32>();
    let lines = product.lines();
    let errors = if sums_errors(product, metric) {
        product.error_bytes()
    } else {
        // Ô, and a partial sum for each line, or for eight elements or more.
        (lines.elements() + lines.rows.max(lines.elements() / 8 + 64)) * size_of::<f32>()
    };
    // What quantizers and products multiply by, and the scores.
    codes + errors + lines.groups() * 5 * size_of::<f32>()
}

/// Says whether the product can add up the errors of a group as it computes them, so that no Ô is ever in memory.
fn sums_errors(product: &CodedProduct, metric: Metric) -> bool {
    metric.sums_squares() && product.sums_errors()
}
