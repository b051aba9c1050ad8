//! Outputs that are no regular files, that are inputs too, that can't be made, and that nobody reads.
#![cfg(unix)]

#[path = "common/program.rs"]
mod program;

use program::{Outcome, Program, here, program};
use serde_json::Value;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Exit codes, as src/error.rs documents them.
const USAGE: i32 = 2;
const INPUT: i32 = 3;
const UNREAD: i32 = 141;

/// A folder with a model, its description, two images, their labels, a list of them, and a sweep's plan.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        fs::create_dir(scene.path("images")).unwrap();
        for (from, to) in [
            (
                "models/demo/vit_mnist/model.safetensors",
                "model.safetensors",
            ),
            ("models/demo/vit_mnist/config.json", "config.json"),
            ("tests/data/portrait.png", "images/a.png"),
            ("tests/data/landscape.png", "images/b.png"),
        ] {
            fs::copy(here(from), scene.path(to)).unwrap();
        }
        fs::write(scene.path("labels.tsv"), "a.png\t3\nb.png\t7\n").unwrap();
        fs::write(scene.path("list.txt"), "a.png\nb.png\n").unwrap();
        fs::write(
            scene.path("plan.toml"),
            "out = 'sweep'\npresets = ['base-ptq']\nbits = [8]\n[[models]]\nmodel = 'model.safetensors'\n\
             [calibration]\nimages = 'images'\ncount = 1\n\
             [evaluation]\nimages = 'images'\nlabels = 'labels.tsv'\n",
        )
        .unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program in this folder.
    fn program(&self, subcommand: &str) -> Program {
        Program {
            folder: self.0.path().to_owned(),
            ..program(subcommand)
        }
    }

    fn calibrate(&self, out: impl AsRef<Path>) -> Program {
        self.program("calibrate")
            .with("--model", "model.safetensors")
            .with("--images", "images")
            .with("--count", "1")
            .with("--preset", "ptq4vit")
            .with("--candidates", "10")
            .with("--rounds", "1")
            .with("--device", "cpu")
            .with("--out", out.as_ref())
    }

    fn eval(&self, out: impl AsRef<Path>) -> Program {
        self.program("eval")
            .with("--model", "model.safetensors")
            .with("--images", "images")
            .with("--labels", "labels.tsv")
            .with("--device", "cpu")
            .with("--out", out.as_ref())
    }

    fn verify(&self, out: impl AsRef<Path>) -> Program {
        self.program("verify")
            .with("--device", "cpu")
            .with("--kernel", "add")
            .with("--out", out.as_ref())
    }

    /// A link.
    fn link(&self, name: &str, to: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        symlink(to, &path).unwrap();
        path
    }

    /// A pipe, or a device where root runs the test.
    fn node(&self, name: &str, kind: &[&str]) -> Option<PathBuf> {
        let path = self.path(name);
        let made = Command::new("mknod").arg(&path).args(kind).output();
        made.unwrap().status.success().then_some(path)
    }

    fn pipe(&self, name: &str) -> PathBuf {
        self.node(name, &["p"]).expect("anybody may make a pipe")
    }

    /// The names of everything in the folder.
    fn names(&self) -> Vec<PathBuf> {
        let entries = walkdir::WalkDir::new(self.0.path()).sort_by_file_name();
        entries
            .into_iter()
            .map(|it| it.unwrap().into_path())
            .collect()
    }
}

fn kind(path: &Path) -> Metadata {
    path.symlink_metadata().unwrap()
}

/// The value of `format` in a part or a report.
fn format_of(text: &[u8]) -> String {
    let value: Value = serde_json::from_slice(text).unwrap_or_else(|error| {
        panic!("{error} in {}", String::from_utf8_lossy(text));
    });
    value["format"].as_str().unwrap().to_owned()
}

const PART: &str = "ptq4vit-gpu evaluation";
const REPORT: &str = "ptq4vit-gpu verification";

#[track_caller]
fn refused(outcome: Outcome, code: i32, says: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome}");
    for part in says {
        assert!(outcome.stderr.contains(part), "{outcome}\nlacks {part}");
    }
    // It was found before the work.
    assert!(!outcome.stderr.contains("device: "), "{outcome}");
}

#[test]
fn a_device_and_a_pipe_are_written_to_and_stay() {
    let scene = Scene::new();
    // As /dev/null, where that is allowed; else itself.
    let null = scene
        .node("null", &["c", "1", "3"])
        .unwrap_or("/dev/null".into());
    let link = scene.link("link", &null);
    for program in [
        scene.eval(&null),
        scene.verify(&null),
        scene.eval(&link),
        scene.calibrate("q.safetensors").with("--report", &null),
        scene.calibrate("q.safetensors").with("--plan-out", &null),
    ] {
        let before = kind(&null);
        program.run().success();
        let after = kind(&null);
        assert!(after.file_type().is_char_device());
        assert_eq!((after.rdev(), after.ino()), (before.rdev(), before.ino()));
        assert!(kind(&link).is_symlink());
    }

    let pipe = scene.pipe("pipe");
    let link = scene.link("to_pipe", "pipe");
    for (program, format) in [
        (scene.eval(&pipe), PART),
        (scene.eval(&link), PART),
        (scene.verify(&pipe), REPORT),
    ] {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        program.run().success();
        assert_eq!(format_of(&reader.join().unwrap()), format);
        assert!(kind(&pipe).file_type().is_fifo());
    }
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    scene
        .calibrate("q.safetensors")
        .with("--report", &pipe)
        .run()
        .success();
    let page = reader.join().unwrap();
    assert!(
        page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"),
        "{page}"
    );
}

#[test]
fn stdout_is_an_output_too() {
    let scene = Scene::new();
    let link = scene.link("stdout", "/dev/stdout");
    let paths = [
        "/dev/stdout",
        "/dev/fd/1",
        "/proc/self/fd/1",
        link.to_str().unwrap(),
    ];
    for path in paths {
        let (stdout, _) = scene.verify(path).run().success();
        let (text, report) = stdout.split_at(stdout.find("\n{").unwrap());
        assert!(text.contains("all as on the CPU"), "{text}");
        assert_eq!(format_of(report.as_bytes()), REPORT);
        assert!(kind(&link).is_symlink());

        // A regular file is written on, not replaced, and in order.
        let file = scene.path("stdout.txt");
        let program = scene.eval(path);
        let outcome = program.run_with_stdout(File::create(&file).unwrap());
        assert_eq!(outcome.code, Some(0), "{outcome}");
        let text = fs::read_to_string(file).unwrap();
        let (part, figures) = text.split_at(text.find("\nimages ").unwrap());
        assert_eq!(format_of(part.as_bytes()), PART);
        assert!(figures.ends_with("skipped       0\n"), "{figures}");
    }
    for path in ["/dev/stderr", "/dev/fd/2"] {
        let (_, stderr) = scene.eval(path).flag("--quiet").run().success();
        assert_eq!(format_of(stderr.as_bytes()), PART);
    }
}

#[test]
fn open_files_of_the_shell_are_written_to() {
    let scene = Scene::new();
    let run = |script: &str| {
        let output = bash(&scene, script);
        assert!(output.status.success(), "{output:?}");
    };
    let eval = "\"$PROGRAM\" eval -q --device cpu --model model.safetensors --images images --labels labels.tsv";
    run(&format!("{eval} --out /dev/fd/7 7>seven.json"));
    assert_eq!(
        format_of(&fs::read(scene.path("seven.json")).unwrap()),
        PART
    );
    run(&format!(
        "echo before >nine; {eval} --out /proc/self/fd/9 9>>nine"
    ));
    let nine = fs::read_to_string(scene.path("nine")).unwrap();
    let part = nine.strip_prefix("before\n").expect("what was there stays");
    assert_eq!(format_of(part.as_bytes()), PART);
    run(&format!(
        "{eval} --out >(cat >cat.json; echo done >done.txt); until [ -s done.txt ]; do sleep 0.01; done"
    ));
    assert_eq!(format_of(&fs::read(scene.path("cat.json")).unwrap()), PART);
    let closed = scene.eval("/dev/fd/99").run();
    refused(closed, INPUT, &["/dev/fd/99: can't be written"]);
}

/// Runs a script in the scene's folder, which finds the program as `$PROGRAM`.
fn bash(scene: &Scene, script: &str) -> Output {
    Command::new("bash")
        .args(["-c", script])
        .env("PROGRAM", env!("CARGO_BIN_EXE_ptq4vit-gpu"))
        .env_remove("RUST_LOG")
        .current_dir(scene.0.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn links_stay_and_what_they_lead_to_is_replaced() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("runs/one")).unwrap();
    scene.link("latest", "runs/one");
    // A chain over relative links and a linked folder, to a file that isn't there yet.
    scene.link("chain", "latest/chain");
    scene.link("runs/one/chain", "../q.safetensors");
    let target = scene.path("runs/q.safetensors");
    for _ in 0..2 {
        let (_, stderr) = scene.calibrate("chain").run().success();
        assert!(!stderr.contains("journal: "), "{stderr}");
        assert!(kind(&scene.path("chain")).is_symlink());
        assert!(kind(&scene.path("runs/one/chain")).is_symlink());
        assert!(kind(&target).is_file());
        let (text, _) = scene
            .program("inspect")
            .with("--sort", "error")
            .flag("chain")
            .run()
            .success();
        assert!(text.starts_with("model        vit_mnist"), "{text}");
    }
    // Its journal, and what is unfinished, were beside the file itself.
    assert_eq!(fs::read_dir(scene.path("runs")).unwrap().count(), 2);

    // Through the folder's link too, for the other outputs.
    let absolute = scene.link("absolute", scene.path("runs/part.json"));
    scene.eval(&absolute).run().success();
    scene.verify("latest/report.json").run().success();
    assert!(kind(&absolute).is_symlink());
    assert_eq!(
        format_of(&fs::read(scene.path("runs/part.json")).unwrap()),
        PART
    );
    assert_eq!(
        format_of(&fs::read(scene.path("runs/one/report.json")).unwrap()),
        REPORT
    );
    let page = scene.link("page", "runs/page.html");
    scene
        .calibrate("chain")
        .with("--report", &page)
        .run()
        .success();
    assert!(kind(&page).is_symlink() && kind(&scene.path("runs/page.html")).is_file());
    scene.link("pages", "runs");
    scene.link("runs/ptq4vit-gpu.1", "one/program.1");
    scene.program("man").with("--out", "pages").run().success();
    assert!(kind(&scene.path("runs/ptq4vit-gpu.1")).is_symlink());
    assert!(kind(&scene.path("runs/one/program.1")).is_file());

    // Two names are one output.
    let journal = scene.path("runs/q.safetensors.journal");
    fs::write(&journal, "notes of mine\n").unwrap();
    let taken = scene.calibrate("chain").run();
    assert_eq!(taken.code, Some(INPUT), "{taken}");
    assert!(
        taken
            .stderr
            .contains("q.safetensors.journal: is no journal"),
        "{taken}"
    );
    fs::remove_file(journal).unwrap();

    // Where there is nothing to lead to.
    scene.link("lost", "none/q.safetensors");
    scene.link("circle", "circle");
    for out in ["lost", "circle"] {
        refused(
            scene.calibrate(out).run(),
            INPUT,
            &[out, "can't be written"],
        );
        refused(scene.eval(out).run(), INPUT, &[out, "can't be written"]);
        assert!(kind(&scene.path(out)).is_symlink());
    }
}

#[test]
fn what_takes_no_bytes_is_refused_by_name() {
    let scene = Scene::new();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("socket")).unwrap();
    let mut nodes = vec![("socket", "is a socket"), ("images", "is a folder")];
    if scene.node("block", &["b", "7", "99"]).is_some() {
        nodes.push(("block", "is a block device"));
    }
    nodes.extend([
        ("new/", "is the name of a folder"),
        ("none/x", "can't be written"),
    ]);
    let before = scene.names();
    for (out, says) in nodes {
        let says = [out, says];
        refused(scene.calibrate(out).run(), INPUT, &says);
        refused(
            scene.calibrate("q.safetensors").with("--report", out).run(),
            INPUT,
            &says,
        );
        refused(scene.eval(out).run(), INPUT, &says);
        refused(scene.verify(out).run(), INPUT, &says);
        if kind_is_taken(&scene.path(out)) {
            let export = scene.program("demo").with("--export", out);
            refused(export.run(), INPUT, &[out, "exists"]);
        }
        assert_eq!(scene.names(), before, "{out}");
    }
}

fn kind_is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[test]
fn a_quantized_file_needs_a_place_for_its_journal() {
    let scene = Scene::new();
    let pipe = scene.pipe("pipe");
    let mut outs = vec![pipe, "/dev/null".into(), "/dev/stdout".into()];
    outs.push(scene.link("link", "pipe"));
    outs.extend(scene.node("null", &["c", "1", "3"]));
    let before = scene.names();
    for out in outs {
        let says = [out.to_str().unwrap(), "is no regular file", "journal"];
        refused(scene.calibrate(&out).run(), INPUT, &says);
        assert_eq!(scene.names(), before);
    }
    // So do a sweep's results.
    for name in [
        "model-base-ptq-w8a8.safetensors",
        "model-base-ptq-w8a8.json",
    ] {
        fs::create_dir_all(scene.path("sweep")).unwrap();
        let pipe = scene.pipe(&format!("sweep/{name}"));
        let sweep = scene
            .program("sweep")
            .with("--plan", "plan.toml")
            .with("--task", "0")
            .flag("--redo");
        refused(
            sweep.run(),
            INPUT,
            &[name, "is no regular file", "read again"],
        );
        fs::remove_file(pipe).unwrap();
    }
}

#[test]
fn a_journal_is_a_file_of_its_own() {
    let scene = Scene::new();
    let path = scene.path("q.safetensors.journal");
    fs::write(scene.path("precious"), "precious").unwrap();
    let makes: [&dyn Fn(); 3] = [
        &|| drop(scene.link("q.safetensors.journal", "precious")),
        &|| drop(scene.pipe("q.safetensors.journal")),
        &|| fs::create_dir(&path).unwrap(),
    ];
    for make in makes {
        make();
        let before = kind(&path);
        let run = scene.calibrate("q.safetensors").flag("--restart").run();
        refused(run, INPUT, &["q.safetensors.journal", "is no regular file"]);
        assert_eq!(
            (kind(&path).ino(), kind(&path).mode()),
            (before.ino(), before.mode())
        );
        assert_eq!(fs::read(scene.path("precious")).unwrap(), b"precious");
        match before.is_dir() {
            true => fs::remove_dir(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
    }
}

#[test]
fn what_is_read_is_not_replaced() {
    let scene = Scene::new();
    let calibrate = scene.calibrate("q.safetensors");
    calibrate.with("--plan-out", "p.toml").run().success();
    fs::hard_link(
        scene.path("model.safetensors"),
        scene.path("hard.safetensors"),
    )
    .unwrap();
    scene.link("soft.tsv", "labels.tsv");
    fs::create_dir(scene.path("images/more")).unwrap();
    fs::rename(scene.path("images/b.png"), scene.path("images/more/b.png")).unwrap();
    fs::write(scene.path("labels.tsv"), "a.png\t3\nmore/b.png\t7\n").unwrap();
    fs::copy(scene.path("list.txt"), scene.path("x.journal")).unwrap();
    fs::write(scene.path("x.journal"), "a.png\n").unwrap();
    fs::write(scene.path("add.wgsl"), "").unwrap();
    let contents = |scene: &Scene| -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let names = scene.names().into_iter();
        names
            .map(|name| (name.clone(), fs::read(&name).ok()))
            .collect()
    };
    let before = contents(&scene);
    let calibrate = |out: &str| scene.calibrate(out);
    let page = |out: &str| {
        scene
            .calibrate("new")
            .with("--report", out)
            .with("--report-images", "images")
            .with("--report-labels", "labels.tsv")
    };
    let eval = |out: &str| scene.eval(out).with("--quantized", "q.safetensors");
    let verify = |out: &str| {
        let verify = scene.program("verify").with("--model", "model.safetensors");
        verify
            .with("--quantized", "q.safetensors")
            .with("--images", "images")
            .with("--out", out)
    };
    let plan_out = |out: &str| calibrate("new").with("--plan-out", out);
    for (run, says) in [
        (plan_out("model.safetensors"), "--model"),
        (plan_out("p.toml").with("--plan", "p.toml"), "--plan"),
        (plan_out("new"), "--out"),
        (plan_out("new.journal"), "journal"),
        (plan_out("page").with("--report", "./page"), "--report"),
        (calibrate("model.safetensors"), "--model"),
        (calibrate("hard.safetensors"), "--model"),
        (calibrate("images/../config.json"), "--model"),
        (
            calibrate("images/a.png").with("--list", "x.journal"),
            "--images",
        ),
        (calibrate("images/more/b.png"), "--images"),
        (calibrate("x.journal").with("--list", "x.journal"), "--list"),
        (
            calibrate("x").with("--list", "x.journal").flag("--restart"),
            "journal",
        ),
        (page("model.safetensors"), "--model"),
        (page("labels.tsv"), "--report-labels"),
        (page("soft.tsv"), "--report-labels"),
        (page("images/more/b.png"), "--images"),
        (page("new"), "--out"),
        (page("./images/../new"), "--out"),
        (page("new.journal"), "journal"),
        (eval("model.safetensors"), "--model"),
        (eval("hard.safetensors"), "--model"),
        (eval("config.json"), "--model"),
        (eval("q.safetensors"), "--quantized"),
        (eval("soft.tsv"), "--labels"),
        (eval("images/more/b.png"), "--images"),
        (verify("config.json"), "--model"),
        (verify("q.safetensors"), "--quantized"),
        (verify("images/a.png"), "--images"),
        (
            verify("add.wgsl").with("--shader", "add=add.wgsl"),
            "--shader",
        ),
    ] {
        refused(run.run(), USAGE, &[" would replace ", says]);
        assert!(contents(&scene) == before, "{says}");
    }
    // A sweep's plan under the name of a result.
    fs::create_dir(scene.path("sweep")).unwrap();
    let plan = "sweep/model-base-ptq-w8a8.safetensors.journal";
    fs::copy(scene.path("plan.toml"), scene.path(plan)).unwrap();
    let sweep = scene
        .program("sweep")
        .with("--plan", plan)
        .with("--task", "0")
        .flag("--restart");
    refused(sweep.run(), USAGE, &["journal would replace the --plan"]);
}

#[test]
fn a_replaced_file_keeps_its_mode_and_owner_and_other_names_their_content() {
    let scene = Scene::new();
    let is_root = kind(scene.0.path()).uid() == 0;
    for (out, mode) in [("part.json", 0o640), ("other.json", 0o606)] {
        let path = scene.path(out);
        fs::write(&path, "before").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if is_root {
            std::os::unix::fs::chown(&path, Some(4321), Some(1234)).unwrap();
        }
        let hard = scene.path("hard");
        fs::hard_link(&path, &hard).unwrap();
        let before = kind(&path);
        scene.eval(out).run().success();
        let after = kind(&path);
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_eq!(format_of(&fs::read(&path).unwrap()), PART);
        assert_eq!(fs::read(&hard).unwrap(), b"before");
        fs::remove_file(hard).unwrap();
    }
}

/// A file that is mounted by itself, as containers have them, keeps its place: it is written over.
#[test]
fn a_mounted_file_is_written_over() {
    let scene = Scene::new();
    fs::write(scene.path("outside.json"), "x".repeat(100_000)).unwrap();
    fs::write(scene.path("part.json"), "").unwrap();
    let script = "unshare --mount bash -c 'mount --bind outside.json part.json' || exit 99
        unshare --mount bash -c 'mount --bind outside.json part.json && \
        exec \"$PROGRAM\" eval --device cpu --model model.safetensors --images images --labels labels.tsv --out part.json'";
    let output = bash(&scene, script);
    if output.status.code() == Some(99) {
        eprintln!("nothing can be mounted here");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        format_of(&fs::read(scene.path("outside.json")).unwrap()),
        PART
    );
    assert_eq!(fs::read(scene.path("part.json")).unwrap(), b"");
}

/// What permissions forbid is found before the work. Root may do everything, so that it runs as somebody else then.
#[test]
fn what_is_forbidden_is_found_before_the_work() {
    use std::os::unix::process::CommandExt;
    let scene = Scene::new();
    let is_root = kind(scene.0.path()).uid() == 0;
    for folder in ["closed", "open"] {
        fs::create_dir(scene.path(folder)).unwrap();
    }
    fs::write(scene.path("open/kept.json"), "kept").unwrap();
    fs::write(scene.path("open/kept.safetensors"), "kept").unwrap();
    for (path, mode) in [
        ("closed", 0o555),
        ("open", 0o777),
        ("open/kept.json", 0o444),
        ("open/kept.safetensors", 0o444),
        ("", 0o755),
    ] {
        fs::set_permissions(scene.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    // Where anybody may run it.
    let binary = scene.path("program");
    fs::copy(env!("CARGO_BIN_EXE_ptq4vit-gpu"), &binary).unwrap();
    let run = |program: Program| {
        let mut command = Command::new(&binary);
        command
            .args(&program.arguments)
            .current_dir(scene.0.path())
            .env_remove("RUST_LOG");
        command
            .env("HOME", scene.path("closed"))
            .env_remove("XDG_CACHE_HOME");
        if is_root {
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(INPUT), "{stderr}");
        stderr
    };
    let before = scene.names();
    for program in [
        scene.calibrate("closed/q.safetensors"),
        scene.calibrate("open/kept.safetensors"),
        scene
            .calibrate("open/q")
            .with("--report", "closed/page.html"),
        scene.eval("closed/part.json"),
        scene.eval("open/kept.json"),
        scene.verify("closed/report.json"),
        scene.program("man").with("--out", "closed"),
        scene.program("man").with("--out", "closed/man"),
        scene.program("demo").with("--export", "closed/demo"),
    ] {
        let stderr = run(program);
        assert!(stderr.contains("Permission denied"), "{stderr}");
        assert!(!stderr.contains("device: "), "{stderr}");
        assert_eq!(scene.names(), before, "{stderr}");
    }
    // A device has to be opened to know the file's name.
    if let Some(stderr) = tune(&scene, &run) {
        assert!(stderr.contains("Permission denied"), "{stderr}");
        assert!(!stderr.contains("product "), "{stderr}");
    }
}

/// What `bench --tune` says where there is a device to tune.
fn tune(scene: &Scene, run: &dyn Fn(Program) -> String) -> Option<String> {
    let devices = program("devices").flag("--json").run().json();
    let has_adapter = devices.as_array().unwrap().len() > 1;
    has_adapter.then(|| run(scene.program("bench").flag("--tune")))
}

#[test]
fn no_page_is_written_unless_all_can_be() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("man/ptq4vit-gpu-verify.1")).unwrap();
    let man = scene.program("man").with("--out", "man").run();
    refused(man, INPUT, &["ptq4vit-gpu-verify.1", "is a folder"]);
    assert_eq!(fs::read_dir(scene.path("man")).unwrap().count(), 1);
}

#[test]
fn nobody_reading_ends_it_quietly() {
    let scene = Scene::new();
    scene.calibrate("q.safetensors").run().success();
    scene.eval("part.json").run().success();
    scene.verify("report.json").run().success();
    let programs = || {
        let mut programs = vec![
            program("completions").flag("bash"),
            program("--version"),
            program("--help"),
            scene.program("man").with("--out", "man"),
            scene.calibrate("new.safetensors"),
            scene.calibrate("new.safetensors").flag("--json"),
            scene
                .program("verify")
                .with("--device", "cpu")
                .with("--kernel", "add"),
            scene
                .program("verify")
                .with("--against", "report.json")
                .flag("report.json"),
            scene.program("merge").flag("part.json"),
            scene.program("sweep").with("--plan", "plan.toml"),
            scene
                .program("sweep")
                .with("--plan", "plan.toml")
                .flag("--count"),
            scene.program("inspect").flag("q.safetensors"),
            scene
                .program("classify")
                .with("--quantized", "q.safetensors")
                .flag("images")
                .with("--device", "cpu"),
            scene.eval("new.json"),
            program("demo").with("--device", "cpu"),
            program("bench")
                .with("--device", "cpu")
                .with("--kernel", "gelu")
                .with("--shape", "8,8,8"),
        ];
        for name in ["models", "devices"] {
            programs.extend([program(name), program(name).flag("--json")]);
        }
        programs
    };
    for program in programs() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let outcome = program.run_with_stdout(writer);
        let is_claps = outcome.to_string().starts_with("[\"--");
        assert_eq!(
            outcome.code,
            Some(if is_claps { 0 } else { UNREAD }),
            "{outcome}"
        );
        for word in ["error", "roken pipe", "os error"] {
            assert!(!outcome.stderr.contains(word), "{outcome}");
        }
    }
    // What was finished by then is there.
    assert_eq!(format_of(&fs::read(scene.path("new.json")).unwrap()), PART);
    assert!(!kind_is_taken(&scene.path("new.safetensors.journal")));

    let head = bash(
        &scene,
        "\"$PROGRAM\" models | head -n 1; exit ${PIPESTATUS[0]}",
    );
    assert_eq!(head.stderr, b"");
    let first = String::from_utf8(head.stdout).unwrap();
    assert_eq!(first.lines().count(), 1, "{first}");
    // An output that is a pipe ends so too.
    let pipe = scene.pipe("pipe");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut file = File::open(pipe).unwrap();
            file.read_exact(&mut [0; 16]).unwrap();
        }
    });
    // More than a pipe holds.
    let outcome = scene
        .calibrate("q.safetensors")
        .with("--report", &pipe)
        .run();
    reader.join().unwrap();
    assert_eq!(outcome.code, Some(UNREAD), "{outcome}");
    assert!(!outcome.stderr.contains("error"), "{outcome}");
}

#[test]
fn a_stderr_that_cannot_be_written_is_no_crash() {
    let scene = Scene::new();
    for (script, code) in [
        ("\"$PROGRAM\" calibrate 2>/dev/full", USAGE),
        ("\"$PROGRAM\" inspect none 2>/dev/full", INPUT),
        ("\"$PROGRAM\" inspect none 2>&-", INPUT),
        ("\"$PROGRAM\" models >/dev/null 2>/dev/full", 0),
    ] {
        let output = bash(&scene, script);
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
    }
}
