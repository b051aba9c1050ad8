//! From sources to a folder of files.

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wasm_bindgen_cli_support::Bindgen;

/// The crate whose functions the page calls.
const ENGINE: &str = "ptq4vit-gpu-web";
const TARGET: &str = "wasm32-unknown-unknown";
/// The built-in networks, which the page shows quantized as soon as it is opened.
const DEMO: [&str; 2] = ["vit_mnist", "swin_mnist"];

/// Builds the site of the project in `root` in the folder `site`, in the place of what was there. Its `program` is built, too,
/// unless there is one.
pub fn build(root: &Path, site: &Path, program: Option<&Path>) -> Result<()> {
    let module = compile(root)?;
    if site.exists() {
        fs::remove_dir_all(site).with_context(|| site.display().to_string())?;
    }
    Bindgen::new()
        .input_path(&module)
        .web(true)?
        .typescript(false)
        .omit_default_module_path(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .out_name("engine")
        .generate(site)
        .with_context(|| module.display().to_string())?;
    copy(&root.join("web/page"), site)?;
    let demo = site.join("demo");
    fs::create_dir(&demo)?;
    for name in DEMO {
        let program = match program {
            Some(program) => Command::new(program),
            None => built_program(root),
        };
        let out = demo.join(format!("{name}_w4a4.safetensors"));
        calibrate(program, root, name, &out)?;
    }
    report(site)
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root);
    command
}

/// Compiles the engine and returns the path of its module.
fn compile(root: &Path) -> Result<PathBuf> {
    let output = cargo(root)
        .args(["build", "--profile=web", "--package", ENGINE])
        .args([
            "--target",
            TARGET,
            "--message-format=json-render-diagnostics",
        ])
        // Every browser that has WebGPU has these instructions, and the CPU versions are faster with them.
        .args([
            "--config",
            &format!("target.{TARGET}.rustflags=['-Ctarget-feature=+simd128']"),
        ])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "the engine doesn't compile; where it is the target that is missing: rustup target add {TARGET}"
    );
    let messages = String::from_utf8(output.stdout)?;
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line)?;
        let files = message["filenames"].as_array().into_iter().flatten();
        let module = files
            .filter_map(Value::as_str)
            .find(|file| file.ends_with(".wasm"));
        if let Some(module) = module {
            return Ok(module.into());
        }
    }
    bail!("cargo tells of no module of {ENGINE}")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn built_program(root: &Path) -> Command {
    let mut command = cargo(root);
    command.args(["run", "--release", "--quiet", "--bin=ptq4vit-gpu", "--"]);
    command
}

/// Quantizes a network of the demo's in 4 bits.
fn calibrate(mut program: Command, root: &Path, name: &str, out: &Path) -> Result<()> {
    let status = program
        .current_dir(root)
        .args([
            "calibrate",
            "-q",
            "--preset=best",
            "--bits=4",
            "--device=cpu",
        ])
        .args(["--images=models/demo/calibration", "--model"])
        .arg(format!("models/demo/{name}/model.safetensors"))
        .arg("--out")
        .arg(out)
        .status()?;
    ensure!(status.success(), "{name} can't be calibrated");
    Ok(())
}

/// Says how large the files are, and what of it goes over the wire.
fn report(site: &Path) -> Result<()> {
    println!("{}", site.display());
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in [site.to_owned(), site.join("demo")] {
        for entry in fs::read_dir(folder)? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.is_file());
    files.sort();
    let mut sums = [0; 2];
    for file in files {
        let bytes = fs::read(&file)?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&bytes)?;
        let sizes = [bytes.len(), gzip.finish()?.len()];
        print(sizes, &file.strip_prefix(site)?.display().to_string());
        sums = [sums[0] + sizes[0], sums[1] + sizes[1]];
    }
    print(sums, "in all");
    Ok(())
}

fn print([bytes, compressed]: [usize; 2], what: &str) {
    let kibibytes = |bytes: usize| bytes as f64 / 1024.0;
    println!(
        "{:>9.1} KiB, {:>8.1} KiB gzipped  {what}",
        kibibytes(bytes),
        kibibytes(compressed)
    );
}
