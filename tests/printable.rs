//! What files have as text, shown: nothing of it steers a terminal, and nothing looks like what the program says itself.
//!
//! That no output of any run has a control character, `common/program.rs` checks everywhere. Here are the files that have
//! them.

#[path = "common/container.rs"]
#[expect(dead_code, reason = "the faults' tests change tensors too")]
mod container;
#[path = "common/program.rs"]
mod program;

use container::Container;
use program::{Outcome, Program, here, program};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A title for the window, a line of its own, C1's and DEL, an order to write backwards, and the end of a paragraph.
const WICKED: &str = "\u{1b}]0;owned\u{7}\r\nerror: forged\u{9b}2J\u{7f}\u{202e}gnp\u{2029}";
/// What shows it on a line.
const SHOWN: &str = r"\u001b]0;owned\u0007\u000d\nerror: forged\u009b2J\u007f\u202egnp\u2029";

/// Besides control characters, what no output may have.
fn is_wicked(character: char) -> bool {
    character.is_control() && character != '\n' || matches!(character, '\u{202e}' | '\u{2029}')
}

/// What a run said, as it should.
#[track_caller]
fn shown(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains(is_wicked), "{outcome}");
        assert!(!text.contains("\nerror: forged"), "{outcome}");
    }
    assert!(
        (outcome.stdout.clone() + &outcome.stderr).contains("]0;owned"),
        "{outcome}"
    );
}

/// A folder with files of the demo's, and changed ones.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        let model = here("models/demo/vit_mnist");
        for name in ["model.safetensors", "config.json"] {
            fs::copy(model.join(name), scene.path(name)).unwrap();
        }
        fs::create_dir(scene.path("images")).unwrap();
        fs::copy(here("tests/data/portrait.png"), scene.path("images/a.png")).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, subcommand: &str) -> Program {
        Program {
            folder: self.0.path().to_owned(),
            ..program(subcommand)
        }
    }

    fn calibrate(&self, model: &Path, out: &Path) -> Program {
        self.program("calibrate")
            .with("--model", model)
            .with("--images", "images")
            .with("--count", "1")
            .with("--preset", "ptq4vit")
            .with("--candidates", "10")
            .with("--rounds", "1")
            .with("--device", "cpu")
            .with("--out", out)
    }

    /// Writes a JSON file again with another value in a field.
    fn change(&self, from: &str, to: &str, pointer: &str, value: Value) {
        let text = fs::read(self.path(from)).unwrap();
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        *json
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer} in {from}")) = value;
        fs::write(self.path(to), json.to_string()).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn names_of_files_are_escaped() {
    let scene = Scene::new();
    let name = WICKED.to_owned();
    let path = |suffix: &str| scene.path(&(name.clone() + suffix));
    let image = scene.path("images").join(name.clone() + ".png");
    fs::copy(here("tests/data/landscape.png"), &image).unwrap();
    fs::write(scene.path("images").join(name.clone() + ".jpg"), "no image").unwrap();
    let model = path(".safetensors");
    fs::copy(scene.path("model.safetensors"), &model).unwrap();

    // As text, as JSON, in notices and in errors.
    let classify = || {
        let classify = scene.program("classify").with("--model", &model);
        classify.flag("images").with("--device", "cpu")
    };
    let outcome = classify().run();
    shown(&outcome);
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert!(
        outcome.stdout.contains(&format!("images/{SHOWN}.png  ")),
        "{outcome}"
    );
    assert!(
        outcome
            .stderr
            .contains(&format!("error: images/{SHOWN}.jpg: ")),
        "{outcome}"
    );
    let outcome = classify().flag("--json").run();
    shown(&outcome);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let names: Vec<&str> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["image"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&&*format!("images/{WICKED}.png")),
        "{names:?}"
    );

    // Everything else that takes a file, by a name that leads to nothing good.
    let out = path(".out");
    fs::remove_file(scene.path("images").join(name.clone() + ".jpg")).unwrap();
    scene.calibrate(&model, &out).run().success();
    let missing = path(".none");
    for program in [
        scene.calibrate(&missing, &out),
        scene.calibrate(&model, &missing.join("x")),
        scene.calibrate(&model, &model),
        scene.calibrate(&model, &out).with("--list", &missing),
        scene.program("inspect").flag(missing.to_str().unwrap()),
        scene.program("merge").flag(missing.to_str().unwrap()),
        scene.program("sweep").with("--plan", &missing),
        scene.program("verify").with("--against", &missing),
        scene
            .program("verify")
            .with("--shader", format!("add={}", missing.display())),
        scene.program("bench").with("--model", &missing),
        scene.program("demo").with("--export", &model),
        scene.program("man").with("--out", &model),
        scene
            .program("eval")
            .with("--model", &model)
            .with("--images", &missing),
        scene
            .program("classify")
            .with("--model", &model)
            .flag("images")
            .with("--classes", &missing),
        // The command line's own complaints.
        scene.program("classify").flag(&format!("--{WICKED}")),
        scene.program("calibrate").with("--bits", WICKED),
        scene.program(WICKED),
    ] {
        let outcome = program.run();
        assert_ne!(outcome.code, Some(0), "{outcome}");
        let text = outcome.stderr.clone();
        assert!(
            !text.contains(is_wicked) && text.contains(r"owned\u0007"),
            "{outcome}"
        );
    }
    for program in [
        scene.calibrate(&model, &out),
        scene
            .program("eval")
            .with("--model", &model)
            .with("--images", here("models/demo/test"))
            .with("--out", path(".json")),
        scene.program("demo").with("--export", path("")),
        scene.program("man").with("--out", path(".man")),
        scene
            .program("verify")
            .with("--kernel", "add")
            .with("--device", "cpu")
            .with("--out", path(".report")),
    ] {
        let outcome = program.run();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        shown(&outcome);
    }
}

#[test]
fn what_files_say_is_escaped() {
    let scene = Scene::new();
    let quantized = scene.path("q.safetensors");
    scene
        .calibrate(&scene.path("model.safetensors"), &quantized)
        .run()
        .success();

    // A quantized file's own words.
    let mut file = Container::parse(&fs::read(&quantized).unwrap());
    let provenance = file.metadata.get_mut("provenance").unwrap();
    let mut json: Value = serde_json::from_str(provenance).unwrap();
    json["name"] = WICKED.into();
    json["tool_version"] = WICKED.into();
    *provenance = json.to_string();
    fs::write(&quantized, file.file()).unwrap();
    let outcome = scene.program("inspect").flag("q.safetensors").run();
    shown(&outcome);
    assert!(
        outcome
            .stdout
            .starts_with(&format!("model        {SHOWN}\n")),
        "{outcome}"
    );
    let report = scene
        .program("inspect")
        .flag("q.safetensors")
        .flag("--json")
        .run();
    shown(&report);
    let report = report.json();
    assert!(
        report
            .to_string()
            .contains(&Value::from(WICKED).to_string()),
        "{report}"
    );
    let wicked_tensor = file.tensors["head.bias"].clone();
    file.tensors.insert(WICKED.to_owned(), wicked_tensor);
    fs::write(scene.path("more.safetensors"), file.file()).unwrap();
    shown(&scene.program("inspect").flag("more.safetensors").run());

    // A checkpoint's: its tensors, its description, which the page of a calibration shows too.
    let golden = fs::read(here("tests/golden/vit_micro.safetensors")).unwrap();
    let mut model = Container::parse(&golden);
    let odd = model.tensors["head.bias"].clone();
    model.tensors.insert(WICKED.to_owned(), odd);
    fs::write(scene.path("odd.safetensors"), model.file()).unwrap();
    let (odd, out) = (scene.path("odd.safetensors"), scene.path("new.safetensors"));
    shown(&scene.calibrate(&odd, &out).run());
    let described = scene.path("model.safetensors");
    let page = scene.path("page.html");
    for (pointer, value, code) in [
        ("/architecture", Value::from(WICKED), 0),
        ("/model_args", serde_json::json!({ WICKED: 1 }), 3),
        ("/pretrained_cfg/interpolation", WICKED.into(), 3),
    ] {
        scene.change("config.json", "config.json", pointer, value);
        let outcome = scene
            .calibrate(&described, &out)
            .with("--report", &page)
            .run();
        shown(&outcome);
        assert_eq!(outcome.code, Some(code), "{outcome}");
        let original = here("models/demo/vit_mnist/config.json");
        fs::copy(original, scene.path("config.json")).unwrap();
    }
    let page = fs::read_to_string(page).unwrap();
    assert!(!page.contains(is_wicked) && page.contains(r"Calibration of \u001b]0;owned\u0007"));

    // Lists.
    fs::write(
        scene.path("classes.txt"),
        format!("{}\n", WICKED.replace(['\r', '\n'], "")).repeat(10),
    )
    .unwrap();
    let classify = scene
        .program("classify")
        .with("--model", "model.safetensors")
        .flag("images/a.png");
    shown(
        &classify
            .with("--classes", "classes.txt")
            .with("--device", "cpu")
            .run(),
    );
    fs::write(scene.path("labels.tsv"), format!("{WICKED}\t1\n")).unwrap();
    let eval = scene
        .program("eval")
        .with("--model", "model.safetensors")
        .with("--images", "images");
    let outcome = eval.with("--labels", "labels.tsv").run();
    assert_eq!(outcome.code, Some(3), "{outcome}");

    // A plan.
    let plan = "presets = ['base-ptq']\nbits = [8]\n[[models]]\nmodel = 'm'\nname = NAME\n[calibration]\nimages = 'i'\n\
                [evaluation]\nimages = 'i'\n";
    let name = serde_json::to_string(WICKED)
        .unwrap()
        .replace('\u{7f}', "\\u007f");
    fs::write(
        scene.path("plan.toml"),
        format!("out = 's'\n{}", plan.replace("NAME", &name)),
    )
    .unwrap();
    shown(&scene.program("sweep").with("--plan", "plan.toml").run());

    // Parts and reports of other machines.
    let test = here("models/demo/test");
    let eval = scene
        .program("eval")
        .with("--model", "model.safetensors")
        .with("--images", test);
    eval.with("--device", "cpu")
        .with("--out", "part.json")
        .run()
        .success();
    for pointer in ["/device", "/format", "/subject/tool_version"] {
        scene.change("part.json", "other.json", pointer, WICKED.into());
        let both = scene.program("merge").flag("part.json").flag("other.json");
        let outcome = both.run();
        assert_ne!(outcome.code, Some(0), "{outcome}");
        assert!(!outcome.stderr.contains(is_wicked), "{outcome}");
    }
    let verify = scene
        .program("verify")
        .with("--device", "cpu")
        .with("--kernel", "add");
    verify.with("--out", "report.json").run().success();
    for pointer in ["/devices/0/name", "/subject/tool_version"] {
        scene.change("report.json", "other.json", pointer, WICKED.into());
        for flags in [&[][..], &["--json"]] {
            let mut run = scene
                .program("verify")
                .with("--against", "report.json")
                .flag("other.json");
            for flag in flags {
                run = run.flag(flag);
            }
            let outcome = run.run();
            shown(&outcome);
        }
    }
}
