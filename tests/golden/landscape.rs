//! The network's loss beside the metrics: each candidate's, computed again by the definition.

use crate::common::devices;
use crate::literal::Tensors;
use crate::network::{Golden, plans, six_bits};
use ptq4vit_gpu::device::{Buffer, Commands, Device};
use ptq4vit_gpu::graph::{FloatProducts, FloatingProducts, Site};
use ptq4vit_gpu::model::config::Answer;
use ptq4vit_gpu::quant::{Calibration, Landscape, Method, Metric, Preset, Scale, Side, SitePlan};

fn landscapes(
    golden: &Golden,
    device: &Device,
    method: &Method,
    budget: Option<u64>,
) -> Vec<Landscape> {
    Calibration::builder(device, &golden.weights, &golden.architecture)
        .method(method)
        .images(&golden.images("input"))
        .memory_budget(budget)
        .landscapes()
        .unwrap()
}

/// The FP network, but for one product with one operand rounded, which is computed in f64 on the host.
struct OnHost<'a> {
    golden: &'a Golden,
    float: &'a FloatProducts,
    plan: &'a SitePlan,
    side: Side,
    scales: &'a [Scale],
}

impl FloatingProducts for OnHost<'_> {
    fn multiply(
        &self,
        commands: &mut Commands,
        site: &Site,
        images: usize,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        if site.name != self.plan.site.name {
            return self.float.multiply(commands, site, images, a, b);
        }
        let mut read = |buffer: &Buffer<f32>| commands.read(buffer).unwrap();
        let tensors = Tensors::of_operands(self.golden, site, &mut read, a, b);
        let out = tensors.one_sided(self.plan, self.side, self.scales);
        commands.device().upload(&tensors.laid_out(&out))
    }
}

/// The loss by its definition: a mean of cross-entropies against the FP network's classes, or of squared distances.
fn loss(answer: Answer, float: &[f32], found: &[f32]) -> f64 {
    let of_image = |(float, found): (&[f32], &[f32])| {
        let found = found.iter().copied().map(f64::from);
        match answer {
            Answer::Logits(_) => {
                let label = (0..float.len())
                    .rev()
                    .max_by(|&l, &r| float[l].total_cmp(&float[r]));
                let exponentials: f64 = found.clone().map(f64::exp).sum();
                exponentials.ln() - found.clone().nth(label.unwrap()).unwrap()
            }
            Answer::Features(_) => found
                .zip(float)
                .map(|(x, &f)| (x - f64::from(f)).powi(2))
                .sum(),
        }
    };
    let (Answer::Logits(len) | Answer::Features(len)) = answer;
    let images = float.chunks_exact(len).zip(found.chunks_exact(len));
    images.map(of_image).sum::<f64>() / (float.len() / len) as f64
}

/// The KL divergence by its definition, a mean of Σ p log(p / q); `None` of features.
fn kl(answer: Answer, float: &[f32], found: &[f32]) -> Option<f64> {
    let Answer::Logits(classes) = answer else {
        return None;
    };
    let probabilities = |logits: &[f32]| -> Vec<f64> {
        let exponentials = logits.iter().map(|&x| f64::from(x).exp());
        let sum: f64 = exponentials.clone().sum();
        exponentials.map(|x| x / sum).collect()
    };
    let images = float.chunks_exact(classes).zip(found.chunks_exact(classes));
    let of_images = images.map(|(float, found)| {
        let pairs = probabilities(float).into_iter().zip(probabilities(found));
        pairs.map(|(p, q)| p * (p / q).ln()).sum::<f64>()
    });
    Some(of_images.sum::<f64>() / (float.len() / classes) as f64)
}

pub fn losses_and_scores_are_those_of_the_definition(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let mut method = six_bits(Preset::Ptq4vit, &network);
        method.settings.candidates = 3;
        let found = landscapes(golden, &device, &method, None);
        let mut float = golden.float_products(&network);
        let images = golden.images("input");
        let pixels = device.upload(&images.concat());
        let answer = golden.architecture.answer();
        let commands = &mut Commands::new(&device);
        let logits = network.logits(commands, &mut float, images.len(), &pixels);
        let logits = commands.read(&logits).unwrap();
        let (_, records) = golden.records(&network);
        let plans = plans(&network, &method);
        assert_eq!(found.len(), 2 * plans.len());
        for (landscapes, plan) in found.chunks_exact(2).zip(&plans) {
            let site = &plan.site;
            let tensors = Tensors::recorded(golden, &device, site, &records[&site.name]);
            for (landscape, side) in landscapes.iter().zip([Side::A, Side::B]) {
                assert_eq!((&landscape.site, landscape.side), (&site.name, side));
                let float_loss = loss(answer, &logits, &logits);
                assert!((landscape.float_loss - float_loss).abs() < 1e-12 * (1.0 + float_loss));
                for point in &landscape.candidates {
                    let mut products = OnHost {
                        golden,
                        float: &float,
                        plan,
                        side,
                        scales: &point.scales,
                    };
                    let found = network.logits(commands, &mut products, images.len(), &pixels);
                    let found = commands.read(&found).unwrap();
                    let expected = loss(answer, &logits, &found);
                    let place = format!("{}: {} {side:?}", device.name(), site.name);
                    // f32's rounding of what follows the product, which an f64 sum enters by another last bit.
                    assert!(
                        (point.loss - expected).abs() < 1e-4 * (1e-2 + expected),
                        "{place}: loss {}, expected {expected}",
                        point.loss
                    );
                    let expected = kl(answer, &logits, &found);
                    assert_eq!(point.kl.is_some(), expected.is_some(), "{place}");
                    if let Some((found, expected)) = point.kl.zip(expected) {
                        // As above, of logits whose errors' squares it adds up.
                        assert!(
                            (found - expected).abs() < 1e-3 * expected + 1e-9,
                            "{place}: KL {found:e}, expected {expected:e}"
                        );
                    }
                    for metric in [
                        Metric::Hessian,
                        Metric::Mse,
                        Metric::Cosine,
                        Metric::Pearson,
                    ] {
                        if metric.needs_gradient() && matches!(answer, Answer::Features(_)) {
                            // Features' gradients are random, and not those of the records.
                            continue;
                        }
                        let rounded = (side, &point.scales[..]);
                        let expected = tensors.one_sided_score(plan, metric, rounded);
                        let found = point.scores[&metric];
                        // As that of the search's scores, and f32's rounding of an O that has hardly an error.
                        assert!(
                            (found - expected).abs() < 1e-3 * expected + 1e-9,
                            "{place}: {metric:?} {found:e}, expected {expected:e}"
                        );
                    }
                }
            }
        }
    }
}

/// The candidates are those of the search, in its order.
pub fn candidates_are_the_searchs(golden: &Golden) {
    let device = Device::cpu();
    let network = golden.network(&device);
    let mut method = six_bits(Preset::Ptq4vit, &network);
    method.settings.candidates = 7;
    let found = landscapes(golden, &device, &method, None);
    for report in golden.calibrate(&device, &method, None).reports {
        for curve in &report.curves {
            let is_it = |landscape: &&Landscape| {
                landscape.site == report.site && landscape.side == curve.side
            };
            let landscape = found
                .iter()
                .find(is_it)
                .expect("a landscape of each operand");
            let scales = landscape
                .candidates
                .iter()
                .map(|point| point.scales[curve.group]);
            assert!(scales.eq(curve.candidates.iter().map(|candidate| candidate.scale)));
        }
    }
}

pub fn landscapes_do_not_depend_on_the_memory(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let mut method = six_bits(Preset::Ptq4vit, &network);
        method.settings.candidates = 3;
        let run = |budget| landscapes(golden, &device, &method, budget);
        // Little enough that images go through one by one.
        assert_eq!(run(None), run(Some(440 << 10)), "{}", device.name());
    }
}
