//! Shows every shader to Tint, Chrome's compiler of WGSL, which refuses some of what Naga takes, and warns. No adapter is
//! needed, so all shaders go through it on every machine, those that a browser's adapter has no features for too.
//!
//! Tint comes with Dawn, which `tests/run` puts into `target/dawn`. Where it isn't there these tests say so and pass,
//! unless `PTQ4VIT_REQUIRE_DAWN=1` is set.

use super::SHADERS;
use super::layout_test::{parse, text};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs what uses Dawn.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/dawn/bin/python");

/// Tells whether Dawn is there, which may be required.
fn is_installed() -> bool {
    let import = Command::new(PYTHON)
        .args(["-c", "import wgpudawn"])
        .output();
    if import.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let required = std::env::var("PTQ4VIT_REQUIRE_DAWN").is_ok_and(|value| value == "1");
    assert!(!required, "wgpudawn, for {PYTHON}, is required");
    // Not `eprintln!`, whose lines are only shown of tests that fail.
    std::io::stderr()
        .write_all(b"skipped: Dawn is not here, so Tint isn't either\n")
        .expect("a stderr");
    false
}

/// Describes a shader to `compile.py`.
fn shader(name: &str, source: &str, entry_points: &[&str]) -> Value {
    json!({ "name": name, "source": source, "entry_points": entry_points })
}

/// Lists what Tint and Dawn have to say of shaders, warnings too.
fn complaints(shaders: &[Value]) -> Vec<String> {
    let mut python = Command::new(PYTHON)
        .args(["-c", include_str!("../../tests/data/tint/compile.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let stdin = python.stdin.take().expect("a pipe");
    let written = serde_json::to_writer(stdin, shaders);
    let output = python.wait_with_output().expect("Python ends");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    written.expect("Python reads all shaders");
    serde_json::from_slice(&output.stdout).expect("a list of complaints")
}

/// Makes each shader's pipelines with the defaults of its constants.
#[test]
fn every_shader_but_those_that_no_browser_can_run_goes_through_tint() {
    if !is_installed() {
        return;
    }
    let self_test = text("shaders", "self_test", "wgsl");
    let kernels = SHADERS.iter().map(|shader| (shader.name, shader.source));
    let all = kernels.chain([("self_test", self_test.as_str())]);
    let shaders = all.filter(|(_, source)| !source.contains("enable wgpu_cooperative_matrix;"));
    let shaders = shaders.map(|(name, source)| {
        let (module, _) = parse(name, source);
        let entry_points = module.entry_points.iter().map(|entry| entry.name.as_str());
        shader(name, source, &entry_points.collect::<Vec<_>>())
    });
    let complaints = complaints(&shaders.collect::<Vec<_>>());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Shows texts to Tint that Naga takes.
#[test]
fn errors_warnings_and_pipelines_beyond_the_limits_are_complained_of() {
    if !is_installed() {
        return;
    }
    let few = "const SIZE: u32 = 64u;";
    let many = "override SIZE: u32 = 257u;";
    let texts = [
        ("right", few, "out[lane] = 1.0h;"),
        ("divergent", few, "if lane == 0u { workgroupBarrier(); }"),
        ("unreachable", few, "return; out[lane] = 1.0h;"),
        ("too_wide", many, "out[lane] = 1.0h;"),
    ];
    let shaders = texts.map(|(name, size, body)| {
        let source = format!(
            "enable f16;
            {size}
            @group(0) @binding(0) var<storage, read_write> out: array<f16>;
            @compute @workgroup_size(SIZE)
            fn main(@builtin(local_invocation_index) lane: u32) {{ {body} }}"
        );
        parse(name, &source);
        shader(name, &source, &["main"])
    });
    let complaints = complaints(&shaders);
    let expected = [
        ["divergent.wgsl: ", "uniform control flow"],
        ["unreachable.wgsl:5: warning: ", "unreachable"],
        ["too_wide.wgsl: ", "workgroup_size"],
    ];
    assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
    for (complaint, [start, what]) in complaints.iter().zip(expected) {
        let is_expected = complaint.starts_with(start) && complaint.contains(what);
        assert!(is_expected, "{complaint}");
    }
}
