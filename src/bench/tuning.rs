//! Which strategy is the fastest for each kind of product on a device.

use super::kernels::{IMAGES, TimedCase, TimedKernel};
use super::tiles::best_tiles;
use super::timing::{Timing, time};
use crate::device::{Device, Strategy, Tile};
use crate::error::{Error, Result};
use crate::families::sites;
use crate::kernels::catalogue::Prepared;
use crate::kernels::{
    Elsewhere, Format, INTEGER_STRATEGY_NAMES, STRATEGY_NAMES, adopt_carefully, strategy_of,
};
use crate::model::recipe::recipe_named;
use serde::Serialize;
use web_time::{Duration, Instant};

/// Names the network whose shapes are timed, of middling size, at as many images as kernels are timed with; on a software
/// driver, which one image keeps busy for long enough, at one.
const MODEL: &str = "deit_small_patch16_224";

/// Says how many times the least time of a shape a strategy may take and be timed at the next one.
const FAR_BEHIND: f64 = 1.5;

/// Says which share of the time of the device's usual strategy another may take at most to be chosen: what differs by less may be
/// the clock's doing.
const CLEARLY_FASTER: f64 = 0.95;

/// Says what became of a strategy that the time didn't reach to.
const NO_TIME: &str = "not timed: the time is up";

/// Counts the tiles that are tried: the time is up after as many of them where a kernel takes half a second to compile.
const TILES: usize = 20;

/// Counts the tiles that are tried on a software driver.
const TILES_OF_SOFTWARE: usize = 3;

/// Names the products of floats.
const FLOATS: &str = "float_product";

/// Names the products of twins.
const TWINS: &str = INTEGER_STRATEGY_NAMES[1];

/// Names attention among the products.
const ATTENTION: &str = "fused_attention";

/// Describes one strategy at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The kind of product: one of the names that strategies are set by.
    pub product: &'static str,
    /// The product in the network.
    pub site: String,
    /// `[matrices, M, N, K]`
    pub shape: Vec<usize>,
    /// What was tried.
    pub strategy: Strategy,
    /// How long it takes; absent where the strategy doesn't work.
    #[serde(flatten)]
    pub timing: Option<Timing>,
    /// Why it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Lists the strategies to try for products of this name, those first that are likely to be fast on a software driver or on a
/// GPU: the usual tile is followed by those that a model finds best for these shapes, `[matrices, M, N, K]`.
fn strategies(is_software: bool, product: &str, shapes: &[&[usize]]) -> Vec<Strategy> {
    let codes_of_word = if product == FLOATS { 1 } else { 4 };
    let shapes: Vec<[usize; 4]> = shapes
        .iter()
        .map(|&shape| {
            let [matrices, m, n, k] = *shape else {
                unreachable!("the shape of a product has four sizes");
            };
            [matrices, m, n, k.div_ceil(codes_of_word)]
        })
        .collect();
    let accumulators = if product == TWINS { 2 } else { 1 };
    let modelled = best_tiles(product, &shapes, accumulators).into_iter();
    let tiles = [Tile::DEFAULT]
        .into_iter()
        .chain(modelled.filter(|&tile| tile != Tile::DEFAULT))
        .map(Strategy::Tiled);
    let matrices = match product {
        FLOATS => &[][..],
        _ => &[Strategy::CooperativeInt8, Strategy::Cooperative],
    };
    let matrices = matrices.iter().copied();
    let registers = [Strategy::Registers].into_iter();
    // Neither workgroup memory nor matrices are faster on a software driver than the rest.
    match is_software {
        true => registers
            .chain(tiles.take(TILES_OF_SOFTWARE))
            .chain(matrices)
            .collect(),
        false => matrices.chain(tiles.take(TILES)).chain(registers).collect(),
    }
}

/// Lists where the products of this name are timed, as a network in integers computes them: at one shape, or where they occur
/// in the network.
fn cases(device: &Device, product: &str, shape: Option<[usize; 3]>) -> Vec<TimedCase> {
    use Format::{GeluTwin, SoftmaxTwin, Uniform};
    let (kernel, places): (_, &[(&str, Option<Format>)]) = match product {
        FLOATS => (
            FLOATS,
            &[("attn.qkv", None), ("attn.qk", None), ("mlp.fc2", None)],
        ),
        "integer_product" => (
            product,
            &[
                ("attn.qkv", Some(Uniform)),
                ("attn.qk", Some(Uniform)),
                ("mlp.fc1", Some(Uniform)),
            ],
        ),
        ATTENTION => (product, &[("attn.pv", Some(SoftmaxTwin))]),
        _ => (
            "integer_product",
            &[("attn.pv", Some(SoftmaxTwin)), ("mlp.fc2", Some(GeluTwin))],
        ),
    };
    let kernel = TimedKernel::named(kernel).expect("it is among the kernels");
    // Attention's shape isn't that of a product.
    if let (Some(shape), true) = (shape, product != ATTENTION) {
        let mut cases = kernel.at_shape(shape);
        cases.retain(|case| places.iter().any(|(_, format)| *format == case.format()));
        return cases;
    }
    let recipe = recipe_named(MODEL).expect("it is among the recipes");
    let sites = sites(&recipe.architecture);
    places
        .iter()
        .map(|&(place, format)| {
            let site = sites.iter().find(|site| site.name.ends_with(place));
            let site = site.expect("every ViT has these products");
            let images = if device.is_software() { 1 } else { IMAGES };
            let cases = kernel.at_site(site, images, false);
            let case = cases.into_iter().find(|case| case.format() == format);
            case.expect("the kernel is timed there in this format")
        })
        .collect()
}

/// Times the strategies that work for every kind of product, and makes `device` use the fastest ones. `shape` is M, N, K; by
/// default it is several shapes of a network, of which each halves the strategies that are timed at the next one, or leaves even
/// fewer if the others are far behind. After
/// `limit` nothing more is timed; each kind of product has its share of it, and one strategy is timed in any case. What might
/// crash is tried `elsewhere` before. Calls `tried` after each trial, and returns what was chosen.
///
/// # Errors
/// Those of the device, and of `tried`.
pub fn tune<E: From<Error>>(
    device: &Device,
    shape: Option<[usize; 3]>,
    limit: Duration,
    elsewhere: Elsewhere,
    tried: &mut dyn FnMut(&Trial) -> std::result::Result<(), E>,
) -> std::result::Result<Vec<(&'static str, Strategy)>, E> {
    let start = Instant::now();
    let mut chosen = Vec::new();
    for (number, product) in (1u32..).zip(STRATEGY_NAMES) {
        // What one kind leaves is the next one's.
        let share = limit * number / STRATEGY_NAMES.len() as u32;
        let usual = strategy_of(device, product);
        let mut tuning = Tuning {
            device,
            product,
            elsewhere,
            costs: Vec::new(),
        };
        let cases = cases(device, product, shape);
        let shapes: Vec<&[usize]> = cases.iter().map(TimedCase::shape).collect();
        for case in &cases {
            let prepared = case.prepare(device)?;
            let before = std::mem::take(&mut tuning.costs);
            let is_first = before.is_empty();
            let entrants = match is_first {
                true => {
                    let mut strategies = match case.strategies() {
                        [] => strategies(device.is_software(), product, &shapes),
                        of_its_own => of_its_own.to_vec(),
                    };
                    strategies.retain(|&strategy| device.offers(strategy));
                    strategies
                        .into_iter()
                        .map(|strategy| (1.0, strategy))
                        .collect()
                }
                false => before.clone(),
            };
            let mut is_over = false;
            for (cost, strategy) in entrants {
                is_over |= start.elapsed() > share && !(is_first && tuning.costs.is_empty());
                let timing = match is_over {
                    true => Err(NO_TIME.to_owned()),
                    false => tuning.time(&prepared, strategy, is_first)?,
                };
                if let Ok(timing) = &timing {
                    tuning.costs.push((cost * timing.median_seconds, strategy));
                }
                tried(&Trial {
                    product,
                    site: case.site().to_owned(),
                    shape: case.shape().to_vec(),
                    strategy,
                    problem: timing.as_ref().err().cloned(),
                    timing: timing.ok(),
                })?;
            }
            if is_over && !is_first {
                // Some were not timed here: what was known before decides.
                tuning.costs = before;
            }
            tuning.drop_those_behind();
            if is_over {
                break;
            }
        }
        if let Some(strategy) = tuning.choice(usual) {
            device.set_strategy(product, strategy);
            chosen.push((product, strategy));
        }
    }
    Ok(chosen)
}

/// Holds what is known of the strategies for one kind of product.
struct Tuning<'a> {
    device: &'a Device,
    product: &'static str,
    elsewhere: Elsewhere<'a>,
    /// Products of times, so that every shape counts alike however large it is; the least first.
    costs: Vec<(f64, Strategy)>,
}

impl Tuning<'_> {
    /// Times a strategy, or says why it doesn't work. The first time it is tried before.
    fn time(
        &self,
        prepared: &Prepared,
        strategy: Strategy,
        is_first: bool,
    ) -> Result<std::result::Result<Timing, String>> {
        if is_first {
            let adopted = adopt_carefully(self.device, self.product, strategy, self.elsewhere);
            if let Err(problem) = adopted {
                return Ok(Err(problem.to_string()));
            }
        }
        self.device.set_strategy(self.product, strategy);
        let timing = self.device.wait(time(self.device, &prepared.run));
        timing.map(Ok)
    }

    /// Returns the fastest strategy, or the `usual` one where that isn't clearly slower.
    fn choice(&self, usual: Option<Strategy>) -> Option<Strategy> {
        let &(least, fastest) = self.costs.first()?;
        let is_as_good = |&(cost, strategy): &(f64, Strategy)| {
            Some(strategy) == usual && least > CLEARLY_FASTER * cost
        };
        let is_usual = self.costs.iter().any(is_as_good);
        usual.filter(|_| is_usual).or(Some(fastest))
    }

    /// Keeps the faster half, and of these who isn't far behind.
    fn drop_those_behind(&mut self) {
        self.costs
            .sort_by(|(left, _), (right, _)| left.total_cmp(right));
        self.costs.truncate(self.costs.len().div_ceil(2));
        let least = self.costs.first().map_or(0.0, |(cost, _)| *cost);
        self.costs.retain(|(cost, _)| *cost <= FAR_BEHIND * least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::suits;

    #[test]
    fn what_is_likely_fast_comes_first_and_nothing_twice() {
        let shapes: [&[usize]; 2] = [&[1, 1576, 1152, 384], &[48, 197, 197, 64]];
        for product in [FLOATS, "integer_product", TWINS] {
            let of_gpu = strategies(false, product, &shapes);
            let of_software = strategies(true, product, &shapes);
            let matrices = if product == FLOATS { 0 } else { 2 };
            assert_eq!(of_gpu.len(), matrices + TILES + 1);
            assert_eq!(of_gpu[matrices], Strategy::Tiled(Tile::DEFAULT));
            assert_eq!(of_gpu.last(), Some(&Strategy::Registers));
            assert_eq!(of_software[0], Strategy::Registers);
            assert_eq!(of_software.len(), 1 + TILES_OF_SOFTWARE + matrices);
            for (at, strategy) in of_gpu.iter().enumerate() {
                assert!(
                    !of_gpu[..at].contains(strategy),
                    "{strategy} is there twice"
                );
                assert!(suits(product, *strategy), "{strategy}");
            }
        }
    }
}
