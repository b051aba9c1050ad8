//! Corrects a site's bias once its weight is rounded.

use super::estimate::Estimator;
use super::plan::SitePlan;
use super::quantized_site::QuantizedSite;
use super::search::Batch;
use crate::device::Commands;
use crate::error::Result;
use rayon::prelude::*;

/// Takes the mean error of each output, Ô - O over all rows of all calibration images, off the site's bias. A site
/// without a bias stays as it is.
///
/// Sums are f64 and added image by image, so the bias doesn't depend on how the images are divided.
///
/// # Errors
/// Those of the device.
pub(super) async fn correct_bias(
    commands: &mut Commands,
    plan: &SitePlan,
    batches: &[Batch],
    quantized: &mut QuantizedSite,
) -> Result<()> {
    let has_bias = |site: &QuantizedSite| {
        let weight = site.weight.as_ref();
        weight.is_some_and(|weight| weight.bias.is_some())
    };
    let Some(sizes) = plan.site.weight().filter(|_| has_bias(quantized)) else {
        return Ok(());
    };
    let estimator = Estimator::new(commands.device(), plan, quantized);
    let mut sums = vec![0.0; sizes.outputs];
    let mut rows = 0;
    for batch in batches {
        let estimate = estimator.estimate(commands, batch);
        let estimate = commands.read_async(&estimate).await?;
        let out = commands.read_async(&batch.record.out).await?;
        let image = sizes.rows * sizes.outputs;
        let of_images: Vec<Vec<f64>> = (estimate.par_chunks_exact(image))
            .zip(out.par_chunks_exact(image))
            .map(|(estimate, out)| errors(sizes.outputs, estimate, out))
            .collect();
        for errors in of_images {
            for (sum, error) in sums.iter_mut().zip(errors) {
                *sum += error;
            }
        }
        rows += batch.images * sizes.rows;
    }
    let weight = quantized.weight.as_mut();
    if let Some(bias) = weight.and_then(|weight| weight.bias.as_mut()) {
        for (bias, sum) in bias.iter_mut().zip(sums) {
            *bias = (f64::from(*bias) - sum / rows as f64) as f32;
        }
    }
    Ok(())
}

/// Computes Σ (Ô - O) of each of the `outputs`, over some rows.
fn errors(outputs: usize, estimate: &[f32], out: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; outputs];
    for (estimate, out) in estimate
        .chunks_exact(outputs)
        .zip(out.chunks_exact(outputs))
    {
        for ((sum, estimate), out) in sums.iter_mut().zip(estimate).zip(out) {
            *sum += f64::from(*estimate) - f64::from(*out);
        }
    }
    sums
}
