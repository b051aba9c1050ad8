//! Rounds each value to the nearest code.

use crate::device::Commands;
use crate::error::Result;
use crate::graph::LinearWeights;
use crate::kernels::quantize;
use crate::quant::QuantizedWeight;
use crate::quant::plan::{Side, SitePlan, SiteScales};

/// Computes the codes `[outputs, inputs]` of a weight, which is on the commands' device, under B's `scales`. Returns
/// them, of a table the lanes, and the weight's bias on the host.
///
/// # Errors
/// Those of the device.
pub fn nearest_codes(
    commands: &mut Commands,
    plan: &SitePlan,
    linear: &LinearWeights,
    scales: &SiteScales,
) -> Result<QuantizedWeight> {
    let device = commands.device().clone();
    device.wait(nearest_codes_async(commands, plan, linear, scales))
}

/// Does what [`nearest_codes`] does, without waiting, as a browser needs it. On a native target it blocks the thread.
///
/// # Errors
/// Those of the device.
pub async fn nearest_codes_async(
    commands: &mut Commands,
    plan: &SitePlan,
    linear: &LinearWeights,
    scales: &SiteScales,
) -> Result<QuantizedWeight> {
    let quantizer = plan.quantizer(Side::B, 1, 1);
    let (scales, tables) = scales.operand(Side::B);
    let encoders = quantizer.format.encoders(scales, tables);
    let encoders = commands.device().upload(&encoders);
    let words = quantize(commands, &quantizer, &linear.weight, &encoders);
    let words = commands.read_async(&words).await?;
    let outputs = words.len() / quantizer.words();
    let code = |(output, input): (usize, usize)| {
        let word = words[input / 4 * outputs + output];
        word.to_le_bytes()[input % 4] as i8
    };
    let codes = (0..quantizer.rows)
        .flat_map(|output| (0..quantizer.k).map(move |input| (output, input)))
        .map(code)
        .collect();
    let bias = match &linear.bias {
        Some(bias) => Some(commands.read_async(bias).await?),
        None => None,
    };
    Ok(QuantizedWeight { codes, bias })
}
