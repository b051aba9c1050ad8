//! `classify`: its classes, probabilities and names, on a demo model. `tests/models.rs` has a real one.

#[path = "common/program.rs"]
mod program;

use program::{Program, here, program};
use ptq4vit_gpu::data::samples::{Sample, flat_folder, load_all};
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::quant::QuantizedModel;
use serde_json::{Value, json};

const VIT: &str = "models/demo/vit_mnist/model.safetensors";
const ZERO: &str = "models/demo/test/0/00592.png";
/// PyTorch's logits of [`ZERO`], as models/demo/README.md has them.
const LOGITS: [f64; 10] = [
    11.13218, -3.35902, -0.62590, -2.51368, -2.32347, -0.58789, -0.24814, -0.53026, -0.55201,
    1.35042,
];

fn classify(model: &str) -> Program {
    program("classify")
        .with("--model", model)
        .with("--device", "cpu")
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The classes of each image of a report, likeliest first.
fn indices(report: &Value) -> Vec<Vec<u64>> {
    let indices = |image: &Value| {
        let classes = image["classes"].as_array().expect("a list");
        let index = |class: &Value| class["index"].as_u64().expect("an index");
        classes.iter().map(index).collect()
    };
    let images = report["images"].as_array().expect("a list");
    images.iter().map(indices).collect()
}

#[test]
fn probabilities_are_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("digits.txt");
    std::fs::write(
        &names,
        "zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n",
    )
    .unwrap();
    let named = || classify(VIT).flag(ZERO).with("--classes", &names);

    let report = named().with("--top", "10").flag("--json").run().json();
    assert_eq!(report["device"], "cpu");
    let image = &report["images"][0];
    assert_eq!(image["image"], ZERO);
    assert!(number(&image["ms"]) > 0.0);
    let classes = image["classes"].as_array().unwrap();
    let sum: f64 = LOGITS.iter().map(|logit| logit.exp()).sum();
    let mut order: Vec<usize> = (0..10).collect();
    order.sort_by(|&left, &right| LOGITS[right].total_cmp(&LOGITS[left]));
    let words = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    ];
    assert_eq!(classes.len(), 10);
    for (class, index) in classes.iter().zip(order) {
        assert_eq!(class["index"], index);
        assert_eq!(class["name"], words[index]);
        // Logits are PyTorch's to 1e-4, and so are probabilities, relatively.
        let expected = LOGITS[index].exp() / sum;
        let found = number(&class["probability"]);
        assert!((found / expected - 1.0).abs() < 3e-4, "{class}: {expected}");
    }

    let (stdout, stderr) = named().run().success();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{ZERO}  ")) && lines[0].ends_with(" ms"),
        "{stdout}"
    );
    assert_eq!(lines[1], "   99.99%     0  zero");
    assert_eq!(lines[2], "    0.01%     9  nine");
    assert_eq!(lines.len(), 6, "{stdout}");
    assert!(
        stderr.starts_with("device: cpu\nmodel: vit_mnist"),
        "{stderr}"
    );
    let (own, _) = classify(VIT).flag(ZERO).with("--top", "1").run().success();
    assert!(own.ends_with("\n   99.99%     0  0\n"), "{own}");
}

#[test]
fn folders_batches_and_quantized_models() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("w4a4.safetensors");
    program("calibrate")
        .with("--model", VIT)
        .with("--images", "models/demo/calibration")
        .with("--count", "4")
        .with("--preset", "ptq4vit")
        .with("--candidates", "10")
        .with("--bits", "4")
        .with("--device", "cpu")
        .with("--out", &out)
        .run()
        .success();
    let quantized = || {
        program("classify")
            .with("--quantized", &out)
            .with("--device", "cpu")
            .flag("models/demo/test/8")
            .flag(ZERO)
            .flag("--json")
    };
    let report = quantized().run().json();
    let found = indices(&report);
    assert_eq!(report["images"][found.len() - 1]["image"], ZERO);

    // 51 images: a batch of another size comes last.
    let mut batched = quantized().with("--batch", "8").run().json();
    let mut alone = report;
    for report in [&mut alone, &mut batched] {
        for image in report["images"].as_array_mut().unwrap() {
            image["ms"] = Value::Null;
        }
    }
    assert_eq!(alone, batched);

    let model = QuantizedModel::open(&out).unwrap();
    let mut samples = flat_folder(&here("models/demo/test/8")).unwrap();
    samples.push(Sample {
        path: here(ZERO),
        label: None,
    });
    let inputs: Vec<Vec<f32>> = load_all(&samples, &model.preprocessing)
        .into_iter()
        .map(|image| image.unwrap())
        .collect();
    let device = Device::cpu();
    let logits = Model::quantized(&device, &model)
        .unwrap()
        .logits(&inputs)
        .unwrap();
    for (found, logits) in found.iter().zip(&logits) {
        let largest = (0..10).max_by(|&left, &right| logits[left].total_cmp(&logits[right]));
        assert_eq!(Some(found[0] as usize), largest);
        assert!(
            found
                .windows(2)
                .all(|pair| logits[pair[0] as usize] >= logits[pair[1] as usize])
        );
    }
    assert_eq!(found.len(), logits.len());
}

#[test]
fn images_that_cannot_be_read_leave_the_others_to_be_classified() {
    let run = |flag: &str| {
        classify(VIT)
            .flag("none.png")
            .flag(ZERO)
            .flag("Cargo.toml")
            .with("--top", "1")
            .flag(flag)
            .run()
    };
    let quiet = run("-q");
    assert_eq!(quiet.code, Some(3), "{quiet}");
    assert!(
        quiet.stdout.starts_with(ZERO) && quiet.stdout.lines().count() == 2,
        "{quiet}"
    );
    let errors: Vec<&str> = quiet.stderr.lines().collect();
    assert_eq!(errors.len(), 2, "{quiet}");
    for (error, says) in errors.iter().zip([
        "none.png: expected a JPEG, ",
        "Cargo.toml: expected a JPEG, ",
    ]) {
        assert!(error.starts_with(&format!("error: {says}")), "{quiet}");
    }

    let outcome = run("--json");
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let images = report["images"].as_array().unwrap();
    assert_eq!(images[1]["classes"][0]["index"], json!(0));
    for (image, name) in [(&images[0], "none.png"), (&images[2], "Cargo.toml")] {
        let error = image["error"].as_str().unwrap();
        assert!(
            error.starts_with(name) && image["classes"].is_null(),
            "{image}"
        );
    }
}

#[test]
fn what_classify_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("names.txt");
    std::fs::write(&names, "zero\none\n").unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let zero = || classify(VIT).flag(ZERO);
    for (run, code, says) in [
        (
            zero().with("--classes", &names),
            3,
            "names.txt: names 2 classes, but the model has 10",
        ),
        (
            zero().with("--classes", folder.path().join("no.txt")),
            3,
            "no.txt: can't be read",
        ),
        (
            zero().with("--top", "11"),
            2,
            "--top: expected at most the model's 10 classes, found 11",
        ),
        (zero().with("--top", "0"), 2, "--top"),
        (zero().with("--batch", "0"), 2, "--batch"),
        (zero().with("--quantized", VIT), 2, "cannot be used with"),
        (
            program("classify").flag(ZERO),
            2,
            "<--quantized <FILE>|--model <MODEL>>",
        ),
        (classify(VIT), 2, "<IMAGE>"),
        (
            program("classify").with("--quantized", VIT).flag(ZERO),
            3,
            "model.safetensors",
        ),
        (
            classify(VIT).flag(empty.to_str().unwrap()),
            3,
            "found none in it",
        ),
    ] {
        let outcome = run.run();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        assert!(outcome.stderr.contains(says), "{says}: {outcome}");
        assert_eq!(outcome.stdout, "");
    }
}
