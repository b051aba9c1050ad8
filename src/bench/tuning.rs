//! Which strategy is the fastest for each kind of product on a device.

use super::kernels::{ATTENTION_STRATEGIES, Case, Kernel, cases_of_shape};
use super::timing::Timing;
use crate::device::{Device, Strategy, Tile};
use crate::error::Error;
use crate::families::sites;
use crate::kernels::{Elsewhere, Format, STRATEGY_NAMES, adopt_carefully};
use crate::model::recipe::recipe_named;
use serde::Serialize;

/// Names the network whose shapes are timed, of middling size, at as many images as kernels are timed with.
const MODEL: &str = "deit_small_patch16_224";

/// Says how many times the least time of a shape a strategy may take and be timed at the next one.
const FAR_BEHIND: f64 = 1.5;

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

/// Lists the strategies to try: besides the usual tile a deeper one, one of 32 by 32 for devices with few
/// multiprocessors to a workgroup, and larger ones, of which some have eight columns to an invocation.
fn strategies(device: &Device, product: &str) -> Vec<Strategy> {
    if product == ATTENTION {
        return ATTENTION_STRATEGIES.to_vec();
    }
    let tile = |lanes, column_vectors, step| {
        Strategy::Tiled(Tile {
            lanes,
            column_vectors,
            step,
        })
    };
    let mut strategies = vec![
        Strategy::Registers,
        Strategy::Tiled(Tile::DEFAULT),
        tile([8, 16], 1, 16),
        tile([4, 8], 1, 16),
        tile([16, 16], 1, 8),
        tile([8, 8], 2, 8),
        tile([8, 16], 2, 8),
        tile([16, 8], 2, 8),
        tile([16, 16], 2, 8),
    ];
    if product != "float_product" {
        strategies.extend([Strategy::Cooperative, Strategy::CooperativeInt8]);
    }
    strategies.retain(|&strategy| device.offers(strategy));
    strategies
}

/// Lists where the products of this name are timed: at one shape, or where they occur in the network.
fn cases(product: &str, shape: Option<[usize; 3]>) -> Vec<Case> {
    use Format::{GeluTwin, SoftmaxTwin, Uniform};
    let (kernel, places): (_, &[(&str, Option<Format>)]) = match product {
        "float_product" => (
            Kernel::FloatProduct,
            &[("attn.qkv", None), ("attn.qk", None), ("mlp.fc2", None)],
        ),
        "integer_product" => (
            Kernel::IntegerProduct,
            &[
                ("attn.qkv", Some(Uniform)),
                ("attn.qk", Some(Uniform)),
                ("mlp.fc1", Some(Uniform)),
            ],
        ),
        ATTENTION => (Kernel::FusedAttention, &[("attn.pv", Some(SoftmaxTwin))]),
        _ => (
            Kernel::IntegerProduct,
            &[("attn.pv", Some(SoftmaxTwin)), ("mlp.fc2", Some(GeluTwin))],
        ),
    };
    // Attention's shape isn't that of a product.
    if let (Some(shape), true) = (shape, product != ATTENTION) {
        let mut cases = cases_of_shape(shape, &[kernel]);
        cases.retain(|case| places.iter().any(|(_, format)| *format == case.format()));
        return cases;
    }
    let recipe = recipe_named(MODEL).expect("it is among the recipes");
    let sites = sites(&recipe.architecture);
    places
        .iter()
        .map(|&(place, format)| {
            let site = sites.iter().find(|site| site.name.ends_with(place));
            let site = site.expect("every ViT has these products").clone();
            Case::new(kernel, format, site)
        })
        .collect()
}

/// Times the strategies that work for every kind of product, and makes `device` use the fastest ones. `shape` is M, N, K; by
/// default it is several shapes of a network, of which the later ones are for the strategies that aren't far behind. What
/// might crash is tried `elsewhere` before. Calls `tried` after each trial, and returns what was chosen.
///
/// # Errors
/// Those of the device, and of `tried`.
pub fn tune<E: From<Error>>(
    device: &Device,
    shape: Option<[usize; 3]>,
    elsewhere: Elsewhere,
    tried: &mut dyn FnMut(&Trial) -> std::result::Result<(), E>,
) -> std::result::Result<Vec<(&'static str, Strategy)>, E> {
    let mut chosen = Vec::new();
    for product in STRATEGY_NAMES {
        let cases = cases(product, shape);
        let trial = |case: &Case, strategy, timing, problem| Trial {
            product,
            site: case.site_name().to_owned(),
            shape: case.shape(),
            strategy,
            timing,
            problem,
        };
        // Products of times, so that every shape counts alike however large it is.
        let mut costs = Vec::new();
        for strategy in strategies(device, product) {
            match adopt_carefully(device, product, strategy, elsewhere) {
                Ok(()) => costs.push((1.0, strategy)),
                Err(problem) => {
                    let problem = Some(problem.to_string());
                    tried(&trial(&cases[0], strategy, None, problem))?;
                }
            }
        }
        for case in &cases {
            let prepared = case.prepare(device)?;
            for (cost, strategy) in &mut costs {
                device.set_strategy(product, *strategy);
                let timing = prepared.time(device)?;
                *cost *= timing.median_seconds;
                tried(&trial(case, *strategy, Some(timing), None))?;
            }
            costs.sort_by(|(left, _), (right, _)| left.total_cmp(right));
            let least = costs.first().map_or(0.0, |(cost, _)| *cost);
            costs.retain(|(cost, _)| *cost <= FAR_BEHIND * least);
        }
        if let Some(&(_, fastest)) = costs.first() {
            device.set_strategy(product, fastest);
            chosen.push((product, fastest));
        }
    }
    Ok(chosen)
}
