//! A site cut into pieces that a search can evaluate one by one, those that say most about a candidate first.
//!
//! A score is a sum over parts and units (`problem.rs`). Each part gathers its units into chunks, in the order of what
//! they contribute to the score of a typical candidate: the first chunks are small and hold much of the score. Units
//! whose gradient is zero contribute nothing and are left out. In a ViT's last block those are all tokens but the
//! first. Parts that multiply the same rows of A have them in the same order, so that they share one copy.

use super::candidates::candidates;
use super::problem::{Matrix, Problem};
use super::scan::{Scan, job_bytes};
use crate::device::{Buffer, Commands};
use crate::error::Result;
use crate::graph::{LinearWeights, Record};
use crate::kernels::{Lines, RowMaximum, View, gather_rows, row_maximum};
use crate::quant::plan::{CodedProduct, Side, SitePlan, SiteScales};
use crate::quant::settings::{Metric, Settings};
use std::ops::Range;

/// Sets the first chunk's share of the units: every candidate is evaluated on it, so it costs about as much in all as
/// the few candidates that get to the end.
pub(super) const FIRST_SHARE: f64 = 1.0 / 128.0;

/// Sets the factor by which every chunk increases the units evaluated so far: many small chunks drop a candidate soon,
/// but each costs a wait for the device.
pub(super) const GROWTH: f64 = 1.5;

/// Limits the bytes of a chunk's A or O, so that several candidates are computed in one go.
const CHUNK_BYTES: usize = 8 << 20;

/// Names the candidates whose errors show how much a unit contributes, by their places in the list as shares of its
/// length: a fine scale, which clips, and a coarser one.
const PILOTS: [f64; 2] = [0.4, 0.7];

/// Holds what went through a site for some images.
pub struct Batch {
    /// The number of images.
    pub images: usize,
    /// A, B, O and its gradient.
    pub record: Record,
}

/// Holds the columns or heads of a site that have scales of B to themselves.
pub struct Part {
    /// The part's rows of the weight and the bias, if B is a weight.
    pub linear: Option<LinearWeights>,
    /// The part's units; chunks whose units contribute most come first.
    pub chunks: Vec<Chunk>,
}

/// Holds some units of a part.
pub struct Chunk {
    /// The product of the units.
    pub product: CodedProduct,
    /// About what a multiply-add in this chunk contributes to the score.
    pub density: f64,
    /// A, B, O and its gradient, laid out as the product says.
    pub record: Record,
}

/// Cuts a site into parts and chunks.
pub(super) struct Cutter<'a> {
    pub plan: &'a SitePlan,
    pub settings: &'a Settings,
    pub linear: Option<&'a LinearWeights>,
    /// The largest values of A's and of B's groups.
    pub maxima: &'a [Vec<f32>; 2],
}

/// Describes a unit that is to be gathered.
#[derive(Clone)]
struct Unit {
    batch: usize,
    /// Its number in the batch.
    index: usize,
    /// What it contributes to the score of each pilot.
    shares: [f64; PILOTS.len()],
    /// The unit's rows that contribute anything.
    live: Vec<usize>,
}

impl Cutter<'_> {
    fn problem(&self) -> Problem<'_> {
        Problem { plan: self.plan }
    }

    /// Returns the site's parts, and the multiply-adds that it took to put their units in order.
    pub async fn cut(
        &self,
        commands: &mut Commands,
        batches: &[Batch],
    ) -> Result<(Vec<Part>, u64)> {
        let problem = self.problem();
        // The lists of units: one for all parts of a weight, whose A is the same.
        let lists = match self.plan.site.has_weight() {
            true => 1,
            false => problem.parts(),
        };
        let mut parts: Vec<Vec<Unit>> = (0..lists).map(|_| Vec::new()).collect();
        let mut work = 0;
        for (number, batch) in batches.iter().enumerate() {
            let product = self.plan.site.product(batch.images);
            work += PILOTS.len() as u64 * product.multiply_adds();
            let rows = self.rows(commands, batch).await?;
            for (part, units) in parts.iter_mut().enumerate() {
                for index in 0..batch.images * problem.units_of_an_image() {
                    let places = (part..problem.parts()).step_by(lists);
                    let places = places.map(|part| problem.line_rows(part, index, batch.images));
                    let unit = Unit::new(number, index, places, &rows);
                    units.extend((!unit.live.is_empty()).then_some(unit));
                }
            }
        }
        let mut totals = [f64::MIN_POSITIVE; PILOTS.len()];
        for unit in parts.iter().flatten() {
            for (total, share) in totals.iter_mut().zip(unit.shares) {
                *total += share;
            }
        }
        for unit in parts.iter_mut().flatten() {
            for (total, share) in totals.iter().zip(&mut unit.shares) {
                *share /= total;
            }
        }
        let mut gathered: Vec<Part> = Vec::new();
        for part in 0..problem.parts() {
            let units = parts[part % lists].clone();
            let shared = gathered.last().filter(|_| lists == 1);
            let part = self.gather(commands, part, units, batches, shared);
            gathered.push(part);
        }
        Ok((gathered, work))
    }

    /// Computes what each row contributes to the pilots' scores, and its largest gradient where the metric needs that.
    async fn rows(&self, commands: &mut Commands, batch: &Batch) -> Result<Rows> {
        let Batch { images, record } = batch;
        let plan = self.plan;
        let product = plan.product(*images);
        let whole = self.problem().lines(*images);
        let lines = Lines {
            group_rows: 1,
            row_groups: whole.rows,
            ..whole
        };
        let mut shares = Vec::new();
        for pilot in PILOTS {
            let scale = |side: Side, max: &f32| {
                let all = candidates(plan.operand(side), plan.values(side), *max, self.settings);
                all[(pilot * all.len() as f64) as usize]
            };
            let [a, b] = self.maxima;
            let scales = SiteScales::new(
                a.iter().map(|max| scale(Side::A, max)).collect(),
                b.iter().map(|max| scale(Side::B, max)).collect(),
            );
            let scan = Scan {
                product: &product,
                metric: self.settings.metric,
                record,
                linear: self.linear,
            };
            let a = scan.codes(commands, Side::A, std::slice::from_ref(&scales.a));
            let b = scan.codes(commands, Side::B, std::slice::from_ref(&scales.b));
            let errors = scan.scores(commands, &lines, &a, &b, &[scales]);
            shares.push(commands.read_async(&errors).await?);
        }
        let gradients = match &record.grad {
            Some(grad) if self.settings.metric.needs_gradient() => {
                let what = RowMaximum {
                    source: View::new(0, [0, whole.group_columns], whole.columns, 1),
                    batch: [1, whole.column_groups()],
                    rows: whole.rows,
                    columns: whole.group_columns,
                    absolute: true,
                };
                let maxima = row_maximum(commands, &what, grad);
                Some(commands.read_async(&maxima).await?)
            }
            _ => None,
        };
        Ok(Rows { shares, gradients })
    }

    /// Puts `units` in order and gathers them from the batches; their A is the one that `shared` has, if there is such a part.
    fn gather(
        &self,
        commands: &mut Commands,
        part: usize,
        mut units: Vec<Unit>,
        batches: &[Batch],
        shared: Option<&Part>,
    ) -> Part {
        let problem = self.problem();
        let weight = |unit: &Unit| unit.shares.iter().sum::<f64>();
        units.sort_by(|left, right| weight(right).total_cmp(&weight(left)));
        // A product takes the same number of rows of each unit.
        let rows = units.iter().map(|unit| unit.live.len()).max().unwrap_or(0);
        for unit in &mut units {
            let dead = (0..problem.unit_rows()).filter(|row| !unit.live.contains(row));
            let fill: Vec<usize> = dead.take(rows - unit.live.len()).collect();
            unit.live.extend(fill);
            unit.live.sort_unstable();
        }
        let multiply_adds = problem.product(rows, 1).multiply_adds();
        let most = most_units(&problem, rows);
        let mut chunks = Vec::new();
        let mut start = 0;
        for end in ends(units.len(), most) {
            let units = &mut units[start..end];
            let density =
                units.iter().map(weight).sum::<f64>() / (units.len() as u64 * multiply_adds) as f64;
            // Batch by batch, so that neighbours stay neighbours.
            units.sort_by_key(|unit| (unit.batch, unit.index));
            chunks.push(Chunk {
                product: problem.product(rows, units.len()),
                density,
                record: {
                    let a = shared.map(|part| part.chunks[chunks.len()].record.a.clone());
                    self.chunk(commands, part, units, batches, a)
                },
            });
            start = end;
        }
        Part {
            linear: self
                .linear
                .map(|linear| self.weight(commands, part, linear)),
            chunks,
        }
    }

    /// Gathers the tensors of `units`, which are in the order of the batches; A, unless it is given.
    fn chunk(
        &self,
        commands: &mut Commands,
        part: usize,
        units: &[Unit],
        batches: &[Batch],
        a: Option<Buffer<f32>>,
    ) -> Record {
        let problem = self.problem();
        let mut gather = |tensor: fn(&Record) -> Option<&Buffer<f32>>, matrix: Matrix| {
            tensor(&batches[units[0].batch].record)?;
            let rows_of = |unit: &Unit| problem.tensor_rows(part, matrix, unit.index, &unit.live);
            let dim = rows_of(&units[0]).dim;
            let from: Vec<Vec<u32>> = units
                .chunk_by(|one, other| one.batch == other.batch)
                .map(|units| {
                    let rows = units.iter();
                    rows.flat_map(|unit| rows_of(unit).rows).collect()
                })
                .collect();
            let len: usize = from.iter().map(Vec::len).sum();
            let out = commands.device().zeros(len * dim);
            let mut first = 0;
            let runs = units.chunk_by(|one, other| one.batch == other.batch);
            for (run, rows) in runs.zip(&from) {
                let source = tensor(&batches[run[0].batch].record)?;
                gather_rows(commands, dim, source, rows, &out, first);
                first += rows.len();
            }
            Some(out)
        };
        Record {
            a: a.unwrap_or_else(|| {
                gather(|record| Some(&record.a), Matrix::A).expect("every record has an A")
            }),
            b: gather(|record| record.b.as_ref(), Matrix::B),
            out: gather(|record| Some(&record.out), Matrix::Out).expect("every record has an O"),
            grad: match self.settings.metric.needs_gradient() {
                true => gather(|record| record.grad.as_ref(), Matrix::Out),
                false => None,
            },
        }
    }

    /// Gathers a part's rows of the weight.
    fn weight(
        &self,
        commands: &mut Commands,
        part: usize,
        linear: &LinearWeights,
    ) -> LinearWeights {
        let parts = self.problem().parts();
        let mut slice = |whole: &Buffer<f32>| {
            if parts == 1 {
                return whole.clone();
            }
            let dim = whole.len() / parts;
            let out = commands.device().zeros(dim);
            gather_rows(commands, dim, whole, &[part as u32], &out, 0);
            out
        };
        LinearWeights {
            weight: slice(&linear.weight),
            bias: linear.bias.as_ref().map(&mut slice),
            affine: linear.affine.as_ref().map(slice),
        }
    }
}

/// Holds what is known of the rows of a batch, each list `[columns' group][row]`.
struct Rows {
    /// What each row contributes to the score, for each pilot.
    shares: Vec<Vec<f32>>,
    /// The largest gradient of a row, for the metric that multiplies by it.
    gradients: Option<Vec<f32>>,
}

impl Unit {
    /// Describes unit `index` of a batch, whose rows have these `places` among those of the batch, in each of some parts.
    fn new(
        batch: usize,
        index: usize,
        places: impl Iterator<Item = Range<usize>>,
        rows: &Rows,
    ) -> Self {
        let mut unit = Self {
            batch,
            index,
            shares: [0.0; PILOTS.len()],
            live: Vec::new(),
        };
        for places in places {
            for (row, at) in places.enumerate() {
                let mut live = rows.gradients.as_ref().is_none_or(|max| max[at] != 0.0);
                for (sum, shares) in unit.shares.iter_mut().zip(&rows.shares) {
                    *sum += f64::from(shares[at]);
                    // A gradient that holds a NaN may have a maximum of zero.
                    live |= shares[at] != 0.0;
                }
                if live && !unit.live.contains(&row) {
                    unit.live.push(row);
                }
            }
        }
        unit
    }
}

/// Counts the most units that a chunk can hold, with `rows` rows of each.
fn most_units(problem: &Problem, rows: usize) -> usize {
    let widest = problem.product(rows, 1).widest() * size_of::<f32>();
    (CHUNK_BYTES / widest.max(1)).max(1)
}

/// Counts the most bytes that one candidate takes while it is computed on a chunk.
pub(in crate::quant) fn candidate_bytes(plan: &SitePlan, images: usize, metric: Metric) -> u64 {
    let problem = Problem { plan };
    let rows = problem.unit_rows();
    // A chunk is no larger than half of what comes before it, rounded up.
    let units = images * problem.units_of_an_image() / 3 + 1;
    let chunk = problem.product(rows, units.min(most_units(&problem, rows)));
    let of = |side| job_bytes(&chunk, metric, side);
    // Where rows are left out, a chunk holds more units, but B keeps all its rows.
    let codes_b = problem.product(rows, units).quantizer(Side::B, 1).len() * size_of::<u32>();
    let codes_b = if plan.site.has_weight() { 0 } else { codes_b };
    (of(Side::A).max(of(Side::B)) + codes_b) as u64
}

/// Counts the most bytes that the pieces of a site take for `images` images, when no unit is left out.
pub(in crate::quant) fn bytes(plan: &SitePlan, images: usize, metric: Metric) -> u64 {
    let site = &plan.site;
    // O, and the gradient there.
    let outs = 1 + usize::from(metric.needs_gradient());
    let product = site.product(images);
    let matrix = |rows: usize, columns: usize| product.problems() * rows * columns;
    // A weight is cut where there are several parts of it, else shared.
    let has_b = !site.has_weight() || Problem { plan }.parts() > 1;
    let operands = matrix(product.m, product.k) + usize::from(has_b) * matrix(product.k, product.n);
    ((operands + outs * matrix(product.m, product.n)) * size_of::<f32>()) as u64
}

/// Counts how often the codes of all of A are held while B is searched: once for each part with a weight.
pub(in crate::quant) fn copies_of_codes(plan: &SitePlan) -> usize {
    match plan.site.has_weight() {
        true => Problem { plan }.parts(),
        false => 1,
    }
}

/// Counts the bytes that it takes to put the units of `images` images in order, without the codes: Ô, and the rows'
/// errors.
pub(in crate::quant) fn order_bytes(plan: &SitePlan, images: usize) -> u64 {
    let lines = Problem { plan }.lines(images);
    // The error of a row is a workgroup's sum.
    let errors = lines.rows * lines.column_groups() * (64 + 2);
    ((lines.elements() + errors) * size_of::<f32>()) as u64
}

/// Lists where the chunks of `units` units end: each is as large as what comes before it times `GROWTH - 1`, and at
/// most `most`.
fn ends(units: usize, most: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut end = 0;
    while end < units {
        let grown = match end {
            0 => units as f64 * FIRST_SHARE,
            _ => end as f64 * GROWTH,
        };
        end = (grown.ceil() as usize)
            .clamp(end + 1, end + most)
            .min(units);
        ends.push(end);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_cover_everything_and_are_never_too_large() {
        for (units, most) in [(0, 5), (1, 1), (5, 100), (6304, 100_000), (6304, 100)] {
            let ends = ends(units, most);
            assert_eq!(ends.last().copied().unwrap_or(0), units);
            let starts = [0].into_iter().chain(ends.iter().copied());
            for (start, &end) in starts.zip(&ends) {
                assert!(
                    end > start && end - start <= most,
                    "{units}, {most}: {ends:?}"
                );
            }
        }
        assert_eq!(ends(32, 100), [1, 2, 3, 5, 8, 12, 18, 27, 32]);
    }
}
