//! Work for many machines, as `docs/cluster` tells people to do it: its own commands, scripts and manifests are run, on the
//! demo model under the names that they use.
//!
//! Without GNU parallel its tests say so and pass, unless `PTQ4VIT_REQUIRE_PARALLEL=1` is set. Slurm and Kubernetes aren't
//! needed: their part is to start a command for each number, and the tests do that.

#![cfg(unix)]

#[path = "common/program.rs"]
mod program;

use program::here;
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// The demo model, and what is beside it.
const DEMO: &str = "models/demo/vit_mnist/model.safetensors";
const DEMO_CONFIG: &str = "models/demo/vit_mnist/config.json";
/// The names in the guide. The model's tells another network than the demo's, so it has a name of its own here.
const MODEL_OF_THE_GUIDE: &str = "deit_tiny_patch16_224.safetensors";
const MODEL: &str = "vit_mnist.safetensors";
const QUANTIZED: &str = "deit_tiny_w6a6.safetensors";
/// Two tasks, of less than a second each.
const PLAN: &str = r#"
out = "sweep"
presets = ["ptq4vit", "base-ptq"]
bits = [4]

[[models]]
model = "vit_mnist.safetensors"
name = "tiny"

[calibration]
images = "photos"
count = 2

[evaluation]
images = "imagenet/val"
"#;

/// The guide.
static README: LazyLock<String> =
    LazyLock::new(|| std::fs::read_to_string(here("docs/cluster/README.md")).unwrap());

/// A quantized demo model, made quickly.
static QUANTIZED_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out.safetensors");
    program::program("calibrate")
        .with("--model", DEMO)
        .with("--images", "models/demo/calibration")
        .with("--count", "2")
        .with("--bits", "4")
        .with("--device", "cpu")
        .with("--out", &out)
        .flag("--json")
        .run()
        .json();
    std::fs::read(out).unwrap()
});

/// A folder that has what the guide's commands name.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            folder: TempDir::new().unwrap(),
        };
        let link = |from: &str, to: &str| symlink(here(from), scene.path(to)).unwrap();
        link(DEMO, MODEL);
        link(DEMO_CONFIG, "config.json");
        link("models/demo/calibration", "photos");
        std::fs::create_dir(scene.path("imagenet")).unwrap();
        link("models/demo/test", "imagenet/val");
        std::fs::write(scene.path(QUANTIZED), &*QUANTIZED_BYTES).unwrap();
        scene.plan(PLAN);
        scene
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plan(&self, text: &str) {
        std::fs::write(self.path("plan.toml"), text).unwrap();
    }

    /// Runs a shell script in the folder, with the program on the path: exit code, stdout, stderr.
    fn bash(&self, script: &str) -> (i32, String, String) {
        let program = Path::new(env!("CARGO_BIN_EXE_ptq4vit-gpu"));
        let mut paths = vec![program.parent().unwrap().to_owned()];
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c"])
            .arg(script.replace(MODEL_OF_THE_GUIDE, MODEL))
            .current_dir(self.folder.path())
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env("DOCS", here("docs/cluster"))
            .stdin(Stdio::null())
            .output()
            .expect("a bash");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(!stderr.contains("panicked"), "{script}: {stderr}");
        (output.status.code().unwrap(), stdout, stderr)
    }

    /// What a script prints that succeeds.
    fn stdout(&self, script: &str) -> String {
        let (code, stdout, stderr) = self.bash(script);
        assert_eq!(code, 0, "{script}: {stderr}");
        stdout
    }

    fn json(&self, script: &str) -> Value {
        serde_json::from_str(&self.stdout(script)).unwrap()
    }

    /// What a script says that fails with this exit code.
    fn fails(&self, script: &str, expected: i32) -> String {
        let (code, stdout, stderr) = self.bash(script);
        assert_eq!(
            (code, stdout.as_str()),
            (expected, ""),
            "{script}: {stderr}"
        );
        stderr
    }

    /// Checks that merging `parts` prints, as text and as JSON, what `eval` with these arguments prints.
    fn merges_to_the_whole(&self, parts: &str, eval: &str) {
        let figures = |mut report: Value| {
            let speed = report["images_per_second"].take();
            assert!(speed.as_f64().is_some_and(|speed| speed > 0.0), "{report}");
            report
        };
        let whole = self.json(&format!("ptq4vit-gpu eval {eval} --out whole.json --json"));
        assert_eq!(self.json("ptq4vit-gpu merge whole.json --json"), whole);
        let merged = self.json(&format!("ptq4vit-gpu merge {parts} --json"));
        assert_eq!(figures(merged), figures(whole));

        let lines = |parts: &str| -> Vec<String> {
            let text = self.stdout(&format!("ptq4vit-gpu merge {parts}"));
            let lines = text.lines().filter(|line| !line.starts_with("images/s"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(lines(parts), lines("whole.json"));
    }

    /// Every file of the sweep's folder, and what is in it.
    fn results(&self) -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(self.path("sweep"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}

/// A block of this language below a heading of the guide, counted from 0.
fn block(heading: &str, language: &str, number: usize) -> &'static str {
    let (_, section) = README.split_once(&format!("\n## {heading}\n")).unwrap();
    let fence = format!("```{language}\n");
    let block = section.split(&fence).nth(number + 1).unwrap();
    &block[..block.find("```").unwrap()]
}

/// Whether GNU parallel is there, which may be required.
fn has_gnu_parallel() -> bool {
    let version = Command::new("parallel").arg("--version").output();
    if version.is_ok_and(|output| output.stdout.starts_with(b"GNU parallel")) {
        return true;
    }
    let required = std::env::var("PTQ4VIT_REQUIRE_PARALLEL").is_ok_and(|value| value == "1");
    assert!(!required, "GNU parallel is required");
    // Not `eprintln!`, whose lines are only shown of tests that fail.
    std::io::stderr()
        .write_all(b"skipped: GNU parallel is not here\n")
        .expect("a stderr");
    false
}

#[test]
fn shards_by_gnu_parallel_make_the_whole() {
    if !has_gnu_parallel() {
        return;
    }
    let commands = block("GNU parallel", "sh", 0);
    assert!(commands.contains("seq 0 3 |") && commands.contains("{}/4"));
    for device in ["", "--device cpu"] {
        let scene = Scene::new();
        let eval =
            format!("--model {MODEL} --quantized {QUANTIZED} --images imagenet/val {device}");
        let run = commands.replace("ptq4vit-gpu eval", &format!("ptq4vit-gpu eval {device}"));
        let stdout = scene.stdout(&run);
        for shard in 0..4 {
            let images = if shard == 3 { 500 - 3 * 128 } else { 128 };
            let line =
                format!("wrote parts/{shard}.json: shard {shard}/4, {images} of 500 images\n");
            assert!(stdout.contains(&line), "{stdout}");
        }
        // The last of the commands merges.
        let merged = scene.stdout("ptq4vit-gpu merge parts/*.json");
        assert!(stdout.ends_with(&merged), "{stdout}");
        scene.merges_to_the_whole("parts/*.json", &eval);
    }
}

#[test]
fn shards_by_a_slurm_array_make_the_whole() {
    let scene = Scene::new();
    // 500 images are eight stretches of 64 at most, so two of ten shards are empty.
    let eval = format!("--model {MODEL} --images imagenet/val --device cpu");
    for task in (0..10).rev() {
        // The machines of a cluster have more cores or fewer.
        let cores = task % 3 + 1;
        scene.stdout(&format!(
            "RAYON_NUM_THREADS={cores} SLURM_ARRAY_TASK_ID={task} bash \"$DOCS\"/slurm-eval.sh 10 parts {eval}"
        ));
    }
    let part = |index: usize| -> Value {
        let text = std::fs::read(scene.path(format!("parts/{index}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let images: Vec<u64> = (0..10)
        .map(|index| part(index)["tally"]["images"].as_u64().unwrap())
        .collect();
    assert_eq!(images, [0, 64, 64, 64, 64, 0, 64, 64, 64, 52]);
    scene.merges_to_the_whole("parts/*.json", &eval);
    scene.merges_to_the_whole("parts/{7,0,3,9,1,2,8,4,6,5}.json", &eval);
    let text = scene.stdout(&format!("ptq4vit-gpu eval {eval} --out whole.json"));
    assert_eq!(scene.stdout("ptq4vit-gpu merge whole.json"), text);
}

#[test]
fn shards_by_an_indexed_job_make_the_whole() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("parts")).unwrap();
    for command in pods("kubernetes-eval.yaml") {
        scene.stdout(&format!("{command} --device cpu"));
    }
    let eval = format!("--model {MODEL} --quantized {QUANTIZED} --images imagenet/val");
    scene.merges_to_the_whole("parts/*.json", &format!("{eval} --device cpu"));
}

/// The command of each pod of an Indexed Job, as Kubernetes expands it.
fn pods(manifest: &str) -> Vec<String> {
    let text = std::fs::read_to_string(here("docs/cluster").join(manifest)).unwrap();
    let documents = Yaml::load_from_str(&text).unwrap();
    let spec = &documents[0]["spec"];
    assert_eq!(documents[0]["kind"].as_str(), Some("Job"));
    assert_eq!(spec["completionMode"].as_str(), Some("Indexed"));
    let container = &spec["template"]["spec"]["containers"][0];
    let mount = &container["volumeMounts"][0]["mountPath"];
    assert_eq!(container["workingDir"].as_str(), mount.as_str());
    let words = container["command"].as_sequence().unwrap();
    let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
    (0..spec["completions"].as_integer().unwrap())
        .map(|index| {
            words
                .join(" ")
                .replace("$(JOB_COMPLETION_INDEX)", &index.to_string())
        })
        .collect()
}

#[test]
fn images_that_cannot_be_read_count_over_all_shards() {
    let scene = Scene::new();
    std::fs::remove_file(scene.path("imagenet/val")).unwrap();
    // 132 images, three stretches of 64 at most: one for shard 0, two for shard 1. The broken ones, the first and the
    // last, are in different shards.
    for class in 0..10 {
        let folder = scene.path(format!("imagenet/val/{class}"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut images: Vec<PathBuf> =
            std::fs::read_dir(here(&format!("models/demo/test/{class}")))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
        images.sort();
        for image in &images[..13] {
            symlink(image, folder.join(image.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(scene.path("imagenet/val/0/00000.png"), "no image").unwrap();
    std::fs::write(scene.path("imagenet/val/9/99999.png"), "no image").unwrap();
    let eval = format!(
        "--model {MODEL} --quantized {QUANTIZED} --images imagenet/val --device cpu --max-skipped"
    );
    let shard = |index: usize, allowed: usize| {
        format!("ptq4vit-gpu eval {eval} {allowed} --shard {index}/2 --out {index}.json")
    };
    let problem = scene.fails(&shard(0, 0), 1);
    assert!(problem.contains("0/00000.png: "), "{problem}");
    assert!(problem.contains("1 images could not be read"), "{problem}");
    assert!(!scene.path("0.json").exists());

    scene.stdout(&shard(0, 1));
    scene.stdout(&shard(1, 1));
    for allowed in ["", "--max-skipped 1"] {
        let problem = scene.fails(&format!("ptq4vit-gpu merge 0.json 1.json {allowed}"), 1);
        assert!(
            problem.contains("skipped: 0/00000.png (in 0.json)\n"),
            "{problem}"
        );
        assert!(
            problem.contains("skipped: 9/99999.png (in 1.json)\n"),
            "{problem}"
        );
        assert!(problem.contains("2 images could not be read"), "{problem}");
    }
    let expected = scene.json(&format!("ptq4vit-gpu eval {eval} 2 --json"));
    let mut merged = scene.json("ptq4vit-gpu merge 1.json 0.json --max-skipped 2 --json");
    merged["images_per_second"] = expected["images_per_second"].clone();
    assert_eq!(merged, expected);
    assert_eq!(merged["images"], 130);
    assert_eq!(merged["skipped"], 2);
}

#[test]
fn the_guides_plan_is_one() {
    let scene = Scene::new();
    let plan = block("Sweeps", "toml", 0);
    scene.plan(plan);
    assert_eq!(
        scene.stdout("ptq4vit-gpu sweep --plan plan.toml --count"),
        "8\n"
    );
    // The fields that it leaves out are right too, but for the list, which takes the seed's place.
    scene.plan(&plan.replace("\n# ", "\n").replace("\nlist", "\n# list"));
    assert_eq!(
        scene.stdout("ptq4vit-gpu sweep --plan plan.toml --count"),
        "8\n"
    );
    let rows = scene.json("ptq4vit-gpu sweep --plan plan.toml --json");
    assert_eq!(
        rows[5],
        json!({
            "task": 5,
            "model": "vit_small_patch16_224",
            "preset": "ptq4vit",
            "bits": 6,
            "report": null,
            "differences": [],
        })
    );
}

#[test]
fn a_sweep_by_gnu_parallel() {
    if !has_gnu_parallel() {
        return;
    }
    let scene = Scene::new();
    let commands = block("GNU parallel", "sh", 1);
    let stdout = scene.stdout(&commands.replace("--task", "--device cpu --task"));
    assert!(stdout.ends_with("2 tasks, 2 finished\n"), "{stdout}");
}

#[test]
fn a_sweep_by_a_slurm_array() {
    let scene = Scene::new();
    let list = "ptq4vit-gpu sweep --plan plan.toml";
    let stdout = scene.stdout(list);
    assert!(stdout.ends_with("2 tasks, 0 finished\n"), "{stdout}");
    assert_eq!(scene.stdout(&format!("{list} --count")), "2\n");

    let task = |number: usize| {
        format!(
            "SLURM_ARRAY_TASK_ID={number} bash \"$DOCS\"/slurm-sweep.sh --plan plan.toml --device cpu --json"
        )
    };
    let first = scene.json(&task(0));
    let rows = scene.json(&format!("{list} --json"));
    assert_eq!(rows[0]["report"], first);
    assert_eq!(rows[1]["report"], Value::Null);
    let second = scene.json(&task(1));
    assert_ne!(first["kl"], second["kl"]);
    let stdout = scene.stdout(list);
    assert!(stdout.ends_with("2 tasks, 2 finished\n"), "{stdout}");
    let row = format!(
        "   1  tiny   base-ptq     4  {:>6.2}%",
        100.0 * second["top1"].as_f64().unwrap()
    );
    assert!(stdout.contains(&row), "{stdout}");

    // What `calibrate` and `eval` make of the same.
    let results = scene.results();
    let names: Vec<&String> = results.keys().collect();
    assert_eq!(
        names,
        [
            "tiny-base-ptq-w4a4.json",
            "tiny-base-ptq-w4a4.safetensors",
            "tiny-ptq4vit-w4a4.json",
            "tiny-ptq4vit-w4a4.safetensors",
        ]
    );
    scene.stdout(&format!(
        "ptq4vit-gpu calibrate --model {MODEL} --images photos --count 2 --preset base-ptq --bits 4 --device cpu \
         --out by-hand.safetensors"
    ));
    let by_hand = std::fs::read(scene.path("by-hand.safetensors")).unwrap();
    assert!(by_hand == results["tiny-base-ptq-w4a4.safetensors"]);
    scene.merges_to_the_whole(
        "sweep/tiny-base-ptq-w4a4.json",
        &format!(
            "--model {MODEL} --quantized by-hand.safetensors --images imagenet/val --device cpu"
        ),
    );

    // Finished tasks are left alone, by a Job of Kubernetes as by Slurm.
    assert_eq!(scene.json(&task(1)), second);
    let pods = pods("kubernetes-sweep.yaml");
    let (code, _, stderr) = scene.bash(&pods[0]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("finished already: sweep/tiny-ptq4vit-w4a4.json\n"),
        "{stderr}"
    );
    assert!(scene.results() == results);
}

#[test]
fn a_task_is_done_again_only_when_asked() {
    let scene = Scene::new();
    let task = "ptq4vit-gpu sweep --plan plan.toml --task 1 --device cpu";
    // Of two at once, one does it; the other refuses, or comes late enough to find it finished.
    let (_, _, stderr) = scene.bash(&format!("{task} & {task} || true; wait $! || true"));
    assert!(
        stderr.contains("another process writes it") || stderr.contains("finished already"),
        "{stderr}"
    );
    let (code, _, stderr) = scene.bash(task);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("finished already"), "{stderr}");
    let results = scene.results();
    assert_eq!(results.len(), 2);
    let refused = |says: &str| {
        let problem = scene.fails(task, 3);
        assert!(
            problem.contains("error: sweep/tiny-base-ptq-w4a4.json: is not this task's result: "),
            "{problem}"
        );
        assert!(problem.contains(says), "{says}: {problem}");
        assert!(scene.results() == results);
    };

    // Other calibration images, which the plan itself tells: the list knows too.
    scene.plan(&PLAN.replace("count = 2", "count = 3"));
    let says = "subject.models.quantized.provenance.images is 2, where 3 is expected";
    refused(says);
    let (code, stdout, stderr) = scene.bash("ptq4vit-gpu sweep --plan plan.toml");
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.ends_with("2 tasks, 0 finished\n"), "{stdout}");
    assert!(stderr.contains(says), "{stderr}");

    // Other evaluation images.
    std::fs::write(scene.path("labels.tsv"), "0/00592.png\t0\n").unwrap();
    scene.plan(&format!("{PLAN}labels = \"labels.tsv\"\n"));
    refused("subject.images.count is 500, where 1 is expected");

    // Another model.
    scene.plan(PLAN);
    let model = std::fs::read(scene.path(MODEL)).unwrap();
    let mut other = model.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::remove_file(scene.path(MODEL)).unwrap();
    std::fs::write(scene.path(MODEL), &other).unwrap();
    refused("subject.models.model_sha256 is ");
    std::fs::write(scene.path(MODEL), &model).unwrap();

    // Another quantized model, or none.
    let quantized = scene.path("sweep/tiny-base-ptq-w4a4.safetensors");
    std::fs::write(&quantized, &*QUANTIZED_BYTES).unwrap();
    let problem = scene.fails(task, 3);
    assert!(
        problem.contains("subject.models.quantized.sha256 is "),
        "{problem}"
    );
    std::fs::remove_file(&quantized).unwrap();
    let problem = scene.fails(task, 3);
    assert!(problem.contains("can't be opened"), "{problem}");

    scene.stdout(&format!("{task} --redo"));
    let redone = scene.results();
    assert!(redone["tiny-base-ptq-w4a4.safetensors"] == results["tiny-base-ptq-w4a4.safetensors"]);
    assert!(scene.bash(task).2.contains("finished already"));
}
