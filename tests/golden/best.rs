//! Preset `best`: what a written file's integers give, and what its transform makes of the weights.

use crate::common::devices;
use crate::network::{Golden, relative_error};
use ptq4vit_gpu::device::{Commands, Device};
use ptq4vit_gpu::graph::Site;
use ptq4vit_gpu::model::recipe::resolve;
use ptq4vit_gpu::quant::{Method, Preset, Provenance, QuantizedModel};
use std::path::PathBuf;

/// The widths of the written files.
const BITS: [u32; 2] = [4, 6];

/// The file that [`write_the_quantized_files`] writes for the oracle to read.
fn quantized(name: &str, bits: u32) -> PathBuf {
    let file = format!("{name}.w{bits}a{bits}.safetensors");
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", &file]
        .iter()
        .collect()
}

/// Pixel `at` of all images that the oracle draws from, which are one after the other: noise from -2 to 2, with 24 bits.
fn pixel(at: usize) -> f32 {
    let mixed = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> 40) as f32 / (1 << 22) as f32 - 2.0
}

/// A file's integers give the logits that the oracle finds by what the file says, in f64.
///
/// The oracle took images that have no value near the boundary between two codes, where rounding to f32 decides.
pub fn written_files_give_the_oracles_logits(golden: &Golden) {
    for bits in BITS {
        let answer = |part: &str| format!("w{bits}a{bits}/{part}");
        let images = golden.best().integers(&answer("images")).unwrap();
        let expected = golden.best().float(&answer("logits")).unwrap();
        let model = QuantizedModel::open(&quantized(&golden.name, bits)).unwrap();
        let len = golden.architecture.input_len();
        let pixels = images.iter().flat_map(|&image| {
            let first = image as usize * len;
            (first..first + len).map(pixel)
        });
        let pixels: Vec<f32> = pixels.collect();
        for device in devices() {
            let (network, mut products) = model.load(&device).unwrap();
            let commands = &mut Commands::new(&device);
            let pixels = device.upload(&pixels);
            let logits = network.logits(commands, &mut products, images.len(), &pixels);
            let logits = commands.read(&logits).unwrap();
            let classes = network.answer_len();
            for (index, image) in images.iter().enumerate() {
                let row = |logits: &[f32]| logits[index * classes..][..classes].to_vec();
                let error = relative_error(&row(&logits), &row(&expected));
                let what = format!("{}, {bits} bits, image {image}", device.name());
                // Equal codes leave the rounding of the last products; another code is a thousand times as much.
                assert!(error < 1e-6, "{what}: logits are {error:e} off");
            }
        }
    }
}

/// Writes what preset `best` makes of the golden networks on their calibration batches. The oracle's logits have to be
/// made again then.
#[test]
#[ignore = "writes into the source tree; README.md says when"]
fn write_the_quantized_files() {
    for name in [
        "vit_micro",
        "swin_micro",
        "ragged_micro",
        "layer_scale_micro",
        "clip_micro",
        "relu_micro",
        "post_norm_micro",
        "siglip_micro",
        "dinov3_micro",
        "beit_micro",
        "gated_micro",
        "swin_v2_micro",
        "grey_micro",
        "alpha_micro",
        "oblong_micro",
        "oblong_dinov3_micro",
        "oblong_beit_micro",
    ] {
        let golden = Golden::open(name);
        let device = Device::cpu();
        let sites: Vec<Site> = golden.network(&device).sites().cloned().collect();
        for bits in BITS {
            let method = Method::preset(Preset::Best, bits, bits, &sites).unwrap();
            let calibration = golden.calibrate(&device, &method, None);
            let resolved = resolve(&golden.weights, None).unwrap();
            let provenance = Provenance {
                name: name.to_owned(),
                preset: Preset::Best,
                seed: None,
                images: golden.images("input").len(),
                source_sha256: golden.weights.sha256(),
                calibration_sha256: String::new(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let mut model =
                QuantizedModel::new(&golden.weights, &resolved, method, calibration, provenance)
                    .unwrap();
            model.evidence = None;
            model.save(&quantized(name, bits)).unwrap();
        }
    }
}

/// The reparametrised LayerNorms, and the weights and biases after them, are those of the formulas; nothing else changes.
pub fn reparametrised_tensors_are_the_oracles(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let prepared = golden.reparametrised(&network).weights;
        let mut compared = 0;
        for (name, _) in golden.architecture.expected_tensors() {
            let mut values = prepared.float(&name).unwrap();
            let Ok(expected) = golden.best().float(&format!("prepared/{name}")) else {
                assert_eq!(values, golden.weights.float(&name).unwrap(), "{name}");
                continue;
            };
            if let Some(layer) = name.strip_suffix(".weight")
                && network.sites().any(|site| site.name == layer)
            {
                // Of a weight there are the sums of its rows.
                let inputs = values.len() / expected.len();
                values = values.chunks(inputs).map(|row| row.iter().sum()).collect();
            }
            compared += 1;
            let error = relative_error(&values, &expected);
            // The network's values are some roundings to f32 off: up to 2e-6 at their ranges' ends.
            assert!(error < 1e-5, "{}: {name} is {error:e} off", device.name());
        }
        assert!(compared > 8, "only {compared} tensors were compared");
    }
}
