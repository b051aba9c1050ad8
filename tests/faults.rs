//! Bad input of every kind: a clear error with the documented exit code, no panic, and no output that is half there.

mod common;
#[path = "common/container.rs"]
mod container;
#[path = "common/program.rs"]
mod program;

use container::{Container, Tensor};
use image::{ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
use program::{Outcome, Program, here, program};
use ptq4vit_gpu::data::image_file;
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::config::Architecture;
use ptq4vit_gpu::model::recipe::{recipes, resolve};
use ptq4vit_gpu::quant::{Calibration, Method, Metric, Preset, Provenance, QuantizedModel};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Exit codes, as `src/error.rs` documents them.
const CHECK: i32 = 1;
const USAGE: i32 = 2;
const INPUT: i32 = 3;
const DEVICE: i32 = 4;

/// The golden oracle's ViT: 2 blocks of 48 features on images of 32 pixels, 10 classes, with its description in its
/// metadata.
static MICRO: LazyLock<Container> = LazyLock::new(|| {
    let path = here("tests/golden/vit_micro.safetensors");
    Container::parse(&std::fs::read(path).unwrap())
});

/// What `calibrate` makes of [`MICRO`].
static QUANTIZED: LazyLock<Container> = LazyLock::new(|| {
    let scene = Scene::new();
    scene.calibrate().run().success();
    Container::parse(&std::fs::read(scene.path("out.safetensors")).unwrap())
});

/// A folder with everything that a run needs: `model.safetensors`, `images`, `labels.tsv`, and a file `out.safetensors`
/// from an earlier run.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(scene.path("images")).unwrap();
        for name in ["a.png", "b.png", "c.png"] {
            let seed = u32::from(name.as_bytes()[0]);
            let noise = |x: u32, y: u32| (x * 37 + y * 101 + x * y * seed) as u8;
            RgbImage::from_fn(40, 32, |x, y| {
                Rgb([noise(x, y), noise(y, x), noise(x, y + 1)])
            })
            .save(scene.path("images").join(name))
            .unwrap();
        }
        scene.write("labels.tsv", "a.png\t0\nb.png\t1\nc.png\t9\n");
        scene.write("model.safetensors", MICRO.file());
        scene.write("out.safetensors", "from an earlier run");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    /// Writes the model, changed.
    fn model(&self, change: impl FnOnce(&mut Container)) {
        let mut model = MICRO.clone();
        change(&mut model);
        self.write("model.safetensors", model.file());
    }

    /// A calibration that takes a fraction of a second.
    fn calibrate(&self) -> Program {
        self.calibrate_to(self.path("out.safetensors"))
            .with("--count", "2")
    }

    fn calibrate_to(&self, out: impl AsRef<Path>) -> Program {
        program("calibrate")
            .with("--model", self.path("model.safetensors"))
            .with("--images", self.path("images"))
            .with("--out", out.as_ref())
            .with("--preset", "ptq4vit")
            .with("--candidates", "10")
            .with("--rounds", "1")
            .with("--device", "cpu")
    }

    fn eval(&self, flag: &str, model: &str) -> Program {
        program("eval")
            .with(flag, self.path(model))
            .with("--images", self.path("images"))
            .with("--labels", self.path("labels.tsv"))
            .with("--device", "cpu")
            .flag("--json")
    }

    /// Every file below the folder, and what is in it.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        walkdir::WalkDir::new(self.folder.path())
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect()
    }

    /// Runs a program that has to fail and to leave every file as it was, with none beside them.
    #[track_caller]
    fn fails(&self, program: Program, code: i32, says: &[&str]) {
        let before = self.contents();
        assert_failed(&program.run(), code, says);
        // Not `assert_eq!`, which would print megabytes.
        assert!(self.contents() == before, "files changed: {says:?}");
    }
}

/// That a run ended with this exit code, without a result on stdout, and with these parts in its error.
#[track_caller]
fn assert_failed(outcome: &Outcome, code: i32, says: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome}");
    assert_eq!(outcome.stdout, "", "{outcome}");
    for part in says {
        assert!(
            outcome.stderr.contains(part),
            "`{part}` is missing: {outcome}"
        );
    }
}

/// `calibrate` and `eval` refuse a model file of these bytes.
#[track_caller]
fn model_is_refused(bytes: &[u8], says: &[&str]) {
    let scene = Scene::new();
    scene.write("model.safetensors", bytes);
    let says = [&["model.safetensors"], says].concat();
    scene.fails(scene.calibrate(), INPUT, &says);
    scene.fails(scene.eval("--model", "model.safetensors"), INPUT, &says);
}

#[test]
fn a_damaged_safetensors_header() {
    let file = MICRO.file();
    let huge = [&(1u64 << 60).to_le_bytes()[..], &file[8..]].concat();
    let beyond = [&(file.len() as u64).to_le_bytes()[..], &file[8..]].concat();
    model_is_refused(b"", &["is empty"]);
    model_is_refused(&file[..5], &["has 5 bytes"]);
    model_is_refused(&file[..100], &["is truncated: the header takes"]);
    model_is_refused(&file[..file.len() - 1], &["it is truncated"]);
    model_is_refused(&[&file[..], b"x"].concat(), &["followed by something else"]);
    model_is_refused(&huge, &["header length would be 1152921504606846976"]);
    model_is_refused(&beyond, &["is truncated: the header takes"]);
}

#[test]
fn tensors_that_overlap_or_have_another_size() {
    let overlapping = MICRO.file_with(|header| {
        let first = header["blocks.0.attn.proj.weight"]["data_offsets"].clone();
        header["blocks.1.attn.proj.weight"]["data_offsets"] = first;
    });
    model_is_refused(
        &overlapping,
        &[
            "tensor `blocks.1.attn.proj.weight` begins at",
            "neither overlap nor",
        ],
    );
    let short = MICRO.file_with(|header| header["cls_token"]["shape"] = json!([1, 1, 47]));
    model_is_refused(&short, &["tensor `cls_token`", "takes 188 bytes"]);
}

#[test]
fn tensors_that_are_not_the_networks() {
    let changed = |change: &dyn Fn(&mut Container)| {
        let mut model = MICRO.clone();
        change(&mut model);
        model.file()
    };
    let integers = changed(&|model| model.tensor("norm.weight").dtype = "I32");
    model_is_refused(&integers, &["`norm.weight` I32 for F32 or F16 or BF16"]);
    let missing = changed(&|model| {
        model.tensors.remove("blocks.1.mlp.fc2.bias");
    });
    model_is_refused(&missing, &["1 missing: `blocks.1.mlp.fc2.bias`"]);
    let more = changed(&|model| {
        let copy = model.tensor("norm.weight").clone();
        model.tensors.insert("extra.weight".to_owned(), copy);
    });
    model_is_refused(&more, &["1 unexpected: `extra.weight`"]);
    let config = changed(&|model| {
        model.metadata.insert("config".to_owned(), "{}".to_owned());
    });
    model_is_refused(&config, &["metadata key `config`", "--recipe"]);
}

#[test]
fn files_of_another_kind() {
    model_is_refused(
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        &["a Python pickle", "safetensors.torch.save_file"],
    );
    model_is_refused(
        b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl",
        &["a zip archive, such as PyTorch's", "save_file"],
    );
    model_is_refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 22\n",
        &["a Git LFS pointer", "`git lfs pull`"],
    );
    let scene = Scene::new();
    std::fs::remove_file(scene.path("model.safetensors")).unwrap();
    let says = ["model.safetensors", "can't be opened"];
    scene.fails(scene.calibrate(), INPUT, &says);
    std::fs::create_dir(scene.path("model.safetensors")).unwrap();
    let says = ["model.safetensors", "is a folder"];
    scene.fails(scene.calibrate(), INPUT, &says);
}

#[test]
fn values_that_are_not_finite() {
    for (name, value, shown) in [
        ("blocks.1.mlp.fc1.weight", f32::NAN, "NaN"),
        ("pos_embed", f32::NEG_INFINITY, "-inf"),
    ] {
        let mut model = MICRO.clone();
        model.tensor(name).words()[5] = value.to_le_bytes();
        let tensor = format!("tensor `{name}`");
        let value = format!("{shown} at flat index 5");
        model_is_refused(&model.file(), &[&tensor, &value, "must be finite"]);
    }
}

#[test]
fn values_that_overflow_on_the_way() {
    // Finite weights whose products are not: an `eval` that compared NaNs would call every image right.
    let scene = Scene::new();
    scene.model(|model| {
        model
            .tensor("norm.weight")
            .words()
            .fill(3e38f32.to_le_bytes());
    });
    let says = [
        "b.png",
        "model.safetensors on cpu, head is given inf, where finite",
    ];
    scene.fails(scene.calibrate(), INPUT, &says);
    let says = [
        "a.png",
        "a logit of",
        "on cpu",
        "finite values are expected",
    ];
    scene.fails(scene.eval("--model", "model.safetensors"), INPUT, &says);

    scene.model(|model| {
        let weight = model.tensor("blocks.1.mlp.fc1.weight");
        weight.words().fill(1e38f32.to_le_bytes());
    });
    let says = ["b.png", "blocks.1.mlp.fc1 gives ", "where finite"];
    scene.fails(scene.calibrate(), INPUT, &says);

    // The products alone are finite, but not when the bias is added.
    let mut quantized = QUANTIZED.clone();
    for (tensor, value) in [("head.b.scale", 1e33), ("head.bias", f32::MAX)] {
        let value = value.to_le_bytes();
        quantized.tensor(tensor).words().fill(value);
    }
    scene.write("quantized.safetensors", quantized.file());
    let says = [
        "a.png",
        "a logit of",
        "on cpu",
        "finite values are expected",
    ];
    scene.fails(
        scene.eval("--quantized", "quantized.safetensors"),
        INPUT,
        &says,
    );
}

/// The FP logits and the quantized ones of two images of `model`, calibrated on these on every device.
fn quantized_logits(model: &Container, metric: Metric) -> Vec<(Vec<f32>, Vec<f32>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, model.file()).unwrap();
    let weights = Weights::open(&path).unwrap();
    let resolved = resolve(&weights, None).unwrap();
    let sites = sites(&resolved.architecture);
    let mut method = Method::preset(Preset::Ptq4vit, 8, 8, &sites).unwrap();
    method.settings.metric = metric;
    method.settings.candidates = 20;
    method.settings.rounds = 1;
    let Architecture::Vit(config) = &resolved.architecture else {
        panic!("a ViT");
    };
    let pixels = config.in_chans * config.image_size.pixels();
    let images: Vec<Vec<f32>> = (0..2)
        .map(|image| {
            (0..pixels)
                .map(|at| ((at * (7 + image)) as f32).sin())
                .collect()
        })
        .collect();
    common::devices()
        .iter()
        .map(|device| {
            let found = Calibration::builder(device, &weights, &resolved.architecture)
                .method(&method)
                .images(&images)
                .run()
                .unwrap_or_else(|error| panic!("{error}"));
            let provenance = Provenance {
                name: resolved.name.clone(),
                preset: Preset::Ptq4vit,
                seed: None,
                images: images.len(),
                source_sha256: weights.sha256(),
                calibration_sha256: String::new(),
                tool_version: String::new(),
            };
            // By way of the file, whose reader insists on positive scales.
            let out = folder.path().join("out.safetensors");
            QuantizedModel::new(&weights, &resolved, method.clone(), found, provenance)
                .unwrap()
                .save(&out)
                .unwrap();
            let quantized = QuantizedModel::open(&out).unwrap();
            let mut quantized = Model::quantized(device, &quantized).unwrap();
            let mut float = Model::float(
                device,
                &weights,
                &resolved.architecture,
                &resolved.preprocessing,
            )
            .unwrap();
            (
                float.logits(&images).unwrap().concat(),
                quantized.logits(&images).unwrap().concat(),
            )
        })
        .collect()
}

#[test]
fn tensors_of_zeros_calibrate() {
    for zeroed in [
        &["blocks.0.attn.qkv.weight"][..],
        &["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"],
        &["patch_embed.proj.weight"],
        &["blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc1.bias"],
        &["blocks.1.mlp.fc2.weight", "blocks.1.mlp.fc2.bias"],
        &["norm.weight"],
        &["head.weight"],
    ] {
        let mut model = MICRO.clone();
        for name in zeroed {
            model.tensor(name).clear();
        }
        for metric in [Metric::Hessian, Metric::Cosine, Metric::Pearson] {
            for (float, quantized) in quantized_logits(&model, metric) {
                let error: f32 = float
                    .iter()
                    .zip(&quantized)
                    .map(|(f, q)| (f - q).powi(2))
                    .sum();
                let norm: f32 = float.iter().map(|f| f * f).sum();
                let error = (error / norm).sqrt();
                // The network as it is shows 0.055 to 0.082 at these settings; a scale of the wrong size would show 1, a
                // division by zero NaN.
                assert!(error < 0.2, "{zeroed:?} zeroed, {metric:?}: off by {error}");
            }
        }
    }
}

#[test]
fn a_network_without_any_doubt() {
    // A logit that far ahead makes the softmax exactly 1 in f32, so the loss has no gradient to weigh errors with.
    let scene = Scene::new();
    scene.model(|model| model.tensor("head.bias").words()[3] = 1e4f32.to_le_bytes());
    let says = ["--metric", "hessian needs a loss", "choose `mse`"];
    scene.fails(scene.calibrate(), USAGE, &says);
    scene.calibrate().with("--metric", "mse").run().success();
}

#[test]
fn architectures_that_nobody_tells() {
    let scene = Scene::new();
    scene.model(|model| {
        model.metadata.remove("config");
    });
    let says = ["--recipe", "fits no recipe", "config.json"];
    scene.fails(scene.calibrate(), USAGE, &says);
    let unknown = || scene.calibrate().with("--recipe", "vit_enormous");
    let says = ["--recipe", "`vit_enormous`", "deit_tiny_patch16_224"];
    scene.fails(unknown(), USAGE, &says);
    let wrong = || scene.calibrate().with("--recipe", "deit_tiny_patch16_224");
    let says = ["model.safetensors", "dim is 48, not 192"];
    scene.fails(wrong(), INPUT, &says);

    // ViT-Tiny and DeiT-Tiny differ in their preprocessing only.
    let tiny = recipes()
        .iter()
        .find(|recipe| recipe.name == "vit_tiny_patch16_224")
        .unwrap();
    let tensor = |shape: Vec<usize>| Tensor {
        dtype: "BF16",
        bytes: vec![0; 2 * shape.iter().product::<usize>()],
        shape,
    };
    let tensors = tiny.architecture.expected_tensors();
    let ambiguous = Container {
        metadata: BTreeMap::new(),
        tensors: tensors
            .into_iter()
            .map(|(name, shape)| (name, tensor(shape)))
            .collect(),
    };
    scene.write("model.safetensors", ambiguous.file());
    let says = [
        "--recipe",
        "fits several recipes",
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
    ];
    scene.fails(scene.calibrate(), USAGE, &says);
    scene.fails(scene.eval("--model", "model.safetensors"), USAGE, &says);

    scene.write("config.json", "{\"architecture\": \"vit_tiny_patch16_224\"");
    let says = ["config.json", "can't be understood", "recipe"];
    scene.fails(scene.calibrate(), INPUT, &says);
}

#[cfg(not(feature = "hub"))]
#[test]
fn names_that_this_build_cannot_fetch() {
    let scene = Scene::new();
    for name in [
        "deit_tiny_patch16_224",
        "hf-hub:timm/deit_tiny_patch16_224.fb_in1k",
    ] {
        let program = program("eval")
            .with("--model", name)
            .with("--images", scene.path("images"))
            .with("--labels", scene.path("labels.tsv"));
        scene.fails(
            program,
            INPUT,
            &["without the feature `hub`", "name the file"],
        );
    }
}

#[test]
fn image_sizes_that_the_model_does_not_take() {
    let scene = Scene::new();
    let both = |size: &str| {
        let calibrate = scene.calibrate().with("--image-size", size);
        let eval = scene.eval("--model", "model.safetensors");
        [calibrate, eval.with("--image-size", size)]
    };
    for run in both("40") {
        let says = [
            "model.safetensors",
            "image_size 40: its positions are for images of 32 pixels, not 40",
            "`--interpolate-positions`",
        ];
        scene.fails(run, INPUT, &says);
    }
    // As many patches as there are positions, but in another grid.
    for run in both("16x64") {
        let says = [
            "model.safetensors",
            "image_size 16x64: its positions are for images of 32 pixels, not 16x64",
            "`--interpolate-positions`",
        ];
        scene.fails(run, INPUT, &says);
    }
    for size in ["", "32x", "x32", "32,32", "32x32x32", "large"] {
        for run in both(size) {
            let says = [
                "--image-size",
                "expected pixels as in 224, or height and width as in 96x64",
            ];
            scene.fails(run, USAGE, &says);
        }
    }
    for size in ["36", "32x36", "36x32", "0", "18446744073709551615"] {
        for run in both(size) {
            let run = run.flag("--interpolate-positions");
            let says = ["--image-size: image_size", size];
            scene.fails(run, USAGE, &says);
        }
    }

    let swin = here("tests/golden/swin_micro.safetensors");
    scene.write("model.safetensors", std::fs::read(swin).unwrap());
    for run in both("56x48") {
        let run = run.flag("--interpolate-positions");
        let says = [
            "--image-size",
            "image_size is 56x48, where only squares are supported",
        ];
        scene.fails(run, USAGE, &says);
    }
    for run in both("48") {
        let run = run.flag("--interpolate-positions");
        let says = [
            "--image-size",
            "images of 48 pixels have windows of 6 tokens in stage 1",
        ];
        scene.fails(run, USAGE, &says);
    }
}

#[test]
fn folders_without_the_images() {
    let scene = Scene::new();
    let says = ["--count", "the 3 images that there are", "found 99"];
    let fewer = scene.calibrate_to(scene.path("out.safetensors"));
    scene.fails(fewer.with("--count", "99"), USAGE, &says);
    let none = scene.calibrate_to(scene.path("out.safetensors"));
    scene.fails(none.with("--count", "0"), USAGE, &["--count", "at least 1"]);

    scene.write("list.txt", "a.png\nb.png\n");
    let listed = |count: &str| {
        scene
            .calibrate_to(scene.path("out.safetensors"))
            .with("--list", scene.path("list.txt"))
            .with("--count", count)
    };
    let says = ["--count", "expected 3 images", "list.txt names 2"];
    scene.fails(listed("3"), USAGE, &says);
    let says = ["--count", "at least 1"];
    scene.fails(listed("0"), USAGE, &says);
    scene.write("list.txt", "a.png\nnone.png\n");
    let says = ["list.txt", "1 of them missing: \"none.png\""];
    scene.fails(listed("2"), INPUT, &says);
    let says = ["--list", "--seed", "cannot be used"];
    scene.fails(listed("1").with("--seed", "1"), USAGE, &says);

    for name in ["a.png", "b.png", "c.png"] {
        std::fs::remove_file(scene.path("images").join(name)).unwrap();
    }
    let says = ["images", "expected a folder of images", "found none"];
    scene.fails(scene.calibrate(), INPUT, &says);
    std::fs::remove_dir(scene.path("images")).unwrap();
    let says = ["images", "expected a folder"];
    scene.fails(scene.calibrate(), INPUT, &says);
    scene.fails(scene.eval("--model", "model.safetensors"), INPUT, &says);
}

#[test]
fn demo_files_go_to_a_new_folder_only() {
    let scene = Scene::new();
    let export = |to: &str| program("demo").with("--export", scene.path(to));
    scene.fails(export("images"), INPUT, &["images", "expected"]);
    scene.fails(
        export("none/demo"),
        INPUT,
        &["none/demo", "can't be written"],
    );
    let both = export("demo").with("--device", "cpu");
    scene.fails(both, USAGE, &["--export", "cannot be used"]);
}

#[test]
fn unusual_and_broken_images() {
    let scene = Scene::new();
    let image = |name: &str| scene.path("images").join(name);
    let good = [
        "grey.png",
        "alpha.png",
        "deep.png",
        "dot.png",
        "line.png",
        "cmyk.jpg",
    ];
    ImageBuffer::from_pixel(33, 50, Luma([7u8]))
        .save(image("grey.png"))
        .unwrap();
    ImageBuffer::from_pixel(9, 9, LumaA([7u8, 0]))
        .save(image("alpha.png"))
        .unwrap();
    ImageBuffer::from_pixel(40, 40, Rgba([7u16, 8, 9, 65535]))
        .save(image("deep.png"))
        .unwrap();
    RgbImage::new(1, 1).save(image("dot.png")).unwrap();
    RgbImage::new(5000, 1).save(image("line.png")).unwrap();
    std::fs::copy(
        here("tests/data/jpeg/cmyk-444/adobe.jpg"),
        image("cmyk.jpg"),
    )
    .unwrap();

    let jpeg = std::fs::read(here("tests/data/jpeg/420/baseline.jpg")).unwrap();
    let huge =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0\x27\x30\x9c\x9f\
        \0\0\0\0IDAT\x35\xaf\x06\x1e";
    let panics = std::fs::read(here("fuzz/seeds/image/frame-of-no-size.webp")).unwrap();
    let broken: [(&str, &[u8], &str); 6] = [
        ("panics.webp", &panics, "its decoder crashed"),
        ("corrupt.png", b"\x89PNG\r\n\x1a\nand then", "can't decode"),
        ("cut.jpg", &jpeg[..jpeg.len() / 2], "truncated"),
        ("huge.png", huge, "100000x100000"),
        ("empty.jpg", b"", "an empty file"),
        (
            "pointer.jpg",
            b"version https://git-lfs.github.com/spec/v1\n",
            "git lfs pull",
        ),
    ];
    let mut labels = String::new();
    for name in good {
        labels += &format!("{name}\t1\n");
    }
    for (name, bytes, _) in broken {
        std::fs::write(image(name), bytes).unwrap();
        labels += &format!("{name}\t1\n");
    }
    scene.write("labels.tsv", labels);
    let eval = |allowed: &str| {
        scene
            .eval("--model", "model.safetensors")
            .with("--max-skipped", allowed)
    };
    let (stdout, stderr) = eval("6").run().success();
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&report["images"], &report["skipped"]),
        (&json!(6), &json!(6))
    );
    for (name, _, problem) in broken {
        assert!(
            stderr
                .lines()
                .any(|line| line.starts_with("warning: skipped: ")
                    && line.contains(name)
                    && line.contains(problem)),
            "{name} {problem}: {stderr}"
        );
    }
    let says = ["6 images could not be read", "--max-skipped allows 5"];
    scene.fails(eval("5"), CHECK, &says);

    // A calibration doesn't choose other images than it was told to.
    for (name, _, problem) in broken {
        scene.write("list.txt", format!("a.png\n{name}\n"));
        let listed = scene.calibrate().with("--list", scene.path("list.txt"));
        scene.fails(listed, INPUT, &[name, problem]);
    }
    scene.write("list.txt", good.join("\n"));
    scene
        .calibrate_to(scene.path("out.safetensors"))
        .with("--list", scene.path("list.txt"))
        .with("--count", "6")
        .run()
        .success();

    scene.write("labels.tsv", "empty.jpg\t0\n");
    scene.fails(eval("1"), CHECK, &["none of the 1 images could be read"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let scene = Scene::new();
    let to = |out: &str| scene.calibrate_to(scene.path(out)).with("--count", "2");
    let says = ["none/out.safetensors", "can't be written"];
    scene.fails(to("none/out.safetensors"), INPUT, &says);
    let says = ["images", "is a folder, where a file"];
    scene.fails(to("images"), INPUT, &says);
    let says = ["labels.tsv/out", "can't be written"];
    scene.fails(to("labels.tsv/out"), INPUT, &says);
    let says = ["--out", "would replace the --model"];
    scene.fails(to("images/../model.safetensors"), USAGE, &says);
}

#[test]
fn parts_that_cannot_be_written() {
    let scene = Scene::new();
    let to = |out: &str| {
        scene
            .eval("--model", "model.safetensors")
            .with("--out", scene.path(out))
    };
    let says = ["none/part.json", "can't be written"];
    scene.fails(to("none/part.json"), INPUT, &says);
    scene.fails(to("images"), INPUT, &["images", "is a folder"]);
    for (flag, out) in [("--model", "model.safetensors"), ("--labels", "labels.tsv")] {
        let says = ["--out", "would replace the ", flag];
        scene.fails(to(out), USAGE, &says);
    }
    let eval = || {
        program("eval")
            .with("--model", scene.path("model.safetensors"))
            .with("--images", scene.path("images"))
    };
    scene.fails(eval().with("--shard", "0/2"), USAGE, &["--out"]);
    for (shard, says) in [
        ("2/2", "of 2 there is no 2"),
        ("0/0", "of 0 there is no 0"),
        ("1", "expected I/N"),
        ("1 of 2", "expected I/N"),
        ("-1/2", "expected I/N"),
    ] {
        let run = eval()
            .with("--out", scene.path("part.json"))
            .flag(&format!("--shard={shard}"));
        scene.fails(run, USAGE, &["--shard", says]);
    }
}

/// A scene with the model's evaluation in two shards. Three images are less than one stretch: shard 0 has none of them,
/// shard 1 has all.
fn sharded() -> Scene {
    let scene = Scene::new();
    for shard in ["0/2", "1/2"] {
        scene.shard(shard, &format!("{}.json", &shard[..1]), &[]);
    }
    scene
}

impl Scene {
    /// Evaluates a shard, with more flags and their values, into a part.
    fn shard(&self, shard: &str, part: &str, more: &[(&str, &str)]) {
        let run = program("eval")
            .with("--model", self.path("model.safetensors"))
            .with("--images", self.path("images"))
            .with("--labels", self.path("labels.tsv"))
            .with("--device", "cpu")
            .with("--shard", shard)
            .with("--out", self.path(part));
        more.iter()
            .fold(run, |run, (flag, value)| run.with(flag, value))
            .run()
            .success();
    }

    /// Changes the JSON of a part.
    fn edit_part(&self, part: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&std::fs::read(self.path(part)).unwrap()).unwrap();
        change(&mut value);
        self.write(part, value.to_string());
    }

    fn merge(&self, parts: &[&str]) -> Program {
        parts.iter().fold(program("merge"), |merge, part| {
            merge.flag(self.path(part).to_str().unwrap())
        })
    }
}

#[test]
fn parts_that_are_missing_or_there_twice() {
    let scene = sharded();
    scene.merge(&["1.json", "0.json"]).run().success();
    scene.fails(program("merge"), USAGE, &["<PART>"]);
    for (part, missing) in [("0.json", "1/2"), ("1.json", "0/2")] {
        let says = ["PART: expected all 2 shards, missing: ", missing];
        scene.fails(scene.merge(&[part]), USAGE, &says);
    }
    std::fs::copy(scene.path("1.json"), scene.path("copy.json")).unwrap();
    let says = ["copy.json: is shard 1/2, as ", "1.json is"];
    let merge = scene.merge(&["0.json", "1.json", "copy.json"]);
    scene.fails(merge, INPUT, &says);
    scene.fails(scene.merge(&["0.json", "0.json"]), INPUT, &["is shard 0/2"]);
    scene.edit_part("0.json", |part| part["shard"]["count"] = json!(1u64 << 62));
    let says = ["missing: 1/", "and 4611686018427387893 more"];
    scene.fails(scene.merge(&["0.json"]), USAGE, &says);
}

#[test]
fn parts_of_another_evaluation() {
    let refused = |scene: &Scene, what: &str| {
        let merge = scene.merge(&["0.json", "1.json"]);
        let says = [
            "1.json: is not of the same evaluation as ",
            "0.json: ",
            what,
        ];
        scene.fails(merge, INPUT, &says);
    };
    let scene = sharded();
    scene.shard("1/3", "1.json", &[]);
    refused(&scene, "shard.count is 3, where 2 is expected");
    scene.shard("1/2", "1.json", &[("--crop-pct", "0.5")]);
    let says = "models.preprocessing.crop_pct is 0.5, where 1.0 is expected";
    refused(&scene, says);
    scene.write("labels.tsv", "a.png\t0\nb.png\t2\nc.png\t9\n");
    scene.shard("1/2", "1.json", &[]);
    refused(&scene, "images.sha256 is ");
    scene.write("labels.tsv", "a.png\t0\nb.png\t1\n");
    scene.shard("1/2", "1.json", &[]);
    refused(&scene, "images.count is 2, where 3 is expected");

    let scene = sharded();
    scene.model(|model| model.tensor("head.bias").clear());
    scene.shard("1/2", "1.json", &[]);
    refused(&scene, "models.model_sha256 is ");
    let scene = sharded();
    scene.edit_part("1.json", |part| {
        part["subject"]["tool_version"] = json!("0.0.1")
    });
    refused(&scene, "tool_version is \"0.0.1\", where ");
    let scene = sharded();
    scene.write("quantized.safetensors", QUANTIZED.file());
    let quantized = scene.path("quantized.safetensors");
    scene.shard(
        "1/2",
        "1.json",
        &[("--quantized", quantized.to_str().unwrap())],
    );
    refused(&scene, "models.quantized is {");
}

#[test]
fn damaged_parts() {
    let scene = sharded();
    let whole = std::fs::read(scene.path("1.json")).unwrap();
    let refused = |says: &str| {
        let merge = scene.merge(&["0.json", "1.json"]);
        scene.fails(merge, INPUT, &["1.json: ", says]);
    };
    let no_part = "is no part of an evaluation, as `eval` writes it: ";
    for text in ["", "[]", "{}", "null", "{\"format\": 1"] {
        scene.write("1.json", text);
        refused(no_part);
    }
    scene.write("1.json", &whole[..whole.len() / 2]);
    refused(no_part);
    scene.write("1.json", MICRO.file());
    refused("is no text in UTF-8");
    let merge = scene.merge(&["0.json", "none.json"]);
    scene.fails(merge, INPUT, &["none.json: can't be read"]);
    scene.fails(scene.merge(&["images"]), INPUT, &["images: is a folder"]);

    type Change = fn(&mut Value);
    let edits: [(Change, &str); 14] = [
        (|part| part["format"] = json!("x"), no_part),
        (
            |part| part["format_version"] = json!(3),
            "is of format version 3, where 2 is expected",
        ),
        (|part| part["more"] = json!(1), "unknown field `more`"),
        (
            |part| drop(part.as_object_mut().unwrap().remove("device")),
            "missing field `device`",
        ),
        (
            |part| part["shard"]["index"] = json!(2),
            "of 2 there is no 2",
        ),
        (
            |part| part["shard"] = json!({ "index": 0, "count": 0 }),
            "of 0 there is no 0",
        ),
        (
            |part| part["shard"]["index"] = json!(0),
            "shard 0/2 of 3 images has 0, found 3 evaluated and 0 skipped",
        ),
        (
            |part| part["skipped"] = json!(["a.png"]),
            "has 3, found 3 evaluated and 1 skipped",
        ),
        (
            |part| part["tally"]["top1"] = json!(4),
            "the counts contradict each other: images 3, top1 4",
        ),
        (
            |part| part["tally"]["top5"] = json!(-1),
            "invalid value: integer `-1`",
        ),
        (|part| part["tally"]["compared"] = json!(3), "compared 3"),
        (
            |part| part["tally"]["kl"] = json!([null]),
            "invalid type: null",
        ),
        (
            |part| part["tally"]["noise"] = json!([1e308, 1e308]),
            "expected finite sums",
        ),
        (
            |part| part["inference_seconds"] = json!(0.0),
            "inference_seconds: expected more than 0 for 3 images",
        ),
    ];
    for (change, says) in edits {
        scene.write("1.json", &whole);
        scene.edit_part("1.json", change);
        refused(says);
    }
}

#[test]
fn plans_that_cannot_be_carried_out() {
    const PLAN: &str = r#"
out = "sweep"
presets = ["ptq4vit"]
bits = [8]

[[models]]
model = "model.safetensors"

[calibration]
images = "images"
count = 2

[evaluation]
images = "images"
labels = "labels.tsv"
"#;
    let scene = Scene::new();
    let mut plan = PLAN.to_owned();
    for name in ["sweep", "model.safetensors", "images", "labels.tsv"] {
        let path = format!("{:?}", scene.path(name));
        plan = plan.replace(&format!("{name:?}"), &path);
    }
    let sweep = || program("sweep").with("--plan", scene.path("plan.toml"));
    let task = || sweep().with("--task", "0").with("--device", "cpu");
    scene.fails(task(), INPUT, &["plan.toml: can't be read"]);
    for (from, to, says) in [
        ("out = ", "output = ", "unknown field `output`"),
        ("bits = [8]", "", "missing field `bits`"),
        ("bits = [8]", "bits = []", "bits: expected at least one"),
        (
            "bits = [8]",
            "bits = [8, 9]",
            "bits: expected 2 to 8, found 9",
        ),
        ("bits = [8]", "bits = [8, 6, 8]", "bits: 8 is there twice"),
        ("bits = [8]", "bits = 8", "expected a sequence"),
        ("\"ptq4vit\"", "\"finest\"", "unknown variant `finest`"),
        (
            "\"ptq4vit\"",
            "\"ptq4vit\", \"ptq4vit\"",
            "presets: ptq4vit is there twice",
        ),
        (
            "[calibration]",
            "[[models]]\nmodel = \"other/model\"\n[calibration]",
            "models: model is there twice; files of the same name are told apart by a `name`",
        ),
        (
            "[calibration]",
            "name = \"a/b\"\n[calibration]",
            "models: \"a/b\" can't be the name of results",
        ),
        (
            "[calibration]",
            "name = \"\"\n[calibration]",
            "models: \"\" can't be the name of results",
        ),
        (
            "count = 2",
            "count = 0",
            "calibration.count: expected at least 1",
        ),
        (
            "count = 2",
            "list = \"list.txt\"\nseed = 0",
            "calibration.seed: 0 would not be used",
        ),
        ("count = 2", "counts = 2", "unknown field `counts`"),
        (
            "[evaluation]",
            "[evaluations]",
            "unknown field `evaluations`",
        ),
    ] {
        scene.write("plan.toml", plan.replace(from, to));
        let says = ["plan.toml: ", says];
        scene.fails(task(), INPUT, &says);
        scene.fails(sweep(), INPUT, &says);
    }
    let says = ["plan.toml: calibration.count: expected at most the 3 images"];
    scene.write("plan.toml", plan.replace("count = 2", "count = 4"));
    scene.fails(task(), INPUT, &says);
    scene.write("plan.toml", plan.replace("labels.tsv", "none.tsv"));
    scene.fails(task(), INPUT, &["none.tsv: "]);
    scene.write(
        "plan.toml",
        plan.replace("model.safetensors", "none.safetensors"),
    );
    scene.fails(task(), INPUT, &["none.safetensors: "]);
    scene.write("plan.toml", plan.replace("/sweep", "/out.safetensors"));
    scene.fails(
        task(),
        INPUT,
        &["out.safetensors/model-ptq4vit", "can't be read"],
    );
    let says = ["out.safetensors: can't be made"];
    scene.fails(task().flag("--redo"), INPUT, &says);
    scene.write("labels.tsv", "a.png\t10\n");
    scene.write("plan.toml", &plan);
    scene.fails(task(), INPUT, &["labels.tsv: gives ", "class 10"]);

    scene.write("labels.tsv", "a.png\t0\n");
    for (flag, value, says) in [
        ("--task", "1", "expected 0 to 0, found 1"),
        ("--task", "-1", "invalid digit"),
        ("--task", "first", "invalid digit"),
    ] {
        scene.fails(sweep().with(flag, value), USAGE, &[flag, says]);
    }
    scene.fails(sweep().flag("--redo"), USAGE, &["--task"]);
    scene.fails(task().flag("--count"), USAGE, &["--count"]);
    scene.fails(program("sweep"), USAGE, &["--plan"]);

    // An image that can't be read: the task isn't finished, unless the plan allows it.
    scene.write("labels.tsv", "a.png\t0\nbroken.png\t1\n");
    std::fs::write(scene.path("images").join("broken.png"), "no image").unwrap();
    let plan = plan.replace("count = 2", "list = \"LIST\"\ncount = 2");
    scene.write("list.txt", "a.png\nb.png\n");
    let plan = plan.replace("LIST", scene.path("list.txt").to_str().unwrap());
    scene.write("plan.toml", &plan);
    let outcome = task().run();
    let says = ["1 images could not be read, where evaluation.max_skipped allows 0"];
    assert_failed(&outcome, CHECK, &says);
    assert!(!scene.path("sweep/model-ptq4vit-w8a8.json").exists());
    scene.write("plan.toml", format!("{plan}max_skipped = 1\n"));
    task().run().success();
    scene.write("plan.toml", &plan);
    scene.fails(task(), CHECK, &says);

    // A result that is none.
    scene.write("sweep/model-ptq4vit-w8a8.json", "{}");
    let says = ["model-ptq4vit-w8a8.json: is no part of an evaluation"];
    scene.fails(task(), INPUT, &says);
    scene.fails(sweep(), INPUT, &says);
}

#[cfg(target_os = "linux")]
#[test]
fn a_stdout_that_is_full() {
    let scene = Scene::new();
    for program in [
        scene.eval("--model", "model.safetensors"),
        scene.calibrate(),
        program("devices"),
    ] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let outcome = program.run_with_stdout(full);
        assert_failed(&outcome, INPUT, &["stdout: can't be written"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new();
    let out = scene
        .folder
        .path()
        .join(std::ffi::OsStr::from_bytes(b"out\xFF.safetensors"));
    let run = scene.calibrate_to(&out).with("--count", "2").flag("--json");
    run.run().json();
    assert!(QuantizedModel::open(&out).is_ok());
}

#[test]
fn unknown_devices() {
    let scene = Scene::new();
    let eval = |device: &str| {
        program("eval")
            .with("--model", scene.path("model.safetensors"))
            .with("--images", scene.path("images"))
            .with("--labels", scene.path("labels.tsv"))
            .with("--device", device)
    };
    let says = ["device abacus", "no adapter's name contains", "cpu"];
    scene.fails(eval("abacus"), DEVICE, &says);
    let says = ["device 99", "no adapter of this number", "cpu"];
    scene.fails(eval("99"), DEVICE, &says);
}

#[test]
fn labels_that_do_not_fit() {
    let scene = Scene::new();
    let eval = || scene.eval("--model", "model.safetensors");
    for (labels, says) in [
        ("a.png\t0\nd.png\t1\n", "1 of them missing: \"d.png\""),
        ("a.png\t0\nb.png\t10\n", "classes are 0 to 9"),
        ("a.png\t0\nb.png\t-1\n", "line 2: expected"),
        ("a.png 0\n", "line 1: expected"),
        ("a.png\t0\na.png\t0\n", "each file once"),
        ("\n", "only blank lines"),
    ] {
        scene.write("labels.tsv", labels);
        scene.fails(eval(), INPUT, &["labels.tsv", says]);
    }
    std::fs::remove_file(scene.path("labels.tsv")).unwrap();
    scene.fails(eval(), INPUT, &["labels.tsv", "can't be read"]);

    let unlabelled = || {
        program("eval")
            .with("--model", scene.path("model.safetensors"))
            .with("--images", scene.path("images"))
            .with("--device", "cpu")
    };
    let says = ["images", "found no folder in it"];
    scene.fails(unlabelled(), INPUT, &says);
    for name in ["a", "b", "c"] {
        std::fs::create_dir(scene.path("images").join(name)).unwrap();
        let path = |folder: &str| scene.path(&format!("images/{folder}{name}.png"));
        std::fs::rename(path(""), path(&format!("{name}/"))).unwrap();
    }
    let says = ["3 class folders", "10 classes", "--labels"];
    scene.fails(unlabelled(), INPUT, &says);
}

#[test]
fn flags_out_of_range() {
    let scene = Scene::new();
    for (flag, value, expected) in [
        ("--bits", "1", "2..=8"),
        ("--bits", "9", "2..=8"),
        ("--bits", "six", "invalid digit"),
        ("--weight-bits", "0", "2..=8"),
        ("--activation-bits", "16", "2..=8"),
        ("--metric", "guess", "hessian"),
        ("--weight-scales", "guess", "channel"),
        ("--alpha", "1.5", "0 <= alpha < beta"),
        ("--beta", "inf", "0 <= alpha < beta"),
        ("--beta", "1e38", "to 256.0 times"),
        ("--beta", "256.1", "to 256.0 times"),
        ("--beta", "1e-38", "expected candidates from"),
        ("--softmax-twin", "maybe", "true, false"),
        ("--seed", "first", "invalid digit"),
        ("--seed", "-1", "invalid digit"),
        ("--alpha", "-1", "0 <= alpha < beta"),
        ("--crop-pct", "NaN", "expected 0.1 to 1"),
        (
            "--mean",
            "0.5,0.5",
            "expected as many numbers as channels (3)",
        ),
        ("--mean", "1,2,3,4,5", "at most 4 channels, found 5"),
        (
            "--mean",
            "0.5,",
            "expected numbers as in 0.5,0.5,0.5, or one for all",
        ),
        ("--std", "0.5,0,0.5", "above 0"),
        ("--interpolation", "nearest", "bicubic"),
        ("--memory-budget", "much", "as in 800MiB"),
        ("--memory-budget", "1GB", "as in 800MiB"),
        ("--memory-budget", "64KiB", "with 2 images"),
    ] {
        let run = scene.calibrate().with(flag, value);
        scene.fails(run, USAGE, &[flag, expected]);
    }
    for flag in ["--candidates", "--rounds"] {
        let run = program("calibrate")
            .with("--model", scene.path("model.safetensors"))
            .with("--images", scene.path("images"))
            .with("--out", scene.path("out.safetensors"))
            .with("--device", "cpu")
            .with("--preset", "ptq4vit")
            .with(flag, "0");
        scene.fails(run, USAGE, &[flag, "expected 1 to"]);
    }
    let no_model = || program("eval").with("--images", scene.path("images"));
    scene.fails(no_model(), USAGE, &["--model"]);
    scene.fails(
        program("calibrate"),
        USAGE,
        &["--model", "--images", "--out"],
    );
    scene.fails(program("quantise"), USAGE, &["quantise"]);
}

#[test]
fn damaged_quantized_files() {
    let file = QUANTIZED.file();
    let scene = Scene::new();
    let refused = |bytes: &[u8], says: &[&str]| {
        scene.write("quantized.safetensors", bytes);
        let says = [&["quantized.safetensors"], says].concat();
        let eval = scene.eval("--quantized", "quantized.safetensors");
        scene.fails(eval, INPUT, &says);
    };
    scene.write("quantized.safetensors", &file);
    scene
        .eval("--quantized", "quantized.safetensors")
        .run()
        .json();
    refused(&file[..file.len() - 7], &["it is truncated"]);

    let codes = "blocks.0.mlp.fc1.b.codes";
    let scale = "blocks.1.attn.qkv.b.scale";
    let shift = "blocks.0.mlp.fc2.a.shift";
    type Change<'a> = &'a dyn Fn(&mut Container);
    let largest = |sizes: &mut Value| {
        for size in ["dim", "depth", "mlp_dim", "classes"] {
            sizes[size] = json!(1u64 << 60);
        }
    };
    let cases: [(Change, &[&str]); 24] = [
        (
            &|file| {
                let codes = file.tensor(codes);
                codes.bytes.pop();
                codes.shape[0] -= 1;
            },
            &[codes, "of another shape", "[9215] for [9216]"],
        ),
        (
            &|file| {
                let codes = file.tensor(codes);
                codes.dtype = "I32";
                codes.bytes = vec![0; 4 * 9216];
            },
            &[codes, "is I32, where U8 is expected"],
        ),
        (
            &|file| file.tensor(scale).words()[1] = 0f32.to_le_bytes(),
            &[scale, "expected positive scales, found 0"],
        ),
        (
            &|file| file.tensor(scale).words()[2] = (-0.1f32).to_le_bytes(),
            &[scale, "expected positive scales, found -0.1"],
        ),
        (
            &|file| file.tensor(scale).words()[0] = 1e-40f32.to_le_bytes(),
            &[scale, "expected positive scales"],
        ),
        (
            &|file| file.tensor(scale).words()[0] = f32::NAN.to_le_bytes(),
            &[scale, "NaN", "must be finite"],
        ),
        (
            &|file| file.tensor(shift).words()[0] = 12i32.to_le_bytes(),
            &[shift, "expected shifts of 0 to 11, found 12"],
        ),
        (
            &|file| file.tensor(shift).words()[0] = (-1i32).to_le_bytes(),
            &[shift, "expected shifts of 0 to 11, found -1"],
        ),
        (
            &|file| {
                file.tensors.remove(shift);
            },
            &[shift, "1 missing"],
        ),
        (
            &|file| {
                let copy = file.tensor(scale).clone();
                file.tensors.insert("head.c.scale".to_owned(), copy);
            },
            &["head.c.scale", "1 unexpected"],
        ),
        (
            &|file| {
                file.metadata
                    .insert("format_version".to_owned(), "4".to_owned());
            },
            &["format version 4, where 1, 2 or 3 is expected"],
        ),
        (
            &|file| {
                edit(file, "plan", |plan| {
                    plan["blocks.1.mlp.fc1"]["b"]["format"] = json!("table")
                })
            },
            &["format version 2, but plans tables, which are in version 3"],
        ),
        (
            &|file| {
                file.metadata.remove("format_version");
            },
            &["metadata `format_version` is missing"],
        ),
        (
            &|file| {
                file.metadata.insert("settings".to_owned(), "{".to_owned());
            },
            &["metadata `settings`"],
        ),
        (
            &|file| {
                edit(file, "plan", |plan| {
                    plan["blocks.1.mlp.fc1"]["b"]["bits"] = json!(9)
                })
            },
            &["metadata `plan`: site `blocks.1.mlp.fc1`: b.bits: expected 2 to 8, found 9"],
        ),
        (
            &|file| {
                edit(file, "plan", |plan| {
                    for scheme in plan.as_object_mut().unwrap().values_mut() {
                        scheme["b"]["bits"] = json!(6);
                    }
                })
            },
            &[codes, "of another shape", "[9216] for [6912]"],
        ),
        (
            &|file| edit(file, "architecture", |sizes| sizes["heads"] = json!(5)),
            &["metadata `architecture`", "not divisible"],
        ),
        (
            &|file| edit(file, "architecture", largest),
            &["dim is 1152921504606846976, where 1 to 65535"],
        ),
        // The most that is believed: its tensors are listed, but no memory is taken for them.
        (
            &|file| {
                edit(file, "architecture", |sizes| {
                    sizes["depth"] = json!(1024);
                    sizes["dim"] = json!(65_535);
                    sizes["mlp_dim"] = json!(65_535);
                    sizes["classes"] = json!(1 << 20);
                })
            },
            &["metadata `plan`: site `blocks.2.attn.qkv` is missing"],
        ),
        // More than an integer product can add up.
        (
            &|file| {
                edit(file, "architecture", |sizes| {
                    sizes["image_size"] = json!(148);
                    sizes["patch_size"] = json!(148);
                })
            },
            &["patch_size is 148, where 1 to 147"],
        ),
        // Products of the scales that are no longer normal, or whose sums are infinite.
        (
            &|file| file.tensor(scale).words()[1] = 2e-38f32.to_le_bytes(),
            &["site `blocks.1.attn.qkv`: expected products within"],
        ),
        (
            &|file| {
                for side in ["a", "b"] {
                    let scale = file.tensor(&format!("head.{side}.scale"));
                    scale.words()[0] = 1e30f32.to_le_bytes();
                }
            },
            &["site `head`: expected products within f32's range"],
        ),
        // An inverse that is none: R2's unit is infinite.
        (
            &|file| {
                file.tensor("blocks.0.mlp.fc2.a.scale").words()[0] = 3e38f32.to_le_bytes();
                file.tensor(shift).words()[0] = 11i32.to_le_bytes();
            },
            &["site `blocks.0.mlp.fc2`: expected a.scale within f32's range"],
        ),
        (
            &|file| file.tensor("head.bias").words()[0] = f32::INFINITY.to_le_bytes(),
            &["head.bias", "inf", "must be finite"],
        ),
    ];
    for (change, says) in cases {
        let mut file = QUANTIZED.clone();
        change(&mut file);
        refused(&file.file(), says);
    }
}

/// Changes the JSON under a metadata key.
fn edit(file: &mut Container, key: &str, change: impl FnOnce(&mut Value)) {
    let text = file.metadata.get_mut(key).unwrap();
    let mut value = serde_json::from_str(text).unwrap();
    change(&mut value);
    *text = value.to_string();
}

#[test]
fn models_in_each_others_place() {
    let scene = Scene::new();
    scene.write("quantized.safetensors", QUANTIZED.file());
    let says = ["model.safetensors", "is no quantized model", "--model"];
    scene.fails(scene.eval("--quantized", "model.safetensors"), INPUT, &says);
    let says = [
        "quantized.safetensors",
        "is a quantized model",
        "--quantized",
    ];
    scene.fails(scene.eval("--model", "quantized.safetensors"), INPUT, &says);
    scene.write("model.safetensors", QUANTIZED.file());
    let says = ["model.safetensors", "is a quantized model"];
    scene.fails(scene.calibrate(), INPUT, &says);
}

#[test]
fn models_that_do_not_belong_together() {
    let scene = Scene::new();
    scene.write("quantized.safetensors", QUANTIZED.file());
    let both = || {
        scene
            .eval("--quantized", "quantized.safetensors")
            .with("--model", scene.path("model.safetensors"))
    };
    scene.model(|model| {
        for (name, columns) in [("head.weight", 48), ("head.bias", 1)] {
            let tensor = model.tensor(name);
            tensor.shape[0] = 4;
            tensor.bytes.truncate(4 * 4 * columns);
        }
        edit(model, "config", |config| config["classes"] = json!(4));
    });
    let says = [
        "--model",
        "the logits of 4 classes, the quantized model with the logits of 10",
    ];
    scene.fails(both(), USAGE, &says);

    scene.model(|model| {
        let names: Vec<String> = model.tensors.keys().cloned().collect();
        for name in names.iter().filter(|name| name.starts_with("blocks.1.")) {
            model.tensors.remove(name);
        }
        edit(model, "config", |config| config["depth"] = json!(1));
    });
    let says = ["model.safetensors", "depth is 1, not 2"];
    scene.fails(both(), INPUT, &says);
}

/// Copies of `file` with one bit flipped, in every eighth of its first `len` bytes.
fn flipped(file: &[u8], len: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..len).step_by(8).map(|at| {
        let mut copy = file.to_vec();
        copy[at] ^= 1 << (at / 8 % 8);
        copy
    })
}

#[test]
fn no_flipped_bit_of_a_header_panics() {
    let file = QUANTIZED.file();
    let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quantized.safetensors");
    let mut accepted = 0;
    for copy in flipped(&file, 8 + header) {
        std::fs::write(&path, copy).unwrap();
        let Ok(quantized) = QuantizedModel::open(&path) else {
            continue;
        };
        // What is accepted can be run.
        let pixels = quantized.architecture.input_len();
        let mut model = Model::quantized(&Device::cpu(), &quantized).unwrap();
        model.logits(&[vec![0.5; pixels]]).unwrap();
        accepted += 1;
    }
    // Such as another digit of a hash; nearly everything else is checked.
    assert!(accepted < header / 8 / 10, "{accepted} of {header}");
}

#[test]
fn no_flipped_bit_of_an_image_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pixels = RgbImage::from_fn(20, 10, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
    for name in ["plain.png", "plain.webp", "plain.bmp"] {
        pixels.save(path(name)).unwrap();
    }
    for name in [
        "jpeg/420/baseline.jpg",
        "jpeg/444/progressive.jpg",
        "jpeg/cmyk-444/adobe.jpg",
        "formats/rgb/lzw.tif",
        "formats/palette/interlaced.gif",
        "formats/rgb/p3.ppm",
    ] {
        std::fs::copy(here("tests/data").join(name), path(&name.replace('/', "-"))).unwrap();
    }
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let file = std::fs::read(entry.unwrap().path()).unwrap();
        for copy in flipped(&file, file.len()) {
            std::fs::write(path("flipped"), copy).unwrap();
            if let Ok(image) = image_file::load(&path("flipped"), false) {
                assert!(image.width() > 0 && image.height() > 0);
            }
        }
    }
}
