//! What is done to a network's tensors before and after its scales are searched.

use crate::common::devices;
use crate::literal::Tensors;
use crate::network::{Golden, plans, relative_error, six_bits};
use ptq4vit_gpu::device::Commands;
use ptq4vit_gpu::graph::{FloatProducts, Network, Site};
use ptq4vit_gpu::quant::Preset;

/// A network whose LayerNorms are reparametrised gives the logits that it gave, and each of its channels after a LayerNorm
/// has about the same range.
pub fn layer_norms_lose_their_ranges_and_no_logit_changes(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let changed = golden.reparametrised(&network);
        let reparametrised = changed.network(&device);
        let logits = |golden: &Golden, network: &Network| {
            let images = golden.images("input");
            let mut products =
                FloatProducts::load(&device, &golden.weights, network.sites()).unwrap();
            let commands = &mut Commands::new(&device);
            let pixels = device.upload(&images.concat());
            let logits = network.logits(commands, &mut products, images.len(), &pixels);
            commands.read(&logits).unwrap()
        };
        let (before, after) = (logits(golden, &network), logits(&changed, &reparametrised));
        // Each weight is rounded once more, and its sums add up other terms: some times the FP network's own error.
        let error = relative_error(&after, &before);
        assert!(error < 2e-5, "{}: logits are {error:e} off", device.name());

        let (_, records) = changed.records(&reparametrised);
        // One row an image, as a pooling's MLP has it, is too few.
        let is_after_norm = |site: &&Site| {
            let rows = site.weight().map_or(0, |linear| linear.rows);
            rows > 1 && (site.name.ends_with("mlp.fc1") || site.name == "attn_pool.kv")
        };
        for site in network.sites().filter(is_after_norm) {
            let width = site.weight().unwrap().inputs;
            let values = device.read(&records[&site.name].a).unwrap();
            for channel in 0..width {
                let of_channel = || values.iter().skip(channel).step_by(width);
                let least = of_channel().fold(f32::INFINITY, |least, &x| least.min(x));
                let most = of_channel().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
                // A thousandth of the values lies beyond either end of -1 to 1, or what the line to it gives of a few.
                let fits = least <= -0.999 && most >= 0.999 && most - least < 4.0;
                assert!(fits, "{}, channel {channel}: {least} to {most}", site.name);
            }
        }
    }
}

/// A corrected bias leaves no mean error in any output, by the formulas.
pub fn a_corrected_bias_leaves_no_mean_error(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let mut method = six_bits(Preset::Ptq4vit, &network);
        method.settings.candidates = 10;
        method.settings.bias_correction = true;
        let found = golden.calibrate(&device, &method, None);
        let (_, records) = golden.records(&network);
        for plan in plans(&network, &method) {
            let site = &plan.site;
            let quantized = &found.sites[&site.name];
            let weight = quantized.weight.as_ref();
            let Some(bias) = weight.and_then(|weight| weight.bias.as_ref()) else {
                continue;
            };
            let tensors = Tensors::recorded(golden, &device, site, &records[&site.name]);
            let uncorrected = golden
                .weights
                .float(&format!("{}.bias", site.name))
                .unwrap();
            let before = tensors.mean_errors(&plan, &quantized.scales, &uncorrected);
            let after = tensors.mean_errors(&plan, &quantized.scales, bias);
            let largest = |errors: &[f64]| errors.iter().fold(0.0f64, |max, e| max.max(e.abs()));
            let (before, after) = (largest(&before), largest(&after));
            // What is left is f32's rounding of Ô and of the bias, a value on a boundary between two codes at most.
            assert!(
                after < 0.02 * before,
                "{}: {}: {after:e} is left of {before:e}",
                device.name(),
                site.name
            );
        }
    }
}
