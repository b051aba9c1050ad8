//! The page for browsers, as a browser shows it: built and served by the README's commands, and used in Chromium.
//!
//! Where there is no `chromedriver` or no target `wasm32-unknown-unknown` its tests say so and pass, unless
//! `PTQ4VIT_REQUIRE_CHROMIUM=1` is set.

#[path = "common/browser.rs"]
mod browser;
#[path = "common/program.rs"]
mod program;

use browser::Browser;
use program::{here, program};
use ptq4vit_gpu::kernels::KERNELS;
use ptq4vit_gpu::quant::QuantizedModel;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// The demo's ViT, as a user has it.
const VIT: &str = "models/demo/vit_mnist/model.safetensors";
const VIT_CONFIG: &str = "models/demo/vit_mnist/config.json";
const PHOTOS: [&str; 3] = [
    "models/demo/test/0/00592.png",
    "models/demo/test/4/00139.png",
    "models/demo/test/8/00242.png",
];
/// WebGPU on the software driver that comes with Chromium, the same on every machine.
const WEBGPU: &[&str] = &["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
const ENTER: &str = "\u{e007}";
const SPACE: &str = " ";

/// The site, which the first test that needs it builds.
static SITE: LazyLock<()> = LazyLock::new(|| {
    let output = site("build")
        .args(["--program", env!("CARGO_BIN_EXE_ptq4vit-gpu")])
        .output()
        .expect("cargo runs");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
});

/// One of the README's commands.
fn site(command: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["run", "--release", "--quiet", "-p", "site", "--", command])
        .current_dir(here(""));
    cargo
}

/// The page in a browser, and what serves it.
struct Page {
    browser: Browser,
    server: Child,
}

/// Tells whether the page can be tested, which may be required.
fn can_be_tested() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = String::from_utf8(sysroot.expect("rustc").stdout).unwrap();
    let target = Path::new(sysroot.trim()).join("lib/rustlib/wasm32-unknown-unknown/lib");
    let missing = match (browser::is_installed(), target.exists()) {
        (true, true) => return true,
        (false, _) => "chromedriver",
        (true, false) => "Rust's target wasm32-unknown-unknown",
    };
    let required = std::env::var("PTQ4VIT_REQUIRE_CHROMIUM").is_ok_and(|value| value == "1");
    assert!(!required, "{missing} is required");
    // Not `eprintln!`, whose lines are only shown of tests that fail.
    std::io::stderr()
        .write_all(format!("skipped: {missing} is not here\n").as_bytes())
        .expect("a stderr");
    false
}

/// Serves the site on any port that is free. Returns the server, and its address.
fn serve() -> (Child, String) {
    LazyLock::force(&SITE);
    let mut server = site("serve")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo runs");
    let mut address = String::new();
    let stdout = server.stdout.take().expect("a pipe");
    let read = BufReader::new(stdout).read_line(&mut address);
    read.expect("the server says where it is");
    (server, address.trim().to_owned())
}

impl Page {
    /// Opens the page and waits until it has classified the demo's digits. `None` where it can't be tested.
    fn open(flags: &[&str]) -> Option<Self> {
        Self::open_at("127.0.0.1", flags)
    }

    /// Opens the page under another name of this machine.
    fn open_at(host: &str, flags: &[&str]) -> Option<Self> {
        if !can_be_tested() {
            return None;
        }
        let (server, url) = serve();
        let page = Self {
            browser: Browser::start(flags),
            server,
        };
        page.browser.open(&url.replace("127.0.0.1", host));
        page.browser.wait_for(
            "document.querySelector('#classify-summary').textContent != '' \
             || !document.querySelector('#error').hidden",
        );
        page.finish();
        Some(page)
    }

    /// Waits for the job that runs, which must not fail.
    #[track_caller]
    fn finish(&self) {
        let problem = self.problem();
        assert_eq!(problem, "");
        assert_eq!(self.browser.complaints(), [""; 0]);
    }

    /// Waits for the job that runs. What went wrong, or nothing.
    fn problem(&self) -> String {
        self.browser
            .wait_for("document.querySelector('#job').hidden");
        self.browser.text("#error")
    }

    fn goes_to(&self, section: &str) {
        self.browser.click(&format!("nav a[href='#{section}']"));
    }

    /// The photos' answers: their names, what is wrong with them, and what each network gives each class.
    fn answers(&self) -> Vec<Value> {
        let answers = self.browser.value(
            "[...document.querySelectorAll('.answer')].map((answer) => ({
                photo: answer.querySelector('h3').textContent,
                wrong: answer.querySelector('.wrong')?.textContent,
                ...Object.fromEntries(['integers', 'floats'].map((slot) => [slot,
                    Object.fromEntries([...answer.querySelectorAll('tbody tr')].map((row) => [
                        row.querySelector('th').textContent,
                        Number(row.querySelector(`.${slot} data`)?.value)]))])) }))",
        );
        serde_json::from_value(answers).unwrap()
    }

    /// Nothing is wider than a phone.
    #[track_caller]
    fn fits_on_a_phone(&self) {
        self.browser.resize(400);
        let width = self.browser.value("document.documentElement.scrollWidth");
        assert!(width.as_u64() <= Some(400), "{width} pixels");
        self.browser.resize(1200);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn paths(files: &[&str]) -> Vec<PathBuf> {
    files.iter().map(|file| here(file)).collect()
}

/// Opens the page, without any network and with all its files from one place. Nothing is left behind.
#[test]
fn the_demo_is_classified_at_once_and_nothing_is_sent_or_stored() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    let answers = page.answers();
    assert!(!answers.is_empty());
    let summary = page.browser.text("#classify-summary");
    let all = answers.len();
    let starts = format!("{all} of {all} photos get the same answer in integers as in floats.");
    assert!(summary.starts_with(&starts), "{summary}");
    assert!(page.browser.text("#device-state").contains("swiftshader"));

    let stored = page.browser.value(
        "[document.cookie, localStorage.length, sessionStorage.length,
          performance.getEntriesByType('resource').filter((entry) => !entry.name.startsWith(origin)).length]",
    );
    assert_eq!(stored, json!(["", 0, 0, 0]));
    page.fits_on_a_phone();
}

#[test]
fn photos_are_classified_as_by_the_program() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let quantized = folder.path().join("vit_w6a6.safetensors");
    program("calibrate")
        .with("--model", VIT)
        .with("--images", "models/demo/calibration")
        .with("--preset", "ptq4vit")
        .with("--candidates", "10")
        .with("--count", "4")
        .with("--bits", "6")
        .with("--device", "cpu")
        .with("--out", &quantized)
        .run()
        .success();

    let mut models = paths(&[VIT, VIT_CONFIG]);
    models.push(quantized.clone());
    page.browser.choose("#classify-models", &models);
    page.finish();
    // The demo's photos went with the demo.
    assert_eq!(page.answers(), [Value::Null; 0]);
    page.browser.choose("#classify-photos", &paths(&PHOTOS));
    page.finish();
    let answers = page.answers();
    assert_eq!(answers.len(), PHOTOS.len());

    // Logits in floats are within 1e-4 of each other, so probabilities are relatively; of the networks in integers `verify`
    // allows 4.1e-2, since a code may be a step off.
    for (slot, flag, file, bound) in [
        ("floats", "--model", here(VIT), 3e-4),
        ("integers", "--quantized", quantized, 8.2e-2),
    ] {
        let mut cli = program("classify").with(flag, file).with("--device", "cpu");
        for photo in PHOTOS {
            cli = cli.flag(photo);
        }
        let report = cli.flag("--json").run().json();
        for (image, answer) in report["images"].as_array().unwrap().iter().zip(&answers) {
            let photo = answer["photo"].as_str().unwrap();
            assert!(image["image"].as_str().unwrap().ends_with(photo));
            // Rows are the first classes of the network in integers; the others' last ones may not be among them.
            for class in image["classes"].as_array().unwrap().iter().take(3) {
                let expected = class["probability"].as_f64().unwrap();
                let found = &answer[slot][class["index"].to_string()];
                let found = found.as_f64().expect("one of the first classes");
                assert!(
                    (found / expected - 1.0).abs() < bound,
                    "{photo}: {class}, {found} in {slot}"
                );
            }
        }
    }
}

/// Computes with every shader, but those that need what this driver doesn't offer.
#[test]
fn a_verification_ends_well_and_its_report_is_compared_with_native_ones() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    page.goes_to("verify");
    page.browser.click("#verify-start");
    page.finish();
    let summary = page.browser.text("#verify-summary");
    assert!(summary.starts_with("All as on the CPU: "), "{summary}");
    page.fits_on_a_phone();
    let report = page.browser.save("#verify-save");
    let found: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    let kernels = found["devices"][0]["kernels"].as_array().unwrap();
    for kernel in kernels {
        let name = kernel["kernel"].as_str().unwrap();
        let shader = KERNELS.iter().find(|kernel| kernel.name == name).unwrap();
        // WebGPU has no cooperative matrices, and this driver may be without f16.
        let needs_more = shader.text.lines().any(|line| line.starts_with("enable "));
        let is_tried = kernel["cases"] != json!([]);
        assert!(is_tried || needs_more, "{name}");
    }

    let native = page.browser.downloads().join("native.json");
    program("verify")
        .with("--device", "cpu")
        .with("--out", &native)
        .run()
        .success();
    let (stdout, _) = program("verify")
        .with("--against", &native)
        .flag(report.to_str().unwrap())
        .run()
        .success();
    assert!(stdout.contains("swiftshader"), "{stdout}");
}

#[test]
fn a_device_is_measured() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    page.goes_to("bench");
    page.browser.click("#bench-start");
    page.finish();
    let measured = page.browser.value(
        "[...document.querySelectorAll('#bench-charts tr')].map((row) => parseFloat(row.querySelector('.number').textContent))",
    );
    let measured: Vec<f64> = serde_json::from_value(measured).expect("numbers");
    assert!(
        measured.iter().all(|&figure| figure > 0.0) && measured.len() > 3,
        "{measured:?}"
    );
    page.fits_on_a_phone();
    let report = page.browser.save("#bench-save");
    let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    assert!(report.is_object(), "{report}");
}

#[test]
fn a_calibration_finds_the_scales_that_the_program_finds() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    page.goes_to("calibrate");
    page.browser
        .choose("#calibrate-models", &paths(&[VIT, VIT_CONFIG]));
    let folder = here("models/demo/calibration");
    let entries = fs::read_dir(&folder).unwrap();
    let mut photos: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    photos.sort();
    photos.truncate(8);
    page.browser.choose("#calibrate-photos", &photos);
    page.browser
        .click("#calibrate-preset option[value=ptq4vit]");
    page.browser.click("#calibrate-start");
    page.finish();
    page.fits_on_a_phone();
    let found = page.browser.save("#calibrate-save");

    let scratch = TempDir::new().unwrap();
    let list = scratch.path().join("list.txt");
    let names: Vec<&str> = photos
        .iter()
        .map(|photo| photo.file_name().unwrap().to_str().unwrap())
        .collect();
    fs::write(&list, names.join("\n")).unwrap();
    let native = scratch.path().join("native.safetensors");
    program("calibrate")
        .with("--model", VIT)
        .with("--images", &folder)
        .with("--list", &list)
        .with("--count", "8")
        .with("--preset", "ptq4vit")
        .with("--bits", "4")
        .with("--device", "cpu")
        .with("--out", &native)
        .run()
        .success();
    let found = QuantizedModel::open(&found).unwrap();
    let native = QuantizedModel::open(&native).unwrap();
    assert_eq!(found.sites.len(), native.sites.len());
    // The same candidates, which are shares of the largest value: next ones are a hundredth of it away, and on another device
    // it has other last bits. Weights are the same everywhere.
    for (site, expected) in &native.sites {
        let found = &found.sites[site];
        assert!(found.weight == expected.weight, "{site}");
        for (found, expected) in [
            (&found.scales.a, &expected.scales.a),
            (&found.scales.b, &expected.scales.b),
        ] {
            assert_eq!(found.len(), expected.len(), "{site}");
            for (found, expected) in found.iter().zip(expected) {
                let off = (found.scale / expected.scale - 1.0).abs();
                assert!(off < 1e-5, "{site}: {found:?}, {expected:?}");
                assert_eq!(found.shift, expected.shift, "{site}");
            }
        }
    }

    page.browser.click("#calibrate-use");
    page.finish();
    assert_eq!(page.answers().len(), photos.len());
    assert!(page.browser.text("#slot-integers").contains("ptq4vit"));
}

/// By keys alone.
#[test]
fn what_is_stopped_leaves_the_page_as_it_was() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    let browser = &page.browser;
    browser.type_into("nav a[href='#calibrate']", ENTER);
    browser.wait_for("document.activeElement.id == 'calibrate-title'");
    browser.type_into("#demo-checkpoints button", SPACE);
    page.finish();
    browser.type_into("#calibrate-start", ENTER);
    browser.wait_for("document.querySelector('#job-progress').position > 0");
    // Another job has to wait.
    browser.type_into("#demo-checkpoints button", SPACE);
    let waits = browser.text("#error");
    assert!(waits.contains("is still running"), "{waits}");
    browser.type_into("#error button", ENTER);
    browser.type_into("#job-stop", ENTER);
    page.finish();
    assert_eq!(
        browser.value("document.querySelector('#calibrate-save').hidden"),
        true
    );

    let before = page.answers();
    browser.type_into("nav a[href='#classify']", ENTER);
    browser.choose("#classify-photos", &paths(&PHOTOS));
    page.finish();
    assert_ne!(page.answers(), before);
    assert!(
        browser
            .text("#classify-summary")
            .starts_with("3 of 3 photos get the same answer")
    );
}

#[test]
fn wrong_files_are_named() {
    let Some(page) = Page::open(WEBGPU) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let quantized = folder.path().join("demo.safetensors");
    program("calibrate")
        .with("--model", VIT)
        .with("--images", "models/demo/calibration")
        .with("--preset", "base-ptq")
        .with("--candidates", "2")
        .with("--rounds", "1")
        .with("--count", "1")
        .with("--device", "cpu")
        .with("--out", &quantized)
        .run()
        .success();
    let whole = fs::read(&quantized).unwrap();
    let text = file("notes.safetensors", b"This is no network.");
    let cut = file("cut.safetensors", &whole[..whole.len() - 1]);
    let shown = page.browser.text("#slot-integers");
    for (id, files, says) in [
        ("classify-models", vec![text], &["notes.safetensors: "][..]),
        ("classify-models", vec![cut], &["cut.safetensors: "]),
        (
            "classify-models",
            paths(&[VIT_CONFIG]),
            &["config.json: belongs to a checkpoint"],
        ),
        (
            "classify-models",
            paths(&[VIT, "models/demo/swin_mnist/model.safetensors"]),
            &["expected one checkpoint, found model.safetensors, model.safetensors"],
        ),
        (
            "calibrate-models",
            vec![quantized],
            &["demo.safetensors: is quantized already"],
        ),
    ] {
        page.goes_to(id.split_once('-').unwrap().0);
        page.browser.choose(&format!("#{id}"), &files);
        page.browser
            .wait_for("!document.querySelector('#error').hidden");
        let problem = page.problem();
        for part in says {
            assert!(problem.contains(part), "expected {part:?} in {problem:?}");
        }
        page.browser.click("#error button");
    }
    page.browser.click("#calibrate-start");
    assert!(page.problem().contains("needs a checkpoint and photos"));
    page.browser.click("#error button");

    // What was there is there still, and what can be read is classified.
    page.goes_to("classify");
    assert_eq!(page.browser.text("#slot-integers"), shown);
    let photos = [here(PHOTOS[0]), file("\u{202e}gnp.txt", b"no picture")];
    page.browser.choose("#classify-photos", &photos);
    page.finish();
    let answers = page.answers();
    assert_eq!(answers[0]["wrong"], Value::Null);
    assert_eq!(answers[1]["photo"], r"\u202egnp.txt");
    assert!(
        answers[1]["wrong"]
            .as_str()
            .unwrap()
            .contains(r"\u202egnp.txt"),
        "{answers:?}"
    );
    let summary = page.browser.text("#classify-summary");
    assert!(summary.ends_with("1 file couldn't be read."), "{summary}");
}

#[test]
fn without_webgpu_the_page_says_so_and_the_cpu_answers() {
    // A browser that has it turned off, and a page that comes from another machine without https.
    for (flags, host, says) in [
        (&[][..], "127.0.0.1", "The GPU can't be used: "),
        (
            &["--host-resolver-rules=MAP page.test 127.0.0.1"],
            "page.test",
            "Browsers offer WebGPU to pages from https and from this machine only, and this one is neither.",
        ),
    ] {
        let Some(page) = Page::open_at(host, flags) else {
            return;
        };
        let notice = page.browser.text("#no-gpu");
        assert!(notice.starts_with(says), "{notice}");
        assert!(
            notice.ends_with("The CPU computes instead: the same, but slower."),
            "{notice}"
        );
        let state = page.browser.text("#device-state");
        assert_eq!(state, "cpu · the kernels' CPU versions");
        assert!(!page.answers().is_empty());
        // Who asks once more is told once more.
        page.browser.click("#device input[value=webgpu]");
        page.finish();
        assert_eq!(page.browser.text("#no-gpu"), notice);
    }
}

#[test]
fn only_the_site_is_served() {
    if !can_be_tested() {
        return;
    }
    let (mut server, address) = serve();
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let agent: ureq::Agent = config.build().into();
    let status = |path: &str| {
        let response = agent.get(format!("{address}{path}")).call().unwrap();
        response.status().as_u16()
    };
    assert_eq!(status(""), 200);
    assert_eq!(status("page.js?anything"), 200);
    for path in [
        "absent.js",
        "demo",
        "%2e%2e/release/site",
        "/etc/hostname",
        "..%2frelease%2fsite",
    ] {
        assert_eq!(status(path), 404, "{path}");
    }
    assert_eq!(
        agent.delete(&address).call().unwrap().status().as_u16(),
        405
    );
    server.kill().unwrap();
    server.wait().unwrap();
}
