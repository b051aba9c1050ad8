//! What stands for the values of one operand, group by group.

use super::fit::{Fitted, all_ranges, asymmetric, ranges, scaled, signed};
use super::histogram::{Histogram, Power};
use super::levels::{MOST_BINS, optimal_levels};
use crate::format::{Format, Scale, Table, Values};
use crate::kernels::Quantize;
use crate::quant::plan::{OperandScheme, Side, SitePlan};
use rayon::prelude::*;
use std::borrow::Cow;

/// Sets the share of the Fisher weight in an error's weight; the rest is the same everywhere, because the Fisher weight
/// of few images is uncertain.
const FISHER_SHARE: f64 = 0.9;

/// Holds the values of one group, and how much an error of each matters.
pub(super) struct Group<'a> {
    pub values: Cow<'a, [f32]>,
    /// Σ of the squares of the loss's gradients at each value, where there are any.
    pub fisher: Option<Cow<'a, [f32]>>,
}

/// Holds the scales and tables of an operand, one for each group.
#[derive(Debug, Default)]
pub(super) struct FittedOperand {
    pub scales: Vec<Scale>,
    pub tables: Vec<Table>,
    /// The weighted squared errors of all groups.
    pub error: f64,
}

/// Says what values an operand has, and what becomes of its errors.
pub(super) struct Wanted<'a> {
    pub scheme: &'a OperandScheme,
    /// Whether the bias makes up for an offset.
    pub has_offset: bool,
    /// What kind of values they are.
    pub values: Values,
    /// The rows that the values are of.
    pub rows: usize,
}

impl<'a> Group<'a> {
    /// Divides an operand's `values`, those of `images` images, into the groups that have a scale each.
    pub fn divide(
        plan: &SitePlan,
        side: Side,
        images: usize,
        values: &'a [f32],
        fisher: Option<&'a [f32]>,
    ) -> Vec<Self> {
        let groups = plan.groups(side);
        let quantizer = plan.quantizer(side, images, 1);
        if groups == 1 && images * plan.values_len(side) == values.len() {
            return vec![Self {
                values: Cow::Borrowed(values),
                fisher: fisher.map(Cow::Borrowed),
            }];
        }
        let gather = |values: &[f32], group: usize| {
            let mut gathered = Vec::with_capacity(values.len() / groups);
            for (_, start) in rows(&quantizer).filter(|&(of, _)| of == group) {
                let row = values[start..].iter();
                let row = row.step_by(quantizer.source.column as usize);
                gathered.extend(row.take(quantizer.k));
            }
            gathered
        };
        (0..groups)
            .into_par_iter()
            .map(|group| Self {
                values: gather(values, group).into(),
                fisher: fisher.map(|fisher| gather(fisher, group).into()),
            })
            .collect()
    }

    /// Returns what an error of each value counts.
    fn importance(&self) -> impl Fn(usize) -> f64 + Sync {
        let mean = self.fisher.as_ref().map_or(0.0, |fisher| {
            fisher.iter().map(|&weight| f64::from(weight)).sum::<f64>() / fisher.len() as f64
        });
        let fisher = self.fisher.as_deref().filter(|_| mean > 0.0);
        move |at| match fisher {
            Some(fisher) => FISHER_SHARE * f64::from(fisher[at]) / mean + (1.0 - FISHER_SHARE),
            None => 1.0,
        }
    }

    fn fit(&self, wanted: &Wanted) -> Fitted {
        let OperandScheme { bits, format, .. } = *wanted.scheme;
        let values: &[f32] = &self.values;
        let importance = self.importance();
        let is_probability = wanted.values == Values::Probabilities;
        let power = if is_probability {
            Power::Third
        } else {
            Power::Half
        };
        let histogram = || Histogram::of(values, power, &importance);
        // Softmax can give 1 wherever it gave less. What was never seen is given the weight of one value, as by the rule of
        // succession: without it all that is more than the largest probability seen would be cut off.
        let with_certainty = |histogram: Histogram| match is_probability {
            true => histogram.with_one_more(1.0, values.len()),
            false => histogram,
        };
        match format {
            Format::Table if bits == 8 && wanted.has_offset => {
                asymmetric(&histogram(), wanted.rows)
            }
            Format::Table if bits == 8 => {
                let fitted = scaled(&histogram(), Format::Uniform, bits, wanted.values);
                let lanes = (-128..=127).map(|lane: i8| lane as u8).collect();
                Fitted {
                    table: Some(Table { offset: 0.0, lanes }),
                    ..fitted
                }
            }
            Format::Table => {
                let histogram = histogram();
                let levels = optimal_levels(&histogram, 1 << bits);
                signed(&histogram, &levels, wanted.has_offset)
            }
            Format::TwinTable => {
                // GELU's many small values count for more in the sum than one by one.
                let weighted = match is_probability {
                    true => histogram(),
                    false => Histogram::of(values, power, |at| importance(at).sqrt()),
                };
                if bits == 8 {
                    return all_ranges(&with_certainty(weighted), wanted.has_offset);
                }
                let (levels, histogram) = match is_probability {
                    true => {
                        // Merged before the certainty is added, which would lie in one bin with much smaller values.
                        let few = with_certainty(weighted.merged(MOST_BINS - 1));
                        (optimal_levels(&few, 1 << bits), with_certainty(weighted))
                    }
                    false => (optimal_levels(&weighted, 1 << bits), histogram()),
                };
                ranges(&histogram, &levels, wanted.has_offset)
            }
            _ => scaled(&histogram(), format, bits, wanted.values),
        }
    }
}

/// Lists an operand's rows: the group that each belongs to, and where it starts.
pub(super) fn rows(quantizer: &Quantize) -> impl Iterator<Item = (usize, usize)> {
    let inner_rows = quantizer.batch[1] * quantizer.rows;
    (0..quantizer.batch[0] * inner_rows).map(move |at| {
        let (outer, inner) = (at / inner_rows, at % inner_rows / quantizer.rows);
        let row = at % quantizer.rows;
        let group = inner * quantizer.inner_groups + row / quantizer.group_rows;
        (group, quantizer.source.at([outer, inner], row, 0))
    })
}

/// Finds what stands for the values of each of the `groups` of an operand.
pub(super) fn fit_operand(groups: &[Group], wanted: &Wanted) -> FittedOperand {
    let fitted: Vec<Fitted> = groups.par_iter().map(|group| group.fit(wanted)).collect();
    let mut operand = FittedOperand::default();
    for Fitted {
        scale,
        table,
        error,
    } in fitted
    {
        operand.scales.push(scale);
        operand.tables.extend(table);
        operand.error += error;
    }
    operand
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::weights::Weights;
    use crate::format::Lanes;
    use crate::quant::plan::Granularity;

    /// Tables of heads are what `tests/golden/best.py` finds, and reach certainty where 6 bits or more are there for it.
    #[test]
    fn tables_of_probabilities_are_the_oracles() {
        let file = include_bytes!("../../../tests/data/best/heads.safetensors");
        let file = Weights::from_bytes("heads.safetensors", file).unwrap();
        for name in ["vit.pv", "swin.pv"] {
            let [values, fisher] =
                ["a", "a_fisher"].map(|part| file.float(&format!("{name}/{part}")).unwrap());
            assert!(values.iter().all(|&p| p < 0.4));
            for bits in [4, 6, 8] {
                let wanted = Wanted {
                    scheme: &OperandScheme {
                        bits,
                        format: Format::TwinTable,
                        granularity: Granularity::Head,
                    },
                    has_offset: false,
                    values: Values::Probabilities,
                    rows: 1,
                };
                let group = Group {
                    values: Cow::Borrowed(&values),
                    fisher: Some(Cow::Borrowed(&fisher)),
                };
                let fitted = group.fit(&wanted);
                let part = |part: &str| format!("{name}/{bits}.{part}");
                let table = fitted.table.unwrap();
                assert_eq!(table.lanes, file.bytes(&part("levels")).unwrap());
                assert_eq!(
                    [fitted.scale.scale],
                    file.float(&part("scale")).unwrap()[..]
                );
                let shift = file.integers(&part("shift")).unwrap();
                assert_eq!([fitted.scale.shift as i32], shift[..]);
                let largest = table.lanes.iter().map(|&lane| {
                    let integer = Lanes::Ranges.integer(lane, fitted.scale.shift);
                    integer as f32 * fitted.scale.scale
                });
                let largest = largest.fold(0.0, f32::max);
                assert!(bits < 6 || largest > 0.95, "{name}, {bits} bits: {largest}");
            }
        }
    }
}
