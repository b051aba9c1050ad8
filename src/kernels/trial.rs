//! Tries a strategy before a device uses it.

use super::float_product::float_product;
use super::fused_attention::attention_strategy;
use super::geometry::{Product, View};
use super::integer_product::{IntegerProduct, Operands, integer_product};
use super::quantize::padded;
use super::width::Width;
use crate::device::{Commands, Device, Strategy};
use crate::error::{Error, Result};
use crate::format::Format;

/// Lists the products that a device can have a strategy of its own for, and attention.
pub const STRATEGY_NAMES: [&str; 4] = [
    super::float_product::SHADER.name,
    super::integer_product::SHADER.name,
    super::integer_product::TWIN,
    super::fused_attention::SHADER.name,
];

/// Says whether what this name stands for can be computed by `strategy`, on a device that offers it.
pub fn suits(name: &str, strategy: Strategy) -> bool {
    (name == super::fused_attention::SHADER.name) == strategy.is_of_attention()
}

/// Returns how `device` computes what this name stands for; `None` on the CPU.
pub fn strategy_of(device: &Device, name: &'static str) -> Option<Strategy> {
    if name == super::fused_attention::SHADER.name {
        attention_strategy(device)
    } else {
        device.strategy(name)
    }
}

/// Sets `strategy` for the products of this name on `device`, or for attention, after one that shows it to be right: its bits
/// are those that integers must have, or of floats those that come out without workgroup memory or from separate kernels.
///
/// # Errors
/// Other bits, or the device's own errors. The products then go on as before.
pub fn adopt(device: &Device, name: &'static str, strategy: Strategy) -> Result<()> {
    device.wait(adopt_async(device, name, strategy))
}

/// Does what [`adopt`] does, without waiting, as a browser needs it. On a native target it blocks the thread.
///
/// # Errors
/// Those of [`adopt`].
pub async fn adopt_async(device: &Device, name: &'static str, strategy: Strategy) -> Result<()> {
    let Some(before) = strategy_of(device, name) else {
        return Ok(());
    };
    let plainest = match name {
        _ if name == super::float_product::SHADER.name => Some(Strategy::Registers),
        _ if name == super::fused_attention::SHADER.name => Some(Strategy::Separate),
        _ => None,
    };
    let expected = match plainest {
        Some(plainest) => {
            device.set_strategy(name, plainest);
            probe(device, name).await
        }
        None => probe(&Device::cpu(), name).await,
    };
    device.set_strategy(name, strategy);
    let found = probe(device, name).await;
    let agrees = expected.and_then(|expected| {
        if found? == expected {
            return Ok(());
        }
        let problem = format!("{name} by {strategy} gives wrong results");
        Err(Error::device(device.name(), problem))
    });
    if agrees.is_err() {
        device.set_strategy(name, before);
    }
    agrees
}

/// Computes the bits of a product that fills no tile. A twin's codes are of either range. The first two rows and the
/// first column hold codes near the largest, so that an f32 couldn't hold their sums; a twin's second row is all of R2.
async fn probe(device: &Device, name: &str) -> Result<Vec<u32>> {
    if name == super::fused_attention::SHADER.name {
        let mut commands = Commands::new(device);
        let out = super::fused_attention::probe(&mut commands);
        let values = commands.read_async(&out).await?;
        return Ok(values.into_iter().map(f32::to_bits).collect());
    }
    let [m, n, k] = [67, 70, 2048];
    // A linear congruential generator, of which the upper bits are good enough.
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut commands = Commands::new(device);
    let out = device.zeros::<f32>(m * n);
    if name == super::float_product::SHADER.name {
        let mut floats = |len: usize| {
            let values: Vec<f32> = (0..len).map(|_| random() as f32 * 1e-7 - 0.8).collect();
            device.upload(&values)
        };
        let (a, b) = (floats(m * k), floats(n * k));
        float_product(&mut commands, &Product::linear(m, k, n), &a, &b, None, &out);
    } else {
        let twin = name == super::integer_product::TWIN;
        let words = k / 4;
        let mut operand = |lines: usize| -> Vec<u32> {
            let len = words * padded(lines);
            (0..len).map(|_| random() ^ random() << 16).collect()
        };
        let (mut a, mut b) = (operand(m), operand(n));
        let near_the_largest = |word: &mut u32| *word = *word & 0x0707_0707 | 0x7878_7878;
        for rows in a.chunks_exact_mut(padded(m)) {
            rows[..2].iter_mut().for_each(near_the_largest);
            if twin {
                rows[1] |= 0x8080_8080;
            }
        }
        b.iter_mut().step_by(padded(n)).for_each(near_the_largest);
        let product = IntegerProduct {
            batch: [1, 1],
            m,
            n,
            k,
            out: View::rows(n),
            jobs: 1,
            a_per_job: false,
            b_per_job: false,
            job_stride: m * n,
            a_format: if twin {
                Format::GeluTwin
            } else {
                Format::Uniform
            },
            b_width: Width::Eight,
        };
        let operands = Operands {
            a: &device.upload(&a),
            b: &device.upload(&b),
            scales: &device.upload(&[1.0, 3.0]),
            groups: 1,
            inner_groups: 0,
            group_columns: n,
            affine: None,
        };
        integer_product(&mut commands, &product, &operands, None, &out);
    }
    let values = commands.read_async(&out).await?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}
