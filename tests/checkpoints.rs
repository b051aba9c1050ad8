//! Checkpoints as people have them: wrapped by PyTorch, in several files, and of Hugging Face transformers.

mod common;
#[path = "common/program.rs"]
mod program;

use program::{Program, here, program};
use ptq4vit_gpu::data::samples::{Sample, load_all};
use ptq4vit_gpu::device::{Device, adapters};
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::config::{Architecture, SwinConfig, VitConfig};
use ptq4vit_gpu::model::open_checkpoint;
use ptq4vit_gpu::model::recipe::{Resolved, resolve};
use ptq4vit_gpu::quant::QuantizedModel;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DEMO: &str = "models/demo/vit_mnist";
const INDEX: &str = "model.safetensors.index.json";

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors_of(weights: &Weights) -> Tensors {
    let tensor = |name: &str| {
        let shape = weights.shape(name).unwrap().to_vec();
        (name.to_owned(), (shape, weights.float(name).unwrap()))
    };
    weights.names().map(tensor).collect()
}

/// The demo's ViT, tensor by tensor.
fn tensors() -> Tensors {
    tensors_of(&Weights::open(here(DEMO).join("model.safetensors")).unwrap())
}

fn write(path: &Path, tensors: Tensors) {
    let tensor = |(name, (shape, data))| (name, TensorData::F32 { shape, data });
    save(
        path,
        tensors.into_iter().map(tensor).collect(),
        BTreeMap::new(),
    )
    .unwrap();
}

/// A folder with the demo's config.json.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let config = here(DEMO).join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    folder
}

/// The demo's ViT in `count` shards with an index, and their names.
fn shards(folder: &Path, count: usize) -> Vec<PathBuf> {
    let (mut map, mut shards) = (BTreeMap::new(), vec![BTreeMap::new(); count]);
    let name = |place: usize| format!("model-{:05}-of-{count:05}.safetensors", place + 1);
    for (place, (tensor, values)) in tensors().into_iter().enumerate() {
        map.insert(tensor.clone(), name(place % count));
        shards[place % count].insert(tensor, values);
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
    let shards = shards.into_iter().enumerate().map(|(place, tensors)| {
        let path = folder.join(name(place));
        write(&path, tensors);
        path
    });
    shards.collect()
}

/// What `eval` finds on a few digits, without the time, and its notices.
fn evaluated(model: &Path) -> (Value, String) {
    let (stdout, stderr) = eval(model).flag("--json").run().success();
    let mut report: Value = serde_json::from_str(&stdout).unwrap();
    report["images_per_second"].take();
    (report, stderr)
}

fn eval(model: &Path) -> Program {
    eval_on("cpu", model)
}

fn eval_on(device: &str, model: &Path) -> Program {
    program("eval")
        .with("--model", model)
        .with("--images", "models/demo/test")
        .with("--device", device)
}

fn refused(model: &Path, says: &[&str]) {
    let outcome = eval(model).run();
    assert_eq!((outcome.code, &*outcome.stdout), (Some(3), ""), "{outcome}");
    for part in says {
        assert!(outcome.stderr.contains(part), "{outcome}\nlacks {part}");
    }
}

#[test]
fn a_wrapped_checkpoint_is_the_one_that_is_wrapped() {
    let (expected, _) = evaluated(&here(DEMO).join("model.safetensors"));
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let wrapped = |prefix: &str| -> BTreeMap<_, _> {
        let tensors = tensors().into_iter();
        tensors
            .map(|(name, values)| (format!("{prefix}{name}"), values))
            .collect()
    };
    for prefix in ["module.", "model._orig_mod."] {
        write(&path, wrapped(prefix));
        let (found, notices) = evaluated(&path);
        assert_eq!(found, expected);
        let inner = prefix.replace("_orig_mod.", "");
        let says = format!("tensors: all names begin with `{inner}`, which is left out\n");
        assert!(notices.contains(&says), "{notices}");
        let says = "tensors: names have `_orig_mod` in them, which is left out\n";
        assert_eq!(notices.contains(says), inner != prefix, "{notices}");
    }
    let mut average = wrapped("module.");
    average.insert("n_averaged".to_owned(), (vec![], vec![7.0]));
    write(&path, average.clone());
    let (found, notices) = evaluated(&path);
    assert_eq!(found, expected);
    let says = "tensors: 1 that only training needs are left out: `n_averaged`\n";
    assert!(notices.contains(says), "{notices}");

    average.extend(wrapped("model."));
    write(&path, average);
    refused(
        &path,
        &[
            "several networks, under `model.` and `module.`",
            "load_file",
        ],
    );
    write(
        &path,
        [("fc.weight".to_owned(), (vec![1], vec![0.0]))].into(),
    );
    refused(
        &path,
        &[
            "`patch_embed.proj.weight`",
            "there is none among 1: `fc.weight`",
        ],
    );
}

#[test]
fn shards_are_one_checkpoint_by_their_index_or_their_folder() {
    let (expected, _) = evaluated(&here(DEMO).join("model.safetensors"));
    let folder = folder();
    let shards = shards(folder.path(), 3);
    let index = folder.path().join(INDEX);
    for model in [folder.path(), &index] {
        assert_eq!(evaluated(model).0, expected);
    }

    // It is known by all of its shards.
    let out = folder.path().join("w8a8.safetensors");
    let calibrate = || {
        program("calibrate")
            .with("--model", folder.path())
            .with("--images", "models/demo/calibration")
            .with("--count", "2")
            .with("--preset", "ptq4vit")
            .with("--candidates", "5")
            .with("--rounds", "1")
            .with("--device", "cpu")
            .with("--out", &out)
    };
    calibrate().run().success();
    let inspected = || {
        let inspect = program("inspect")
            .flag(out.to_str().unwrap())
            .flag("--json");
        inspect.run().json()["provenance"].clone()
    };
    let hash = |shards: &[PathBuf]| {
        let all = shards
            .iter()
            .flat_map(|shard| std::fs::read(shard).unwrap());
        format!("{:x}", Sha256::digest(all.collect::<Vec<u8>>()))
    };
    let provenance = inspected();
    assert_eq!(provenance["name"], "vit_mnist");
    assert_eq!(provenance["source_sha256"], hash(&shards));
    let last = std::fs::read(&shards[2]).unwrap();
    let mut changed = last.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&shards[2], &changed).unwrap();
    calibrate().run().success();
    assert_eq!(inspected()["source_sha256"], hash(&shards));
    assert_ne!(inspected(), provenance);

    std::fs::write(&shards[2], &last[..last.len() - 4]).unwrap();
    refused(
        folder.path(),
        &["model-00003-of-00003.safetensors: ", "it is truncated"],
    );
    std::fs::remove_file(&shards[2]).unwrap();
    let says = "1 of 3 shards are missing beside it: model-00003-of-00003.safetensors";
    refused(folder.path(), &[INDEX, says]);
    refused(&shards[0], &["is one of 3 shards"]);
    write(&folder.path().join("model.safetensors"), tensors());
    refused(
        folder.path(),
        &["has both model.safetensors and model.safetensors.index.json"],
    );
}

/// A model of transformers, with the answers that it gives: `tests/data/transformers_models.py` made it.
struct Transformers {
    folder: PathBuf,
    checkpoint: PathBuf,
    weights: Weights,
    resolved: Resolved,
    answers: Weights,
}

impl Transformers {
    fn open(name: &str) -> Self {
        let folder = here(&format!("tests/data/transformers/{name}"));
        let files = ["model.safetensors", INDEX].map(|file| folder.join(file));
        let checkpoint = files.into_iter().find(|file| file.exists()).unwrap();
        let weights = open_checkpoint(&checkpoint).unwrap();
        Self {
            resolved: resolve(&weights, None).unwrap(),
            answers: Weights::open(folder.join("answers.safetensors")).unwrap(),
            folder,
            checkpoint,
            weights,
        }
    }

    /// An answer, image by image.
    fn answer(&self, name: &str) -> Vec<Vec<f32>> {
        let values = self.answers.float(name).unwrap();
        let images = self.answers.shape(name).unwrap()[0];
        let image = values.chunks_exact(values.len() / images);
        image.map(<[f32]>::to_vec).collect()
    }
}

const TRANSFORMERS: [&str; 29] = [
    "vit",
    "deit",
    "deit_distilled",
    "swin",
    "dinov2",
    "dinov2_classes",
    "dinov2_registers",
    "dinov2_registers_classes",
    "clip",
    "clip_projection",
    "clip_with_text",
    "siglip",
    "siglip_with_text",
    "siglip_classes",
    "dinov3",
    "beit",
    "beit_class_token",
    "data2vec",
    "dinov3_gated",
    "dinov2_gated",
    "swin_v2",
    "vit_features",
    "deit_features",
    "beit_features",
    "swin_features",
    "swin_v2_features",
    "vit_mae",
    "vit_grey",
    "dinov3_alpha",
];

/// The relative error of the FP logits, or features, of `architecture` with a model's weights.
fn logits_error(model: &Transformers, architecture: &Architecture, device: &Device) -> f64 {
    let preprocessing = &model.resolved.preprocessing;
    let mut float = Model::float(device, &model.weights, architecture, preprocessing).unwrap();
    let found = float.logits(&model.answer("pixels")).unwrap().concat();
    let expected = model.answer("logits").concat();
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        let squares = values.map(|value| f64::from(value).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let differences = &mut found.iter().zip(&expected).map(|(f, e)| f - e);
    norm(differences) / norm(&mut expected.iter().copied())
}

#[test]
fn logits_are_those_of_transformers() {
    let devices = common::devices();
    for name in TRANSFORMERS {
        let model = Transformers::open(name);
        for device in &devices {
            let error = logits_error(&model, &model.resolved.architecture, device);
            println!("{name} on {}: {error:e}", device.name());
            // Sums in f32, and the softmax there too. The next test has what a difference costs.
            assert!(error < 1e-5, "{name} on {}: {error:e}", device.name());
        }
    }
}

#[test]
fn epsilon_and_padding_are_those_of_transformers() {
    for name in ["vit", "swin"] {
        let model = Transformers::open(name);
        let timms = match model.resolved.architecture.clone() {
            Architecture::Vit(sizes) => Architecture::Vit(VitConfig {
                layer_norm_eps: VitConfig::TIMM_LAYER_NORM_EPS,
                ..sizes
            }),
            Architecture::Swin(sizes) => Architecture::Swin(SwinConfig {
                shifts_padding: false,
                ..sizes
            }),
        };
        let error = logits_error(&model, &timms, &Device::cpu());
        println!("{name} as in timm: {error:e}");
        assert!(error > 1e-3, "{name}: {error:e}");
    }
}

#[test]
fn images_are_prepared_as_by_transformers_processors() {
    let samples = ["portrait.png", "landscape.png"].map(|image| Sample {
        path: here("tests/data").join(image),
        label: None,
    });
    for name in TRANSFORMERS {
        let model = Transformers::open(name);
        let preprocessing = &model.resolved.preprocessing;
        let plane = preprocessing.image_size.pixels();
        let found = load_all(&samples, preprocessing);
        for (found, expected) in found.into_iter().zip(model.answer("pixels")) {
            let found = found.unwrap();
            assert_eq!(found.len(), expected.len(), "{name}");
            // Pillow's pixels; NumPy multiplies by 1 / 255, rounded, where a division stands here, so that values up to 1
            // differ by an ulp at most before the division by the deviation, which rounds once more.
            for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let std = preprocessing.std[place / plane];
                let bound = f32::EPSILON / std + f32::EPSILON * expected.abs();
                assert!(
                    (found - expected).abs() <= bound,
                    "{name} at {place}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn both_spellings_of_transformers_are_one() {
    for name in TRANSFORMERS {
        let model = Transformers::open(name);
        let modules: Vec<String> =
            serde_json::from_str(&model.answers.metadata()["modules"]).unwrap();
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        // Register tokens become timm's where tokens and positions have dimensions of their own, and so does a pooling's
        // query, whose weight lies with those of keys and values.
        let is_tokens = |name: &str| {
            let ends = ["position_embeddings", "probe"];
            name.contains("_token") || ends.iter().any(|end| name.ends_with(end))
        };
        let zero = |name: String| {
            let shape = match () {
                () if is_tokens(&name) => vec![1; 3],
                () if name.ends_with("in_proj_weight") => vec![3, 1],
                () if name.ends_with("in_proj_bias") => vec![3],
                () => vec![1],
            };
            let data = vec![0.0; shape.iter().product()];
            (name, TensorData::F32 { shape, data })
        };
        let tensors = modules.into_iter().map(zero).collect();
        save(&path, tensors, BTreeMap::new()).unwrap();
        let named = open_checkpoint(&path).unwrap();
        let expected: Vec<&str> = model.weights.names().collect();
        assert_eq!(named.names().collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn models_of_transformers_are_quantized_as_they_are() {
    let adapters = adapters().into_iter().filter_map(|adapter| adapter.index);
    let devices: Vec<String> = adapters
        .map(|index| index.to_string())
        .chain(["cpu".to_owned()])
        .collect();
    for name in TRANSFORMERS {
        let model = Transformers::open(name);
        let names = model.resolved.class_names.as_ref();
        let has_classes = model.resolved.architecture.classes() > 0;
        assert_eq!(
            names.map(|names| &*names[3].name),
            has_classes.then_some("three")
        );
        let out = TempDir::new().unwrap();
        let quantized = out.path().join("w8a8.safetensors");
        program("calibrate")
            .with("--model", &model.folder)
            .with("--images", "models/demo/calibration")
            .with("--count", "16")
            .with("--device", "cpu")
            .with("--out", &quantized)
            .run()
            .success();
        let opened = QuantizedModel::open(&quantized).unwrap();
        assert_eq!(opened.architecture, model.resolved.architecture);
        assert_eq!(opened.preprocessing, model.resolved.preprocessing);
        for device in &devices {
            let report = eval_on(device, &model.checkpoint)
                .with("--quantized", &quantized)
                .flag("--json")
                .run()
                .json();
            // Random networks of so few features lose more than trained ones; what is computed otherwise is near 0 dB.
            let key = ["feature_sqnr_db", "logit_sqnr_db"][usize::from(has_classes)];
            let sqnr = report[key].as_f64().unwrap();
            println!("{name} on {}: {sqnr:.1} dB", report["device"]);
            assert!(sqnr > 10.0, "{name}: {report}");
        }
    }
}

/// The demo's ViT as transformers would save it: queries, keys and values apart, under its names.
fn as_transformers(folder: &Path) -> PathBuf {
    const NAMES: [(&str, &str); 11] = [
        ("cls_token", "vit.embeddings.cls_token"),
        ("pos_embed", "vit.embeddings.position_embeddings"),
        (
            "patch_embed.proj.",
            "vit.embeddings.patch_embeddings.projection.",
        ),
        ("norm.", "vit.layernorm."),
        ("head.", "classifier."),
        ("norm1.", "layernorm_before."),
        ("attn.qkv.", "attention.attention."),
        ("attn.proj.", "attention.output.dense."),
        ("norm2.", "layernorm_after."),
        ("mlp.fc1.", "intermediate.dense."),
        ("mlp.fc2.", "output.dense."),
    ];
    let renamed = |name: &str| {
        let (theirs, parameter) = NAMES
            .iter()
            .find_map(|(timms, theirs)| Some((theirs, name.strip_prefix(timms)?)))
            .expect("one of the names");
        format!("{theirs}{parameter}")
    };
    let mut saved = BTreeMap::new();
    for (name, (shape, values)) in tensors() {
        let within = name
            .strip_prefix("blocks.")
            .and_then(|name| name.split_once('.'));
        let name = match within {
            Some((block, name)) => format!("vit.encoder.layer.{block}.{}", renamed(name)),
            None => renamed(&name),
        };
        let Some((before, parameter)) = name.split_once(".attention.attention.") else {
            saved.insert(name, (shape, values));
            continue;
        };
        let thirds = values.chunks_exact(values.len() / 3);
        for (part, values) in ["query", "key", "value"].into_iter().zip(thirds) {
            let name = format!("{before}.attention.attention.{part}.{parameter}");
            let shape = [&[shape[0] / 3], &shape[1..]].concat();
            saved.insert(name, (shape, values.to_vec()));
        }
    }
    let path = folder.join("model.safetensors");
    write(&path, saved);
    let config = json!({
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "image_size": 28, "patch_size": 4,
        "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
        "layer_norm_eps": 1e-6, "num_labels": 10,
    });
    let prepares = json!({"size": 28, "resample": 3, "image_mean": vec![0.1307; 3], "image_std": vec![0.3081; 3]});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(
        folder.join("preprocessor_config.json"),
        prepares.to_string(),
    )
    .unwrap();
    path
}

#[test]
fn the_same_network_is_quantized_alike_from_timm_and_transformers() {
    let folder = TempDir::new().unwrap();
    let theirs = as_transformers(folder.path());
    let timms = here(DEMO).join("model.safetensors");
    // Digits are squares, which both make the same of.
    assert_eq!(evaluated(&theirs).0, evaluated(&timms).0);
    let quantized = [&theirs, &timms].map(|model| {
        let out = folder.path().join("w6a6.safetensors");
        program("calibrate")
            .with("--model", model)
            .with("--images", "models/demo/calibration")
            .with("--count", "4")
            .with("--bits", "6")
            .with("--device", "cpu")
            .with("--out", &out)
            .run()
            .success();
        QuantizedModel::open(&out).unwrap()
    });
    let [theirs, timms] = quantized;
    assert_eq!(theirs.architecture, timms.architecture);
    assert_eq!(theirs.method, timms.method);
    assert!(theirs.sites == timms.sites && theirs.floats == timms.floats);
    assert!(theirs.evidence == timms.evidence);
}

/// The oracle's image tower of CLIP's, under timm's names.
fn clip() -> Weights {
    Weights::open(here("tests/golden/clip_micro.safetensors")).unwrap()
}

fn same_tensors(found: &Weights, expected: &Weights) {
    assert_eq!(tensors_of(found), tensors_of(expected));
}

#[test]
fn a_projections_bias_of_zeros_is_none() {
    let expected = clip();
    let mut tensors = tensors_of(&expected);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut with_bias = |bias: Vec<f32>| {
        tensors.insert("head.bias".to_owned(), (vec![20], bias));
        write(&path, tensors.clone());
        open_checkpoint(&path).unwrap()
    };
    same_tensors(&with_bias(vec![0.0; 20]), &expected);
    let mut bias = vec![0.0; 20];
    bias[19] = 1e-9;
    assert_eq!(with_bias(bias).shape("head.bias"), Some(&[20][..]));
}

/// The oracle's image tower of SigLIP's, as timm saves it.
const SIGLIP: &str = "tests/golden/siglip_micro.safetensors";

#[test]
fn a_latent_becomes_the_query_that_it_is_projected_to() {
    let [file, opened] = [
        Weights::open(here(SIGLIP)).unwrap(),
        open_checkpoint(here(SIGLIP)).unwrap(),
    ];
    let [mut before, after] = [tensors_of(&file), tensors_of(&opened)];
    let [(_, weight), (_, bias)] =
        ["attn_pool.q.weight", "attn_pool.q.bias"].map(|name| before.remove(name).unwrap());
    let (shape, latent) = before
        .insert(
            "attn_pool.latent".to_owned(),
            after["attn_pool.latent"].clone(),
        )
        .unwrap();
    assert_eq!(shape, [1, 1, 24]);
    assert_eq!(before, after);
    let (_, query) = &after["attn_pool.latent"];
    for (at, &found) in query.iter().enumerate() {
        let terms = latent.iter().zip(&weight[at * 24..][..24]);
        let product: f64 = terms.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        assert_eq!(found, (product + f64::from(bias[at])) as f32);
    }
}

#[test]
fn a_trunk_of_timms_in_open_clip_is_timms() {
    let expected = open_checkpoint(here(SIGLIP)).unwrap();
    let tower = tensors_of(&Weights::open(here(SIGLIP)).unwrap());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("open_clip_model.safetensors");
    for prefix in ["visual.trunk.", "module.visual.trunk."] {
        let named =
            |(name, tensor): (&String, &_)| (format!("{prefix}{name}"), Clone::clone(tensor));
        let mut file: BTreeMap<_, _> = tower.iter().map(named).collect();
        let prefix = prefix.strip_suffix("visual.trunk.").unwrap();
        for text in [
            "text.ln_final.bias",
            "text.transformer.resblocks.0.ln_1.bias",
            "logit_bias",
        ] {
            file.insert(format!("{prefix}{text}"), (vec![1], vec![0.0]));
        }
        write(&path, file);
        same_tensors(&open_checkpoint(&path).unwrap(), &expected);
    }
}

#[test]
fn an_image_tower_of_open_clip_is_timms() {
    const NAMES: [(&str, &str); 14] = [
        ("patch_embed.proj", "conv1"),
        ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"),
        ("norm_pre", "ln_pre"),
        ("blocks.", "transformer.resblocks."),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("head.weight", "proj"),
        ("norm.weight", "ln_post.weight"),
        ("norm.bias", "ln_post.bias"),
    ];
    let expected = clip();
    let tower = tensors_of(&expected)
        .into_iter()
        .map(|(name, (shape, values))| {
            let theirs = NAMES.iter().fold(name.clone(), |name, (timms, theirs)| {
                name.replace(timms, theirs)
            });
            let tensor = match (&*name, &shape[..]) {
                ("head.weight", &[rows, columns]) => {
                    let places = (0..rows * columns).map(|at| at % rows * columns + at / rows);
                    (vec![columns, rows], places.map(|at| values[at]).collect())
                }
                ("cls_token" | "pos_embed", shape) => {
                    let kept = shape.iter().copied().filter(|&size| size > 1).collect();
                    (kept, values)
                }
                _ => (shape, values),
            };
            (theirs, tensor)
        });
    let tower: BTreeMap<_, _> = tower.collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("open_clip_model.safetensors");
    for prefix in ["", "visual.", "module.visual."] {
        let named =
            |(name, tensor): (&String, &_)| (format!("{prefix}{name}"), Clone::clone(tensor));
        let mut file: BTreeMap<_, _> = tower.iter().map(named).collect();
        if let Some(prefix) = prefix.strip_suffix("visual.") {
            for text in [
                "transformer.resblocks.0.ln_1.weight",
                "token_embedding.weight",
                "positional_embedding",
                "ln_final.bias",
                "text_projection",
                "logit_scale",
            ] {
                file.insert(format!("{prefix}{text}"), (vec![1], vec![0.0]));
            }
        }
        write(&path, file);
        same_tensors(&open_checkpoint(&path).unwrap(), &expected);
    }
}

#[test]
fn what_of_transformers_is_not_supported_is_named() {
    let model = Transformers::open("vit");
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    for name in [
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
    ] {
        std::fs::copy(model.folder.join(name), file(name)).unwrap();
    }
    let refusal = |name: &str, key: &str, value: Value, says: &str| {
        let text = std::fs::read_to_string(file(name)).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json[key] = value;
        std::fs::write(file(name), json.to_string()).unwrap();
        let found = resolve(&open_checkpoint(file("model.safetensors")).unwrap(), None);
        let message = found.map(|resolved| resolved.name).unwrap_err().to_string();
        assert!(message.contains(says), "{message}\nlacks {says}");
        std::fs::write(file(name), text).unwrap();
    };
    for (key, value, says) in [
        (
            "architectures",
            json!(["BeitForMaskedImageModeling"]),
            "class `BeitForMaskedImageModeling`, which is not supported; supported are ViTModel, ",
        ),
        (
            "architectures",
            json!(["ViTForMaskedImageModeling"]),
            "class `ViTForMaskedImageModeling`, which",
        ),
        ("architectures", json!(null), "don't name one class"),
        (
            "hidden_act",
            json!("mish"),
            "hidden_act `mish`, where `gelu`, `gelu_pytorch_tanh`, `quick_gelu`, `silu` or `relu`",
        ),
        ("qkv_bias", json!(false), "qkv_bias is true, not false"),
        (
            "num_channels",
            json!(1),
            "has image_mean [0.5,0.5,0.5], where a number, or as many as channels (1), is expected",
        ),
        ("head_dim", json!(7), "has head_dim 7 for 3 heads"),
        (
            "num_attention_heads",
            json!("3"),
            "has num_attention_heads `3`, where a whole number",
        ),
        ("hidden_size", json!(48), "dim is 24, not 48"),
        (
            "image_size",
            json!(32),
            "makes images of 16 pixels; `image_size` decides it",
        ),
        ("layer_norm_eps", json!(0), "layer_norm_eps is 0"),
        (
            "id2label",
            json!({"0": "a"}),
            "the number of classes is 10, not 1",
        ),
    ] {
        refusal("config.json", key, value, says);
    }
    for (key, value, says) in [
        (
            "image_processor_type",
            json!("ConvNextImageProcessor"),
            "`ConvNextImageProcessor` prepares",
        ),
        (
            "size",
            json!({"shortest_edge": 16}),
            "has size {\"shortest_edge\":16}, where a number",
        ),
        ("resample", json!(0), "has resample 0, where 1 (lanczos)"),
        ("image_mean", json!([0.5]), "has image_mean [0.5]"),
        ("do_resize", json!(false), "has do_resize false"),
        ("rescale_factor", json!(1), "has rescale_factor 1"),
        ("do_center_crop", json!(true), "crops 224 pixels out of 16"),
    ] {
        refusal("preprocessor_config.json", key, value, says);
    }
    std::fs::remove_file(file("preprocessor_config.json")).unwrap();
    let weights = open_checkpoint(file("model.safetensors")).unwrap();
    let message = resolve(&weights, None).unwrap_err().to_string();
    let says =
        "has no preprocessor_config.json beside it, which tells crop_pct; `crop_pct` decides it";
    assert!(message.ends_with(says), "{message}");
}
