//! What a device can do at most, by kernels that do nothing else.

use super::timing::{Timing, seconds_of, time, time_whole, warm_up};
use crate::device::{Buffer, Commands, CooperativeUnits, Device};
use crate::error::Result;
use crate::kernels::{
    Format, IntegerProduct, Operands, PeakF32, PeakInt8, View, Width, integer_product,
    peak_cooperative, peak_cooperative_int8, peak_cooperative_multiply_adds, peak_copy, peak_f32,
    peak_int8,
};
use serde::Serialize;

/// Counts the invocations that compute: more than any device runs at a time.
const INVOCATIONS: usize = 1 << 18;
/// Counts the rounds that a device is warmed up with.
const FEWEST_ROUNDS: usize = 16;
/// Says what a measurement should take at least, in seconds: a large GPU is through the first rounds before it is up to
/// speed.
const LONG_ENOUGH: f64 = 5e-3;
/// Sets rows, columns and length of the CPU's large product.
const SIDE: usize = 1024;
/// Counts the bytes that are copied: beyond caches, within every adapter's binding limit.
const COPIED_BYTES: usize = 64 << 20;

/// Counts the launches of which one's cost is found: many submissions' worth.
const LAUNCHES: usize = 1024;

/// Says what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// 10^9 operations a second; a multiply-add is two.
    #[serde(rename = "GOP/s")]
    Operations,
    /// 10^9 bytes a second, read and written.
    #[serde(rename = "GB/s")]
    Bytes,
}

impl Unit {
    /// Returns the unit's name, as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operations => "GOP/s",
            Self::Bytes => "GB/s",
        }
    }
}

/// Holds how much is done or moved in a second.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// How much.
    pub rate: f64,
    /// Of what.
    pub unit: Unit,
}

impl Rate {
    /// Computes the rate of `amount` operations or bytes in the median of `timing`.
    pub(super) fn new(amount: f64, unit: Unit, timing: &Timing) -> Self {
        Self {
            rate: amount / timing.median_seconds * 1e-9,
            unit,
        }
    }
}

/// Says what one of the peak kernels reaches.
#[derive(Clone, Debug, Serialize)]
pub struct Ceiling {
    /// The kernel.
    pub kernel: &'static str,
    /// What it reaches in the median.
    #[serde(flatten)]
    pub rate: Rate,
    /// How long it takes.
    #[serde(flatten)]
    pub timing: Timing,
}

/// Holds a device's ceilings.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Multiply-adds in f32.
    pub f32: Ceiling,
    /// Multiply-adds of packed 8-bit integers; on the CPU within a large product.
    pub int8: Ceiling,
    /// Multiply-adds of cooperative matrices, f16 with sums in f32, on a device that has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooperative: Option<Ceiling>,
    /// The same of int8 with sums in i32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooperative_int8: Option<Ceiling>,
    /// Bytes read and written.
    pub copy: Ceiling,
    /// How long a launch takes, in seconds, of a kernel that does next to nothing and waits for the one before it, by the
    /// host's clock; absent on the CPU, which launches none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_seconds: Option<f64>,
}

impl Ceilings {
    /// Measures the ceilings of `device`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(device: &Device) -> Result<Self> {
        device.wait(Self::measure_async(device))
    }

    /// Does what [`measure`](Self::measure) does, without waiting, as a browser needs it. On a native target it blocks the
    /// thread.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn measure_async(device: &Device) -> Result<Self> {
        Ok(Self {
            f32: f32(device).await?,
            int8: int8(device).await?,
            cooperative: cooperative(
                device,
                device.cooperative_units(),
                "peak_cooperative",
                peak_cooperative,
            )
            .await?,
            cooperative_int8: cooperative(
                device,
                device.int8_units(),
                "peak_cooperative_int8",
                peak_cooperative_int8,
            )
            .await?,
            copy: copy(device).await?,
            launch_seconds: launch_seconds(device).await?,
        })
    }

    /// Returns the ceiling of integer operations: the highest, whatever instructions reach it.
    pub fn integers(&self) -> &Ceiling {
        let others = self.cooperative.iter().chain(&self.cooperative_int8);
        others.fold(&self.int8, |highest, other| {
            if other.rate.rate > highest.rate.rate {
                other
            } else {
                highest
            }
        })
    }

    /// Returns all ceilings.
    pub fn all(&self) -> Vec<&Ceiling> {
        let mut all = vec![&self.f32, &self.int8];
        all.extend(&self.cooperative);
        all.extend(&self.cooperative_int8);
        all.push(&self.copy);
        all
    }
}

async fn f32(device: &Device) -> Result<Ceiling> {
    let out = device.zeros(INVOCATIONS);
    // x · -1 + 1 stays within its bounds however often it is repeated.
    let work = |rounds| PeakF32 {
        rounds,
        factor: -1.0,
        term: 1.0,
    };
    computing(
        device,
        "peak_f32",
        &|rounds| work(rounds).multiply_adds(INVOCATIONS),
        &|commands, rounds| peak_f32(commands, &work(rounds), &out),
    )
    .await
}

async fn int8(device: &Device) -> Result<Ceiling> {
    if let Device::Cpu(_) = device {
        return large_product(device).await;
    }
    let out = device.zeros(INVOCATIONS);
    let work = |rounds| PeakInt8 {
        rounds,
        operand: 0x7f81_03fd,
    };
    computing(
        device,
        "peak_int8",
        &|rounds| work(rounds).multiply_adds(INVOCATIONS),
        &|commands, rounds| peak_int8(commands, &work(rounds), &out),
    )
    .await
}

/// Measures the CPU's multiply-adds of bytes by a product so large that what comes before and after them is a small part of it:
/// which instructions they are depends on the processor, so no kernel does nothing else.
async fn large_product(device: &Device) -> Result<Ceiling> {
    let product = IntegerProduct {
        batch: [1, 1],
        m: SIDE,
        n: SIDE,
        k: SIDE,
        out: View::rows(SIDE),
        jobs: 1,
        a_per_job: false,
        b_per_job: false,
        job_stride: SIDE * SIDE,
        a_format: Format::Uniform,
        b_width: Width::Eight,
    };
    let [a, b] = [0, 1].map(|_| device.zeros(SIDE * SIDE / 4));
    let scales = device.upload(&[1.0, 0.0]);
    let operands = Operands {
        a: &a,
        b: &b,
        scales: &scales,
        groups: 1,
        inner_groups: 0,
        group_columns: SIDE,
        affine: None,
    };
    let out = device.zeros(SIDE * SIDE);
    let timing = time(device, &|commands| {
        integer_product(commands, &product, &operands, None, &out);
    })
    .await?;
    Ok(Ceiling {
        kernel: "integer_product",
        rate: Rate::new(2.0 * (SIDE as f64).powi(3), Unit::Operations, &timing),
        timing,
    })
}

/// Measures a kernel of chains of cooperative matrices, where there are `units` for them.
async fn cooperative(
    device: &Device,
    units: Option<CooperativeUnits>,
    kernel: &'static str,
    run: fn(&mut Commands, usize, &Buffer<f32>),
) -> Result<Option<Ceiling>> {
    let Some(units) = units else {
        return Ok(None);
    };
    let subgroups = INVOCATIONS / units.subgroup as usize;
    let out = device.zeros(subgroups);
    computing(
        device,
        kernel,
        &|rounds| peak_cooperative_multiply_adds(subgroups, rounds, units),
        &|commands, rounds| run(commands, rounds, &out),
    )
    .await
    .map(Some)
}

/// Measures a kernel that computes in as many rounds as it is told: so many that it takes long enough, once the device is up
/// to speed.
async fn computing(
    device: &Device,
    kernel: &'static str,
    multiply_adds: &dyn Fn(usize) -> u64,
    run: &dyn Fn(&mut Commands, usize),
) -> Result<Ceiling> {
    let mut rounds = FEWEST_ROUNDS;
    warm_up(device, async || {
        let mut commands = Commands::new(device);
        run(&mut commands, rounds);
        commands.synchronize_async().await
    })
    .await?;
    let mut commands = Commands::new(device);
    while seconds_of(&mut commands, &|commands| run(commands, rounds)).await? < LONG_ENOUGH {
        rounds *= 2;
    }
    let timing = time(device, &|commands| run(commands, rounds)).await?;
    let operations = 2.0 * multiply_adds(rounds) as f64;
    Ok(Ceiling {
        kernel,
        rate: Rate::new(operations, Unit::Operations, &timing),
        timing,
    })
}

async fn copy(device: &Device) -> Result<Ceiling> {
    let words = COPIED_BYTES / size_of::<u32>();
    let (input, out) = (device.upload(&vec![1u32; words]), device.zeros(words));
    let timing = time(device, &|commands| peak_copy(commands, &input, &out)).await?;
    Ok(Ceiling {
        kernel: "peak_copy",
        rate: Rate::new(2.0 * COPIED_BYTES as f64, Unit::Bytes, &timing),
        timing,
    })
}

/// Measures launches that are recorded and replayed, as a network's are.
async fn launch_seconds(device: &Device) -> Result<Option<f64>> {
    let words = 4;
    let (input, out) = (device.upload(&vec![1u32; words]), device.zeros(words));
    let recorded = Commands::record(device, |commands| {
        (0..LAUNCHES).for_each(|_| peak_copy(commands, &input, &out));
    });
    let Some(((), recording)) = recorded else {
        return Ok(None);
    };
    let mut seconds = Vec::new();
    for launches in [false, true] {
        let replay = async || {
            let mut commands = Commands::new(device);
            if launches {
                commands.replay(&recording);
            }
            commands.synchronize_async().await
        };
        seconds.push(time_whole(device, replay).await?.median_seconds);
    }
    Ok(Some((seconds[1] - seconds[0]).max(0.0) / LAUNCHES as f64))
}
