//! What a quantized file says of itself, and the page of its calibration.

#[expect(dead_code, reason = "the faults' tests change tensors too")]
#[path = "common/container.rs"]
mod container;
#[path = "common/program.rs"]
mod program;

use container::Container;
use html5ever::driver::{ParseOpts, parse_document};
use html5ever::tendril::TendrilSink;
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use program::{Program, here, program};
use ptq4vit_gpu::quant::{QuantizedModel, SiteReport};
use ptq4vit_gpu::report::{Accuracy, Agreement, Inspection, Page};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

const VIT: &str = "models/demo/vit_mnist/model.safetensors";
const SWIN: &str = "models/demo/swin_mnist/model.safetensors";

/// A calibration with a page, quick and with every kind of site.
fn calibrate(model: &str, preset: &str, folder: &TempDir) -> Program {
    program("calibrate")
        .with("--model", model)
        .with("--images", "models/demo/calibration")
        .with("--preset", preset)
        .with("--count", "3")
        .with("--candidates", "12")
        .with("--rounds", "1")
        .with("--bits", "6")
        .with("--device", "cpu")
        .with("--out", folder.path().join("out.safetensors"))
        .with("--report", folder.path().join("page.html"))
}

/// What a calibration of the demo's ViT leaves.
struct Calibrated {
    file: Vec<u8>,
    page: String,
    figures: Value,
}

static CALIBRATED: LazyLock<Calibrated> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let figures = calibrate(VIT, "ptq4vit", &folder)
        .with("--report-images", "models/demo/test")
        .flag("--json")
        .run()
        .json();
    Calibrated {
        file: std::fs::read(folder.path().join("out.safetensors")).unwrap(),
        page: std::fs::read_to_string(folder.path().join("page.html")).unwrap(),
        figures,
    }
});

fn inspect(path: &Path) -> Program {
    program("inspect").flag(path.to_str().expect("a path in UTF-8"))
}

/// `inspect` of a file with this content.
fn inspect_bytes(bytes: &[u8], with: impl FnOnce(Program) -> Program) -> program::Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quantized.safetensors");
    std::fs::write(&path, bytes).unwrap();
    with(inspect(&path)).run()
}

#[test]
fn a_file_tells_what_its_calibration_found() {
    let Calibrated { file, figures, .. } = &*CALIBRATED;
    let report = inspect_bytes(file, |inspect| inspect.flag("--json")).json();
    assert_eq!(report["format"], "ptq4vit-gpu");
    assert_eq!(report["format_version"], "2");
    assert_eq!(report["bytes"], file.len());
    assert_eq!(report["bits"], "weights 6, activations 6");
    assert_eq!(report["sites"][0]["a"]["bits"], 6);
    assert_eq!(report["provenance"]["images"], 3);
    let parameters = std::fs::metadata(here(VIT)).unwrap().len();
    let fp32 = report["fp32_bytes"].as_u64().unwrap();
    // The demo's checkpoint has its parameters in F16, and a header.
    assert!(
        fp32 > parameters && fp32 < 2 * parameters,
        "{fp32} of {parameters}"
    );

    let sites = report["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 4 * 6 + 2);
    let mut shares = 0.0;
    for (site, found) in sites.iter().zip(figures["sites"].as_array().unwrap()) {
        assert_eq!(site["site"], found["site"]);
        assert_eq!(site["evidence"], found["evidence"]);
        shares += site["error_share"].as_f64().unwrap();
    }
    assert!((shares - 1.0).abs() < 1e-12, "{shares}");
    let pv = &sites[3];
    assert_eq!(pv["site"], "blocks.0.attn.pv");
    assert_eq!(pv["a_shifts"].as_array().unwrap().len(), 1);
    assert_eq!(sites[2]["a_shifts"], json!(null));

    let errors = |report: &Value| -> Vec<f64> {
        let sites = report["sites"].as_array().unwrap().iter();
        sites
            .map(|site| site["error_share"].as_f64().unwrap())
            .collect()
    };
    let by_error = |inspect: Program| inspect.with("--sort", "error").flag("--json");
    let sorted = inspect_bytes(file, by_error).json();
    let mut expected = errors(&report);
    expected.sort_by(|left, right| right.total_cmp(left));
    assert_eq!(errors(&sorted), expected);
}

#[test]
fn the_table_is_readable() {
    let (text, _) = inspect_bytes(&CALIBRATED.file, |inspect| inspect).success();
    for line in text.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    let model = Container::parse(&CALIBRATED.file);
    let evidence: Value = serde_json::from_str(&model.metadata["evidence"]).unwrap();
    for (site, figures) in evidence.as_object().unwrap() {
        let row = text
            .lines()
            .find(|line| line.split(' ').next() == Some(site));
        let row = row.unwrap_or_else(|| panic!("no row of {site} in {text}"));
        let sqnr = format!(" {:.1} ", figures["sqnr_db"].as_f64().unwrap());
        assert!(row.contains(&sqnr), "{row}");
    }
}

/// As earlier versions of the program wrote them.
#[test]
fn a_file_without_evidence_is_read() {
    let mut file = Container::parse(&CALIBRATED.file);
    file.metadata.remove("evidence");
    let file = file.file();
    let report = inspect_bytes(&file, |inspect| inspect.flag("--json")).json();
    for site in report["sites"].as_array().unwrap() {
        assert_eq!(site["evidence"], json!(null));
        assert_eq!(site["error_share"], json!(null));
        assert!(site["a_scales"][0].as_f64().unwrap() > 0.0);
    }
    let (text, _) = inspect_bytes(&file, |inspect| inspect).success();
    assert!(text.contains("no figures of its calibration"), "{text}");
}

#[test]
fn evidence_that_cannot_be_true_is_refused() {
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change, &str); 9] = [
        (
            &|all| all["head"]["cosine"] = json!(1.5),
            "head: cosine: expected",
        ),
        (
            &|all| all["head"]["a_clipped"] = json!(-0.1),
            "head: a_clipped: expected",
        ),
        (
            &|all| all["head"]["hessian_error"] = json!(-1.0),
            "head: hessian_error: expected",
        ),
        (
            &|all| all["head"]["hessian_error"] = json!(null),
            "hessian_error is missing",
        ),
        (
            &|all| all["head"]["a_in_r2"] = json!(0.5),
            "a_in_r2 is there",
        ),
        (&|all| all["head"]["b_clipped"] = json!("0"), "invalid type"),
        (
            &|all| all["tail"] = all["head"].clone(),
            "tail is no site of the model",
        ),
        (
            &|all| {
                all.as_object_mut().unwrap().remove("head");
            },
            "head is missing",
        ),
        (&|all| *all = json!([]), "metadata `evidence`"),
    ];
    let refused = |text: String, says: &str| {
        let mut file = Container::parse(&CALIBRATED.file);
        file.metadata.insert("evidence".to_owned(), text);
        let outcome = inspect_bytes(&file.file(), |inspect| inspect);
        assert_eq!(outcome.code, Some(3), "{outcome}");
        assert!(outcome.stderr.contains(says), "{outcome}\nlacks {says}");
    };
    let sound = Container::parse(&CALIBRATED.file).metadata["evidence"].clone();
    for (change, says) in cases {
        let mut evidence = serde_json::from_str(&sound).unwrap();
        change(&mut evidence);
        refused(evidence.to_string(), says);
    }
    let infinite = sound.replacen("\"sqnr_db\":", "\"sqnr_db\":1e999,\"x\":", 1);
    refused(infinite, "number out of range");
}

#[test]
fn other_files_are_no_quantized_models() {
    let outcome = inspect(&here(VIT)).run();
    assert_eq!(outcome.code, Some(3), "{outcome}");
    assert!(
        outcome.stderr.contains("is no quantized model"),
        "{outcome}"
    );
    assert_eq!(outcome.stdout, "");
}

/// The elements of a page by name, and its text. Fails where an HTML parser would have to guess.
fn parse(page: &str) -> (Vec<Handle>, String) {
    let dom = parse_document(RcDom::default(), ParseOpts::default()).one(page);
    assert_eq!(dom.errors.borrow()[..], [""; 0]);
    let (mut elements, mut text) = (Vec::new(), String::new());
    let mut nodes = vec![dom.document.clone()];
    while let Some(node) = nodes.pop() {
        match &node.data {
            NodeData::Text { contents } => text.push_str(&contents.borrow()),
            NodeData::Element { .. } => elements.push(node.clone()),
            _ => {}
        }
        nodes.extend(node.children.borrow().iter().rev().cloned());
    }
    (elements, text)
}

fn count(elements: &[Handle], wanted: &str) -> usize {
    let is_wanted = |node: &&Handle| match &node.data {
        NodeData::Element { name, .. } => &*name.local == wanted,
        _ => false,
    };
    elements.iter().filter(is_wanted).count()
}

/// What holds for every page: it is whole, needs nothing else, and has every site.
fn check_page(page: &str, sites: &[String], histograms: usize) -> String {
    let (elements, text) = parse(page);
    for foreign in ["http", "<script", "<link", "<img", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    // Also in the places that are read aloud or shown under the pointer.
    for site in sites {
        assert!(page.contains(&format!(
            "Scores of the candidates for the scales of {site}\""
        )));
        assert!(text.contains(site), "{site}");
    }
    // Two of bars, and curves for every site.
    assert_eq!(count(&elements, "svg"), 2 + sites.len() + histograms);
    for wrong in ["NaN", "inf\"", "-inf"] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    text
}

#[test]
fn the_page_has_everything() {
    let Calibrated { page, figures, .. } = &*CALIBRATED;
    let sites: Vec<String> = figures["sites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|site| site["site"].as_str().unwrap().to_owned())
        .collect();
    let text = check_page(page, &sites, 2 * 4);
    for part in [
        "vit_mnist",
        "cpu (the kernels' CPU versions)",
        "3 drawn with seed 0",
        "FP32",
        "500",
    ] {
        assert!(text.contains(part), "{part}");
    }
    // As `eval` counts it.
    let eval = program("eval")
        .with("--model", VIT)
        .with("--images", "models/demo/test")
        .with("--device", "cpu")
        .flag("--json")
        .run()
        .json();
    let top1 = format!("{:.2}%", 100.0 * eval["top1"].as_f64().unwrap());
    assert!(text.contains(&top1), "{top1}");
}

/// Without twins, gradients, a second range, or a Hessian error.
#[test]
fn the_page_of_the_baseline() {
    let folder = tempfile::tempdir().unwrap();
    calibrate(SWIN, "base-ptq", &folder).run().success();
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let inspection = Inspection::open(&folder.path().join("out.safetensors")).unwrap();
    let sites: Vec<String> = inspection.sites.into_iter().map(|site| site.site).collect();
    let blocks = sites
        .iter()
        .filter(|site| site.ends_with("attn.pv"))
        .count();
    let (elements, _) = parse(&page);
    // No bars of a Hessian error that nobody knows.
    assert_eq!(count(&elements, "svg"), 1 + sites.len() + 2 * blocks);
    for site in &sites {
        assert!(page.contains(site.as_str()), "{site}");
    }
}

/// The network's loss under the candidates of one product, in the page and in figures; the file is as without.
#[test]
fn the_page_of_landscapes() {
    let folder = tempfile::tempdir().unwrap();
    let figures = calibrate(VIT, "ptq4vit", &folder)
        .with("--landscape", "blocks.2.mlp.fc2")
        .flag("--json")
        .run()
        .json();
    let file = std::fs::read(folder.path().join("out.safetensors")).unwrap();
    assert!(file == CALIBRATED.file);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let (elements, text) = parse(&page);
    let sites = figures["sites"].as_array().unwrap().len();
    assert_eq!(count(&elements, "svg"), 2 + sites + 2 * 4 + 2);
    let landscapes = figures["landscapes"].as_array().unwrap();
    assert_eq!(landscapes.len(), 2);
    for (landscape, side) in landscapes.iter().zip(["a", "b"]) {
        assert_eq!(landscape["site"], "blocks.2.mlp.fc2");
        assert_eq!(landscape["side"], side);
        let candidates = landscape["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 12);
        let losses = candidates.iter().map(|one| one["loss"].as_f64().unwrap());
        let losses: Vec<f64> = losses.collect();
        let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let place = losses.iter().position(|&loss| loss == least).unwrap() + 1;
        let words = format!("at candidate {place}, {least:.5};");
        assert!(
            text.replace('\n', " ").contains(&words),
            "{words} in {text}"
        );
        let divergences = candidates.iter().map(|one| one["kl"].as_f64().unwrap());
        let divergences: Vec<f64> = divergences.collect();
        let least = divergences.iter().copied().fold(f64::INFINITY, f64::min);
        // Another network than in floats, but hardly.
        assert!(0.0 < least && least < 0.1, "{least}");
        let place = divergences.iter().position(|&kl| kl == least).unwrap();
        let words = [
            format!("at KL's {}, {:.5}", place + 1, losses[place]),
            format!(
                "KL is least at candidate {}: loss {:.5}, KL {least:.2e}",
                place + 1,
                losses[place]
            ),
        ];
        for words in words {
            assert!(
                text.replace('\n', " ").contains(&words),
                "{words} in {text}"
            );
        }
    }
}

/// What bits are estimated to cost is the sum of what was measured, in the page and in figures; the file is as without.
#[test]
fn the_page_of_an_allotment() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = || {
        program("calibrate")
            .with("--model", VIT)
            .with("--images", "models/demo/calibration")
            .with("--count", "4")
            .with("--mixed", "4.6")
            .with("--device", "cpu")
            .with("--out", path("out.safetensors"))
    };
    run().run().success();
    let alone = std::fs::read(path("out.safetensors")).unwrap();
    let outcome = run()
        .with("--report", path("page.html"))
        .flag("--json")
        .flag("-v")
        .run();
    let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(std::fs::read(path("out.safetensors")).unwrap() == alone);
    let network = &figures["sites"];
    assert_eq!(network.as_array().unwrap().len(), 4 * 6 + 2);

    // What the log says of each operand, and the bits that the plan gives it.
    let plan = Container::parse(&alone).metadata["plan"].clone();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let mut measured = Vec::new();
    for line in outcome.stderr.lines() {
        let Some((operand, costs)) = line.split_once(": [") else {
            continue;
        };
        let Some((site, side)) = operand.rsplit_once(' ') else {
            continue;
        };
        let site = site.rsplit(' ').next().unwrap();
        let costs = costs.trim_end_matches(']').split(", ");
        let costs: Vec<f64> = costs.map(|cost| cost.parse().unwrap()).collect();
        let is_weight = side == "B" && !site.ends_with("attn.qk") && !site.ends_with("attn.pv");
        let bits = plan[site][side.to_lowercase()]["bits"].as_u64();
        measured.push((is_weight, costs, bits.unwrap() as usize - 3));
    }
    // Of the first and the last product, which have 8 bits, there are none.
    assert_eq!(measured.len(), 4 * 6 * 2);

    let page = std::fs::read_to_string(path("page.html")).unwrap();
    let (elements, text) = parse(&page);
    assert_eq!(count(&elements, "svg"), 2 + 2 * 4 + 2 + 2);
    let text = text.replace('\n', " ");
    assert!(
        text.contains("This is an estimate, not measured accuracy"),
        "{text}"
    );
    let curves = figures["allotment"].as_array().unwrap();
    assert_eq!(curves.len(), 2);
    for (curve, kind) in curves.iter().zip(["weight", "activation"]) {
        assert_eq!(curve["kind"], kind);
        let number = |point: &Value| ["mean_bits", "cost"].map(|key| point[key].as_f64().unwrap());
        let points = curve["points"].as_array().unwrap().iter().map(number);
        let points: Vec<[f64; 2]> = points.collect();
        let chosen = number(&curve["chosen"]);
        let of_kind = || {
            measured
                .iter()
                .filter(|(is_weight, ..)| *is_weight == (kind == "weight"))
        };
        let sum = |width: Option<usize>| {
            let costs = of_kind().map(|(_, costs, planned)| costs[width.unwrap_or(*planned)]);
            costs.sum::<f64>()
        };
        for (found, bits, expected) in [
            (points[0], Some(3.0), sum(Some(0))),
            (points[20], Some(8.0), sum(Some(5))),
            (chosen, None, sum(None)),
        ] {
            // Sums in another order.
            assert!(
                (found[1] / expected - 1.0).abs() < 1e-12,
                "{found:?}, {expected}"
            );
            assert!(bits.is_none_or(|bits| found[0] == bits), "{found:?}");
        }
        assert_eq!(points.len(), 21);
        for (step, [bits, _]) in points.iter().enumerate() {
            let wanted = 3.0 + step as f64 / 4.0;
            assert!(
                *bits <= wanted && *bits > wanted - 0.25,
                "{bits} for {wanted}"
            );
        }
        // It lies on the curve: 4.6 bits cost no more than 4.5 and no less than 4.75.
        assert!(
            points[6][1] >= chosen[1] && chosen[1] >= points[7][1],
            "{kind}: {chosen:?}"
        );
        let words = format!(
            "{kind}s: {:.3} bits on average, estimated at {:.3e} nats of KL divergence",
            chosen[0], chosen[1]
        );
        assert!(text.contains(&words), "{words} in {text}");
    }
}

/// Without candidates, and with levels in the place of codes.
#[test]
fn the_page_of_tables() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    program("calibrate")
        .with("--model", VIT)
        .with("--images", "models/demo/calibration")
        .with("--count", "3")
        .with("--bits", "4")
        .with("--device", "cpu")
        .with("--out", folder.path().join("out.safetensors"))
        .with("--report", &page)
        .run()
        .success();
    let page = std::fs::read_to_string(&page).unwrap();
    let (elements, text) = parse(&page);
    assert_eq!(count(&elements, "svg"), 2 + 2 * 4);
    for part in [
        "best: in sequence, probes: 2, layer-norm, bias correction",
        "Codes of a table stand for levels at any places",
    ] {
        assert!(text.replace('\n', " ").contains(part), "{part} in {text}");
    }
    assert!(!page.contains("NaN") && !page.contains("Scores of the candidates"));
}

/// How wide codes are is drawn where one block has other codes than the next.
#[test]
fn the_page_of_mixed_widths() {
    let folder = tempfile::tempdir().unwrap();
    let figures = calibrate(VIT, "ptq4vit", &folder)
        .with("--site", "blocks.1.mlp.fc1=w4a5")
        .flag("--json")
        .run()
        .json();
    let sites = figures["sites"].as_array().unwrap().len();
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let (elements, _) = parse(&page);
    assert_eq!(count(&elements, "svg"), 2 + sites + 2 * 4 + 2);
    for (side, bits) in [("A", 5), ("B", 4)] {
        let (_, chart) = page
            .split_once(&format!("Bits of {side} of each site"))
            .unwrap();
        let (chart, _) = chart.split_once("</svg>").unwrap();
        assert_eq!(chart.matches("<title>").count(), sites);
        assert!(chart.contains(&format!("<title>blocks.1.mlp.fc1: {bits} bits</title>")));
        assert_eq!(chart.matches(&format!(": {bits} bits</title>")).count(), 1);
    }
}

#[test]
fn names_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    std::fs::write(&path, &CALIBRATED.file).unwrap();
    let mut model = QuantizedModel::open(&path).unwrap();
    let wicked = "</title><script>alert(1)</script>&amp;\"'";
    model.provenance.name = wicked.to_owned();
    model.provenance.source_sha256 = wicked.to_owned();
    let reports: Vec<SiteReport> = Vec::new();
    let page = Page {
        model: &model,
        bytes: 1,
        reports: &reports,
        landscapes: &[],
        allotment: None,
        device: wicked,
        driver: "a driver",
        seconds: 0.0,
        calibration: Agreement::Logits(Accuracy {
            images: 1,
            top1: 1.0,
            top5: 1.0,
            agreement: Some(1.0),
            kl: Some(0.0),
            logit_sqnr_db: None,
        }),
        labelled: None,
    };
    let (elements, text) = parse(&page.html());
    assert_eq!(count(&elements, "script"), 0);
    assert_eq!(text.matches(wicked).count(), 4);
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let run = || {
        program("calibrate")
            .with("--model", VIT)
            .with("--images", "models/demo/calibration")
            .with("--device", "cpu")
            .with("--out", &out)
    };
    let missing = folder.path().join("missing/page.html");
    for (run, code, says) in [
        (run().with("--report", &missing), 3, "can't be written"),
        (run().with("--report", &out), 2, "would replace the --out"),
        (
            run().with("--report", here(VIT)),
            2,
            "would replace the --model",
        ),
        (
            run().with("--report-images", "models/demo/test"),
            2,
            "--report",
        ),
        (
            run()
                .with("--report", folder.path().join("page.html"))
                .with("--report-images", "models/demo"),
            3,
            "every class folder",
        ),
    ] {
        let outcome = run.run();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        assert!(outcome.stderr.contains(says), "{outcome}\nlacks {says}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
