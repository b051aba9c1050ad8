//! The package: what it asks of the compiler, and of the place that the program lies in.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A version of Rust, or of a package's `rust-version`, as numbers that compare.
fn version(text: &str) -> Vec<u32> {
    text.split('.')
        .map(|part| part.parse().expect("numbers between dots"))
        .collect()
}

#[test]
fn no_dependency_asks_for_a_newer_rust() {
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", host.expect("rustc tells its host")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().expect("a list");
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let asked = package["rust_version"].as_str()?;
            (version(asked) > ours).then(|| format!("{} asks for {asked}", package["id"]))
        })
        .collect();
    assert!(packages.len() > 100, "{} packages", packages.len());
    assert_eq!(newer, [""; 0]);
}

/// Where there is nothing but the program.
#[test]
fn the_program_needs_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("ptq4vit-gpu{}", std::env::consts::EXE_SUFFIX);
    let program = folder.path().join(name);
    std::fs::copy(env!("CARGO_BIN_EXE_ptq4vit-gpu"), &program).unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let run = |arguments: &[&Path]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(&empty).env_clear();
        // Without it Windows finds none of its own libraries.
        if let Some(root) = std::env::var_os("SystemRoot") {
            command.env("SystemRoot", root);
        }
        let output = command.output().unwrap();
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {problem}");
        String::from_utf8(output.stdout).unwrap()
    };
    let arguments = |line: &'static str| line.split(' ').map(Path::new).collect::<Vec<_>>();

    let models = run(&arguments("models"));
    assert!(models.contains("deit_tiny_patch16_224"), "{models}");
    let devices = run(&arguments("devices"));
    assert!(devices.contains("cpu"), "{devices}");
    // On the best adapter that there is, so with its shaders.
    run(&arguments("demo --export demo"));
    run(&arguments(
        "calibrate --model demo/swin_mnist/model.safetensors --images demo/calibration --count 2 \
         --preset ptq4vit --candidates 2 --rounds 1 --out quantized.safetensors",
    ));
    let report = run(&arguments(
        "eval --quantized quantized.safetensors --images demo/test --json",
    ));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["images"], 500);
}

/// What `cargo install` brings has names for backtraces, 3 MB of them, but no line tables, which are 80 MB.
#[test]
fn the_program_is_small() {
    let bytes = std::fs::metadata(env!("CARGO_BIN_EXE_ptq4vit-gpu"))
        .unwrap()
        .len();
    let has_line_tables =
        cfg!(debug_assertions) || std::env::var_os("CARGO_PROFILE_RELEASE_DEBUG").is_some();
    assert!(has_line_tables || bytes < 32 << 20, "{bytes} bytes");
}
