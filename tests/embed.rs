//! Models that answer with features: what `embed` writes, what `eval` and the others make of them.

#[path = "common/program.rs"]
mod program;

use program::{Outcome, here, program};
use ptq4vit_gpu::data::samples::{Sample, load_all};
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::recipe::resolve;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DEMO: &str = "models/demo/vit_mnist";
/// Features of the demo's ViT.
const DIM: usize = 64;

/// The demo's ViT without its head, in a folder of its own.
struct Headless {
    folder: TempDir,
    model: PathBuf,
}

impl Headless {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("model.safetensors");
        let weights = Weights::open(here(DEMO).join("model.safetensors")).unwrap();
        let names = weights.names().filter(|name| !name.starts_with("head."));
        let tensor = |name: &str| {
            let shape = weights.shape(name).unwrap().to_vec();
            let data = weights.float(name).unwrap();
            (name.to_owned(), TensorData::F32 { shape, data })
        };
        save(&model, names.map(tensor).collect(), BTreeMap::new()).unwrap();
        let text = std::fs::read_to_string(here(DEMO).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["num_classes"] = 0.into();
        if let Some(arguments) = config["model_args"].as_object_mut() {
            arguments.remove("num_classes");
        }
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Self { folder, model }
    }

    /// Lets the model answer with the mean of its patches, normalised before they are pooled.
    fn pool_patches(&self) {
        let path = self.folder.path().join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["global_pool"] = "avg".into();
        config["model_args"]["global_pool"] = "avg".into();
        config["model_args"]["fc_norm"] = false.into();
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn calibrated(&self, preset: &str, bits: &str) -> PathBuf {
        let out = self.file(&format!("{preset}-{bits}.safetensors"));
        let run = program("calibrate")
            .with("--model", &self.model)
            .with("--images", "models/demo/calibration")
            .with("--count", "16")
            .with("--preset", preset)
            .with("--bits", bits)
            .with("--device", "cpu")
            .with("--out", &out);
        // Fewer candidates than the paper's, where there are any.
        let run = match preset {
            "best" => run.with("--report", self.file("page.html")),
            _ => run.with("--candidates", "30"),
        };
        let (_, stderr) = run.run().success();
        assert!(stderr.contains("it answers with 64 features"), "{stderr}");
        out
    }

    fn embed(&self, out: &Path, images: &[&Path]) -> program::Program {
        let run = program("embed")
            .with("--model", &self.model)
            .with("--device", "cpu")
            .with("--out", out);
        images
            .iter()
            .fold(run, |run, image| run.flag(image.to_str().unwrap()))
    }
}

/// The images that are embedded, in the order of the command line.
fn images() -> Vec<PathBuf> {
    let names = ["3/00063.png", "0/00592.png"];
    names.map(|name| here("models/demo/test").join(name)).into()
}

/// The values of an .npy file and its number of rows.
fn npy(path: &Path) -> (usize, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(end % 64, 0);
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    let values: Vec<f32> = bytes[end..]
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let rows = values.len() / DIM;
    let says = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {DIM}), }}");
    assert_eq!(header.trim_end(), says);
    (rows, values)
}

fn refused(outcome: &Outcome, code: i32, says: &str) {
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(code), ""),
        "{outcome}"
    );
    assert!(outcome.stderr.contains(says), "{outcome}\nlacks {says}");
}

#[test]
fn files_hold_the_features_of_the_images() {
    let headless = Headless::new();
    let weights = Weights::open(&headless.model).unwrap();
    let resolved = resolve(&weights, None).unwrap();
    let samples: Vec<Sample> = images()
        .into_iter()
        .map(|path| Sample { path, label: None })
        .collect();
    let inputs = load_all(&samples, &resolved.preprocessing).into_iter();
    let inputs: Vec<Vec<f32>> = inputs.map(|image| image.unwrap()).collect();
    let (architecture, preprocessing) = (&resolved.architecture, &resolved.preprocessing);
    let mut model = Model::float(&Device::cpu(), &weights, architecture, preprocessing).unwrap();
    let expected = model.logits(&inputs).unwrap().concat();
    assert_eq!(expected.len(), 2 * DIM);

    let paths = images();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let (out, names) = (headless.file("features.npy"), headless.file("names.txt"));
    let (stdout, _) = headless
        .embed(&out, &paths)
        .with("--names", &names)
        .run()
        .success();
    assert_eq!(
        stdout,
        format!("wrote {}: 2 images, 64 features\n", out.display())
    );
    assert_eq!(npy(&out), (2, expected.clone()));
    let lines = std::fs::read_to_string(&names).unwrap();
    let shown: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(lines, format!("{}\n{}\n", shown[0], shown[1]));

    // Of length 1, in the other format, and a folder's images in the order of their paths.
    let out = headless.file("features.safetensors");
    headless
        .embed(&out, &paths)
        .flag("--normalize")
        .run()
        .success();
    let written = Weights::open(&out).unwrap();
    assert_eq!(written.shape("features").unwrap(), [2, DIM]);
    let told: Vec<String> = serde_json::from_str(&written.metadata()["images"]).unwrap();
    assert_eq!(told, shown);
    assert_eq!(written.metadata()["normalized"], "true");
    assert_eq!(written.metadata()["model_sha256"], weights.sha256());
    let found = written.float("features").unwrap();
    for (found, expected) in found.chunks(DIM).zip(expected.chunks(DIM)) {
        let squares = expected.iter().map(|&x| f64::from(x).powi(2));
        let length = squares.sum::<f64>().sqrt();
        for (&found, &expected) in found.iter().zip(expected) {
            assert_eq!(found, (f64::from(expected) / length) as f32);
        }
    }
    let out = headless.file("stream");
    let folder = here("models/demo/test/7");
    let report = headless
        .embed(&out, &[&folder])
        .with("--format", "npy")
        .flag("--json")
        .run();
    let report = report.json();
    assert_eq!(report["images"], npy(&out).0);
    assert_eq!(
        (&report["features"], &report["skipped"]),
        (&64.into(), &0.into())
    );
}

#[test]
fn tokens_are_what_is_pooled() {
    const PATCHES: usize = 49;
    let headless = Headless::new();
    let paths = images();
    // What `--tokens` writes of a model that is told by `flag`, `[2, PATCHES, DIM]`, and what is printed of it.
    let tokens = |flag: &str, model: &Path| {
        let out = headless.file("tokens.safetensors");
        let run = program("embed").with(flag, model).with("--device", "cpu");
        let run = run.with("--out", &out).flag("--tokens");
        let add = |run: program::Program, path: &PathBuf| run.flag(path.to_str().unwrap());
        let (stdout, _) = paths.iter().fold(run, add).run().success();
        let says = format!("2 images, {DIM} features of each of {PATCHES} patches\n");
        assert!(stdout.ends_with(&says), "{stdout}");
        let written = Weights::open(&out).unwrap();
        assert_eq!(written.shape("features").unwrap(), [2, PATCHES, DIM]);
        written.float("features").unwrap()
    };
    // A head changes nothing: it isn't asked.
    let with_head = here(DEMO).join("model.safetensors");
    assert_eq!(
        tokens("--model", &with_head),
        tokens("--model", &headless.model)
    );

    headless.pool_patches();
    let quantized = headless.calibrated("best", "6");
    for (flag, model) in [("--model", &headless.model), ("--quantized", &quantized)] {
        let out = headless.file("pooled.npy");
        let run = program("embed").with(flag, model).with("--device", "cpu");
        let run = run.with("--out", &out);
        let add = |run: program::Program, path: &PathBuf| run.flag(path.to_str().unwrap());
        paths.iter().fold(run, add).run().success();
        let (_, pooled) = npy(&out);
        let tokens = tokens(flag, model);
        for (pooled, tokens) in pooled.chunks(DIM).zip(tokens.chunks(PATCHES * DIM)) {
            for (feature, &pooled) in pooled.iter().enumerate() {
                let values = tokens[feature..].iter().step_by(DIM).map(|&x| f64::from(x));
                let largest = values
                    .clone()
                    .fold(0.0, |largest: f64, x| largest.max(x.abs()));
                let mean = values.sum::<f64>() / PATCHES as f64;
                // As many roundings as a sum has terms.
                let bound = PATCHES as f64 * f64::from(f32::EPSILON) * largest;
                assert!(
                    (f64::from(pooled) - mean).abs() <= bound,
                    "{flag}: {pooled}, {mean}"
                );
            }
        }
    }

    let refusal = |flag: &str, model: &Path, says: &str| {
        let run = program("embed").with(flag, model).with("--device", "cpu");
        let run = run
            .with("--out", headless.file("none.npy"))
            .flag("--tokens");
        refused(&run.flag(paths[0].to_str().unwrap()).run(), 3, says);
    };
    let swin = here("models/demo/swin_mnist/model.safetensors");
    refusal(
        "--model",
        &swin,
        "is a Swin transformer, whose tokens are not offered",
    );
    let siglip = here("tests/golden/siglip_micro.w6a6.safetensors");
    refusal(
        "--quantized",
        &siglip,
        "has taken over a part of the last LayerNorm",
    );
}

#[test]
fn no_file_is_partial() {
    let headless = Headless::new();
    let broken = headless.file("broken.png");
    std::fs::write(&broken, b"\x89PNG\r\n\x1a\n").unwrap();
    let paths = images();
    let (out, names) = (headless.file("features.npy"), headless.file("names.txt"));
    let embed = || {
        headless
            .embed(&out, &[&paths[0], &broken, &paths[1]])
            .with("--names", &names)
    };
    refused(
        &embed().run(),
        1,
        "1 images could not be read, where --max-skipped allows 0",
    );
    assert!(!out.exists() && !names.exists());
    let (_, stderr) = embed().with("--max-skipped", "1").run().success();
    assert!(
        stderr.contains("skipped: ") && stderr.contains("broken.png"),
        "{stderr}"
    );
    assert_eq!(npy(&out).0, 2);
    assert_eq!(std::fs::read_to_string(&names).unwrap().lines().count(), 2);

    let only = headless.embed(&headless.file("none.npy"), &[&broken]);
    refused(
        &only.with("--max-skipped", "1").run(),
        1,
        "none of the 1 images could be read",
    );
    for (out, says) in [
        ("features.bin", "--format tells which it is"),
        ("features", "ends neither with .npy nor with .safetensors"),
    ] {
        let out = headless.file(out);
        refused(&headless.embed(&out, &[&paths[0]]).run(), 2, says);
    }
    let model = headless.embed(&headless.model, &[&paths[0]]);
    refused(&model.run(), 2, "--out: ");
}

#[test]
fn what_has_no_meaning_is_refused_by_name() {
    let headless = Headless::new();
    let image = images().remove(0);
    let classify = program("classify")
        .with("--model", &headless.model)
        .flag(image.to_str().unwrap())
        .with("--device", "cpu");
    refused(
        &classify.run(),
        3,
        "answers with 64 features and has no classes; `embed` writes its features",
    );
    let embed = program("embed")
        .with("--model", here(DEMO))
        .flag(image.to_str().unwrap())
        .with("--device", "cpu")
        .with("--out", headless.file("x.npy"));
    refused(
        &embed.run(),
        3,
        "answers with the logits of 10 classes, where features are expected",
    );

    let eval = |model: &Path| {
        program("eval")
            .with("--model", model)
            .with("--images", "models/demo/test")
            .with("--device", "cpu")
    };
    let alone = eval(&headless.model).run();
    refused(&alone, 2, "64 features has nothing to be compared with");
    let part = eval(&headless.model)
        .with("--out", headless.file("part.json"))
        .run();
    refused(&part, 2, "--out: is for models with classes");
    let gallery = eval(&here(DEMO))
        .with("--gallery", "models/demo/calibration")
        .run();
    refused(
        &gallery,
        2,
        "--gallery: is for models that answer with features",
    );
    let many = eval(&headless.model)
        .with("--gallery", "models/demo/calibration")
        .with("--neighbours", "33")
        .run();
    refused(
        &many,
        2,
        "--neighbours: expected at most the gallery's 32 images, found 33",
    );
    let report = program("calibrate")
        .with("--model", &headless.model)
        .with("--images", "models/demo/calibration")
        .with("--device", "cpu")
        .with("--report", headless.file("page.html"))
        .with("--report-images", "models/demo/test")
        .with("--out", headless.file("out.safetensors"))
        .run();
    refused(&report, 3, "the model has none: it answers with features");
}

#[test]
fn quantized_features_are_close_to_the_fp_models() {
    let headless = Headless::new();
    for (preset, bits, least) in [
        ("best", "8", 0.999),
        ("best", "4", 0.97),
        ("ptq4vit", "8", 0.999),
        ("base-ptq", "8", 0.98),
    ] {
        let quantized = headless.calibrated(preset, bits);
        let report = program("eval")
            .with("--model", &headless.model)
            .with("--quantized", &quantized)
            .with("--images", "models/demo/test")
            .with("--gallery", "models/demo/test")
            .with("--neighbours", "5")
            .with("--device", "cpu")
            .flag("--json")
            .run()
            .json();
        println!("{preset} {bits}: {report}");
        let figure = |key: &str| report[key].as_f64().unwrap();
        assert_eq!(
            (&report["images"], &report["gallery"]),
            (&500.into(), &500.into())
        );
        // Measured: 0.9998, 0.990, 0.9998, 0.994. A network that is computed wrong is far off.
        assert!(figure("cosine") > least, "{report}");
        assert!(figure("cosine_min") <= figure("cosine"));
        let sqnr = -20.0 * figure("relative_error").log10();
        assert!((figure("feature_sqnr_db") - sqnr).abs() < 1e-9);
        // Each image is in the gallery, and nearest to itself.
        assert_eq!(figure("nearest_agreement"), 1.0);
        // The demo's head gets 99% of them right, and so do its features' neighbours.
        assert!(
            figure("fp_knn_accuracy") > 0.95 && figure("knn_accuracy") > 0.95,
            "{report}"
        );
    }

    let best = headless.file("best-8.safetensors");
    let inspect = program("inspect").flag(best.to_str().unwrap()).run();
    let (stdout, _) = inspect.success();
    assert!(stdout.contains("\nfeatures     64\n"), "{stdout}");
    let page = std::fs::read_to_string(headless.file("page.html")).unwrap();
    assert!(page.contains("the quantized network's features, compared with FP32's"));
    assert!(!page.contains("logit SQNR"));

    // Of one model, with labels of both sets, and no image's own among the neighbours.
    let labels = |name: &str, digits: &[usize]| {
        let lines = digits.iter().flat_map(|digit| {
            let folder = here(&format!("models/demo/test/{digit}"));
            let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
            files.sort_by_key(|file| file.as_ref().unwrap().file_name());
            let files = files.into_iter().enumerate();
            let wanted = files.filter(|(at, _)| (at % 2 == 0) == (name == "queries"));
            let line = move |(_, file): (usize, std::io::Result<std::fs::DirEntry>)| {
                let file = file.unwrap().file_name();
                format!("{digit}/{}\t{digit}\n", file.to_string_lossy())
            };
            wanted.map(line)
        });
        let path = headless.file(name);
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        path
    };
    let report = program("eval")
        .with("--quantized", &best)
        .with("--images", "models/demo/test")
        .with("--labels", labels("queries", &[1, 4]))
        .with("--gallery", "models/demo/test")
        .with("--gallery-labels", labels("gallery", &[1]))
        .with("--device", "cpu")
        .flag("--json")
        .run();
    let (stdout, stderr) = report.success();
    let report: Value = serde_json::from_str(&stdout).unwrap();
    // The gallery has no 4.
    assert!(
        stderr.contains("images are of a class that it lacks"),
        "{stderr}"
    );
    let (images, gallery) = (
        report["images"].as_f64().unwrap(),
        report["gallery"].as_f64().unwrap(),
    );
    let ones = images * report["knn_accuracy"].as_f64().unwrap();
    assert!(
        (ones - gallery).abs() <= 1.0 && ones < 0.6 * images,
        "{report}"
    );
    assert!(report["cosine"].is_null() && report["nearest_agreement"].is_null());
}
