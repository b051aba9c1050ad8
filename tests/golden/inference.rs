//! Inference of the quantized network.

use crate::common::devices;
use crate::literal::whole;
use crate::network::{Golden, plans, relative_error, six_bit_methods};
use crate::oracle::{golden_scales, methods, nudged};
use ptq4vit_gpu::device::{Commands, Device};
use ptq4vit_gpu::graph::Products;
use ptq4vit_gpu::quant::{
    FakeQuantizedProducts, IntegerProducts, LinearCodes, SitePlan, SiteScales,
};

/// Both ways to compute the quantized network reach the oracle's logits, image by image, within 1e-4.
///
/// The oracle computes in f64. Rounding to f32 decides which code a value gets that lies on the boundary between two; one
/// such value changes what follows it, and an image's logits end up off by the size of the quantization noise. So an image
/// that doesn't match is tried again with scales that differ by as much as rounding does, and has to match with some.
pub fn quantized_inference_from_the_golden_scales(golden: &Golden) {
    const TRIES: u64 = 100;
    let images = golden.images("eval_input");
    for device in devices() {
        let network = golden.network(&device);
        for (setting, method) in methods(&network) {
            let expected = golden.answer(&format!("{setting}/eval_logits"));
            let plans = plans(&network, &method);
            for integer in [false, true] {
                let mut unmatched: Vec<usize> = (0..images.len()).collect();
                let mut at_once = 0;
                for attempt in 0..TRIES {
                    let scales = plans
                        .iter()
                        .map(|plan| nudged(golden_scales(golden, &setting, plan), attempt));
                    let sites: Vec<_> = plans.iter().cloned().zip(scales).collect();
                    let mut products: Box<dyn Products> = if integer {
                        Box::new(integer_products(golden, &device, sites))
                    } else {
                        let float = golden.float_products(&network);
                        Box::new(FakeQuantizedProducts::new(float, sites))
                    };
                    let chosen: Vec<f32> = unmatched
                        .iter()
                        .flat_map(|&image| images[image].clone())
                        .collect();
                    let pixels = device.upload(&chosen);
                    let commands = &mut Commands::new(&device);
                    let logits =
                        network.logits(commands, products.as_mut(), unmatched.len(), &pixels);
                    let logits = commands.read(&logits).unwrap();
                    let mut rows = logits.chunks_exact(network.answer_len());
                    unmatched.retain(|&image| {
                        let expected =
                            &expected[image * network.answer_len()..][..network.answer_len()];
                        relative_error(rows.next().unwrap(), expected) >= 1e-4
                    });
                    if attempt == 0 {
                        at_once = images.len() - unmatched.len();
                    }
                    if unmatched.is_empty() {
                        break;
                    }
                }
                let what = format!("{}: {setting}, in integers: {integer}", device.name());
                println!("{what}: {at_once} of {} images match at once", images.len());
                assert!(unmatched.is_empty(), "{what}: images {unmatched:?} are off");
                assert!(
                    2 * at_once >= images.len(),
                    "{what}: only {at_once} match at once"
                );
            }
        }
    }
}

/// Where no oracle tells the quantized network's logits, its two ways of computing them agree within 1e-4, image by image,
/// with scales that differ by rounding if need be, as above.
pub fn integers_give_what_rounded_floats_give(golden: &Golden) {
    let images = golden.images("input");
    for device in devices() {
        let network = golden.network(&device);
        for (number, mut method) in six_bit_methods(&network).into_iter().enumerate() {
            method.settings.candidates = 20;
            let found = golden.calibrate(&device, &method, None);
            let sites = |attempt| {
                let plans = plans(&network, &method).into_iter();
                let sites = plans.map(|plan| {
                    let scales = found.sites[&plan.site.name].scales.clone();
                    (plan, nudged(scales, attempt))
                });
                sites.collect::<Vec<_>>()
            };
            let pixels = device.upload(&images.concat());
            let logits = |products: &mut dyn Products| {
                let mut commands = Commands::new(&device);
                let logits = network.logits(&mut commands, products, images.len(), &pixels);
                commands.read(&logits).unwrap()
            };
            let mut unmatched: Vec<usize> = (0..images.len()).collect();
            for attempt in 0..20 {
                let integer = logits(&mut integer_products(golden, &device, sites(attempt)));
                let float = golden.float_products(&network);
                let rounded = logits(&mut FakeQuantizedProducts::new(float, sites(attempt)));
                unmatched.retain(|&image| {
                    let row = |logits: &[f32]| {
                        logits[image * network.answer_len()..][..network.answer_len()].to_vec()
                    };
                    relative_error(&row(&integer), &row(&rounded)) >= 1e-4
                });
                if unmatched.is_empty() {
                    break;
                }
            }
            assert!(
                unmatched.is_empty(),
                "{}: method {number}: images {unmatched:?} are off",
                device.name()
            );
        }
    }
}

/// The products in integers, weights quantized by the formula.
pub fn integer_products(
    golden: &Golden,
    device: &Device,
    sites: Vec<(SitePlan, SiteScales)>,
) -> IntegerProducts {
    let mut products = IntegerProducts::new(device);
    for (plan, scales) in sites {
        let linear = literal_codes(golden, device, &plan, &scales);
        products.insert(plan, scales, linear);
    }
    products
}

/// A linear site's weight quantized by the formula.
pub fn literal_codes(
    golden: &Golden,
    device: &Device,
    plan: &SitePlan,
    scales: &SiteScales,
) -> Option<LinearCodes> {
    let sizes = plan.site.weight()?;
    let part = |part: &str| {
        golden
            .weights
            .float(&format!("{}.{part}", plan.site.name))
            .unwrap()
    };
    let weight = part("weight");
    let bias = sizes.has_bias.then(|| part("bias"));
    let q = f64::from(1 << (plan.b.bits - 1));
    let codes: Vec<i8> = weight
        .iter()
        .enumerate()
        .map(|(at, &w)| {
            let group = at / sizes.inputs * scales.b.len() / sizes.outputs;
            whole(w, scales.b[group].scale).clamp(-q, q - 1.0) as i8
        })
        .collect();
    Some(LinearCodes::upload(
        device,
        &sizes,
        &plan.b,
        &codes,
        bias.as_deref(),
    ))
}
