//! Plans: mixed widths, products in floats, plans in files, and files from before there were plans.

mod common;
#[path = "common/program.rs"]
mod program;

use program::{Program, here, program};
use ptq4vit_gpu::data::samples::{flat_folder, load_all};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::recipe::resolve;
use ptq4vit_gpu::quant::QuantizedModel;
use serde_json::Value;
use std::path::Path;

const VIT: &str = "models/demo/vit_mnist/model.safetensors";
const SWIN: &str = "models/demo/swin_mnist/model.safetensors";
const IMAGES: &str = "models/demo/calibration";

/// A calibration with few candidates on two images.
fn calibrate(model: &str, out: &Path) -> Program {
    program("calibrate")
        .with("--model", model)
        .with("--images", IMAGES)
        .with("--count", "2")
        .with("--preset", "ptq4vit")
        .with("--candidates", "5")
        .with("--rounds", "1")
        .with("--out", out)
}

/// The demo's calibration images as `weights` takes them.
fn images(weights: &Weights) -> Vec<Vec<f32>> {
    let resolved = resolve(weights, None).unwrap();
    let samples = flat_folder(&here(IMAGES)).unwrap();
    let images = load_all(&samples, &resolved.preprocessing);
    images.into_iter().map(|image| image.unwrap()).collect()
}

#[test]
fn a_network_that_stays_in_floats_gives_the_fp_logits_bit_for_bit() {
    for model in [VIT, SWIN] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("float.safetensors");
        calibrate(model, &out)
            .with("--keep-float", "*")
            .run()
            .success();
        let weights = Weights::open(here(model)).unwrap();
        let resolved = resolve(&weights, None).unwrap();
        let quantized = QuantizedModel::open(&out).unwrap();
        assert!(quantized.sites.is_empty());
        for device in common::devices() {
            let (architecture, preprocessing) = (&resolved.architecture, &resolved.preprocessing);
            let mut float = Model::float(&device, &weights, architecture, preprocessing).unwrap();
            let mut kept = Model::quantized(&device, &quantized).unwrap();
            let images = images(&weights);
            let expected = float.logits(&images).unwrap();
            assert_eq!(kept.logits(&images).unwrap(), expected, "{}", device.name());
        }
    }
}

/// Every kind of product in floats, with products in integers before and behind it.
#[test]
fn a_product_in_floats_may_stand_anywhere() {
    for (model, heads) in [(VIT, "head"), (SWIN, "head.fc")] {
        let weights = Weights::open(here(model)).unwrap();
        let resolved = resolve(&weights, None).unwrap();
        let (architecture, preprocessing) = (&resolved.architecture, &resolved.preprocessing);
        let images = images(&weights);
        for pattern in [
            "patch_embed.proj",
            "*.attn.qkv",
            "*.attn.qk",
            "*.attn.pv",
            "*.attn.proj",
            "*.mlp.fc1",
            "*.mlp.fc2",
            heads,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("mixed.safetensors");
            calibrate(model, &out)
                .with("--keep-float", pattern)
                .with("--device", "cpu")
                .run()
                .success();
            let quantized = QuantizedModel::open(&out).unwrap();
            for device in common::devices() {
                let mut float =
                    Model::float(&device, &weights, architecture, preprocessing).unwrap();
                let mut mixed = Model::quantized(&device, &quantized).unwrap();
                let expected = float.logits(&images).unwrap().concat();
                let found = mixed.logits(&images).unwrap().concat();
                let square =
                    |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
                let error = square(&mut found.iter().zip(&expected).map(|(f, e)| f - e));
                let error = (error / square(&mut expected.iter().copied())).sqrt();
                // They are 0.015 to 0.022 off; a product that reads the wrong values leaves nothing of the logits.
                assert!(error < 0.05, "{model}, {pattern} in floats: off by {error}");
            }
        }
    }
}

#[test]
fn widths_may_differ_from_product_to_product() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let out = path("mixed.safetensors");
    let mixed = || {
        calibrate(VIT, &out)
            .with("--bits", "4")
            .with("--site", "*.mlp.fc2=w8a8")
            .with("--site", "*.attn.qk=a6")
            .with("--keep-float", "head")
            .with("--device", "cpu")
    };
    mixed()
        .with("--plan-out", path("plan.toml"))
        .run()
        .success();
    let file = std::fs::read(&out).unwrap();
    let weights = Weights::open(&out).unwrap();
    for (tensor, bits) in [("blocks.0.mlp.fc1", 4), ("blocks.0.mlp.fc2", 8)] {
        let float = Weights::open(here(VIT)).unwrap();
        let values = float.float(&format!("{tensor}.weight")).unwrap().len();
        let bytes = weights.bytes(&format!("{tensor}.b.codes")).unwrap().len();
        assert_eq!(bytes, values * bits / 8, "{tensor}");
    }
    let head = Weights::open(here(VIT))
        .unwrap()
        .float("head.weight")
        .unwrap();
    assert_eq!(weights.float("head.weight").unwrap(), head);
    let (inspected, _) = program("inspect")
        .flag(out.to_str().unwrap())
        .run()
        .success();
    let bits = "bits         weights 4 to 8, activations 4 to 8; head in floats";
    assert!(inspected.contains(bits), "{}", inspected);

    // The plan says all that the flags said.
    calibrate(VIT, &out)
        .with("--plan", path("plan.toml"))
        .with("--device", "cpu")
        .run()
        .success();
    assert!(std::fs::read(&out).unwrap() == file);

    // Every device computes the same of it, site by site, as `verify` compares.
    program("verify")
        .with("--quantized", &out)
        .with("--images", IMAGES)
        .with("--kernel", "add")
        .run()
        .success();
}

#[test]
fn a_weight_may_have_a_scale_for_each_output_channel() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for model in [VIT, SWIN] {
        let out = path("channels.safetensors");
        let run = || calibrate(model, &out).with("--device", "cpu");
        run()
            .with("--bits", "4")
            .with("--weight-scales", "channel")
            .with("--plan-out", path("plan.toml"))
            .with("--report", path("page.html"))
            .run()
            .success();
        let file = std::fs::read(&out).unwrap();
        let quantized = QuantizedModel::open(&out).unwrap();
        for site in sites(&quantized.architecture) {
            let scales = &quantized.sites[&site.name].scales.b;
            if let Some(sizes) = site.weight() {
                assert_eq!(scales.len(), sizes.outputs, "{}", site.name);
                // Random rows don't all have the same largest value.
                assert!(scales.windows(2).any(|pair| pair[0] != pair[1]));
            }
        }
        let (inspected, _) = program("inspect")
            .flag(out.to_str().unwrap())
            .run()
            .success();
        let bits = "weights 4, activations 4; a scale for each output channel\n";
        assert!(inspected.contains(bits), "{inspected}");

        run().with("--plan", path("plan.toml")).run().success();
        assert!(std::fs::read(&out).unwrap() == file);
        program("verify")
            .with("--quantized", &out)
            .with("--images", IMAGES)
            .with("--kernel", "add")
            .run()
            .success();

        // A single output has no direction.
        let outcome = run()
            .with("--weight-scales", "channel")
            .with("--metric", "cosine")
            .run();
        assert_eq!(outcome.code, Some(2), "{outcome}");
        let says = "--metric: expected hessian or mse, because each output channel of";
        assert!(outcome.stderr.contains(says), "{outcome}");
    }
}

#[test]
fn plans_that_cannot_be_are_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let plan = folder.path().join("plan.toml");
    std::fs::write(
        &plan,
        "format = \"ptq4vit-gpu plan\"\nformat_version = 1\n[sites]\n",
    )
    .unwrap();
    let run = || calibrate(VIT, &out);
    let with_plan = || run().with("--plan", &plan);
    for (run, code, says) in [
        (
            run().with("--site", "*.fc9=w4"),
            2,
            "`*.fc9` matches no site",
        ),
        (run().with("--site", "*.attn.qk=w4"), 2, "w4 is for weights"),
        (
            run().with("--site", "head=w9"),
            2,
            "expected bits of 2 to 8 as in w4a8",
        ),
        (run().with("--keep-float", "fc_norm"), 2, "matches no site"),
        (
            run().with("--landscape", "*.fc9"),
            2,
            "`*.fc9` matches no site",
        ),
        (
            run()
                .with("--keep-float", "head")
                .with("--landscape", "head"),
            2,
            "matches only products that stay in floats",
        ),
        (run().with("--keep-float", "["), 2, "pattern `[`"),
        (with_plan(), 3, "site `patch_embed.proj` is missing"),
        (with_plan().with("--bits", "4"), 2, "cannot be used with"),
        (
            with_plan().with("--site", "head=w4"),
            2,
            "cannot be used with",
        ),
        (run().with("--plan", folder.path().join("none")), 3, "none"),
    ] {
        let outcome = run.run();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        assert!(outcome.stderr.contains(says), "{says}: {outcome}");
    }
    assert!(!out.exists());
}

/// What version 0.1.0 wrote, and what it printed of it: `tests/data/README.md`.
#[test]
fn files_of_version_1_give_the_same_probabilities_in_every_digit() {
    for model in ["vit_w5a6", "swin_w5a6"] {
        let data = |extension: &str| here(&format!("tests/data/format_1/{model}.{extension}"));
        let expected = std::fs::read_to_string(data("json")).unwrap();
        let expected: Vec<Vec<(u64, f64)>> = serde_json::from_str(&expected).unwrap();
        let classify = |quantized: &Path| -> Vec<Vec<(u64, f64)>> {
            let report = program("classify")
                .with("--quantized", quantized)
                .with("--device", "cpu")
                .flag("--json")
                .flag("tests/data/portrait.png")
                .flag("models/demo/test/3/00063.png")
                .flag("models/demo/test/0/00592.png")
                .run()
                .json();
            let class = |class: &Value| {
                let probability = class["probability"].as_f64().unwrap();
                (class["index"].as_u64().unwrap(), probability)
            };
            let list = |value: &Value| value.as_array().unwrap().clone();
            let images = list(&report["images"]).into_iter();
            images
                .map(|image| list(&image["classes"]).iter().map(class).collect())
                .collect()
        };
        assert_eq!(classify(&data("safetensors")), expected, "{model}");

        // And so does what today's version makes of the file.
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("saved.safetensors");
        QuantizedModel::open(&data("safetensors"))
            .unwrap()
            .save(&saved)
            .unwrap();
        assert_eq!(
            Weights::open(&saved).unwrap().metadata()["format_version"],
            "2"
        );
        assert_eq!(classify(&saved), expected, "{model}");
    }
}
