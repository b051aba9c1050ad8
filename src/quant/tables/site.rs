//! One site, from what goes through it to what it is in integers.

use super::fake_quantizer::FakeQuantizer;
use super::linear::Inputs;
use super::operand::{FittedOperand, Group, Wanted, fit_operand};
use super::weight::{RoundedWeight, round_weight};
use crate::graph::{Linear, SiteKind};
use crate::quant::plan::{Side, SitePlan, SiteScales};
use crate::quant::{QuantizedSite, QuantizedWeight};
use rayon::prelude::*;

/// Keeps rows that no loss depends on from having no weight at all, as a share of the mean.
const LEAST_ROW: f64 = 1e-8;

/// Holds what goes through a site for all images: its operands as the network in integers has them, and the Fisher
/// weight of each of their values, Σ over probes of the squares of the loss's gradients in the FP network.
pub(in crate::quant) struct SiteValues<'a> {
    /// The number of images.
    pub images: usize,
    /// A's buffer.
    pub a: &'a [f32],
    /// B's buffer, where it isn't the weight.
    pub b: Option<&'a [f32]>,
    /// The Fisher weights at A, as it is laid out; none at pixels.
    pub a_fisher: Option<&'a [f32]>,
    /// The Fisher weights at B, where it isn't the weight.
    pub b_fisher: Option<&'a [f32]>,
    /// The Fisher weights at O.
    pub out_fisher: &'a [f32],
}

/// Holds the weight and the bias of a site that has them, on the host.
pub(in crate::quant) struct LinearSite<'a> {
    /// `[outputs, inputs]`.
    pub weight: &'a [f32],
    /// `[outputs]`.
    pub bias: Option<&'a [f32]>,
}

/// Chooses what stands for the operands of the site of `plan`, its weight among them, and corrects its bias if that is
/// wanted. Returns the site, and the error that was made small: of the outputs where B is a weight, else of the operands.
pub(in crate::quant) fn quantize_site(
    plan: &SitePlan,
    values: &SiteValues,
    linear: Option<&LinearSite>,
    corrects_bias: bool,
) -> (QuantizedSite, f64) {
    match (&plan.site.kind, linear) {
        (SiteKind::Linear(sizes), Some(linear)) => {
            quantize_linear(plan, values, sizes, linear, corrects_bias)
        }
        _ => {
            // Attention's operands have no offset.
            let fit = |side| fit_activation(plan, side, values, false, values.images);
            let (a, b) = rayon::join(|| fit(Side::A), || fit(Side::B));
            without_weight(a, b)
        }
    }
}

fn without_weight(a: FittedOperand, b: FittedOperand) -> (QuantizedSite, f64) {
    let error = a.error + b.error;
    let scales = SiteScales {
        a: a.scales,
        b: b.scales,
        a_tables: a.tables,
        b_tables: b.tables,
    };
    let site = QuantizedSite {
        scales,
        weight: None,
    };
    (site, error)
}

/// Fits an activation, of so many `rows`; `has_offset` says whether a bias makes up for an offset.
pub(super) fn fit_activation(
    plan: &SitePlan,
    side: Side,
    values: &SiteValues,
    has_offset: bool,
    rows: usize,
) -> FittedOperand {
    let (buffer, fisher) = match (side, values.b) {
        (Side::B, Some(b)) => (b, values.b_fisher),
        _ => (values.a, values.a_fisher),
    };
    let wanted = Wanted {
        scheme: plan.operand(side),
        has_offset,
        values: plan.values(side),
        rows,
    };
    let groups = Group::divide(plan, side, values.images, buffer, fisher);
    fit_operand(&groups, &wanted)
}

fn quantize_linear(
    plan: &SitePlan,
    values: &SiteValues,
    sizes: &Linear,
    linear: &LinearSite,
    corrects_bias: bool,
) -> (QuantizedSite, f64) {
    // One row an image is too few to tell by how much outputs are off, or which images matter.
    let is_single = sizes.rows == 1;
    let rows = row_weights(values.out_fisher, sizes.outputs, is_single);
    let a = fit_activation(plan, Side::A, values, linear.bias.is_some(), rows.len());
    let fake_quantizer = FakeQuantizer::new(&plan.a, a.scales[0], a.tables.first());
    let inputs = Inputs::of(
        values.a,
        fake_quantizer.round(values.a),
        sizes.inputs,
        &rows,
    );
    let rounded = round_weight(linear.weight, sizes, &plan.b, &inputs);
    let offset = a
        .tables
        .first()
        .map_or(0.0, |table| f64::from(table.offset));
    let bias = linear.bias.map(|bias| {
        let corrected = corrects_bias && !is_single;
        corrected_bias(bias, linear.weight, &rounded, &inputs, offset, corrected)
    });
    let site = QuantizedSite {
        scales: SiteScales {
            a: a.scales,
            b: rounded.scales,
            a_tables: a.tables,
            b_tables: rounded.table.into_iter().collect(),
        },
        weight: Some(QuantizedWeight {
            codes: rounded.lanes,
            bias,
        }),
    };
    (site, rounded.error)
}

/// Weighs rows by the root of their outputs' Fisher weights; the weights add up to 1.
pub(super) fn row_weights(out_fisher: &[f32], outputs: usize, is_single: bool) -> Vec<f64> {
    let rows = out_fisher.par_chunks_exact(outputs);
    let sums: Vec<f64> = rows
        .map(|row| row.iter().map(|&weight| f64::from(weight)).sum())
        .collect();
    let mean = sums.iter().sum::<f64>() / sums.len() as f64;
    let root = |sum: &f64| match mean > 0.0 && !is_single {
        true => (sum / mean + LEAST_ROW).sqrt(),
        false => 1.0,
    };
    let roots: Vec<f64> = sums.iter().map(root).collect();
    let total: f64 = roots.iter().sum();
    roots.into_iter().map(|root| root / total).collect()
}

/// Returns the bias that the integers' product needs: with that of the offset, which A's lanes have none of, and, if
/// outputs are to be `corrected`, with what their mean is off, W · mean(x) - Ŵ · mean(x̂).
fn corrected_bias(
    bias: &[f32],
    weight: &[f32],
    rounded: &RoundedWeight,
    inputs: &Inputs,
    offset: f64,
    corrected: bool,
) -> Vec<f32> {
    let columns = inputs.means.len();
    let group_rows = bias.len() / rounded.scales.len();
    let rows = weight
        .chunks_exact(columns)
        .zip(rounded.lanes.chunks_exact(columns));
    rows.zip(bias)
        .enumerate()
        .map(|(row, ((weight, lanes), &bias))| {
            let scale = f64::from(rounded.scales[row / group_rows].scale);
            let mut sum = f64::from(bias);
            for (column, (&w, &lane)) in weight.iter().zip(lanes).enumerate() {
                let rounded = f64::from(lane) * scale;
                sum += offset * rounded;
                if corrected {
                    sum += f64::from(w) * inputs.means[column]
                        - rounded * inputs.rounded_means[column];
                }
            }
            sum as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::weights::Weights;
    use crate::format::Gelu;
    use crate::graph::Site;
    use crate::quant::{Policy, Preset};

    /// From what goes through a product to its integers and its bias, everything is what `tests/golden/best.py` finds: it
    /// makes sure that f32 decides nothing.
    #[test]
    fn a_site_is_the_oracles() {
        let file = include_bytes!("../../../tests/data/best/sites.safetensors");
        let file = Weights::from_bytes("sites.safetensors", file).unwrap();
        for (name, bits, after_gelu) in [
            ("vit.proj", 4, None),
            ("vit.fc2", 4, Some(Gelu::Exact)),
            ("swin.qkv", 6, None),
        ] {
            let float = |part: &str| file.float(&format!("{name}/{part}")).unwrap();
            let lanes = |part: &str| file.bytes(&format!("{name}/{part}")).unwrap();
            let [a, weight, bias] = ["a", "weight", "bias"].map(float);
            let inputs = weight.len() / bias.len();
            let sizes = Linear {
                after_gelu,
                ..Linear::new(a.len() / inputs, inputs, bias.len())
            };
            let site = Site::linear(name, sizes);
            let policy = Policy {
                wide_ends: false,
                ..Policy::preset(Preset::Best, bits, bits)
            };
            let plan = policy.plan(std::slice::from_ref(&site)).unwrap();
            let plan = plan.of(&site).unwrap();
            let values = SiteValues {
                images: 1,
                a: &a,
                b: None,
                a_fisher: Some(&float("a_fisher")),
                b_fisher: None,
                out_fisher: &float("out_fisher"),
            };
            let linear = LinearSite {
                weight: &weight,
                bias: Some(&bias),
            };
            let (found, _) = quantize_site(&plan, &values, Some(&linear), true);

            let (scales, table) = (&found.scales, &found.scales.a_tables[0]);
            let shift = file.integers(&format!("{name}/a.shift")).unwrap();
            let a = (scales.a[0].scale, scales.a[0].shift as i32, table.offset);
            let expected = (float("a.scale")[0], shift[0], float("a.offset")[0]);
            assert_eq!(a, expected, "{name}");
            assert_eq!(table.lanes, lanes("a.levels"), "{name}");
            assert_eq!(scales.b_tables[0].lanes, lanes("b.levels"), "{name}");
            let of_rows: Vec<f32> = scales.b.iter().map(|scale| scale.scale).collect();
            assert_eq!(of_rows, float("b.scale"), "{name}");
            let rounded = found.weight.unwrap();
            let codes: Vec<u8> = rounded.codes.iter().map(|&code| code as u8).collect();
            assert_eq!(codes, lanes("b.lanes"), "{name}");
            let expected = float("corrected");
            let largest = expected.iter().fold(0.0f32, |most, e| most.max(e.abs()));
            for (found, expected) in rounded.bias.unwrap().iter().zip(expected) {
                // What levels stand for is f32, and so their mean is some roundings off.
                let off = (found - expected).abs() / largest;
                assert!(off < 1e-6, "{name}: a bias is {off:e} off");
            }
        }
    }
}
