//! What a model's classes are called, and which of them a folder of images is: by every subcommand alike.

#[path = "common/program.rs"]
mod program;

use program::{Program, here, program};
use ptq4vit_gpu::data::class_names::ClassNames;
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use ptq4vit_gpu::quant::QuantizedModel;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// ImageNet's classes that Imagenette has, by their WordNet ids.
const IMAGENETTE: [(usize, &str); 10] = [
    (0, "n01440764"),
    (217, "n02102040"),
    (482, "n02979186"),
    (491, "n03000684"),
    (497, "n03028079"),
    (566, "n03394916"),
    (569, "n03417042"),
    (571, "n03425413"),
    (574, "n03445777"),
    (701, "n03888257"),
];
/// Images of each digit.
const IMAGES: usize = 3;

/// A folder with a model that tells digits apart, and photos of them.
struct Scene(TempDir);

impl Scene {
    /// The demo's ViT with a head of so many classes, of which it takes an image of digit d for class `of_digit[d]`.
    /// `config` changes its config.json, from which the demo's labels are gone.
    fn new(classes: usize, of_digit: [usize; 10], config: impl FnOnce(&mut Value)) -> Self {
        let scene = Self(TempDir::new().unwrap());
        let source = Weights::open(here("models/demo/vit_mnist/model.safetensors")).unwrap();
        let tensor = |name: &str| {
            let (shape, data) = (source.shape(name).unwrap(), source.float(name).unwrap());
            let (shape, data) = match name {
                "head.weight" | "head.bias" => {
                    let inputs = data.len() / 10;
                    // No other class is ever likely.
                    let other = if name == "head.bias" { -100.0 } else { 0.0 };
                    let mut rows = vec![other; classes * inputs];
                    for (digit, row) in of_digit.into_iter().zip(data.chunks(inputs)) {
                        rows[digit * inputs..][..inputs].copy_from_slice(row);
                    }
                    ([&[classes], &shape[1..]].concat(), rows)
                }
                _ => (shape.to_vec(), data),
            };
            (name.to_owned(), TensorData::F32 { shape, data })
        };
        let tensors = source.names().map(tensor).collect();
        save(scene.model(), tensors, Default::default()).unwrap();

        let text = std::fs::read_to_string(here("models/demo/vit_mnist/config.json")).unwrap();
        let mut told: Value = serde_json::from_str(&text).unwrap();
        told["num_classes"] = classes.into();
        let cfg = told["pretrained_cfg"].as_object_mut().unwrap();
        cfg.remove("label_names");
        cfg.remove("num_classes");
        config(&mut told);
        std::fs::write(scene.path("config.json"), told.to_string()).unwrap();
        scene
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self) -> PathBuf {
        self.path("model.safetensors")
    }

    /// Puts some images of a digit into a class folder of `val`.
    fn add(&self, folder: &str, digit: usize) {
        let to = self.path("val").join(folder);
        std::fs::create_dir_all(&to).unwrap();
        let digits = std::fs::read_dir(here(&format!("models/demo/test/{digit}"))).unwrap();
        let mut digits: Vec<PathBuf> = digits.map(|entry| entry.unwrap().path()).collect();
        digits.sort();
        for image in &digits[..IMAGES] {
            std::fs::copy(image, to.join(image.file_name().unwrap())).unwrap();
        }
    }

    /// `eval` of the FP model on the class folders.
    fn eval(&self) -> Program {
        self.evaluate("--model", &self.model())
    }

    fn evaluate(&self, flag: &str, model: &Path) -> Program {
        program("eval")
            .with(flag, model)
            .with("--images", self.path("val"))
            .with("--device", "cpu")
    }

    /// The accuracy that a run printed, and its notices.
    fn top1(run: Program) -> (f64, String) {
        let (stdout, stderr) = run.flag("--json").run().success();
        let report: Value = serde_json::from_str(&stdout).unwrap();
        (report["top1"].as_f64().unwrap(), stderr)
    }

    /// The quantized model.
    fn calibrated(&self) -> PathBuf {
        let out = self.path("w8a8.safetensors");
        program("calibrate")
            .with("--model", self.model())
            .with("--images", here("models/demo/calibration"))
            .with("--count", "2")
            .with("--preset", "ptq4vit")
            .with("--candidates", "5")
            .with("--rounds", "1")
            .with("--device", "cpu")
            .with("--out", &out)
            .run()
            .success();
        out
    }

    fn refused(run: Program, says: &str) {
        let outcome = run.run();
        assert_eq!(outcome.code, Some(3), "{outcome}");
        assert!(outcome.stderr.contains(says), "{says}: {outcome}");
    }
}

/// The first class that `classify` finds in an image of a seven, as text and as JSON.
fn classified(flag: &str, model: &Path) -> (String, Value) {
    let classify = || {
        program("classify")
            .with(flag, model)
            .with("--device", "cpu")
            .with("--top", "1")
            .flag("models/demo/test/7")
    };
    let (stdout, _) = classify().run().success();
    let line = stdout.lines().nth(1).expect("a class").to_owned();
    let report = classify().flag("--json").run().json();
    let mut class = report["images"][0]["classes"][0].clone();
    class.as_object_mut().unwrap().remove("probability");
    (line, class)
}

#[test]
fn imagenette_is_evaluated_with_imagenets_classes() {
    let scene = Scene::new(1000, IMAGENETTE.map(|(class, _)| class), |config| {
        config["pretrained_cfg"]["tag"] = "augreg_in21k_ft_in1k".into();
    });
    for (digit, (_, wnid)) in IMAGENETTE.into_iter().enumerate() {
        scene.add(wnid, digit);
    }
    let (top1, notices) = Scene::top1(scene.eval());
    assert_eq!(top1, 1.0);
    let rule = "class folders: 10 of 1000, by the model's names of its classes\n";
    assert!(notices.contains(rule), "{notices}");

    // So the quantized model has it, and all that evaluates.
    let quantized = scene.calibrated();
    let model = QuantizedModel::open(&quantized).unwrap();
    assert_eq!(model.class_names, Some(ClassNames::imagenet()));
    let (top1, notices) = Scene::top1(scene.evaluate("--quantized", &quantized));
    assert!(top1 > 0.8, "{top1}");
    assert!(notices.contains(rule), "{notices}");
    let parts = ["0/2", "1/2"].map(|shard| {
        let part = scene.path(shard.replace('/', "-"));
        let run = scene.evaluate("--quantized", &quantized);
        run.with("--shard", shard)
            .with("--out", &part)
            .run()
            .success();
        part
    });
    let merged = program("merge").flag("--json");
    let merged = parts
        .iter()
        .fold(merged, |run, part| run.flag(part.to_str().unwrap()));
    assert_eq!(merged.run().json()["top1"], top1);
    let plan = json!({
        "out": scene.path("sweep"), "presets": ["base-ptq"], "bits": [8],
        "models": [{"model": scene.model()}],
        "calibration": {"images": here("models/demo/calibration"), "count": 2},
        "evaluation": {"images": scene.path("val")},
    });
    std::fs::write(scene.path("plan.toml"), toml::to_string(&plan).unwrap()).unwrap();
    let sweep = program("sweep").with("--plan", scene.path("plan.toml"));
    let (top1, _) = Scene::top1(sweep.with("--task", "0").with("--device", "cpu"));
    assert!(top1 > 0.8, "{top1}");

    let line = "571  n03425413  gas pump, gasoline pump, petrol pump, island dispenser";
    for (flag, model) in [
        ("--model", scene.model()),
        ("--quantized", quantized.clone()),
    ] {
        let (shown, class) = classified(flag, &model);
        assert!(shown.ends_with(line), "{shown}");
        assert_eq!(class["wnid"], "n03425413");
    }
    let inspect = || program("inspect").flag(quantized.to_str().unwrap());
    let (shown, _) = inspect().run().success();
    assert!(
        shown.contains("\nclasses      1000, ImageNet-1k's\n"),
        "{shown}"
    );
    assert_eq!(
        inspect().flag("--json").run().json()["class_names"],
        "imagenet-1k"
    );

    scene.add("n00000001", 0);
    Scene::refused(
        scene.eval(),
        "1 of 11 class folders are none of the model's classes: n00000001",
    );
}

#[test]
fn a_thousand_classes_of_its_own_are_not_imagenets() {
    let scene = Scene::new(1000, IMAGENETTE.map(|(class, _)| class), |_| {});
    let (shown, class) = classified("--model", &scene.model());
    assert!(shown.ends_with("571"), "{shown}");
    assert_eq!(class, json!({"index": 571}));
    for (digit, (_, wnid)) in IMAGENETTE.into_iter().enumerate() {
        scene.add(wnid, digit);
    }
    Scene::refused(
        scene.eval(),
        "has 10 class folders, but the model has 1000 classes and no names for them",
    );
}

#[test]
fn labels_of_the_model_go_before_all() {
    let words = [
        "nil", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf",
    ];
    let scene = Scene::new(10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], |config| {
        config["label_names"] = json!(words);
        config["pretrained_cfg"]["tag"] = "fb_in1k".into();
    });
    // Not in the order of the text.
    for (digit, word) in words.into_iter().enumerate() {
        scene.add(word, digit);
    }
    let quantized = scene.calibrated();
    let names = QuantizedModel::open(&quantized)
        .unwrap()
        .class_names
        .unwrap();
    assert!(names.iter().map(|class| &class.name).eq(words));
    assert_eq!(Scene::top1(scene.eval()).0, 1.0);
    assert!(Scene::top1(scene.evaluate("--quantized", &quantized)).0 > 0.8);
    for (flag, model) in [("--model", scene.model()), ("--quantized", quantized)] {
        let (shown, class) = classified(flag, &model);
        assert!(shown.ends_with("     7  sept"), "{shown}");
        assert_eq!(class, json!({"index": 7, "name": "sept"}));
    }
    // Fewer classes are enough, but no others.
    std::fs::remove_dir_all(scene.path("val/nil")).unwrap();
    assert_eq!(Scene::top1(scene.eval()).0, 1.0);
    scene.add("null", 0);
    Scene::refused(
        scene.eval(),
        "1 of 10 class folders are none of the model's classes: null",
    );

    // What can't be used is named, and nothing else depends on it.
    let path = scene.path("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"nil\",", "")).unwrap();
    let run = program("classify")
        .with("--model", scene.model())
        .with("--device", "cpu");
    let (stdout, stderr) = run.flag("models/demo/test/7/").run().success();
    assert!(stdout.contains("%     7\n"), "{stdout}");
    let says = "config.json: its names of classes are not used: `label_names`: names 9 classes, but the model has 10";
    assert!(stderr.contains(says), "{stderr}");
}

#[test]
fn folders_called_by_numbers_are_in_their_order() {
    // Twelve classes, the first two of which are never seen.
    let scene = Scene::new(12, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11], |_| {});
    for class in 0..12_usize {
        scene.add(&class.to_string(), class.saturating_sub(2));
    }
    let (top1, notices) = Scene::top1(scene.eval());
    assert_eq!(top1, 10.0 / 12.0);
    let rule = "class folders: 12 of 12, in the order of their numbers\n";
    assert!(notices.contains(rule), "{notices}");
    scene.add("011", 9);
    Scene::refused(scene.eval(), "found `011` and `11`");
}

#[test]
fn lists_of_windows_programs_are_read() {
    let scene = Scene::new(10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], |_| {});
    scene.add("all", 7);
    let images = std::fs::read_dir(scene.path("val/all")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let lines = images.map(|entry| format!("all/{}\t7\r\n", name(entry).to_str().unwrap()));
    let text = lines.collect::<String>();
    let labels = scene.path("labels.tsv");
    let utf16: Vec<u8> = "\u{feff}"
        .encode_utf16()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    std::fs::write(&labels, format!("\u{feff}{text}")).unwrap();
    let eval = || scene.eval().with("--labels", &labels);
    assert_eq!(Scene::top1(eval()).0, 1.0);
    std::fs::write(&labels, utf16).unwrap();
    Scene::refused(eval(), "begins with the byte order mark of UTF-16");
}
