//! Hostile files: what the fuzz targets begin with, and what once was a fault, through the targets' own functions.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
        let more = (name == "image").then(|| here("tests/data"));
        for folder in [here("fuzz/seeds").join(name)].into_iter().chain(more) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                println!("{name}: {}", path.display());
                target(&std::fs::read(path).unwrap());
                files += 1;
            }
        }
        assert!(files > 0, "{name}");
    }
}
