//! Devices, random data and comparisons for the other files.

use bytemuck::Pod;
use ptq4vit_gpu::device::{self, Buffer, Device, Strategy, Tile};
use ptq4vit_gpu::kernels::STRATEGY_NAMES;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Debug;

/// Sizes that fill no tile, no vector and no workgroup evenly.
pub const RAGGED: [usize; 5] = [1, 3, 7, 65, 197];

/// The distance of 1 to the next f32: an operation that rounds correctly errs by at most half of it.
pub const EPSILON: f64 = f32::EPSILON as f64;

/// Every adapter of this machine that computes correctly.
///
/// # Panics
/// If none is left: these tests say nothing without one. `tests/run` installs a software driver.
pub fn devices() -> Vec<Device> {
    let mut devices = Vec::new();
    for adapter in device::adapters() {
        if adapter.self_test != "ok" {
            eprintln!("not tested: {}: {}", adapter.name, adapter.self_test);
            continue;
        }
        let index = adapter.index.expect("an adapter has a number").to_string();
        let opened = device::open(Some(&index)).expect("an adapter that passed its self-test");
        devices.push(opened.device);
    }
    assert!(
        !devices.is_empty(),
        "no adapter that passes the self-test was found; tests/run installs one"
    );
    devices
}

/// The strategies that products are tested with: besides the usual tile ones that are small, wide and uneven.
pub fn strategies() -> Vec<Strategy> {
    let tile = |lanes, step| Strategy::Tiled(Tile { lanes, step });
    vec![
        Strategy::Registers,
        Strategy::Tiled(Tile::DEFAULT),
        tile([2, 5], 3),
        tile([16, 16], 16),
        Strategy::Cooperative,
    ]
}

/// An order of `tokens` tokens; `padded` after each third.
pub fn token_order(tokens: usize, padded: bool) -> Vec<u32> {
    // 5 has no factor in common with the sizes that are used, so this visits every token.
    let tokens_in_order = (0..tokens).map(|at| (at * 5 + 2) % tokens);
    let with_padding = tokens_in_order.enumerate().flat_map(|(at, token)| {
        let padding = (padded && at % 3 == 0).then_some(tokens);
        [token].into_iter().chain(padding)
    });
    with_padding.map(|token| token as u32).collect()
}

/// `values` `[images, tokens, dim]` with the tokens of each image in the order `from`, padding being the default.
pub fn reordered<T: Copy + Default>(
    from: &[u32],
    tokens: usize,
    dim: usize,
    values: &[T],
) -> Vec<T> {
    let mut result = Vec::new();
    for image in values.chunks_exact(tokens * dim) {
        for &token in from {
            match image.chunks_exact(dim).nth(token as usize) {
                Some(token) => result.extend(token),
                None => result.extend(vec![T::default(); dim]),
            }
        }
    }
    result
}

/// The CPU and every adapter, each under its name.
pub struct Everywhere(Vec<(String, Device)>);

impl Everywhere {
    pub fn new() -> Self {
        let mut all = vec![Device::cpu()];
        all.extend(devices());
        let named = |device: Device| (device.name().to_owned(), device);
        Self(all.into_iter().map(named).collect())
    }

    /// Every adapter once with each strategy for products.
    pub fn with_every_strategy() -> Self {
        let mut all = vec![("cpu".to_owned(), Device::cpu())];
        for strategy in strategies() {
            for device in devices() {
                if !device.offers(strategy) {
                    continue;
                }
                for name in STRATEGY_NAMES {
                    device.set_strategy(name, strategy);
                }
                all.push((format!("{}, {strategy:?}", device.name()), device));
            }
        }
        Self(all)
    }

    /// All of them, each with its name.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &Device)> {
        self.0.iter().map(|(name, device)| (&**name, device))
    }

    /// Those of them that have f16; the others are named.
    pub fn with_f16() -> Self {
        let Self(all) = Self::new();
        let (with, without): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, device)| device.has_f16());
        for (name, _) in without {
            eprintln!("not tested in f16: {name} has none");
        }
        Self(with)
    }

    /// Hands the result of `kernel` on every device to `check`, with a name for it.
    pub fn each<T: Pod>(
        &self,
        what: &str,
        kernel: impl Fn(&Device) -> Buffer<T>,
        mut check: impl FnMut(&str, Vec<T>),
    ) {
        for (name, device) in &self.0 {
            let name = format!("{what} on {name}");
            let found = device
                .read(&kernel(device))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            check(&name, found);
        }
    }

    /// Panics unless the result of `kernel` is `expected` on every device.
    pub fn equal<T: Pod + Debug + PartialEq>(
        &self,
        what: &str,
        expected: &[T],
        kernel: impl Fn(&Device) -> Buffer<T>,
    ) {
        self.each(what, kernel, |name, found| {
            assert_equal(name, &found, expected);
        });
    }

    /// Panics unless `kernel` and `other` have the same result, on every device.
    pub fn same<T: Pod + Debug + PartialEq>(
        &self,
        what: &str,
        kernel: impl Fn(&Device) -> Buffer<T>,
        other: impl Fn(&Device) -> Buffer<T>,
    ) {
        for (name, device) in &self.0 {
            let name = format!("{what} on {name}");
            let read = |buffer| {
                let values = device.read(&buffer);
                values.unwrap_or_else(|error| panic!("{name}: {error}"))
            };
            let (found, expected) = (read(kernel(device)), read(other(device)));
            assert_equal(&name, &found, &expected);
        }
    }

    /// Panics unless each value of the result of `kernel` is within its bound of what is expected, on every device.
    /// `expected` holds values and bounds.
    pub fn close(
        &self,
        what: &str,
        expected: &[(f64, f64)],
        kernel: impl Fn(&Device) -> Buffer<f32>,
    ) {
        self.each(what, kernel, |name, found| {
            assert_eq!(found.len(), expected.len(), "{name}: length");
            let mut worst = 0.0f64;
            for (at, (&found, &(expected, bound))) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(found) - expected).abs();
                // So written that NaN fails.
                assert!(
                    error <= bound,
                    "{name}: [{at}] is {found:e} instead of {expected:e}, off by {error:e}, bound {bound:e}"
                );
                if error > 0.0 {
                    worst = worst.max(error / bound);
                }
            }
            println!("{name}: the greatest error is {worst:.3} of its bound");
        });
    }
}

fn assert_equal<T: Debug + PartialEq>(name: &str, found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len(), "{name}: length");
    let wrong = (0..found.len()).filter(|&at| found[at] != expected[at]);
    if let Some(at) = wrong.clone().next() {
        panic!(
            "{name}: {} of {} values differ, first [{at}]: {:?} instead of {:?}",
            wrong.count(),
            found.len(),
            found[at],
            expected[at]
        );
    }
}

/// Reproducible random data; another `seed`, other data.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// `len` values of a normal distribution.
    pub fn normal(&mut self, len: usize, mean: f32, deviation: f32) -> Vec<f32> {
        (0..len)
            .map(|_| {
                // Box and Muller's transform.
                let radius = (-2.0 * (1.0 - self.0.random::<f32>()).ln()).sqrt();
                let angle = std::f32::consts::TAU * self.0.random::<f32>();
                mean + deviation * radius * angle.cos()
            })
            .collect()
    }

    /// `len` values from 0 up to 1.
    pub fn unit(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.0.random()).collect()
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.random()).collect()
    }
}

/// The same in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The gradient at `x` of Σ grad · function(x), by central differences in f64: good to about 1e-9 of the values.
pub fn gradient(function: impl Fn(&[f64]) -> Vec<f64>, x: &[f64], grad: &[f64]) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let total = |x: &[f64]| -> f64 { function(x).iter().zip(grad).map(|(y, g)| y * g).sum() };
    (0..x.len())
        .map(|at| {
            let mut moved = x.to_vec();
            moved[at] = x[at] + STEP;
            let above = total(&moved);
            moved[at] = x[at] - STEP;
            (above - total(&moved)) / (2.0 * STEP)
        })
        .collect()
}
