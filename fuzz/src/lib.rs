//! What each fuzz target does with its input: no input may panic, hang, or take memory out of proportion, and what is
//! accepted can be used.
//!
//! `tests/fuzz` runs the targets, `cargo test --test hostile` gives the same functions the files in `seeds`.

#[expect(dead_code, reason = "the tests of faults use the rest")]
#[path = "../../tests/common/container.rs"]
mod container;
mod edits;
mod tiny;

use container::Container;
use edits::{EDIT, edited};
use ptq4vit_gpu::data::class_names::{ClassName, ClassNames};
use ptq4vit_gpu::data::image_file::decode;
use ptq4vit_gpu::data::image_size::ImageSize;
use ptq4vit_gpu::data::preprocess::{CropMode, Interpolation, Preprocessing};
use ptq4vit_gpu::data::samples::{label_entries, list_entries};
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::evaluation::sweep::SweepPlan;
use ptq4vit_gpu::evaluation::{Part, check_complete, summarize};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::shards::Index;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::config::Architecture;
use ptq4vit_gpu::model::recipe::{Beside, Recipe, Request, describe_beside, resolve, told_labels};
use ptq4vit_gpu::model::with_todays_names;
use ptq4vit_gpu::quant::{Preset, QuantizedModel};
use ptq4vit_gpu::verify::{Report, compare};
use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

/// A target's name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("weights", weights),
    ("checkpoint", checkpoint),
    ("index", index),
    ("quantized", quantized),
    ("recipe", recipe),
    ("labels", labels),
    ("plan", plan),
    ("report", report),
    ("image", image),
];

/// The largest image that an accepted model is run on: what is larger takes its time, as it should.
const RUN: usize = 16;

/// Where a file would be that is in memory only. No config.json lies beside it.
fn nowhere() -> &'static Path {
    Path::new("nowhere/model.safetensors")
}

/// Any bytes, as a weights file of either kind.
pub fn weights(input: &[u8]) {
    if let Ok(weights) = Weights::from_bytes(nowhere(), input) {
        for name in weights.names() {
            let shape = weights.shape(name).expect("one of its tensors");
            if let Ok(values) = weights.float(name) {
                assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
            }
        }
        use_quantized(&weights);
        use_checkpoint(weights);
    }
}

/// Edits of FP checkpoints.
pub fn checkpoint(input: &[u8]) {
    static FILES: LazyLock<[Container; tiny::ARCHITECTURES.len()]> =
        LazyLock::new(|| tiny::ARCHITECTURES.map(|told| Container::parse(&tiny::checkpoint(told))));
    let weights = Weights::from_bytes(nowhere(), &edited(&*FILES, input));
    let accepted = weights.is_ok_and(use_checkpoint);
    assert!(accepted || input.len() > EDIT, "a sound file is refused");
}

/// An index of shards, two of which there are: with the first and the second half of a checkpoint's tensors.
pub fn index(input: &[u8]) {
    static SHARDS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
        let whole = Container::parse(&tiny::checkpoint(tiny::ARCHITECTURES[0]));
        let half = whole.tensors.len() / 2;
        let shard = |skipped: usize, taken: usize| {
            let tensors = whole.tensors.clone().into_iter();
            let shard = Container {
                metadata: whole.metadata.clone(),
                tensors: tensors.skip(skipped).take(taken).collect(),
            };
            shard.file()
        };
        [shard(0, half), shard(half, half + 1)]
    });
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(index) = Index::parse(text) else {
        return;
    };
    let open = |shard: &str| match shard {
        "1.safetensors" => Ok((&SHARDS[0][..], SHARDS[0].len())),
        "2.safetensors" => Ok((&SHARDS[1][..], SHARDS[1].len())),
        _ => Err("there is none".to_owned()),
    };
    if let Ok(weights) = Weights::from_shards(nowhere(), &index, open) {
        assert!(weights.names().eq(index.tensors().map(|(name, _)| name)));
        if index.files().len() == SHARDS.len() {
            assert!(use_checkpoint(weights), "a whole checkpoint is refused");
        }
    }
}

/// Edits of quantized files.
pub fn quantized(input: &[u8]) {
    static FILES: LazyLock<Vec<Container>> = LazyLock::new(|| {
        let files = [Preset::Ptq4vit, Preset::Best].map(|preset| {
            tiny::ARCHITECTURES.map(|told| Container::parse(&tiny::quantized(told, preset)))
        });
        files.into_iter().flatten().collect()
    });
    let weights = Weights::from_bytes(nowhere(), &edited(&FILES, input));
    let accepted = weights.is_ok_and(|weights| use_quantized(&weights));
    assert!(accepted || input.len() > EDIT, "a sound file is refused");
}

/// Finds out what a checkpoint holds, as every subcommand with `--model` does, and whether that is accepted.
fn use_checkpoint(weights: Weights) -> bool {
    let Ok(weights) = with_todays_names(weights) else {
        return false;
    };
    let Ok(resolved) = resolve(&weights, None) else {
        return false;
    };
    for (name, shape) in resolved.architecture.expected_tensors() {
        assert_eq!(weights.shape(&name), Some(&shape[..]), "{name}");
    }
    true
}

/// Reads a quantized model, runs what is accepted, and says whether it was.
fn use_quantized(weights: &Weights) -> bool {
    let Ok(model) = QuantizedModel::read(weights) else {
        return false;
    };
    let (size, len) = (
        model.architecture.image_size(),
        model.architecture.input_len(),
    );
    if size.height.max(size.width) <= RUN {
        let mut model = Model::quantized(&Device::cpu(), &model).expect("a model that was checked");
        let logits = model.logits(&[vec![0.5; len]]).expect("a CPU computes");
        assert_eq!(logits[0].len(), model.answer().values());
    }
    true
}

/// A recipe in TOML, timm's config.json, and what files' metadata have in JSON.
pub fn recipe(input: &[u8]) {
    /// Files that don't say themselves what they are.
    static FILES: LazyLock<[Vec<u8>; tiny::ARCHITECTURES.len()]> = LazyLock::new(|| {
        tiny::ARCHITECTURES.map(|told| {
            let mut file = Container::parse(&tiny::checkpoint(told));
            file.metadata.clear();
            file.file()
        })
    });
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let recipe = toml::from_str::<Recipe>(text);
    let told = serde_json::from_str::<Architecture>(text);
    for architecture in told
        .into_iter()
        .chain(recipe.map(|recipe| recipe.architecture))
    {
        // Every size in bounds, so every product too.
        for site in sites(&architecture) {
            assert!(site.out_len() > 0, "{}", site.name);
        }
        assert!(architecture.parameters() > 0);
    }
    if let Ok(preprocessing) = serde_json::from_str::<Preprocessing>(text) {
        let _ = preprocessing.validate();
    }
    for classes in [2, 1000] {
        if let Ok(Some(names)) = told_labels(text, classes) {
            assert_eq!(names.len(), classes);
        }
    }
    for file in &*FILES {
        let beside = Beside {
            config: Some(("config.json".into(), text.to_owned())),
            preprocessor: Some(("preprocessor_config.json".into(), text.to_owned())),
        };
        // As it is, and with --image-size; each with --interpolate-positions and without.
        let sizes: [Option<ImageSize>; 5] = [
            None,
            Some(6.into()),
            Some(8.into()),
            Some([8, 2].into()),
            Some(4096.into()),
        ];
        for image_size in sizes {
            let mut weights = Weights::from_bytes(nowhere(), file).expect("a sound file");
            let request = Request {
                image_size,
                ..Request::default()
            };
            let Ok(told) = describe_beside(&weights, &beside, &request) else {
                continue;
            };
            let _ = told.clone().fitted(&weights);
            let mut told = told;
            let _ = told.interpolate_positions(&mut weights);
            let _ = told.fitted(&weights);
        }
    }
}

/// A list of labels, of images, or of names of classes.
pub fn labels(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    for entries in [label_entries(text), list_entries(text)].iter().flatten() {
        let names: HashSet<&str> = entries.iter().map(|(name, _)| *name).collect();
        assert!(!names.is_empty() && names.len() == entries.len());
    }
    if let Ok(classes) = ClassNames::parse(text) {
        // They are shown on a terminal.
        let shown = |class: &ClassName| !class.name.is_empty() && !class.name.contains('\u{1b}');
        assert!(!classes.is_empty() && classes.iter().all(shown));
    }
}

/// A sweep's plan, or a part of an evaluation.
pub fn plan(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(plan) = SweepPlan::parse(Path::new("plan.toml"), text) {
        for task in plan.tasks() {
            assert!(task.part_path().starts_with(plan.out()));
        }
    }
    if let Ok(part) = Part::parse(Path::new("part.json"), text) {
        let parts = [("part.json".into(), part)];
        if check_complete(&parts).is_ok()
            && let Ok(report) = summarize(parts.iter().map(|(_, part)| part))
        {
            assert!((0.0..=1.0).contains(&report.accuracy.top1));
        }
    }
}

/// What `verify` writes: compared with itself, and written again.
pub fn report(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let path = Path::new("report.json");
    if let Ok(report) = Report::parse(path, text) {
        for device in &report.devices {
            compare(&report.devices[0], device);
        }
        let again = Report::parse(path, &report.to_json());
        assert_eq!(again.expect("it was accepted"), report);
    }
}

/// An image file, decoded and preprocessed.
pub fn image(input: &[u8]) {
    let _ = decoded(input);
}

/// [`image`], and why the file was refused.
pub fn decoded(input: &[u8]) -> Result<(), String> {
    let preprocessing = |channels| Preprocessing {
        image_size: 8.into(),
        crop_pct: 0.9,
        crop_mode: CropMode::Center,
        interpolation: Interpolation::Bicubic,
        mean: vec![0.5; channels],
        std: vec![0.5; channels],
        exif_orientation: true,
    };
    let image = decode(input, true)?;
    for channels in 1..=4 {
        let values = preprocessing(channels).apply(&image);
        assert_eq!(values.len(), channels * 8 * 8);
        assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
    }
    Ok(())
}
