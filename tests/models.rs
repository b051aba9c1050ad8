//! Real checkpoints on real images: the accuracy that timm has, and the same logits on every device.
//!
//! All but the demo's lie beside the project, in `../shared`, and are too large to be part of it. Without them these tests
//! say so and pass, unless `PTQ4VIT_REQUIRE_SHARED=1` is set.

mod common;
#[path = "common/program.rs"]
mod program;

use program::{here, program};
use ptq4vit_gpu::bench::{BenchNetwork, Precision, random_images};
use ptq4vit_gpu::data::samples::{Sample, flat_folder, labelled, load_all};
use ptq4vit_gpu::device::{Device, Strategy};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::graph::Site;
use ptq4vit_gpu::inference::{Model, build};
use ptq4vit_gpu::model::recipe::{Resolved, resolve};
use ptq4vit_gpu::quant::{Calibration, Method, Preset};
use std::io::Write;
use std::path::PathBuf;

const DEIT: &str = "deit_tiny_patch16_224";
const VIT: &str = "vit_tiny_patch16_224";
const NIPS: &str = "nips2017-dev-760";
const SAMPLE: &str = "imagenet-sample-1000";

/// A checkpoint and a set of images.
struct Shared {
    path: PathBuf,
    weights: Weights,
    resolved: Resolved,
    images: PathBuf,
    samples: Vec<Sample>,
}

impl Shared {
    /// What `../shared` has under these names; `None`, and a line that says so, where there is no such folder.
    fn open(model: &str, images: &str) -> Option<Self> {
        let path = here(&format!("../shared/models/{model}.safetensors"));
        let images = here(&format!("../shared/images/{images}"));
        let required = std::env::var("PTQ4VIT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
        if let Some(absent) = [&path, &images].iter().find(|path| !path.exists()) {
            assert!(!required, "{} is required", absent.display());
            // Not `eprintln!`, whose lines are only shown of tests that fail.
            let line = format!("skipped: ../shared is not here ({})\n", absent.display());
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("a stderr");
            return None;
        }
        let weights = Weights::open(&path).expect("a checkpoint");
        Some(Self {
            resolved: resolve(&weights, None).expect("named like its recipe"),
            weights,
            path,
            samples: labelled(&images, &images.join("labels.tsv")).expect("labelled images"),
            images,
        })
    }

    fn model(&self, device: &Device) -> Model {
        let Resolved {
            architecture,
            preprocessing,
            ..
        } = &self.resolved;
        Model::float(device, &self.weights, architecture, preprocessing).expect("finite weights")
    }

    fn inputs(&self, samples: &[Sample]) -> Vec<Vec<f32>> {
        load_all(samples, &self.resolved.preprocessing)
            .into_iter()
            .map(|image| image.expect("an image"))
            .collect()
    }
}

/// Compares the number of images that the FP network gets right with timm's.
fn top1(model: &str, images: &str, expected: usize, tolerance: usize) {
    let Some(shared) = Shared::open(model, images) else {
        return;
    };
    let mut model = shared.model(&Device::cpu());
    let mut right = 0;
    for samples in shared.samples.chunks(64) {
        let logits = model.logits(&shared.inputs(samples)).unwrap();
        for (sample, logits) in samples.iter().zip(logits) {
            let label = sample.label.expect("a label");
            right += usize::from(logits.iter().all(|&logit| logit <= logits[label]));
        }
    }
    assert!(
        right.abs_diff(expected) <= tolerance,
        "{right} of {} right, {expected} expected",
        shared.samples.len()
    );
}

// The tolerance is for images that two JPEG decoders, whose pixels differ by 1, tip over.

#[test]
fn deit_tiny_on_nips2017() {
    top1(DEIT, NIPS, 644, 3);
}

#[test]
fn vit_tiny_on_nips2017() {
    top1(VIT, NIPS, 659, 3);
}

#[test]
fn deit_tiny_on_imagenet_sample() {
    top1(DEIT, SAMPLE, 795, 4);
}

#[test]
fn vit_tiny_on_imagenet_sample() {
    top1(VIT, SAMPLE, 825, 4);
}

/// The norm of the difference over that of what is expected, of all logits together.
fn relative_error(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        let squares = values.map(|value| f64::from(value).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    norm(&mut pairs.map(|(f, e)| f - e)) / norm(&mut expected.iter().flatten().copied())
}

#[test]
fn in_f16_the_demos_networks_say_the_same() {
    let devices = common::devices();
    for name in ["vit_mnist", "swin_mnist"] {
        let folder = here("models/demo");
        let weights = Weights::open(folder.join(name).join("model.safetensors")).unwrap();
        let Resolved {
            architecture,
            preprocessing,
            ..
        } = resolve(&weights, None).unwrap();
        let samples = flat_folder(&folder.join("calibration")).unwrap();
        let images: Vec<_> = load_all(&samples, &preprocessing)
            .into_iter()
            .map(|image| image.expect("an image"))
            .collect();
        let cpu = Device::cpu();
        let mut float = Model::float(&cpu, &weights, &architecture, &preprocessing).unwrap();
        let expected = float.logits(&images).unwrap();
        for device in devices.iter().filter(|device| device.has_f16()) {
            let mut half = Model::half(device, &weights, &architecture, &preprocessing).unwrap();
            let found = half.logits(&images).unwrap();
            let error = relative_error(&found, &expected);
            println!("{name} in f16 on {}: {error:e}", device.name());
            // Rounding changes each operand by at most 2^-11 of itself (2^-10 where a driver doesn't take the nearest), so
            // a product by 2^-9 of its terms; a chain of sites adds that up unless it amplifies it.
            let bound = sites(&architecture).len() as f64 * 2f64.powi(-9);
            assert!(error < bound, "{name} on {}: {error:e}", device.name());
            let best = |logits: &Vec<f32>| (0..10).max_by(|&l, &r| logits[l].total_cmp(&logits[r]));
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(best(found), best(expected), "{name} on {}", device.name());
            }
        }
    }
}

#[test]
fn attention_by_one_kernel_changes_no_logit() {
    for name in ["vit_mnist", "swin_mnist"] {
        let path = here("models/demo").join(name).join("model.safetensors");
        let weights = Weights::open(path).unwrap();
        let resolved = resolve(&weights, None).unwrap();
        let images = random_images(&resolved.architecture, 3);
        let network = BenchNetwork::new(weights, resolved);
        for device in common::devices() {
            let logits = |strategy| {
                device.set_strategy("fused_attention", strategy);
                let mut model = network.model(&device, Precision::W6A6).unwrap();
                let workload = model.workload(3, &images).unwrap();
                (model.logits(&images).unwrap(), workload)
            };
            let (expected, separate) = logits(Strategy::Separate);
            for queries in [4, 16] {
                let (found, fused) = logits(Strategy::Fused { queries });
                assert!(
                    found == expected,
                    "{name} by {queries} on {}",
                    device.name()
                );
                // Two kernels less for each block, and no scores.
                if let (Some(separate), Some(fused)) = (separate, fused) {
                    assert!(fused.dispatches < separate.dispatches && fused.bytes < separate.bytes);
                }
            }
            device.set_strategy("fused_attention", Strategy::Separate);
        }
    }
}

#[test]
fn adapters_agree_with_the_cpu() {
    for model in [DEIT, VIT] {
        let Some(shared) = Shared::open(model, NIPS) else {
            return;
        };
        let images = shared.inputs(&shared.samples[..4]);
        let logits = |device: &Device| shared.model(device).logits(&images).unwrap();
        let expected = logits(&Device::cpu());
        for device in common::devices() {
            let error = relative_error(&logits(&device), &expected);
            // Sums of f32 in another order: 3e-6 on lavapipe. A wrong kernel would show about 1.
            assert!(error < 1e-3, "{model} on {}: {error:e}", device.name());
        }
    }
}

#[test]
fn deit_tiny_at_six_bits() {
    let Some(shared) = Shared::open(DEIT, NIPS) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("deit_tiny.w6a6.safetensors");
    program("calibrate")
        .with("--model", &shared.path)
        .with("--images", here("../shared/images").join(SAMPLE))
        .with("--bits", "6")
        .with("--count", "2")
        .with("--preset", "ptq4vit")
        .with("--candidates", "20")
        .with("--device", "cpu")
        .with("--out", &out)
        .run()
        .success();

    let tensors = shared.resolved.architecture.expected_tensors();
    let bits: usize = tensors
        .iter()
        .map(|(name, shape)| {
            let matrix = name.ends_with(".weight") && shape.len() > 1;
            shape.iter().product::<usize>() * if matrix { 6 } else { 32 }
        })
        .sum();
    let size = std::fs::metadata(&out).unwrap().len() as f64;
    let ratio = size / (bits as f64 / 8.0);
    // Scales and the header with the tensors' names come on top.
    assert!((1.0..1.05).contains(&ratio), "{size} bytes, {ratio}");

    let labels = folder.path().join("labels.tsv");
    let some: String = shared
        .samples
        .iter()
        .take(40)
        .map(|sample| {
            let name = sample.path.file_name().expect("a file").to_string_lossy();
            format!("{name}\t{}\n", sample.label.expect("a label"))
        })
        .collect();
    std::fs::write(&labels, some).unwrap();
    let report = program("eval")
        .with("--model", &shared.path)
        .with("--quantized", &out)
        .with("--images", &shared.images)
        .with("--labels", &labels)
        .with("--device", "cpu")
        .flag("--json")
        .run()
        .json();
    assert_eq!(report["images"], 40);
    // 0.9 on the CPU; with 40 images three standard deviations are 0.14.
    assert!(report["agreement"].as_f64().unwrap() > 0.75, "{report}");
}

/// One site of each kind, among them some of the last block, where only the class token has a gradient.
#[test]
fn abandoning_candidates_early_changes_no_choice() {
    const SITES: [&str; 9] = [
        "patch_embed.proj",
        "blocks.5.attn.qkv",
        "blocks.5.attn.qk",
        "blocks.5.attn.pv",
        "blocks.5.mlp.fc2",
        "blocks.11.attn.qkv",
        "blocks.11.attn.pv",
        "blocks.11.mlp.fc1",
        "head",
    ];
    let Some(shared) = Shared::open(DEIT, SAMPLE) else {
        return;
    };
    let images = shared.inputs(&shared.samples[..3]);
    let device = Device::cpu();
    let network = build(&device, &shared.weights, &shared.resolved.architecture).unwrap();
    let sites: Vec<Site> = network.sites().cloned().collect();
    let run = |exhaustive, bytes| {
        let mut method = Method::preset(Preset::Ptq4vit, 6, 6, &sites).unwrap();
        method.settings.exhaustive = exhaustive;
        method.settings.candidates = 40;
        method.settings.rounds = 2;
        Calibration::builder(&device, &shared.weights, &shared.resolved.architecture)
            .method(&method)
            .images(&images)
            .memory_budget(bytes)
            .only(&|site| SITES.contains(&site.name.as_str()))
            .run()
            .unwrap()
    };
    let (quick, full) = (run(false, None), run(true, None));
    assert_eq!(quick.sites.len(), SITES.len());
    assert_eq!(quick.sites, full.sites);
    assert!(quick.work().done * 4 < full.work().done);

    // Fewer images at once, and fewer sites: the same, in less memory.
    const BUDGET: u64 = 100 << 20;
    let frugal = run(false, Some(BUDGET));
    assert_eq!(frugal.sites, quick.sites);
    assert_eq!(frugal.work(), quick.work());
    for (frugal, quick) in frugal.reports.iter().zip(&quick.reports) {
        assert_eq!(frugal.evidence, quick.evidence);
        assert_eq!(frugal.histograms, quick.histograms);
        assert_eq!(frugal.curves, quick.curves);
    }
    assert!(frugal.peak_device_bytes <= BUDGET);
}

#[test]
fn classify_names_what_eval_counts() {
    let Some(shared) = Shared::open(DEIT, NIPS) else {
        return;
    };
    let some: Vec<&Sample> = shared.samples.iter().step_by(60).collect();
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.tsv");
    let line = |sample: &&Sample| {
        let name = sample.path.file_name().unwrap().to_string_lossy();
        format!("{name}\t{}\n", sample.label.unwrap())
    };
    std::fs::write(&labels, some.iter().map(line).collect::<String>()).unwrap();
    let eval = program("eval")
        .with("--model", &shared.path)
        .with("--images", &shared.images)
        .with("--labels", &labels)
        .with("--device", "cpu")
        .flag("--json")
        .run()
        .json();

    let classify = program("classify")
        .with("--model", &shared.path)
        .with("--device", "cpu")
        .flag("--json");
    let classify = some.iter().fold(classify, |run, sample| {
        run.flag(sample.path.to_str().unwrap())
    });
    let report = classify.run().json();
    let (mut top1, mut top5) = (0, 0);
    for (image, sample) in report["images"].as_array().unwrap().iter().zip(&some) {
        let name = sample.path.file_name().unwrap().to_string_lossy();
        let is_right = |class: &serde_json::Value| {
            let is_right = class["index"].as_u64() == sample.label.map(|label| label as u64);
            // The files' names have their class's id: 0002_n01484850_668bc83a884d24f9.jpg.
            let is_named = name.contains(class["wnid"].as_str().unwrap());
            assert_eq!(is_right, is_named, "{name}: {class}");
            is_right
        };
        let classes = image["classes"].as_array().unwrap();
        assert_eq!(classes.len(), 5);
        top1 += usize::from(is_right(&classes[0]));
        top5 += usize::from(classes.iter().any(is_right));
    }
    let fraction = |count| Some(count as f64 / some.len() as f64);
    assert_eq!(eval["top1"].as_f64(), fraction(top1), "{report}");
    assert_eq!(eval["top5"].as_f64(), fraction(top5), "{report}");
    // 72% on ImageNet; with another list of classes or other pixels it would be near none.
    assert!(2 * top1 > some.len(), "{report}");
}
