//! Which images: class folders, label lists, calibration lists, and a seeded choice among them.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use log::Level;
use rayon::prelude::*;
use walkdir::WalkDir;

pub use super::choice::choose;
use super::class_folders;
use super::image_file::{self, EXTENSIONS, is_named_as_image, named_as_not_read};
use super::preprocess::Preprocessing;
use crate::error::{Error, Result, Setting};
use crate::file::input;

/// Limits how many names a message spells out before it only counts.
const NAMED: usize = 10;
/// Lists what file managers, archivers and file servers leave in folders, beside what begins with a dot.
const SYSTEMS: [&str; 8] = [
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
];

/// Describes one image and, where it is known, its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The image file.
    pub path: PathBuf,
    /// The index of the image's class.
    pub label: Option<usize>,
}

/// Returns the images of a folder with one folder per class, labelled as torchvision's `ImageFolder` does: class
/// folders in their [order](class_folders::sort) are 0, 1, 2 ..., each searched at any depth.
///
/// With ImageNet's thousand WordNet ids as names this gives the usual class indices. What is hidden or a system's is no
/// class folder. A notice names the files that are no images.
///
/// # Errors
/// An [`Error::Input`] when `dir` or something in it can't be read, when there is no class folder,
/// a class folder holds no image, two are called by the same number, or an image lies outside of all class folders.
pub fn image_folder(dir: &Path) -> Result<Vec<Sample>> {
    const EXPECTED: &str = "expected a folder with one folder of images per class";
    let mut classes: Vec<OsString> = Vec::new();
    let mut unclassed = Vec::new();
    let mut left_out = LeftOut::default();
    let cannot_read =
        |error: std::io::Error| Error::input(dir, format!("{EXPECTED}, can't read it: {error}"));
    for entry in fs::read_dir(dir).map_err(cannot_read)? {
        let entry = entry.map_err(cannot_read)?;
        let path = entry.path();
        if is_systems(&entry.file_name()) {
            left_out.hidden.push(path);
            continue;
        }
        // Not the entry's own metadata: a link to a folder is a class folder too.
        let metadata = fs::metadata(&path)
            .map_err(|error| Error::input(&path, format!("can't read it: {error}")))?;
        if metadata.is_dir() {
            classes.push(entry.file_name());
        } else if is_named_as_image(&path) {
            unclassed.push(entry.file_name().to_string_lossy().into_owned());
        } else {
            left_out.others.push(path);
        }
    }
    if classes.is_empty() {
        return Err(Error::input(
            dir,
            format!("{EXPECTED}, found no folder in it"),
        ));
    }
    if !unclassed.is_empty() {
        unclassed.sort();
        return Err(Error::input(
            dir,
            format!(
                "{EXPECTED}, found {} beside the class folders: {}",
                count(unclassed.len(), "image"),
                name_some(&unclassed)
            ),
        ));
    }
    class_folders::sort(&mut classes).map_err(|problem| Error::input(dir, problem))?;

    let mut samples = Vec::new();
    let mut empty = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let images = images_below(&dir.join(class), &mut left_out)?;
        if images.is_empty() {
            empty.push(class.to_string_lossy().into_owned());
        }
        samples.extend(images.into_iter().map(|path| Sample {
            path,
            label: Some(label),
        }));
    }
    left_out.tell(dir);
    if !empty.is_empty() {
        return Err(Error::input(
            dir,
            format!(
                "expected images ({}) in every class folder, found none in {}: {}",
                EXTENSIONS.join(", "),
                count(empty.len(), "folder"),
                name_some(&empty)
            ),
        ));
    }
    Ok(samples)
}

/// Returns the images that `labels_tsv` lists, in its order: a file name relative to `dir`, a tab and a class index on
/// each line. Blank lines are ignored.
///
/// # Errors
/// An [`Error::Input`] about `labels_tsv` that names the line that is malformed or repeats a file,
/// or the files that don't exist; about `dir` when it is no folder.
pub fn labelled(dir: &Path, labels_tsv: &Path) -> Result<Vec<Sample>> {
    expect_folder(dir)?;
    let text = input::text(labels_tsv)?;
    let entries = label_entries(&text).map_err(|problem| Error::input(labels_tsv, problem))?;
    resolve(dir, labels_tsv, entries)
}

/// Holds what a list names: a file and, in a list of labels, the index of its class.
pub type Entry<'a> = (&'a str, Option<usize>);

/// Reads the entries of a list of labels: a file name, a tab and a class index on each line.
///
/// # Errors
/// The line that is malformed or repeats a file; a list of blank lines.
pub fn label_entries(text: &str) -> std::result::Result<Vec<Entry<'_>>, String> {
    entries(text, |content| {
        let (name, label) = content
            .split_once('\t')
            .ok_or_else(|| format!("no tab in {content:?}"))?;
        if name.is_empty() {
            return Err("no file name".into());
        }
        let class = label.trim().parse();
        let class = class.map_err(|_| format!("the class index {label:?}"))?;
        Ok((name, Some(class)))
    })
}

/// Reads the entries of a list of images: a file name on each line.
///
/// # Errors
/// The line that repeats a file; a list of blank lines.
pub fn list_entries(text: &str) -> std::result::Result<Vec<Entry<'_>>, String> {
    entries(text, |name| Ok((name, None)))
}

/// Reads a list by `entry`, which reads a line that is not blank or says what it finds there instead of
/// "file<TAB>class index".
fn entries<'a>(
    text: &'a str,
    entry: impl Fn(&'a str) -> std::result::Result<Entry<'a>, String>,
) -> std::result::Result<Vec<Entry<'a>>, String> {
    let mut entries = Vec::new();
    let mut first_lines = HashMap::new();
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim().is_empty() {
            continue;
        }
        let (name, label) = entry(content).map_err(|found| {
            format!("line {line}: expected \"file<TAB>class index\", found {found}")
        })?;
        if let Some(first) = first_lines.insert(name, line) {
            return Err(format!(
                "line {line}: expected each file once, found {name:?} on line {first} too"
            ));
        }
        entries.push((name, label));
    }
    if entries.is_empty() {
        return Err("expected a list of image files, found only blank lines".into());
    }
    Ok(entries)
}

/// Finds all images in `dir` at any depth, in order of their paths, without labels. A notice names the files that are
/// no images.
///
/// # Errors
/// An [`Error::Input`] when `dir` or something in it can't be read, or when it holds no image.
pub fn flat_folder(dir: &Path) -> Result<Vec<Sample>> {
    expect_folder(dir)?;
    let mut left_out = LeftOut::default();
    let images = images_below(dir, &mut left_out)?;
    left_out.tell(dir);
    if images.is_empty() {
        return Err(Error::input(
            dir,
            format!(
                "expected a folder of images ({}), found none in it",
                EXTENSIONS.join(", ")
            ),
        ));
    }
    Ok(images
        .into_iter()
        .map(|path| Sample { path, label: None })
        .collect())
}

/// Returns the images that `list_file` names, in its order and without labels: one file name relative to `dir` on each
/// line. Blank lines are ignored.
///
/// # Errors
/// An [`Error::Input`] about `list_file` that names the line that repeats a file, or the files that
/// don't exist; about `dir` when it is no folder.
pub fn listed(dir: &Path, list_file: &Path) -> Result<Vec<Sample>> {
    expect_folder(dir)?;
    let text = input::text(list_file)?;
    let entries = list_entries(&text).map_err(|problem| Error::input(list_file, problem))?;
    resolve(dir, list_file, entries)
}

/// Chooses `count` images of `dir` to calibrate on: the first that `list` names, else drawn from `seed`.
///
/// # Errors
/// Those of [`listed`], or [`flat_folder`] and [`choose`]; an [`Error::InvalidSetting`] about [`Setting::Count`] when `list` names fewer.
pub fn calibration_set(
    dir: &Path,
    list: Option<&Path>,
    count: usize,
    seed: u64,
) -> Result<Vec<Sample>> {
    let Some(list) = list else {
        return choose(flat_folder(dir)?, count, seed);
    };
    let mut samples = listed(dir, list)?;
    if samples.len() < count {
        return Err(Error::setting(
            Setting::Count,
            format!(
                "expected {count} images, but {} names {}",
                list.display(),
                samples.len()
            ),
        ));
    }
    samples.truncate(count);
    Ok(samples)
}

/// Returns the network's input for each sample, in order; an image that can't be read is an error in its place.
///
/// `preprocessing` must have passed [`Preprocessing::validate`].
pub fn load_all(samples: &[Sample], preprocessing: &Preprocessing) -> Vec<Result<Vec<f32>>> {
    samples
        .par_iter()
        .map(|sample| {
            let image = image_file::load(&sample.path, preprocessing.exif_orientation)?;
            Ok(preprocessing.apply(&image))
        })
        .collect()
}

/// Returns the network's input for each sample, in order, as [`load_all`] does where all can be read.
///
/// # Errors
/// The first image that can't be read.
pub fn load(samples: &[Sample], preprocessing: &Preprocessing) -> Result<Vec<Vec<f32>>> {
    load_all(samples, preprocessing).into_iter().collect()
}

/// Lists what a folder holds beside images.
#[derive(Default)]
struct LeftOut {
    /// Files that are no images by their names.
    others: Vec<PathBuf>,
    /// Files and folders that are hidden or a system's, whatever they are.
    hidden: Vec<PathBuf>,
}

impl LeftOut {
    /// Says in the log how many files were left out, and names some.
    fn tell(&self, dir: &Path) {
        let formats = self
            .others
            .iter()
            .filter_map(|path| named_as_not_read(path));
        let formats: BTreeSet<&str> = formats.collect();
        if formats.is_empty() {
            tell(dir, Level::Info, "not read as images", &self.others);
        } else {
            // They are images to whoever took them.
            let formats = Vec::from_iter(formats).join(", ");
            let what = format!("not read as images ({formats} is not supported)");
            tell(dir, Level::Warn, &what, &self.others);
        }
        tell(
            dir,
            Level::Info,
            "left out as hidden or a system's",
            &self.hidden,
        );
    }
}

/// Says in the log that `paths` in `dir` are `what`, and names some of them, or all where the log takes more.
fn tell(dir: &Path, level: Level, what: &str, paths: &[PathBuf]) {
    if paths.is_empty() {
        return;
    }
    let names = paths
        .iter()
        .map(|path| path.strip_prefix(dir).unwrap_or(path));
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    names.sort();
    let dir = dir.display();
    log::log!(
        level,
        "{dir}: {} {what}: {}",
        count(names.len(), "file"),
        name_some(&names)
    );
    for name in names.iter().skip(NAMED) {
        log::debug!("{dir}: {what}: {name}");
    }
}

/// Says whether a file or folder is hidden, or there for a file manager, an archiver or a file server.
fn is_systems(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
        || SYSTEMS.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Finds all images in `dir` at any depth, in order of their paths. Links are followed.
fn images_below(dir: &Path, left_out: &mut LeftOut) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let mut entries = WalkDir::new(dir)
        .min_depth(1)
        .follow_links(true)
        .into_iter();
    while let Some(entry) = entries.next() {
        // Hidden ones may be links that lead nowhere, as editors leave them.
        if let Err(error) = &entry
            && error.depth() > 0
            && let Some(path) = error.path()
            && path.file_name().is_some_and(is_systems)
        {
            left_out.hidden.push(path.to_owned());
            continue;
        }
        let entry = entry.map_err(|error| {
            // The library repeats the path unless the cause alone is shown.
            let path = error.path().unwrap_or(dir).to_owned();
            match (error.loop_ancestor(), error.io_error()) {
                (Some(ancestor), _) => Error::input(
                    path,
                    format!(
                        "this link leads back to {}, which it is in",
                        ancestor.display()
                    ),
                ),
                (None, Some(cause)) => Error::input(path, format!("can't read it: {cause}")),
                (None, None) => Error::input(path, format!("can't read it: {error}")),
            }
        })?;
        let is_folder = entry.file_type().is_dir();
        if is_systems(entry.file_name()) {
            if is_folder {
                entries.skip_current_dir();
            }
            left_out.hidden.push(entry.into_path());
        } else if is_folder {
            continue;
        } else if is_named_as_image(entry.path()) {
            images.push(entry.into_path());
        } else {
            left_out.others.push(entry.into_path());
        }
    }
    images.sort();
    Ok(images)
}

fn expect_folder(dir: &Path) -> Result<()> {
    let metadata = fs::metadata(dir).map_err(|error| {
        Error::input(
            dir,
            format!("expected a folder of images, can't read it: {error}"),
        )
    })?;
    if metadata.is_dir() {
        Ok(())
    } else {
        Err(Error::input(
            dir,
            "expected a folder of images, found a file",
        ))
    }
}

/// Returns the samples for a list's entries, once every name is known to be a file.
fn resolve(dir: &Path, list: &Path, entries: Vec<Entry>) -> Result<Vec<Sample>> {
    // With what isn't seen in a name, such as a space at its end.
    let missing: Vec<String> = entries
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !dir.join(name).is_file())
        .map(|name| format!("{name:?}"))
        .collect();
    if !missing.is_empty() {
        return Err(Error::input(
            list,
            format!(
                "expected the {} it lists in {}, found {} of them missing: {}",
                count(entries.len(), "file"),
                dir.display(),
                missing.len(),
                name_some(&missing)
            ),
        ));
    }
    Ok(entries
        .into_iter()
        .map(|(name, label)| Sample {
            path: dir.join(name),
            label,
        })
        .collect())
}

/// Words the first few of `names`, and how many more there are.
fn name_some(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::preprocess::{CropMode, Interpolation};

    /// A folder with empty files of these names.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    /// Names relative to `dir`, with labels.
    fn relative(dir: &Path, samples: &[Sample]) -> Vec<(String, Option<usize>)> {
        samples
            .iter()
            .map(|sample| {
                let path = sample.path.strip_prefix(dir).unwrap();
                (path.to_str().unwrap().replace('\\', "/"), sample.label)
            })
            .collect()
    }

    fn list(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("list.txt");
        fs::write(&path, text).unwrap();
        path
    }

    fn labelled_problem(dir: &Path, text: &str) -> String {
        let error = labelled(dir, &list(dir, text)).unwrap_err();
        assert!(matches!(&error, Error::Input { path, .. } if path.ends_with("list.txt")));
        error.to_string()
    }

    #[test]
    fn class_folders_are_numbered_by_name() {
        let dir = folder(&[
            "n02/b.JPG",
            "n02/deep/er/a.png",
            "n01/z.webp",
            "n01/notes.txt",
        ]);
        let samples = image_folder(dir.path()).unwrap();
        assert_eq!(
            relative(dir.path(), &samples),
            [
                ("n01/z.webp".into(), Some(0)),
                ("n02/b.JPG".into(), Some(1)),
                ("n02/deep/er/a.png".into(), Some(1)),
            ]
        );
    }

    #[test]
    fn a_folder_without_class_folders_or_images_is_refused() {
        let problem = |names: &[&str]| image_folder(folder(names).path()).unwrap_err().to_string();
        assert!(problem(&[]).contains("found no folder in it"));
        assert!(problem(&["a.jpg"]).contains("found no folder in it"));
        assert!(problem(&["n01/a.jpg", "n02/a.txt"]).ends_with("found none in 1 folder: n02"));
        assert!(
            problem(&["n01/a.jpg", "b.jpg"]).ends_with("1 image beside the class folders: b.jpg")
        );
        let error = image_folder(Path::new("/none/such")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/none/such: expected a folder")
        );
    }

    #[test]
    fn every_name_of_an_image_counts_and_nothing_hidden() {
        let images = [
            "a.jfif", "b.TIF", "c.tiff", "d/e.gif", "f.ppm", "g.pgm", "h.jpe",
        ];
        let others = ["i.heic", "j.txt", "k"];
        let hidden = [
            "._a.jpg",
            "Thumbs.db",
            ".ipynb_checkpoints/a.png",
            "__MACOSX/d/a.png",
        ];
        let dir = folder(&[&images[..], &others, &hidden].concat());
        let mut left_out = LeftOut::default();
        let mut found = images_below(dir.path(), &mut left_out).unwrap();
        let named = |paths: &mut Vec<PathBuf>, names: &[&str]| {
            paths.sort();
            let mut expected: Vec<PathBuf> =
                names.iter().map(|name| dir.path().join(name)).collect();
            expected.sort();
            assert_eq!(*paths, expected);
        };
        named(&mut found, &images);
        named(&mut left_out.others, &others);
        // Of a folder only its name.
        named(
            &mut left_out.hidden,
            &["._a.jpg", "Thumbs.db", ".ipynb_checkpoints", "__MACOSX"],
        );
    }

    #[test]
    fn what_is_hidden_is_no_class() {
        let dir = folder(&[
            "n01/a.png",
            "n02/b.tif",
            ".git/c.png",
            "__MACOSX/n01/d.png",
            "._e.png",
        ]);
        let samples = image_folder(dir.path()).unwrap();
        assert_eq!(
            relative(dir.path(), &samples),
            [("n01/a.png".into(), Some(0)), ("n02/b.tif".into(), Some(1))]
        );
    }

    #[test]
    fn a_flat_folder_is_sorted_by_path() {
        let dir = folder(&["b/x.bmp", "c.jpeg", "a.JPEG", "list.tsv"]);
        let samples = flat_folder(dir.path()).unwrap();
        let names = relative(dir.path(), &samples);
        assert_eq!(
            names,
            ["a.JPEG", "b/x.bmp", "c.jpeg"].map(|name| (name.to_owned(), None))
        );
        let empty = flat_folder(folder(&["a.txt"]).path()).unwrap_err();
        assert!(empty.to_string().contains("found none in it"));
    }

    #[test]
    fn labels_are_read_in_order() {
        let dir = folder(&["b.jpg", "a b.jpg", "sub/c.jpg"]);
        let labels = list(dir.path(), "b.jpg\t7\r\n\na b.jpg\t0\nsub/c.jpg\t999");
        let samples = labelled(dir.path(), &labels).unwrap();
        assert_eq!(
            relative(dir.path(), &samples),
            [
                ("b.jpg".into(), Some(7)),
                ("a b.jpg".into(), Some(0)),
                ("sub/c.jpg".into(), Some(999)),
            ]
        );
    }

    #[test]
    fn lists_may_begin_with_a_byte_order_mark() {
        let dir = folder(&["a.jpg", "b.jpg"]);
        let labels = list(dir.path(), "\u{feff}b.jpg\t7\r\na.jpg\t0\r\n");
        let samples = labelled(dir.path(), &labels).unwrap();
        let expected = [("b.jpg".into(), Some(7)), ("a.jpg".into(), Some(0))];
        assert_eq!(relative(dir.path(), &samples), expected);
        let names = list(dir.path(), "\u{feff}b.jpg\r\n");
        assert_eq!(listed(dir.path(), &names).unwrap().len(), 1);
        // In the middle, as where two lists were joined, it is a part of the name, and is shown.
        let problem = labelled_problem(dir.path(), "b.jpg\t7\n\u{feff}a.jpg\t0");
        assert!(
            problem.ends_with(r#"missing: "\u{feff}a.jpg""#),
            "{problem}"
        );
    }

    #[test]
    fn malformed_labels_are_named_by_line() {
        let dir = folder(&["a.jpg", "b.jpg"]);
        let problem = |text| labelled_problem(dir.path(), text);
        assert!(problem("a.jpg\t1\n\nb.jpg 2").contains("line 3"));
        assert!(problem("a.jpg\t-1").ends_with("found the class index \"-1\""));
        assert!(problem("a.jpg\t1\t2").contains("class index"));
        assert!(problem("\t1").ends_with("found no file name"));
        assert!(problem("\n \n").contains("only blank lines"));
        assert!(
            problem("a.jpg\t1\nb.jpg\t1\na.jpg\t2")
                .ends_with("line 3: expected each file once, found \"a.jpg\" on line 1 too")
        );
    }

    #[test]
    fn missing_files_are_named_and_counted() {
        let dir = folder(&["a.jpg"]);
        let mut text = "a.jpg\t1\n".to_owned();
        for index in 0..12 {
            text.push_str(&format!("none{index}.jpg\t1\n"));
        }
        let problem = labelled_problem(dir.path(), &text);
        assert!(problem.contains("expected the 13 files it lists in"));
        assert!(problem.contains("found 12 of them missing: \"none0.jpg\", \"none1.jpg\""));
        assert!(problem.ends_with("\"none9.jpg\" and 2 more"));

        let labels = list(dir.path(), "a.jpg\t1");
        let error = labelled(&dir.path().join("gone"), &labels).unwrap_err();
        assert!(error.to_string().contains("gone: expected a folder"));
    }

    #[test]
    fn a_list_keeps_its_order() {
        let dir = folder(&["a.jpg", "b.jpg"]);
        let samples = listed(dir.path(), &list(dir.path(), "b.jpg\na.jpg\n")).unwrap();
        let names = relative(dir.path(), &samples);
        assert_eq!(
            names,
            ["b.jpg", "a.jpg"].map(|name| (name.to_owned(), None))
        );
        let repeated = listed(dir.path(), &list(dir.path(), "b.jpg\nb.jpg")).unwrap_err();
        assert!(repeated.to_string().contains("line 2"));
        let missing = listed(dir.path(), &list(dir.path(), "c.jpg")).unwrap_err();
        assert!(missing.to_string().ends_with("missing: \"c.jpg\""));
    }

    #[test]
    fn a_choice_is_seeded_and_keeps_the_order() {
        let samples: Vec<Sample> = (0..100)
            .map(|index| Sample {
                path: format!("{index:03}.jpg").into(),
                label: Some(index),
            })
            .collect();
        let labels = |count, seed| -> Vec<usize> {
            let chosen = choose(samples.clone(), count, seed).unwrap();
            chosen.iter().filter_map(|sample| sample.label).collect()
        };
        let drawn = labels(32, 3);
        assert_eq!(drawn.len(), 32);
        assert!(drawn.is_sorted_by(|a, b| a < b));
        assert_eq!(drawn, labels(32, 3));
        assert_ne!(drawn, labels(32, 4));
        assert_eq!(labels(100, 5), (0..100).collect::<Vec<_>>());
        // Pinned: another draw from the same seed would be other calibration images.
        assert_eq!(labels(4, 3), [8, 10, 61, 63]);
    }

    #[test]
    fn a_choice_of_more_than_there_are_names_both_numbers() {
        let samples = vec![Sample {
            path: "a.jpg".into(),
            label: None,
        }];
        let error = choose(samples.clone(), 32, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "count: expected at most the 1 images that there are, found 32"
        );
        assert!(choose(samples, 0, 0).is_err());
    }

    #[test]
    fn a_failed_image_is_an_error_in_its_place() {
        let dir = folder(&["a.png", "b.png"]);
        let image = image::RgbImage::from_pixel(9, 9, image::Rgb([255; 3]));
        image.save(dir.path().join("a.png")).unwrap();
        let preprocessing = Preprocessing {
            image_size: 4.into(),
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
            interpolation: Interpolation::Bilinear,
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            exif_orientation: false,
        };
        let inputs = load_all(&flat_folder(dir.path()).unwrap(), &preprocessing);
        assert_eq!(inputs[0].as_ref().unwrap(), &vec![1.0; 48]);
        assert!(
            inputs[1]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("b.png: ")
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_loops_are_named() {
        use std::os::unix::fs::symlink;
        let dir = folder(&["classes/n01/a.jpg", "elsewhere/b.jpg"]);
        let classes = dir.path().join("classes");
        symlink(dir.path().join("elsewhere"), classes.join("n02")).unwrap();
        assert_eq!(image_folder(&classes).unwrap().len(), 2);
        symlink(&classes, classes.join("n01/again")).unwrap();
        let error = flat_folder(&classes).unwrap_err().to_string();
        assert!(error.contains("this link leads back to"), "{error}");
        fs::remove_file(classes.join("n01/again")).unwrap();
        symlink("nowhere", classes.join("n01/.#a.jpg")).unwrap();
        assert_eq!(flat_folder(&classes).unwrap().len(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_need_not_be_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join(std::ffi::OsStr::from_bytes(b"n\xFF"));
        fs::create_dir(&class).unwrap();
        fs::write(class.join(std::ffi::OsStr::from_bytes(b"\xFE.jpg")), "").unwrap();
        assert_eq!(image_folder(dir.path()).unwrap()[0].label, Some(0));
        let class_only = tempfile::tempdir().unwrap();
        fs::create_dir(class_only.path().join(std::ffi::OsStr::from_bytes(b"\xFD"))).unwrap();
        assert!(
            image_folder(class_only.path())
                .unwrap_err()
                .to_string()
                .contains("none in 1")
        );
    }
}
