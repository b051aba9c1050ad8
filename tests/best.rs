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
    const CURVE: &str = "The estimated cost of the bits of weights";
    const NO_CURVE: &str = "An earlier run of the same command allotted the bits";
    for (option, value) in [("--bits", "4"), ("--mixed", "4.5")] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.safetensors");
        let run = |count: &str| {
            calibrate("vit_mnist", "cpu", &out)
                .with(option, value)
                .with("--count", count)
                .with("--report", folder.path().join("page.html"))
                .flag("-v")
        };
        let has_words = |words: &str| {
            let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
            page.contains(words)
        };
        let undisturbed = run("8").run();
        assert_eq!(undisturbed.code, Some(0), "{}", undisturbed.stderr);
        let whole = fs::read(&out).unwrap();
        assert_eq!(has_words(CURVE), option == "--mixed");
        assert!(!has_words(NO_CURVE));
        fs::remove_file(&out).unwrap();
        let mut running = run("8").start(Stdio::piped());
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
        // Another calibration is refused, and costs are not measured before that.
        let other = run("7").run();
        assert_eq!(other.code, Some(3), "{}", other.stderr);
        assert!(
            other.stderr.contains("is of another calibration"),
            "{}",
            other.stderr
        );
        let resumed = run("8").run();
        assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
        assert!(fs::read(&out).unwrap() == whole, "{option}");
        // It has not measured what bits cost, and says so.
        assert_eq!(has_words(NO_CURVE), option == "--mixed");
        assert!(!has_words(CURVE));
        let measures = |run: &str| run.contains("blocks.0.attn.qkv B:");
        assert_eq!(measures(&undisturbed.stderr), option == "--mixed");
        for run in [&other.stderr, &resumed.stderr] {
            assert!(!measures(run), "{run}");
        }
    }
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

/// The mean bits of `kind` that a run tells of.
fn told(run: &program::Outcome, kind: &str) -> f64 {
    let before = format!("allotted: {kind} have ");
    let line = run.stderr.lines().find_map(|line| line.split_once(&before));
    let (_, rest) = line.unwrap_or_else(|| panic!("no mean of {kind}: {}", run.stderr));
    let number = rest.split(' ').next();
    number.and_then(|text| text.parse().ok()).expect("a number")
}

#[test]
fn bits_are_allotted_within_their_mean() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["vit_mnist", "swin_mnist"] {
        let (out, plan) = (path("out"), path("plan.toml"));
        let run = |options: &[(&str, &str)]| {
            let mut run = calibrate(name, "cpu", &out)
                .with("--count", "8")
                .with("--plan-out", &plan);
            for (option, value) in options {
                run = run.with(option, value);
            }
            let run = run.run();
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            (run, fs::read(&out).unwrap())
        };
        let (mixed, bytes) = run(&[("--mixed", "4.5")]);
        for kind in ["weights", "activations"] {
            let mean = told(&mixed, kind);
            assert!((4.0..=4.5).contains(&mean), "{name}: {kind} {mean}");
        }
        let planned = fs::read_to_string(&plan).unwrap();
        let differing = (3..=8).filter(|bits| planned.contains(&format!("bits = {bits}")));
        assert!(differing.count() > 2, "{planned}");
        // The same again, within little memory, and from the plan that was written.
        let (_, again) = run(&[("--mixed", "4.5"), ("--memory-budget", "8MiB")]);
        assert!(again == bytes, "{name}: with little memory");
        let kept = path("kept.toml");
        fs::copy(&plan, &kept).unwrap();
        let (_, planned) = run(&[("--plan", kept.to_str().unwrap())]);
        assert!(planned == bytes, "{name}: from its plan");

        let (weights_alone, _) = run(&[("--mixed", "4"), ("--activation-bits", "6")]);
        assert!(told(&weights_alone, "weights") <= 4.0);
        assert!(!weights_alone.stderr.contains("activations have"));
    }
}

#[test]
fn files_are_no_larger_than_they_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let run = |size: &str| {
        calibrate("vit_mnist", "cpu", &out)
            .with("--count", "8")
            .with("--max-size", size)
            .with("--activation-bits", "6")
            .run()
    };
    let refused = run("1kB");
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(!out.exists());
    let least = refused.stderr.split_once("expected at least ").unwrap().1;
    let least: u64 = least.split(' ').next().unwrap().parse().unwrap();
    for (size, is_enough) in [(least - 1, false), (least, true), (least + 20_000, true)] {
        let run = run(&size.to_string());
        assert_eq!(run.code == Some(0), is_enough, "{}", run.stderr);
        if is_enough {
            let len = fs::metadata(&out).unwrap().len();
            assert!(len <= size, "{len} for {size}");
            // Figures of the evidence are shorter than the longest.
            assert!(len + 12_000 > size, "{len} for {size}");
        }
    }
}

#[test]
fn allotments_that_contradict_other_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    for (options, says) in [
        ("--mixed 4.5 --bits 4", "--bits"),
        ("--mixed 4.5 --weight-bits 4 --activation-bits 4", "--mixed"),
        ("--mixed 2.9", "expected 3 to 8"),
        ("--mixed nan", "expected 3 to 8"),
        ("--mixed 4.5 --preset ptq4vit", "--preset ptq4vit"),
        ("--mixed 4.5 --count 1", "at least 2 images"),
        ("--mixed 4.5 --keep-float *", "no weights are left"),
        ("--max-size 3MB --weight-bits 4", "--weight-bits"),
        ("--max-size 3MB --mixed 4 --activation-bits 4", "--mixed"),
        ("--max-size 3M", "expected a size as in 3MB"),
    ] {
        let mut run = calibrate("vit_mnist", "cpu", &out);
        for option in options.split(' ') {
            run = run.flag(option);
        }
        let run = run.run();
        assert_eq!(run.code, Some(2), "{options}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{options}: {}", run.stderr);
        assert!(!out.exists());
    }
}
