//! Checkpoints as people have them, through the program: wrapped by PyTorch, and in several files.

#[path = "common/program.rs"]
mod program;

use program::{Program, here, program};
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DEMO: &str = "models/demo/vit_mnist";
const INDEX: &str = "model.safetensors.index.json";

/// The demo's ViT, tensor by tensor.
fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let weights = Weights::open(here(DEMO).join("model.safetensors")).unwrap();
    let tensor = |name: &str| {
        let shape = weights.shape(name).unwrap().to_vec();
        (name.to_owned(), (shape, weights.float(name).unwrap()))
    };
    weights.names().map(tensor).collect()
}

fn write(path: &Path, tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
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
    program("eval")
        .with("--model", model)
        .with("--images", "models/demo/test")
        .with("--device", "cpu")
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
