//! Hostile files: what the fuzz targets begin with, and what once was a fault, through the targets' own functions.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use walkdir::WalkDir;

/// How many mutated images are decoded, where they shouldn't be the default's.
const MUTATIONS: &str = "PTQ4VIT_IMAGE_MUTATIONS";

/// A file or folder of the crate.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Names of the entries of a folder, without what follows a dot.
fn stems(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            path.file_stem().unwrap().to_string_lossy().into_owned()
        })
        .collect()
}

/// The files that a target begins with, in order.
fn seeds(target: &str) -> Vec<PathBuf> {
    let more = (target == "image").then(|| here("tests/data"));
    let folders = [here("fuzz/seeds").join(target)].into_iter().chain(more);
    let entries = folders.flat_map(|folder| WalkDir::new(folder).sort_by_file_name());
    let files = entries
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

#[test]
fn every_target_has_its_program_and_its_seeds() {
    let names: BTreeSet<String> = targets::TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(stems(&here("fuzz/fuzz_targets")), names);
    assert_eq!(stems(&here("fuzz/seeds")), names);
    let manifest = std::fs::read_to_string(here("fuzz/Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let program = here("fuzz/fuzz_targets").join(format!("{name}.rs"));
        let program = std::fs::read_to_string(program).unwrap();
        assert!(program.contains(&format!("::{name}(input)")), "{name}");
    }
}

#[test]
fn no_seed_is_a_fault() {
    for (name, target) in targets::TARGETS {
        let mut files = 0;
        for path in seeds(name) {
            println!("{name}: {}", path.display());
            target(&std::fs::read(path).unwrap());
            files += 1;
        }
        assert!(files > 0, "{name}");
    }
}

/// One to four changes: bytes that are set, moved, repeated, left out, or taken from another image; or the end cut off.
fn mutated(random: &mut ChaCha8Rng, image: &[u8], other: &[u8]) -> Vec<u8> {
    const EDGES: [u8; 8] = [0, 1, 0x7F, 0x80, 0xC0, 0xD9, 0xFE, 0xFF];
    let mut bytes = image.to_vec();
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        // Headers decide most.
        let within = if random.random_bool(0.3) {
            bytes.len().min(64)
        } else {
            bytes.len()
        };
        let at = random.random_range(0..within);
        let length = random.random_range(1..=16).min(bytes.len() - at);
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes[at..at + length].fill(*EDGES.choose(random).unwrap()),
            3 => bytes.extend_from_within(at..at + length),
            4 => drop(bytes.drain(at..at + length)),
            5 => bytes.truncate(at),
            _ => {
                let from = random.random_range(0..other.len());
                let piece = &other[from..other.len().min(from + length)];
                bytes.splice(at..at + length, piece.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn mutated_images_cost_no_more_than_themselves() {
    let count = match std::env::var(MUTATIONS) {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => 20_000,
    };
    let files = seeds("image").into_iter().filter(|path| {
        // Not the lists and programs beside them.
        !path
            .extension()
            .is_some_and(|extension| ["json", "md", "py"].map(AsRef::as_ref).contains(&extension))
    });
    let images: Vec<Vec<u8>> = files.map(|path| std::fs::read(path).unwrap()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let (mut accepted, mut panics) = (0, 0);
    for _ in 0..count {
        let (image, other) = (
            images.choose(&mut random).unwrap(),
            images.choose(&mut random).unwrap(),
        );
        match targets::decoded(&mutated(&mut random, image, other)) {
            Ok(()) => accepted += 1,
            Err(problem) => panics += usize::from(problem.contains("its decoder crashed")),
        }
    }
    println!("{count} mutated images: {accepted} are read, {panics} make their decoder panic");
    assert!(accepted > count / 100 && accepted < count);
}
