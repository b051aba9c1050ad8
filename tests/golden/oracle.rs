//! What the oracle of the whole method found: its settings and scales.

use crate::network::Golden;
use ptq4vit_gpu::graph::{Network, Site};
use ptq4vit_gpu::quant::{
    Method, Metric, Policy, Preset, Scale, Settings, SitePlan, SiteScales, WeightScales,
};

/// The oracle's settings: their names, and what they mean for a network.
pub fn methods(network: &Network) -> Vec<(String, Method)> {
    let sites: Vec<Site> = network.sites().cloned().collect();
    let mut all = Vec::new();
    for (bits, metric, formats) in [
        (4, Metric::Hessian, "twin"),
        (6, Metric::Cosine, "twin"),
        (6, Metric::Hessian, "twin"),
        (6, Metric::Hessian, "uniform"),
        (6, Metric::Mse, "twin"),
        (6, Metric::Pearson, "twin"),
        (8, Metric::Cosine, "uniform"),
        (8, Metric::Hessian, "twin"),
        (4, Metric::Hessian, "channel"),
    ] {
        let name = format!(
            "w{bits}a{bits}/{}/{formats}",
            serde_json::to_value(metric).unwrap().as_str().unwrap(),
        );
        let policy = Policy {
            softmax_twin: formats != "uniform",
            gelu_twin: formats != "uniform",
            weight_scales: match formats {
                "channel" => WeightScales::Channel,
                _ => WeightScales::Tensor,
            },
            ..Policy::preset(Preset::Ptq4vit, bits, bits)
        };
        let method = Method {
            plan: policy.plan(&sites).unwrap(),
            settings: Settings {
                metric,
                ..Settings::preset(Preset::Ptq4vit)
            },
        };
        all.push((name, method));
    }
    all
}

/// The oracle's scales of a site.
pub fn golden_scales(golden: &Golden, setting: &str, plan: &SitePlan) -> SiteScales {
    let name = |part: &str| format!("{setting}/{}/{part}", plan.site.name);
    let shift = if plan.a.format.is_twin() {
        golden.answers.integers(&name("m")).expect("the oracle's m")[0] as u32
    } else {
        0
    };
    SiteScales::new(
        golden
            .answer(&name("A"))
            .into_iter()
            .map(|scale| Scale { scale, shift })
            .collect(),
        golden
            .answer(&name("B"))
            .into_iter()
            .map(Scale::uniform)
            .collect(),
    )
}

/// The score that the oracle found them to have.
pub fn golden_score(golden: &Golden, setting: &str, plan: &SitePlan) -> f64 {
    f64::from(golden.answer(&format!("{setting}/{}/score", plan.site.name))[0])
}

/// The scales of try `attempt`: at 0 as they are, else some of them larger or smaller by one or two in the last place, by a
/// hash. A quantizer in f32 is off by as much: it rounds a scale, its inverse, and the product with that.
pub fn nudged(scales: SiteScales, attempt: u64) -> SiteScales {
    let nudge = |scale: Scale| {
        let bits = scale.scale.to_bits();
        let hash = (u64::from(bits) * 64 + attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let few_or_many = [4, 8, 24][attempt as usize % 3];
        let nudged = match hash % few_or_many {
            _ if attempt == 0 => bits,
            0 => bits + 1,
            1 => bits - 1,
            2 => bits + 2,
            3 => bits - 2,
            _ => bits,
        };
        Scale {
            scale: f32::from_bits(nudged),
            ..scale
        }
    };
    SiteScales::new(
        scales.a.into_iter().map(nudge).collect(),
        scales.b.into_iter().map(nudge).collect(),
    )
}
