//! Preset `best`, end to end on the demo models: what it is good for, and that nothing but its inputs decides the bytes.

mod common;
#[path = "common/program.rs"]
mod program;

use program::{Program, program};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

const CALIBRATION: &str = "models/demo/calibration";
const TEST: &str = "models/demo/test";

fn model(name: &str) -> String {
    format!("models/demo/{name}/model.safetensors")
}

/// A calibration of few images, in few bits.
fn calibrate(name: &str, device: &str, out: &Path) -> Program {
    program("calibrate")
        .with("--model", model(name))
        .with("--images", CALIBRATION)
        .with("--device", device)
        .with("--out", out)
}

/// The figure of `eval --json` of a quantized demo model against the FP one on the 500 images.
fn evaluated(name: &str, quantized: &Path, figure: &str) -> f64 {
    let report = program("eval")
        .with("--model", model(name))
        .with("--quantized", quantized)
        .with("--images", TEST)
        .with("--device", "cpu")
        .flag("--json")
        .run()
        .json();
    report[figure].as_f64().expect("the figure is a number")
}

#[test]
fn it_is_nearer_to_the_fp_network_than_the_papers_method() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vit_mnist", "swin_mnist"] {
        for bits in ["3", "4", "6"] {
            let [best, paper] = ["best", "ptq4vit"].map(|preset| {
                let out = folder.path().join(preset);
                let run = calibrate(name, "cpu", &out);
                run.with("--preset", preset)
                    .with("--bits", bits)
                    .run()
                    .success();
                evaluated(name, &out, "logit_sqnr_db")
            });
            assert!(
                best > paper,
                "{name}, {bits} bits: {best} dB for {paper} dB"
            );
        }
    }
}

#[test]
fn nothing_but_the_inputs_decides_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let calibrated = |name: &str, device: &str, options: &[&str]| {
        let mut run = calibrate(name, device, &out)
            .with("--bits", "4")
            .with("--count", "8");
        for option in options {
            run = run.flag(option);
        }
        run.run().success();
        fs::read(&out).unwrap()
    };
    let adapters = common::devices().len() - 1;
    let numbers = (0..adapters).map(|index| index.to_string());
    for device in numbers.chain(["cpu".to_owned()]) {
        for name in ["vit_mnist", "swin_mnist"] {
            let first = calibrated(name, &device, &[]);
            assert!(
                first == calibrated(name, &device, &[]),
                "{name} on {device}"
            );
            let little = &["--memory-budget", "8MiB"];
            assert!(
                first == calibrated(name, &device, little),
                "{name} on {device}, little memory"
            );
            assert!(
                first != calibrated(name, &device, &["--probes", "3"]),
                "{name} on {device}"
            );
        }
    }
}

#[test]
fn a_run_goes_on_where_another_ended() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let run = || {
        calibrate("vit_mnist", "cpu", &out)
            .with("--bits", "4")
            .with("--count", "8")
    };
    run().run().success();
    let whole = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    let mut running = run().start(Stdio::piped());
    let journal = folder.path().join("out.safetensors.journal");
    // Some sites are in it, in the middle of a segment or not.
    let lines = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    while lines() < 4 {
        assert!(
            running.child.try_wait().unwrap().is_none(),
            "it ended before it could be stopped"
        );
        sleep(Duration::from_millis(1));
    }
    running.child.kill().unwrap();
    running.finish();
    run().run().success();
    assert!(fs::read(&out).unwrap() == whole);
}

#[test]
fn options_that_it_makes_no_use_of_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    for (preset, option, value) in [
        ("best", "--metric", "mse"),
        ("best", "--candidates", "20"),
        ("best", "--rounds", "2"),
        ("best", "--alpha", "0.1"),
        ("best", "--gelu-twin", "true"),
        ("ptq4vit", "--probes", "2"),
    ] {
        let run = calibrate("vit_mnist", "cpu", &out)
            .with("--preset", preset)
            .with(option, value)
            .run();
        assert_eq!(run.code, Some(2), "{option}: {}", run.stderr);
        assert!(
            run.stderr.contains(option) && run.stderr.contains(preset),
            "{}",
            run.stderr
        );
        assert!(!out.exists());
    }
}

#[test]
fn first_and_last_products_have_eight_bits_unless_they_are_told_others() {
    let folder = tempfile::tempdir().unwrap();
    let (out, plan) = (
        folder.path().join("out.safetensors"),
        folder.path().join("plan.toml"),
    );
    let planned = |rules: &[&str]| {
        let mut run = calibrate("vit_mnist", "cpu", &out)
            .with("--bits", "4")
            .with("--plan-out", &plan);
        for rule in rules {
            run = run.with("--site", rule);
        }
        run.run().success();
        fs::read_to_string(&plan)
            .unwrap()
            .matches("bits = 8")
            .count()
    };
    assert_eq!(planned(&[]), 4);
    assert_eq!(planned(&["patch_embed.proj=w4a4", "head=w4a4"]), 0);
}
