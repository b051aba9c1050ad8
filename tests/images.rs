//! Images as people have them, through the program: their names, formats and orientations. `src/data/image_file` compares
//! pixels.

#[path = "common/program.rs"]
mod program;

use program::{Program, here, program};
use ptq4vit_gpu::data::samples::flat_folder;
use ptq4vit_gpu::quant::QuantizedModel;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const VIT: &str = "models/demo/vit_mnist/model.safetensors";

/// Three of the demo's images for each class, under the names that `name` gives to the first, second and third.
fn digits(name: impl Fn(usize) -> &'static str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for class in 0..10 {
        let class = class.to_string();
        let into = folder.path().join(&class);
        fs::create_dir(&into).unwrap();
        let digits = flat_folder(&here("models/demo/test").join(&class)).unwrap();
        for (place, digit) in digits.iter().take(3).enumerate() {
            let path = into.join(name(place));
            if path.extension().unwrap() == "jfif" {
                // Not what it is called.
                fs::copy(&digit.path, path).unwrap();
            } else {
                image::open(&digit.path).unwrap().save(path).unwrap();
            }
        }
    }
    folder
}

fn eval(images: &TempDir) -> Program {
    program("eval")
        .with("--model", VIT)
        .with("--images", images.path())
        .with("--device", "cpu")
        .flag("--json")
}

#[test]
fn every_name_and_format_counts_and_the_rest_is_named() {
    let plain = digits(|place| ["0.png", "1.png", "2.png"][place]);
    let mixed = digits(|place| ["0.PPM", "1.tiff", "2.jfif"][place]);
    for name in [
        "4/photo.heic",
        "4/._0.png",
        "4/Thumbs.db",
        ".ipynb_checkpoints/0.png",
        "notes.txt",
    ] {
        let path = mixed.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "no image").unwrap();
    }
    let mut expected = eval(&plain).run().json();
    let (found, notices) = eval(&mixed).run().success();
    let mut found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(
        (&found["images"], &found["skipped"]),
        (&30.into(), &0.into())
    );
    for report in [&mut expected, &mut found] {
        report["images_per_second"] = Value::Null;
    }
    assert_eq!(found, expected);
    for says in [
        "2 files not read as images (HEIC is not supported): 4/photo.heic, notes.txt",
        "3 files left out as hidden or a system's: .ipynb_checkpoints, 4/._0.png, 4/Thumbs.db",
    ] {
        assert!(notices.contains(says), "{notices}");
    }
}

/// The probabilities of the classes of `image`, likeliest first.
fn probabilities(classify: Program, image: &str) -> Value {
    let image = format!("tests/data/formats/orientation/{image}");
    let report = classify.flag(&image).with("--device", "cpu").flag("--json");
    report.run().json()["images"][0]["classes"].clone()
}

#[test]
fn an_exif_orientation_is_applied_where_asked_for_and_kept() {
    let float = || program("classify").with("--model", VIT);
    let upright = probabilities(float(), "1.png");
    for image in ["3.png", "6.webp"] {
        assert_ne!(probabilities(float(), image), upright);
        // As an option without a value it takes none of the images.
        assert_eq!(
            probabilities(float().flag("--exif-orientation"), image),
            upright
        );
    }

    let folder = tempfile::tempdir().unwrap();
    let calibrated = |name: &str, flag: Option<&str>| {
        let out = folder.path().join(name);
        let calibrate = program("calibrate")
            .with("--model", VIT)
            .with("--images", "models/demo/calibration")
            .with("--count", "2")
            .with("--preset", "ptq4vit")
            .with("--candidates", "5")
            .with("--device", "cpu")
            .with("--out", &out);
        match flag {
            Some(flag) => calibrate.flag(flag),
            None => calibrate,
        }
        .run()
        .success();
        out
    };
    let turning = calibrated("turning.safetensors", Some("--exif-orientation"));
    assert!(
        QuantizedModel::open(&turning)
            .unwrap()
            .preprocessing
            .exif_orientation
    );
    let quantized = |path: &Path| program("classify").with("--quantized", path);
    let upright = probabilities(quantized(&turning), "1.png");
    assert_eq!(probabilities(quantized(&turning), "6.png"), upright);
    let undone = quantized(&turning).flag("--exif-orientation=false");
    assert_ne!(probabilities(undone, "6.png"), upright);

    // A file without it is what it was before there was such an option.
    let plain = calibrated("plain.safetensors", None);
    let text = fs::read(&plain).unwrap();
    assert!(!text.windows(16).any(|part| part == b"exif_orientation"));
    assert_ne!(
        probabilities(quantized(&plain), "6.png"),
        probabilities(quantized(&plain), "1.png")
    );
}
