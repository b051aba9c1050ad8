//! Tries a strategy before a device uses it.

use super::float_product::float_product;
use super::fused_attention::attention_strategy;
use super::geometry::{Product, View};
use super::integer_product::{IntegerProduct, Operands, integer_product};
use super::quantize::padded;
use super::width::Width;
use crate::device::{Commands, Device, Strategy, Tile};
use crate::error::{Error, Result};
use crate::format::Format;

/// Lists the products of codes that a device can have a strategy of its own for.
pub const INTEGER_STRATEGY_NAMES: [&str; 2] = [
    super::integer_product::SHADER.name,
    super::integer_product::TWIN,
];

/// Lists all that a device can have a strategy of its own for: products, and attention.
pub const STRATEGY_NAMES: [&str; 4] = [
    super::float_product::SHADER.name,
    INTEGER_STRATEGY_NAMES[0],
    INTEGER_STRATEGY_NAMES[1],
    super::fused_attention::SHADER.name,
];

/// Tries a strategy for the products of a name where a crash does no harm, as in another process.
pub type Elsewhere<'a> = &'a dyn Fn(&'static str, Strategy) -> Result<()>;

/// [`adopt`]s a strategy that, if what offers it is experimental, was right `elsewhere` before.
///
/// # Errors
/// Those of [`adopt`], and of `elsewhere`.
pub fn adopt_carefully(
    device: &Device,
    name: &'static str,
    strategy: Strategy,
    elsewhere: Elsewhere,
) -> Result<()> {
    if strategy.is_experimental() {
        elsewhere(name, strategy)?;
    }
    adopt(device, name, strategy)
}

/// Says whether what this name stands for can be computed by `strategy`, on a device that offers it: sums of floats are added up
/// in one order.
pub fn suits(name: &str, strategy: Strategy) -> bool {
    let is_shared = matches!(strategy, Strategy::Tiled(Tile { slices: 2.., .. }));
    (name == super::fused_attention::SHADER.name) == strategy.is_of_attention()
        && !(is_shared && name == super::float_product::SHADER.name)
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
    let products = match strategy.is_experimental() {
        true => &PRODUCTS[..],
        false => &PRODUCTS[..1],
    };
    let expected = match plainest {
        Some(plainest) => {
            device.set_strategy(name, plainest);
            probe(device, name, products).await
        }
        None => probe(&Device::cpu(), name, products).await,
    };
    device.set_strategy(name, strategy);
    let found = probe(device, name, products).await;
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

/// Describes a product of a trial: how many matrices, and M, N, K.
type Tried = (usize, [usize; 3]);

/// Lists the products of a trial. None fills its tiles; there are enough of the second, which is for cooperative matrices, for
/// the largest.
const PRODUCTS: [Tried; 2] = [(1, [67, 70, 2048]), (32, [130, 132, 132])];

/// Computes the bits of these products. A twin's codes are of either range. The first two rows and the first column hold
/// codes near the largest, so that an f32 couldn't hold their sums; a twin's second row is all of R2.
async fn probe(device: &Device, name: &str, products: &[Tried]) -> Result<Vec<u32>> {
    if name == super::fused_attention::SHADER.name {
        let mut commands = Commands::new(device);
        let out = super::fused_attention::probe(&mut commands);
        let values = commands.read_async(&out).await?;
        return Ok(values.into_iter().map(f32::to_bits).collect());
    }
    // A linear congruential generator, of which the upper bits are good enough.
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut commands = Commands::new(device);
    let mut results = Vec::new();
    for &(matrices, [m, n, k]) in products {
        let out = device.zeros::<f32>(matrices * m * n);
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
                let len = matrices * words * padded(lines);
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
                batch: [matrices, 1],
                m,
                n,
                k,
                out: View::new(0, [m * n, 0], n, 1),
                jobs: 1,
                a_per_job: false,
                b_per_job: false,
                job_stride: matrices * m * n,
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
        results.push(out);
    }
    let values = commands.read_all_async(&results).await?.concat();
    Ok(values.into_iter().map(f32::to_bits).collect())
}
