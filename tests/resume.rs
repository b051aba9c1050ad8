//! Runs that end before their time: killed, interrupted, without disk, device or memory. The same command goes on, and its
//! result is byte for byte that of a run that nothing happened to.

mod common;
#[path = "common/program.rs"]
mod program;

use image::{Rgb, RgbImage};
use program::{Outcome, Program, here, program};
use ptq4vit_gpu::data::samples::{calibration_set, load_all};
use ptq4vit_gpu::device::{Device, adapters, open};
use ptq4vit_gpu::error::{Error, Result};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::graph::Site;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::recipe::{Resolved, resolve};
use ptq4vit_gpu::quant::{
    Allotment, Calibration, CalibrationBuilder, CalibrationIdentity, Event, Finding, Journal,
    JournalLock, Landscape, Method, OperandKind, Phase, Policy, Preset, Provenance, QuantizedSite,
    SiteReport, Transform,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const INPUT: i32 = 3;
const INTERRUPTED: i32 = 130;

/// Sites of the golden oracle's ViT: two blocks of six, the embedding and the head.
const SITES: usize = 14;

/// A folder with `model.safetensors`, the golden oracle's ViT, and `images`, for a calibration on four of them that is slow
/// enough to be caught at work.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for number in 0..5 {
            let noise = |x: u32, y: u32| (x * 37 + y * 101 + x * y * (number + 90)) as u8;
            RgbImage::from_fn(32, 32, |x, y| {
                Rgb([noise(x, y), noise(y, x), noise(x, y + 1)])
            })
            .save(images.join(format!("{number}.png")))
            .unwrap();
        }
        let model = here("tests/golden/vit_micro.safetensors");
        std::fs::copy(model, folder.path().join("model.safetensors")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.path("out.safetensors")
    }

    fn journal(&self) -> PathBuf {
        self.path("out.safetensors.journal")
    }

    fn calibrate(&self, device: &str) -> Program {
        self.calibrate_with(device, 60, 4, 6)
    }

    fn calibrate_with(&self, device: &str, candidates: usize, count: usize, bits: u32) -> Program {
        program("calibrate")
            .with("--model", self.path("model.safetensors"))
            .with("--images", self.path("images"))
            .with("--out", self.out())
            .with("--preset", "ptq4vit")
            .with("--candidates", candidates.to_string())
            .with("--count", count.to_string())
            .with("--bits", bits.to_string())
            .with("--device", device)
            .with("--transform", "layer-norm")
            .flag("--bias-correction")
            .flag("--exhaustive")
    }

    /// What a run that nothing happens to writes.
    fn undisturbed(&self, device: &str) -> Vec<u8> {
        self.calibrate(device).run().success();
        let file = std::fs::read(self.out()).unwrap();
        std::fs::remove_file(self.out()).unwrap();
        file
    }

    /// The same command goes on to its end, and its result is `expected`.
    #[track_caller]
    fn goes_on(&self, device: &str, expected: &[u8]) -> String {
        let (_, stderr) = self.calibrate(device).run().success();
        self.is_finished(expected);
        stderr
    }

    /// The result is `expected`, and nothing lies beside it.
    #[track_caller]
    fn is_finished(&self, expected: &[u8]) {
        // Not `assert_eq!`, which would print megabytes.
        assert!(
            std::fs::read(self.out()).unwrap() == expected,
            "other bytes"
        );
        assert_eq!(
            self.names(),
            ["images", "model.safetensors", "out.safetensors"]
        );
    }

    /// What is in the folder.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let names: BTreeSet<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.into_iter().collect()
    }

    /// Complete lines of the journal: one more than sites, once it is begun.
    fn lines(&self) -> usize {
        let journal = std::fs::read(self.journal()).unwrap_or_default();
        journal.iter().filter(|&&byte| byte == b'\n').count()
    }
}

/// `--device` as it is passed: the CPU, and the first adapter.
fn two_devices() -> [&'static str; 2] {
    assert!(!adapters().is_empty(), "no GPU adapter is left to test");
    ["cpu", "0"]
}

#[test]
fn killed_at_random_points() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut killed_at = BTreeSet::new();
    let mut kills = 0;
    for device in two_devices() {
        let scene = Scene::new();
        let start = Instant::now();
        let expected = scene.undisturbed(device);
        let duration = start.elapsed();
        for _ in 0..3 {
            // Until a run gets to its end between two kills.
            loop {
                let more = random.random_range(0..5);
                let delay = duration.mul_f64(random.random_range(0.0..0.2));
                let enough = scene.lines() + more;
                let mut run = scene.calibrate(device).start(Stdio::piped());
                let is_running =
                    |run: &mut program::Running| run.child.try_wait().unwrap().is_none();
                while scene.lines() < enough && is_running(&mut run) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(delay);
                // Nothing to one that is at its end already.
                run.child.kill().unwrap();
                let outcome = run.finish();
                if outcome.code.is_some() {
                    outcome.success();
                    break;
                }
                kills += 1;
                killed_at.insert((device, scene.lines()));
            }
            scene.goes_on(device, &expected);
            std::fs::remove_file(scene.out()).unwrap();
        }
    }
    println!("{kills} kills, at {killed_at:?}");
    assert!(kills >= 20, "{kills} kills");
    assert!(killed_at.len() >= 10, "{killed_at:?}");
}

#[test]
fn interrupted() {
    for device in two_devices() {
        let scene = Scene::new();
        let expected = scene.undisturbed(device);
        for signal in ["INT", "TERM"] {
            let lines = scene.lines();
            let run = scene.calibrate(device).start(Stdio::piped());
            while scene.lines() < lines.max(1) + 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
            signalled(signal, &run);
            let outcome = run.finish();
            assert_eq!(outcome.code, Some(INTERRUPTED), "{outcome}");
            let done = scene.lines() - 1;
            let says = format!(
                "interrupted; the same command goes on: {done} of {SITES} sites are done\n"
            );
            assert!(outcome.stderr.ends_with(&says), "{outcome}");
            assert_eq!(
                scene.names(),
                ["images", "model.safetensors", "out.safetensors.journal"]
            );
        }
        let done = scene.lines() - 1;
        let stderr = scene.goes_on(device, &expected);
        let says = format!("journal: {done} of {SITES} sites are done");
        assert!(stderr.contains(&says), "{stderr}");
    }
}

#[test]
fn interrupted_before_anything_is_found() {
    let scene = Scene::new();
    let run = scene.calibrate("0").start(Stdio::piped());
    while !scene.journal().exists() {
        std::thread::yield_now();
    }
    signalled("INT", &run);
    let outcome = run.finish();
    assert_eq!(outcome.code, Some(INTERRUPTED), "{outcome}");
    assert_eq!(scene.names(), ["images", "model.safetensors"], "{outcome}");
}

fn signalled(signal: &str, run: &program::Running) {
    let kill = format!("kill -{signal} {}", run.child.id());
    let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success());
}

/// The calibration of a [`Scene`] as the program makes it, to be disturbed from within.
struct Inside {
    weights: Weights,
    resolved: Resolved,
    method: Method,
    provenance: Provenance,
    images: Vec<Vec<f32>>,
    budget: Option<u64>,
}

impl Inside {
    fn new(scene: &Scene) -> Self {
        let weights = Weights::open(scene.path("model.safetensors")).unwrap();
        let resolved = resolve(&weights, None).unwrap();
        let samples = calibration_set(&scene.path("images"), None, 4, 0).unwrap();
        let preset = Preset::Ptq4vit;
        let sites = sites(&resolved.architecture);
        let mut method = Method::preset(preset, 6, 6, &sites).unwrap();
        method.settings.candidates = 60;
        method.settings.exhaustive = true;
        // What codes and biases are can't be told from the scales alone.
        method.settings.transforms = vec![Transform::LayerNorm];
        method.settings.bias_correction = true;
        Self {
            provenance: Provenance::new(&weights, &resolved.name, preset, Some(0), &samples)
                .unwrap(),
            images: load_all(&samples, &resolved.preprocessing)
                .into_iter()
                .map(|image| image.unwrap())
                .collect(),
            weights,
            resolved,
            method,
            budget: None,
        }
    }

    fn identity(&self, device: &Device) -> CalibrationIdentity {
        CalibrationIdentity::new(&self.provenance, &self.resolved, &self.method, device)
    }

    fn open(&self, scene: &Scene, device: &Device) -> Result<(Journal, Vec<Finding>)> {
        // A program that another test is just starting holds what is open here until it is loaded.
        let is_held = |lock: &Result<JournalLock>| {
            let error = lock.as_ref().err().map(Error::to_string);
            error.is_some_and(|error| error.contains("another process"))
        };
        let mut lock = JournalLock::take(&scene.out());
        while is_held(&lock) {
            std::thread::yield_now();
            lock = JournalLock::take(&scene.out());
        }
        lock?.open(&self.identity(device), false)
    }

    /// Calibrates on `device`, which `on_site` may disturb when so many sites are finished, and returns what recoveries were
    /// told too.
    fn run(
        &self,
        device: &mut Device,
        findings: Vec<Finding>,
        reopen: &dyn Fn() -> Result<Device>,
        on_site: &mut dyn FnMut(&SiteReport, &QuantizedSite) -> Result<()>,
    ) -> (Result<Calibration>, Vec<String>) {
        let mut recoveries = Vec::new();
        let opened = device.clone();
        let outcome = self
            .calibration(&opened)
            .going_on_from(findings)
            .reopening(device, reopen)
            .on_event(&mut |event| {
                match event {
                    Event::Found(report, quantized) => return on_site(report, quantized),
                    Event::Recovery(what) => recoveries.push(what.to_owned()),
                    _ => {}
                }
                Ok(())
            })
            .run();
        (outcome, recoveries)
    }

    /// Does `work` on `device`, which is lost as soon as it is in this `phase`, or which has no more than `limit` bytes of
    /// memory, and returns what recoveries were told too.
    fn disturbed<T>(
        &self,
        device: &mut Device,
        phase: Option<Phase>,
        limit: Option<u64>,
        work: impl FnOnce(CalibrationBuilder) -> Result<T>,
    ) -> (T, Vec<String>) {
        let mut recoveries = Vec::new();
        let opened = device.clone();
        opened.memory().set_limit(limit.unwrap_or(u64::MAX));
        let reopen = || open(Some("0")).map(|selection| selection.device);
        let on_event = &mut |event: Event| {
            match event {
                Event::Progress(progress) if Some(progress.phase) == phase => opened.destroy(),
                Event::Recovery(what) => recoveries.push(what.to_owned()),
                _ => {}
            }
            Ok(())
        };
        let calibration = self.calibration(&opened);
        let outcome = work(calibration.reopening(device, &reopen).on_event(on_event));
        opened.memory().set_limit(u64::MAX);
        (outcome.unwrap(), recoveries)
    }

    fn calibration(&self, device: &Device) -> CalibrationBuilder<'_> {
        Calibration::builder(device, &self.weights, &self.resolved.architecture)
            .method(&self.method)
            .images(&self.images)
            .memory_budget(self.budget)
    }

    /// Whether a calibration begins with this budget.
    fn is_enough(&mut self, device: &Device, bytes: u64) -> bool {
        self.budget = Some(bytes);
        let begun = &mut |_: Event| Err(Error::Check("it begins".into()));
        let outcome = self.calibration(device).on_event(begun).run();
        match outcome.map(drop).unwrap_err() {
            Error::Check(_) => true,
            Error::InvalidSetting { .. } => false,
            other => panic!("{other}"),
        }
    }

    fn undisturbed(&self, device: &Device) -> Calibration {
        let reopen = || panic!("it isn't lost");
        let mut same = device.clone();
        let (outcome, recoveries) = self.run(&mut same, Vec::new(), &reopen, &mut |_, _| Ok(()));
        assert_eq!(recoveries, [""; 0]);
        outcome.unwrap()
    }

    /// Leaves a journal of the first `sites` sites on the CPU.
    fn leave_journal(&self, scene: &Scene, sites: usize) {
        let device = &mut Device::cpu();
        let (mut journal, findings) = self.open(scene, device).unwrap();
        assert!(findings.is_empty());
        let reopen = || panic!("it isn't lost");
        let (stopped, _) = self.run(device, findings, &reopen, &mut |report, quantized| {
            journal.add(report, quantized)?;
            match journal.done() == sites {
                true => Err(Error::Check("enough".into())),
                false => Ok(()),
            }
        });
        assert!(matches!(stopped, Err(Error::Check(_))));
    }
}

#[test]
fn a_journal_keeps_sites_exactly_and_is_gone_with_the_output() {
    let scene = Scene::new();
    let inside = Inside::new(&scene);
    let expected = scene.undisturbed("cpu");
    inside.leave_journal(&scene, 9);
    let whole = inside.undisturbed(&Device::cpu());
    let (journal, findings) = inside.open(&scene, &Device::cpu()).unwrap();
    assert_eq!(findings.len(), 9);
    for finding in &findings {
        let site = &finding.report.site;
        assert_eq!(finding.quantized, whole.sites[site], "{site}");
        let report = whole.reports.iter().find(|report| report.site == *site);
        assert_eq!(finding.report.score, report.unwrap().score, "{site}");
    }
    drop(journal);
    let stderr = scene.goes_on("cpu", &expected);
    assert!(
        stderr.contains("journal: 9 of 14 sites are done"),
        "{stderr}"
    );

    // Everything is found, and only the output is missing.
    inside.leave_journal(&scene, SITES);
    let report = scene.calibrate("cpu").flag("--json").run().json();
    assert_eq!(report["seconds"]["search"], 0.0);
    assert_eq!(report["sites"].as_array().unwrap().len(), SITES);
    scene.is_finished(&expected);
}

#[test]
fn a_line_that_was_cut_short_is_left_out() {
    let scene = Scene::new();
    let inside = Inside::new(&scene);
    inside.leave_journal(&scene, 4);
    let whole = std::fs::read(scene.journal()).unwrap();
    for length in (0..whole.len())
        .step_by(whole.len() / 150)
        .chain([whole.len() - 1])
    {
        std::fs::write(scene.journal(), &whole[..length]).unwrap();
        let lines = whole[..length]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        let (journal, findings) = inside.open(&scene, &Device::cpu()).unwrap();
        assert_eq!(findings.len(), lines.saturating_sub(1), "{length} bytes");
        drop(journal);
        // What is no line is gone from the file too, and without a finding so is the file.
        let left = std::fs::read(scene.journal()).ok();
        let end = whole[..length].iter().rposition(|&byte| byte == b'\n');
        let expected = end.filter(|_| lines > 1).map(|end| &whole[..=end]);
        assert_eq!(left.as_deref(), expected, "{length} bytes");
    }
    std::fs::write(scene.journal(), &whole[..whole.len() - 20]).unwrap();
    let (_, stderr) = scene.calibrate("cpu").run().success();
    assert!(
        stderr.contains("journal: 3 of 14 sites are done"),
        "{stderr}"
    );
}

#[test]
fn a_damaged_journal_is_refused() {
    let scene = Scene::new();
    let inside = Inside::new(&scene);
    inside.leave_journal(&scene, 4);
    let whole = std::fs::read(scene.journal()).unwrap();
    let last = whole[..whole.len() - 1]
        .iter()
        .rposition(|&byte| byte == b'\n')
        .unwrap()
        + 1;
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(scene.journal(), &damaged).unwrap();
        let opened = inside.open(&scene, &Device::cpu());
        if at >= last {
            assert_eq!(opened.unwrap().1.len(), 3, "byte {at}");
            continue;
        }
        let error = opened.map(drop).unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        let error = error.to_string();
        assert!(
            error.contains("damaged; restart discards it"),
            "byte {at}: {error}"
        );
        assert_eq!(std::fs::read(scene.journal()).unwrap(), damaged);
    }

    let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    let [identity, one, two, three, four] = lines[..] else {
        panic!("an identity and four findings");
    };
    for (journal, says) in [
        ([identity, two, three, four].concat(), "line 2 is damaged"),
        ([identity, one, one, two].concat(), "line 3 is damaged"),
        (
            [identity, one, two, four, three].concat(),
            "line 4 is damaged",
        ),
        ([one, two, three].concat(), "is no journal of a calibration"),
        (b"notes of mine".to_vec(), "is no journal of a calibration"),
        (vec![0; 4096], "is no journal of a calibration"),
    ] {
        std::fs::write(scene.journal(), &journal).unwrap();
        let outcome = scene.calibrate("cpu").run();
        refused(&outcome, &[says, "--restart", "out.safetensors.journal"]);
        assert_eq!(std::fs::read(scene.journal()).unwrap(), journal);
    }
    scene.calibrate("cpu").flag("--restart").run().success();
    assert!(!scene.journal().exists());
}

#[track_caller]
fn refused(outcome: &Outcome, says: &[&str]) {
    assert_eq!(outcome.code, Some(INPUT), "{outcome}");
    assert_eq!(outcome.stdout, "");
    for part in says {
        assert!(
            outcome.stderr.contains(part),
            "`{part}` is missing: {outcome}"
        );
    }
}

#[test]
fn a_journal_of_another_calibration_is_refused() {
    let scene = Scene::new();
    let inside = Inside::new(&scene);
    inside.leave_journal(&scene, 4);
    let kept = std::fs::read(scene.journal()).unwrap();
    let same = || scene.calibrate("cpu");
    for (run, says) in [
        (
            scene.calibrate_with("cpu", 50, 4, 6),
            &["settings.candidates is 60, where 50 is expected"][..],
        ),
        (
            scene.calibrate_with("cpu", 60, 4, 7),
            &[
                "plan.blocks.0.attn.pv.a.bits is 6, where 7 is expected",
                "and 22 more",
            ],
        ),
        (
            scene.calibrate_with("cpu", 60, 3, 6),
            &["provenance.images is 4, where 3 is expected"],
        ),
        (
            same().with("--seed", "1"),
            &["provenance.seed is 0, where 1 is expected"],
        ),
        (
            same().with("--metric", "mse"),
            &["settings.metric is \"hessian\", where \"mse\" is expected"],
        ),
        (
            same().with("--crop-pct", "0.8"),
            &["preprocessing.crop_pct is", "where 0.8 is expected"],
        ),
        (
            scene.calibrate("0"),
            &["device is \"cpu\", where", "driver is \"the kernels"],
        ),
    ] {
        let outcome = run.run();
        refused(&outcome, says);
        let says = ["is of another calibration", "--restart discards it"];
        refused(&outcome, &says);
        assert!(std::fs::read(scene.journal()).unwrap() == kept);
        assert!(!scene.out().exists());
    }

    // What the files hold counts, not what they are called.
    let other_model = Scene::new();
    let path = other_model.path("model.safetensors");
    let mut model = std::fs::read(&path).unwrap();
    *model.iter_mut().nth_back(3).unwrap() ^= 1;
    std::fs::write(path, model).unwrap();
    let other_images = Scene::new();
    for number in 0..5 {
        let path = other_images.path(&format!("images/{number}.png"));
        let image = RgbImage::from_pixel(32, 32, Rgb([9, 9, 9]));
        image.save(path).unwrap();
    }
    for (other, says) in [
        (other_model, "provenance.source_sha256 is"),
        (other_images, "provenance.calibration_sha256 is"),
    ] {
        std::fs::write(other.journal(), &kept).unwrap();
        refused(&other.calibrate("cpu").run(), &[says]);
    }

    let fresh = Scene::new().undisturbed("cpu");
    scene.calibrate("cpu").flag("--restart").run().success();
    scene.is_finished(&fresh);
}

#[test]
fn one_process_writes_an_output() {
    let scene = Scene::new();
    let expected = scene.undisturbed("cpu");
    let lock = JournalLock::take(&scene.out()).unwrap();
    for run in [
        scene.calibrate("cpu"),
        scene.calibrate("cpu").flag("--restart"),
    ] {
        let outcome = run.run();
        refused(&outcome, &["out.safetensors", "another process"]);
        // Before anything else is looked at.
        assert!(!outcome.stderr.contains("device:"), "{outcome}");
    }
    drop(lock);
    assert_eq!(scene.names(), ["images", "model.safetensors"]);

    let start = |_| scene.calibrate("cpu").start(Stdio::piped());
    let all: Vec<_> = (0..6).map(start).collect();
    let outcomes: Vec<Outcome> = all.into_iter().map(|run| run.finish()).collect();
    for outcome in &outcomes {
        if outcome.code != Some(0) {
            refused(outcome, &["another process"]);
        }
    }
    assert!(outcomes.iter().any(|outcome| outcome.code == Some(0)));
    scene.is_finished(&expected);
}

#[test]
fn a_full_disk() {
    let scene = Scene::new();
    let calibrate = || scene.calibrate_with("cpu", 2, 4, 6);
    let mut inside = Inside::new(&scene);
    inside.method.settings.candidates = 2;
    inside.leave_journal(&scene, SITES);
    let journal = std::fs::metadata(scene.journal()).unwrap().len();
    calibrate().run().success();
    let expected = std::fs::read(scene.out()).unwrap();
    std::fs::remove_file(scene.out()).unwrap();

    // A limit on a file's size is refused as a full disk is, and needs no disk: units of 512 bytes.
    let limited = |bytes: u64| {
        let script = format!(
            "ulimit -f {}; trap '' XFSZ; exec \"$@\"",
            bytes.div_ceil(512)
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_ptq4vit-gpu")]);
        let output = shell.args(calibrate().arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(INPUT), "{stderr}");
        stderr
    };
    // Not even room for the identity: nothing is left behind.
    let stderr = limited(512);
    assert!(
        stderr.contains("out.safetensors.journal: can't be written"),
        "{stderr}"
    );
    assert_eq!(scene.names(), ["images", "model.safetensors"]);
    // Room for some sites.
    let stderr = limited(journal / 2);
    assert!(
        stderr.contains("out.safetensors.journal: can't be written"),
        "{stderr}"
    );
    let done = scene.lines() - 1;
    assert!((1..SITES).contains(&done), "{done} sites");
    let says = format!("the same command goes on: {done} of {SITES} sites are done");
    assert!(stderr.contains(&says), "{stderr}");
    // Everything is found, but there is no room for the output.
    std::fs::remove_file(scene.journal()).unwrap();
    inside.leave_journal(&scene, SITES);
    let stderr = limited(expected.len() as u64 / 2);
    assert!(
        stderr.contains("out.safetensors: can't be written"),
        "{stderr}"
    );
    assert_eq!(scene.lines(), SITES + 1);
    assert_eq!(
        scene.names(),
        ["images", "model.safetensors", "out.safetensors.journal"]
    );
    calibrate().run().success();
    scene.is_finished(&expected);
}

#[test]
fn a_lost_device_is_opened_anew_once() {
    let scene = Scene::new();
    let inside = Inside::new(&scene);
    let open_first = || open(Some("0")).map(|selection| selection.device);
    let mut device = open_first().unwrap();
    let expected = inside.undisturbed(&device);
    for lost_after in [1, 6, 13] {
        let lost = device.clone();
        let mut sites = 0;
        let (outcome, recoveries) =
            inside.run(&mut device, Vec::new(), &open_first, &mut |_, _| {
                sites += 1;
                if sites == lost_after {
                    lost.destroy();
                }
                Ok(())
            });
        let found = outcome.unwrap();
        assert_eq!(found.sites, expected.sites, "lost after {lost_after} sites");
        let names = |calibration: &Calibration| -> Vec<String> {
            let reports = calibration.reports.iter();
            reports.map(|report| report.site.clone()).collect()
        };
        assert_eq!(names(&found), names(&expected));
        assert_eq!(recoveries.len(), 1);
        assert!(recoveries[0].contains("was lost"), "{}", recoveries[0]);
        // The new one is there to be used.
        device.synchronize().unwrap();
    }

    // Lost again: the end, but not of what was found.
    let current = std::sync::Mutex::new(device.clone());
    let reopen = || {
        let opened = open_first()?;
        *current.lock().unwrap() = opened.clone();
        Ok(opened)
    };
    let mut sites = 0;
    let (outcome, _) = inside.run(&mut device, Vec::new(), &reopen, &mut |_, _| {
        sites += 1;
        if sites == 3 || sites == 6 {
            current.lock().unwrap().destroy();
        }
        Ok(())
    });
    let error = outcome.map(drop).unwrap_err();
    assert!(matches!(error, Error::DeviceLost { .. }));
    assert!(error.to_string().contains("for the second time"), "{error}");
    assert_eq!(sites, 6);

    // Another device can't take the place: its floats are others.
    let mut device = open_first().unwrap();
    let lost = device.clone();
    let reopen = || Ok(Device::cpu());
    let (outcome, _) = inside.run(&mut device, Vec::new(), &reopen, &mut |_, _| {
        lost.destroy();
        Ok(())
    });
    let error = outcome.map(drop).unwrap_err();
    assert!(
        error.to_string().contains("only cpu in its place"),
        "{error}"
    );
}

/// What is measured beside a calibration goes on, too: landscapes, and what operands cost.
#[test]
fn measurements_go_on_after_a_fault() {
    let scene = Scene::new();
    let mut inside = Inside::new(&scene);
    inside.method.settings.candidates = 8;
    let mut device = open(Some("0")).unwrap().device;
    fn landscapes(builder: CalibrationBuilder) -> Result<Vec<Landscape>> {
        fn is_first_attention(site: &Site) -> bool {
            site.name.starts_with("blocks.0.attn")
        }
        builder.only(&is_first_attention).landscapes()
    }
    let peak_of = |device: &Device, work: &dyn Fn()| {
        device.memory().reset_peak();
        work();
        device.memory().peak()
    };
    let expected = landscapes(inside.calibration(&device)).unwrap();
    assert_eq!(expected.len(), 8);
    let peak = peak_of(&device, &|| {
        landscapes(inside.calibration(&device)).unwrap();
    });
    for (phase, limit) in [(Some(Phase::Landscape), None), (None, Some(peak * 4 / 5))] {
        let (found, recoveries) = inside.disturbed(&mut device, phase, limit, landscapes);
        assert_eq!(found, expected, "{recoveries:?}");
        assert_eq!(recoveries.len(), 1, "{recoveries:?}");
    }

    let architecture = &inside.resolved.architecture;
    let policy = Policy::preset(Preset::Best, 4, 4);
    inside.method = Method::preset(Preset::Best, 4, 4, &sites(architecture)).unwrap();
    let costs = |builder: CalibrationBuilder| {
        let architecture = &inside.resolved.architecture;
        let mut allotment = Allotment::new(&policy, &OperandKind::ALL, architecture).unwrap();
        builder.costs(&mut allotment)?;
        Ok(allotment.curves(allotment.goal(&[], None).narrowest()))
    };
    let expected = costs(inside.calibration(&device)).unwrap();
    assert!(expected[0].chosen.cost > 0.0);
    let peak = peak_of(&device, &|| {
        costs(inside.calibration(&device)).unwrap();
    });
    for (phase, limit) in [(Some(Phase::Allotment), None), (None, Some(peak * 4 / 5))] {
        let (found, recoveries) = inside.disturbed(&mut device, phase, limit, costs);
        assert_eq!(found, expected, "{recoveries:?}");
        assert_eq!(recoveries.len(), 1, "{recoveries:?}");
    }
}

#[test]
fn less_memory_gives_the_same_scales() {
    let scene = Scene::new();
    let mut inside = Inside::new(&scene);
    // Images are what takes the memory, not candidates.
    inside.method.settings.candidates = 4;
    inside.images = vec![inside.images; 5].concat();
    for mut device in common::devices() {
        let expected = inside.undisturbed(&device);
        let reopen = || panic!("it isn't lost");
        let limit = expected.peak_device_bytes * 3 / 5;
        device.memory().set_limit(limit);
        let (outcome, recoveries) =
            inside.run(&mut device, Vec::new(), &reopen, &mut |_, _| Ok(()));
        let found = outcome.unwrap();
        assert_eq!(found.sites, expected.sites, "{}", device.name());
        assert!(!recoveries.is_empty());
        assert!(recoveries[0].contains("is out of memory"), "{recoveries:?}");
        assert!(found.peak_device_bytes <= limit);

        device.memory().set_limit(expected.peak_device_bytes / 50);
        let (outcome, _) = inside.run(&mut device, Vec::new(), &reopen, &mut |_, _| Ok(()));
        let error = outcome.map(drop).unwrap_err();
        assert!(matches!(
            error,
            Error::Device { .. } | Error::OutOfMemory { .. }
        ));
        assert!(error.to_string().contains("out of memory"), "{error}");
    }
}

/// The plan of a calibration is what it takes: the least that is accepted is enough, and hardly more than what is held.
#[test]
fn the_least_budget_is_what_is_held() {
    let scene = Scene::new();
    let mut inside = Inside::new(&scene);
    let images = inside.images.clone();
    for device in common::devices() {
        for (preset, count) in [
            (Preset::Ptq4vit, 1),
            (Preset::Ptq4vit, 4),
            (Preset::BasePtq, 4),
        ] {
            inside.method =
                Method::preset(preset, 6, 6, &sites(&inside.resolved.architecture)).unwrap();
            inside.method.settings.candidates = 30;
            inside.images = images[..count].to_vec();
            inside.budget = None;
            let expected = inside.undisturbed(&device);
            let (mut too_little, mut least) = (0, 1 << 30);
            while too_little + 1 < least {
                let middle = (too_little + least) / 2;
                match inside.is_enough(&device, middle) {
                    true => least = middle,
                    false => too_little = middle,
                }
            }
            let peaks = [least, least + least / 4, 2 * least, 5 * least].map(|budget| {
                inside.budget = Some(budget);
                let found = inside.undisturbed(&device);
                assert_eq!(found.sites, expected.sites, "{}", device.name());
                let peak = found.peak_device_bytes;
                assert!(peak <= budget, "{peak} bytes for {budget}");
                peak
            });
            // It leaves 64 KiB for scales and scores, which these few need little of.
            let most = peaks[0] + peaks[0] / 8 + (64 << 10);
            assert!(least < most, "{least} bytes for {peaks:?}");
        }
    }
}

#[test]
fn inference_with_less_memory_or_a_lost_device() {
    let scene = Scene::new();
    let inside = Inside::new(&scene);
    let Resolved {
        architecture,
        preprocessing,
        ..
    } = &inside.resolved;
    for device in common::devices() {
        let open = || Model::float(&device, &inside.weights, architecture, preprocessing).unwrap();
        let mut model = open();
        device.memory().reset_peak();
        let weights = device.memory().current();
        let expected = model.logits(&inside.images).unwrap();
        let peak = device.memory().peak();
        drop(model);
        // Room for two images of four.
        device
            .memory()
            .set_limit(weights + (peak - weights) * 2 / 3);
        let mut model = open();
        assert_eq!(
            model.logits(&inside.images).unwrap(),
            expected,
            "{}",
            device.name()
        );
        // Not even for one.
        device.memory().set_limit(weights + (peak - weights) / 100);
        let error = open().logits(&inside.images).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        device.memory().set_limit(u64::MAX);
        assert_eq!(model.logits(&inside.images).unwrap(), expected);
        if let Device::Gpu(_) = device {
            device.destroy();
            for _ in 0..2 {
                let error = model.logits(&inside.images).unwrap_err();
                assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
            }
        }
    }
}

#[test]
fn values_that_overflow_are_located() {
    let scene = Scene::new();
    let mut inside = Inside::new(&scene);
    inside.images[2].fill(f32::MAX);
    for mut device in common::devices() {
        let reopen = || panic!("it isn't lost");
        let (outcome, _) = inside.run(&mut device, Vec::new(), &reopen, &mut |_, _| Ok(()));
        match outcome.map(drop).unwrap_err() {
            Error::NotFinite { image, problem } => {
                assert_eq!(image, 2);
                for part in ["model.safetensors", device.name(), "patch_embed.proj gives"] {
                    assert!(problem.contains(part), "{problem}");
                }
            }
            other => panic!("{other}"),
        }
    }
}
