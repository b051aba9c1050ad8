//! `verify`: what is right passes, what is broken on purpose is caught and named, and reports are compared.

mod common;
#[path = "common/program.rs"]
mod program;

use program::{Outcome, Program, here, program};
use ptq4vit_gpu::device::{Device, open};
use ptq4vit_gpu::kernels::KERNELS;
use ptq4vit_gpu::kernels::catalogue::Kernel;
use ptq4vit_gpu::verify::{KernelReport, Suite, kernel_names, text_of};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Exit codes, as `src/error.rs` documents them.
const CHECK: i32 = 1;
const USAGE: i32 = 2;
const INPUT: i32 = 3;

static SUITE: LazyLock<Suite> = LazyLock::new(|| Suite::new(&[]).expect("the CPU computes"));

/// The first adapter, which is enough to show that a broken kernel is caught; whether a sound one passes, every adapter
/// has to show.
fn adapter() -> Device {
    open(Some("0"))
        .expect("tests/run installs an adapter")
        .device
}

fn run(suite: &Suite, device: &Device) -> Vec<KernelReport> {
    suite.run(device, &mut |_| {})
}

/// Some of the kernels.
fn suite(kernels: &[&str]) -> Suite {
    Suite::new(kernels).expect("the CPU computes")
}

fn failing(reports: &[KernelReport]) -> BTreeSet<&str> {
    let failing = reports.iter().filter(|report| report.failure().is_some());
    failing.map(|report| &*report.kernel).collect()
}

/// The text of a shader with a mistake in it.
fn broken(shader: &str, right: &str, wrong: &str) -> String {
    let text = text_of(shader).expect("a shader");
    assert!(text.contains(right), "{shader} has no `{right}`");
    text.replace(right, wrong)
}

/// A device whose kernels have these mistakes.
fn with_mistakes(mistakes: &[(&str, &str, &str)]) -> Device {
    let device = adapter();
    for (shader, right, wrong) in mistakes {
        let text = text_of(shader).expect("a shader");
        device.replace_shader_text(text, broken(shader, right, wrong));
    }
    device
}

#[test]
fn sound_kernels_pass_everywhere() {
    for device in common::devices() {
        let reports = run(&SUITE, &device);
        for report in &reports {
            let failure = report
                .failure()
                .map(|(case, failure)| format!("{}: {failure}", case.title()));
            assert_eq!(failure, None, "{} on {}", report.kernel, device.name());
        }
        let kernels: Vec<&str> = reports.iter().map(|report| &*report.kernel).collect();
        assert_eq!(kernels, kernel_names().collect::<Vec<_>>());
    }
}

/// Kernels that others are built on, and those: a mistake in the first shows in the second too.
const BUILT_ON: [&str; 7] = [
    "float_product",
    "integer_product",
    "pack_quads",
    "row_error",
    "similarity",
    "sum_rows",
    "weighted_error",
];

/// Each kernel's own mistake, in half of the kernels at a time.
#[test]
fn a_mistake_in_any_kernel_is_caught_and_no_other_kernel_is_named() {
    let (together, apart): (Vec<&Kernel>, Vec<&Kernel>) = KERNELS
        .iter()
        .partition(|kernel| BUILT_ON.contains(&kernel.name));
    let (more, others) = apart.split_at(apart.len() / 2);
    for kernels in [[&together[..], more].concat(), others.to_vec()] {
        let mistakes = kernels.iter().filter_map(|kernel| {
            let mistake = kernel.mistake.as_ref();
            // Only where there are such matrices.
            assert_eq!(
                mistake.is_none(),
                kernel.text.contains("enable wgpu_cooperative_matrix;")
            );
            Some((kernel.name, mistake?.right, mistake?.wrong))
        });
        let mistakes: Vec<_> = mistakes.collect();
        let reports = run(&SUITE, &with_mistakes(&mistakes));
        let runs = |name: &str| {
            let mut reports = reports.iter();
            reports.any(|report| report.kernel == name && !report.cases.is_empty())
        };
        let broken = mistakes.iter().map(|(name, ..)| *name);
        assert_eq!(
            failing(&reports),
            broken.filter(|name| runs(name)).collect()
        );
    }
}

/// In the piece that all quantizers share: half up where it should be half to even shows where values lie halfway, which is
/// in `quantize` alone; cut off where it should be rounded shows everywhere.
#[test]
fn a_mistake_in_a_shared_piece_is_caught_where_it_shows() {
    let users = [
        "fake_quantize",
        "layer_norm",
        "quantize",
        "softmax",
        "window_softmax",
    ];
    let suite = suite(&users);
    let rounded = "clamp(x * encoder.head.x, vec4(-q), vec4(q - 1.0))";
    let right = format!("{rounded} + ROUNDER");
    for (wrong, caught) in [
        (
            format!("floor({rounded} + 0.5) + ROUNDER"),
            &["fake_quantize", "quantize"][..],
        ),
        (format!("trunc({rounded}) + ROUNDER"), &users),
    ] {
        let piece = "shared/formats/uniform";
        let reports = run(&suite, &with_mistakes(&[(piece, &right, &wrong)]));
        assert_eq!(failing(&reports), caught.iter().copied().collect());
    }
}

/// In what the lanes of a row do together: the last of them are left out. It shows where rows are shared, which no software
/// driver does by itself.
#[test]
fn a_mistake_in_sharing_rows_is_caught_on_every_adapter() {
    let users = [
        "cross_entropy_backward",
        "layer_norm",
        "layer_norm_backward",
        "row_error",
        "row_maximum",
        "softmax",
        "softmax_backward",
        "sum_rows",
        "window_softmax",
    ];
    let device = with_mistakes(&[("shared/rows", "step > 0u;", "step > 1u;")]);
    let reports = run(&suite(&users), &device);
    assert_eq!(failing(&reports), users.into());
    let cases = reports.iter().flat_map(|report| &report.cases);
    for case in cases.filter(|case| case.failure.is_some()) {
        assert!(case.title().contains("rows shared"), "{}", case.title());
    }
}

/// A product that is wrong under some strategies and for some formats.
#[test]
fn the_strategy_that_fails_is_named_with_the_place() {
    let device = with_mistakes(&[(
        "integer_product",
        "above & above_r2 & magnitude",
        "above & above_r2",
    )]);
    let usual = device.strategy("integer_product_twin");
    let reports = run(&suite(&["integer_product"]), &device);
    assert_eq!(device.strategy("integer_product_twin"), usual);
    assert_eq!(failing(&reports), ["integer_product"].into());
    let report = reports
        .iter()
        .find(|report| report.kernel == "integer_product");
    for case in &report.expect("it is there").cases {
        let Some(failure) = &case.failure else {
            continue;
        };
        assert!(case.title().contains("twin"), "{}", case.title());
        assert!(case.title().contains("tiled"), "{}", case.title());
        assert!(failure.index.is_some() && failure.wrong > 0, "{failure}");
    }
}

#[test]
fn a_shader_that_is_none_fails_by_name_and_leaves_the_others() {
    let device = adapter();
    device.replace_shader_text(text_of("softmax").unwrap(), "nonsense".to_owned());
    let reports = run(&suite(&["gelu", "softmax", "sum_rows"]), &device);
    assert_eq!(failing(&reports), ["softmax"].into());
    let (_, failure) = reports.iter().find_map(KernelReport::failure).unwrap();
    assert!(failure.to_string().contains("softmax"), "{failure}");
}

/// What `verify` says of the demo models on the first adapter and on the CPU.
static REPORTS: LazyLock<(TempDir, [PathBuf; 2])> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let report = |device: &str| {
        let path = folder.path().join(format!("{device}.json"));
        let outcome = program("verify")
            .with("--device", device)
            .with("--out", &path)
            .run();
        let (stdout, _) = outcome.success();
        assert!(stdout.contains("all as on the CPU"), "{stdout}");
        path
    };
    let reports = ["0", "cpu"].map(report);
    (folder, reports)
});

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn against(one: &Path, other: &Path) -> Outcome {
    program("verify")
        .with("--against", one)
        .flag(other.to_str().unwrap())
        .run()
}

/// A report of the adapter, changed.
fn changed(change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.json");
    let mut report = json_of(&REPORTS.1[0]);
    change(&mut report);
    std::fs::write(&path, report.to_string()).unwrap();
    (folder, path)
}

#[test]
fn reports_are_the_same_again_and_agree_with_themselves() {
    let [adapter, _] = &REPORTS.1;
    let outcome = program("verify").with("--device", "0").flag("--json").run();
    assert_eq!(outcome.json(), json_of(adapter));
    let (stdout, _) = against(adapter, adapter).success();
    assert!(stdout.contains("the same in every bit"), "{stdout}");
}

/// Exact results and integers are those of the CPU; floats may differ.
#[test]
fn the_adapter_and_the_cpu_agree() {
    let [adapter, cpu] = &REPORTS.1;
    let (stdout, _) = against(cpu, adapter).success();
    assert!(!stdout.contains("WRONG"), "{stdout}");
    let [adapter, cpu] = [adapter, cpu].map(|path| json_of(path));
    let integers = |report: &Value| -> Vec<Value> {
        let models = report["devices"][0]["models"].as_array().unwrap();
        let sites = models
            .iter()
            .flat_map(|model| model["integer"]["sites"].as_array().unwrap());
        sites.map(|site| site["sha256"].clone()).collect()
    };
    assert_eq!(integers(&adapter), integers(&cpu));
    assert_eq!(integers(&cpu).len(), 26 + 27);
}

#[test]
fn differences_of_reports_are_named() {
    let [adapter, _] = &REPORTS.1;
    let finds = |change: &dyn Fn(&mut Value), code: i32, says: &[&str]| {
        let (_folder, path) = changed(|report| change(&mut report["devices"][0]));
        let outcome = against(adapter, &path);
        assert_eq!(outcome.code, Some(code), "{outcome}");
        for part in says {
            assert!(
                outcome.stdout.contains(part),
                "`{part}` is missing: {outcome}"
            );
        }
    };
    let other = json!("0".repeat(64));
    let kernel = |device: &mut Value, name: &str| -> usize {
        let kernels = device["kernels"].as_array().unwrap();
        kernels
            .iter()
            .position(|kernel| kernel["kernel"] == name)
            .unwrap()
    };
    finds(
        &|device| {
            let at = kernel(device, "quantize");
            device["kernels"][at]["cases"][0]["sha256"] = other.clone();
        },
        CHECK,
        &["WRONG    quantize: 65x197, uniform, 8 bits: exact results differ"],
    );
    finds(
        &|device| {
            let at = kernel(device, "gelu");
            device["kernels"][at]["cases"][0]["sha256"] = other.clone();
        },
        0,
        &["allowed  gelu: floats differ within their bounds in 1 of 5 cases"],
    );
    finds(
        &|device| {
            let at = kernel(device, "softmax");
            device["kernels"][at]["cases"] = json!([]);
        },
        0,
        &["missing  softmax: ", "cases are in one report only"],
    );
    finds(
        &|device| device["models"][0]["integer"]["sites"][3]["sha256"] = other.clone(),
        CHECK,
        &["WRONG    vit_mnist, blocks.0.attn.pv: the integers differ"],
    );
    finds(
        &|device| {
            let logits = &mut device["models"][1]["integer"]["logits"][0][0];
            *logits = json!(logits.as_f64().unwrap() + 1e-4);
        },
        0,
        &[
            "allowed  swin_mnist, integer logits: are ",
            "0 of 8 top-1 flip",
        ],
    );
    finds(
        &|device| {
            let logits = &mut device["models"][1]["float"]["logits"][2];
            let value = |class: usize| logits[class].as_f64().unwrap();
            let winner = (0..10).fold(0, |a, b| if value(b) > value(a) { b } else { a });
            let greater = json!(value(winner) + 1.0);
            logits[(winner + 1) % 10] = greater;
        },
        CHECK,
        &[
            "WRONG    swin_mnist, FP32 logits: are ",
            "1 of 8 top-1 flip",
        ],
    );
    // Another scale with a score that is as good, and one with another score.
    for (score, code, level) in [(1.0, 0, "allowed"), (1.1, CHECK, "WRONG")] {
        finds(
            &|device| {
                let found = &mut device["models"][0]["float"]["scales"][1]["found"];
                let scale = found["a"][0]["scale"].as_f64().unwrap();
                found["a"][0]["scale"] = json!(scale * 1.1);
                found["score"] = json!(found["score"].as_f64().unwrap() * score);
            },
            code,
            &[&format!(
                "{level:<8} vit_mnist, blocks.0.attn.qkv: other scales: A "
            )],
        );
    }
}

/// Runs a program that has to fail with this code and to say this.
#[track_caller]
fn fails(program: Program, code: i32, says: &[&str]) {
    let outcome = program.run();
    assert_eq!(outcome.code, Some(code), "{outcome}");
    for part in says {
        assert!(
            outcome.stderr.contains(part),
            "`{part}` is missing: {outcome}"
        );
    }
}

#[test]
fn reports_of_something_else_are_refused() {
    let [adapter, _] = &REPORTS.1;
    let refused = |change: &dyn Fn(&mut Value), says: &[&str]| {
        let (_folder, path) = changed(|report| change(report));
        let program = program("verify")
            .with("--against", adapter)
            .flag(path.to_str().unwrap());
        fails(program, INPUT, &[&["changed.json: "], says].concat());
    };
    let sha256 = json!("f".repeat(64));
    refused(
        &|report| report["subject"]["models"]["vit_mnist"]["quantized_sha256"] = sha256.clone(),
        &[
            "is not of the same verification as",
            "models.vit_mnist.quantized_sha256 is",
            "ffff",
        ],
    );
    refused(
        &|report| report["subject"]["tool_version"] = json!("0.0.1"),
        &["tool_version is \"0.0.1\""],
    );
    refused(
        &|report| report["format"] = json!("something"),
        &["is no report"],
    );
    refused(
        &|report| report["format_version"] = json!(2),
        &["is of format version 2, where 1"],
    );
    refused(&|report| report["devices"] = json!([]), &["has no device"]);
    refused(
        &|report| report["more"] = json!(1),
        &["unknown field `more`"],
    );
    let device = |change: &dyn Fn(&mut Value), says: &[&str]| {
        refused(&|report| change(&mut report["devices"][0]), says);
    };
    device(
        &|device| device["models"] = json!([]),
        &["its models are not those"],
    );
    device(
        &|device| device["kernels"][0]["cases"][0]["sha256"] = json!("../x"),
        &["expected a SHA-256"],
    );
    device(
        &|device| device["kernels"][0]["cases"][0]["sha256"] = json!(null),
        &["neither a result nor"],
    );
    device(
        &|device| device["kernels"][0]["cases"][0]["values"] = json!(-1),
        &["invalid value"],
    );
    device(
        &|device| device["kernels"][1]["kernel"] = json!("add"),
        &["has `add` twice"],
    );
    device(
        &|device| device["models"][0]["float"]["logits"][0] = json!([1.0]),
        &["expected as many logits"],
    );
    device(
        &|device| device["models"][0]["float"]["logits_error"]["error"] = json!(null),
        &["invalid type: null"],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    for (text, says) in [
        ("", "is no report"),
        ("[1, 2]", "is no report"),
        (
            &*format!("{{\"a\":{}", "[".repeat(100_000)),
            "recursion limit",
        ),
        (
            "{\"format\": \"ptq4vit-gpu verification\", \"format_version\": 1e999}",
            "is no report",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        fails(
            program("verify").with("--against", &path),
            INPUT,
            &["report.json: ", says],
        );
    }
}

#[test]
fn a_shader_of_the_users_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edited.wgsl");
    let right = text_of("row_maximum").unwrap();
    let verify = || {
        let of_file = format!("row_maximum={}", file.display());
        program("verify")
            .with("--device", "0")
            .with("--kernel", "row_maximum")
            .with("--shader", of_file)
    };
    // Another text that computes the same.
    std::fs::write(&file, right.replace("largest", "greatest")).unwrap();
    let report = verify().flag("--json").run().json();
    assert_eq!(
        report["subject"]["shaders"]["row_maximum"]
            .as_str()
            .unwrap()
            .len(),
        64
    );

    std::fs::write(
        &file,
        broken("row_maximum", "column < columns;", "column + 1u < columns;"),
    )
    .unwrap();
    let out = folder.path().join("report.json");
    let outcome = verify().with("--out", &out).run();
    assert_eq!(outcome.code, Some(CHECK), "{outcome}");
    assert!(
        outcome.stdout.contains(
            "\nwrong:\n  row_maximum, columns, values: [4] is -1.0312781e0, expected -7.2375286e-1"
        ),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("error: "), "{outcome}");
    let report = json_of(&out);
    assert_ne!(report["devices"][0]["kernels"], json!([]));
}

#[test]
fn what_can_not_be_verified_is_refused() {
    let verify = || program("verify");
    let here = |file: &str| here(file);
    fails(
        verify().with("--shader", "softmaxx=x.wgsl"),
        USAGE,
        &["there is no shader softmaxx; there are add, "],
    );
    fails(
        verify().with("--shader", "softmax"),
        USAGE,
        &["softmax=edited.wgsl"],
    );
    fails(
        verify().with("--shader", "softmax=missing.wgsl"),
        INPUT,
        &["missing.wgsl: can't be read"],
    );
    let shader = format!("softmax={}", here("shaders/softmax.wgsl").display());
    fails(
        verify().with("--shader", shader).with("--device", "cpu"),
        USAGE,
        &["the CPU has no shaders"],
    );
    fails(verify().with("--count", "0"), USAGE, &["1 or more"]);
    fails(
        verify().with("--images", "models/demo/calibration"),
        USAGE,
        &["--model"],
    );
    fails(
        verify().with("--against", "missing.json"),
        INPUT,
        &["missing.json: can't be read"],
    );
    fails(
        verify().with("--against", "x.json").with("--device", "cpu"),
        USAGE,
        &["cannot be used with"],
    );
    let cpu = &REPORTS.1[1];
    fails(
        verify().with("--against", cpu),
        USAGE,
        &["two devices or more, found one"],
    );
    let quantized = here("tests/golden/vit_micro.safetensors");
    fails(
        verify().with("--quantized", quantized),
        INPUT,
        &["is no quantized model"],
    );
}

/// A model of the user's: in floats alone, on random pixels.
#[test]
fn a_model_of_the_users_is_verified() {
    let outcome = program("verify")
        .with("--device", "0")
        .with("--model", here("tests/golden/vit_micro.safetensors"))
        .with("--count", "3")
        .flag("--json")
        .run();
    let report = outcome.json();
    let model = &report["devices"][0]["models"][0];
    assert_eq!(model["float"]["logits"].as_array().unwrap().len(), 3);
    assert_eq!(model["integer"], Value::Null);
    let models = report["subject"]["models"].as_object().unwrap();
    let record = &models[model["name"].as_str().unwrap()];
    assert_eq!(record["quantized_sha256"], Value::Null);
}
