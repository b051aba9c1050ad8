//! What a model's classes are called: by the model itself, by a list from a file, or as ImageNet's.

#[cfg(feature = "files")]
use crate::error::{Error, Result};
#[cfg(feature = "files")]
use crate::file::input;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Deref;
#[cfg(feature = "files")]
use std::path::Path;

/// Lists the 1000 classes of ILSVRC 2012 in the order of their WordNet ids, which is the order of every ImageNet-1k
/// model's logits. Ids and words are WordNet 3.0's.
const IMAGENET: &str = include_str!("../../models/imagenet_classes.tsv");
/// Counts ImageNet's classes.
pub const IMAGENET_CLASSES: usize = 1000;
/// Holds the first line of a list with ids, if it is there.
const HEADER: &str = "index\twnid\tname";
/// Limits a name's bytes: eight times ImageNet's longest.
const MAX_NAME: usize = 1 << 10;
/// Limits the bytes of a model's names: they are part of a quantized file's header.
const MAX_NAMES: usize = 1 << 24;

/// Says what a class is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassName {
    /// The class's WordNet id, as in `n01440764`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wnid: Option<String>,
    /// The class's name. Several classes may have the same: ImageNet has two kinds of crane.
    pub name: String,
}

/// Says what all classes of a model are called, in the order of its logits. As JSON: a list, or `"imagenet-1k"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredNames", into = "StoredNames")]
pub struct ClassNames(Vec<ClassName>);

/// Holds [`ClassNames`] as they are stored.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"imagenet-1k\", or a list of {\"name\": …} with or without \"wnid\""
)]
enum StoredNames {
    Known(Dataset),
    Own(Vec<ClassName>),
}

/// Names a dataset whose classes need no list.
#[derive(Serialize, Deserialize)]
enum Dataset {
    #[serde(rename = "imagenet-1k")]
    ImageNet1k,
}

impl TryFrom<StoredNames> for ClassNames {
    type Error = String;

    fn try_from(form: StoredNames) -> std::result::Result<Self, String> {
        match form {
            StoredNames::Known(Dataset::ImageNet1k) => Ok(Self::imagenet()),
            StoredNames::Own(names) => Self::new(names),
        }
    }
}

impl From<ClassNames> for StoredNames {
    fn from(names: ClassNames) -> Self {
        match names == ClassNames::imagenet() {
            true => Self::Known(Dataset::ImageNet1k),
            false => Self::Own(names.0),
        }
    }
}

impl Deref for ClassNames {
    type Target = [ClassName];

    fn deref(&self) -> &[ClassName] {
        &self.0
    }
}

impl ClassNames {
    /// Takes the names of classes 0, 1, 2 …
    ///
    /// # Errors
    /// A name that is empty, too long or can't be shown on a terminal, and a WordNet id that is none or occurs twice.
    pub fn new(names: Vec<ClassName>) -> std::result::Result<Self, String> {
        let mut known = HashMap::new();
        let mut bytes = 0;
        for (index, class) in names.iter().enumerate() {
            check_name(&class.name).map_err(|problem| format!("class {index}: {problem}"))?;
            bytes += class.name.len();
            let Some(id) = &class.wnid else { continue };
            if !is_wnid(id) {
                return Err(format!(
                    "class {index}: expected a WordNet id as n01440764, found {id:?}"
                ));
            }
            if let Some(earlier) = known.insert(id, index) {
                return Err(format!(
                    "expected each id once, found {id} of classes {earlier} and {index}"
                ));
            }
        }
        if bytes > MAX_NAMES {
            return Err(format!(
                "expected names of at most {MAX_NAMES} bytes in all, found {bytes}"
            ));
        }
        Ok(Self(names))
    }

    /// Returns ImageNet's [`IMAGENET_CLASSES`].
    pub fn imagenet() -> Self {
        Self::parse(IMAGENET).expect("a test parses it")
    }

    #[cfg(feature = "files")]
    /// Reads the names in a file, of a model with so many classes.
    ///
    /// # Errors
    /// A file that can't be read, one of another form than [`parse`](Self::parse) takes, or another number of names.
    pub fn open(path: &Path, classes: usize) -> Result<Self> {
        let text = input::text(path)?;
        let names = Self::parse(&text).map_err(|problem| Error::input(path, problem))?;
        if names.len() != classes {
            let problem = format!("names {} classes, but the model has {classes}", names.len());
            return Err(Error::input(path, problem));
        }
        Ok(names)
    }

    /// Reads a list of classes: a name on each line, or, where the first line has tabs, `index<TAB>wnid<TAB>name`
    /// with indices that count from 0, and maybe these words above them.
    ///
    /// # Errors
    /// What was expected and what was found, with the line, or else with the class.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut lines = (1..).zip(text.lines()).peekable();
        let Some(&(_, first)) = lines.peek() else {
            return Err("expected a class on each line, found nothing".to_owned());
        };
        let has_ids = first.contains('\t');
        if first == HEADER {
            lines.next();
        }
        let mut names = Vec::new();
        for (line, content) in lines {
            let class = match has_ids {
                true => row(content, names.len()),
                false => Ok(ClassName {
                    wnid: None,
                    name: content.trim().to_owned(),
                }),
            };
            let class = class.and_then(|class| check_name(&class.name).map(|()| class));
            names.push(class.map_err(|problem| format!("line {line}: {problem}"))?);
        }
        if names.is_empty() {
            return Err("expected a class on each line, found only a header".to_owned());
        }
        Self::new(names)
    }
}

/// Says whether `text` has the form of a WordNet id of a noun, as in `n01440764`.
pub fn is_wnid(text: &str) -> bool {
    let digits = text.strip_prefix('n').unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Reads the class in a line with an index, which has to be this one.
fn row(line: &str, index: usize) -> std::result::Result<ClassName, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let &[found, wnid, text] = &fields[..] else {
        return Err(format!(
            "expected \"index<TAB>wnid<TAB>name\", found {line:?}"
        ));
    };
    if found != index.to_string() {
        return Err(format!("expected the index {index}, found {found:?}"));
    }
    Ok(ClassName {
        wnid: Some(wnid.to_owned()),
        name: text.trim().to_owned(),
    })
}

/// Checks that a name can be shown on a terminal.
fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.trim().is_empty() {
        return Err("expected a name, found none".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!(
            "expected a name of at most {MAX_NAME} bytes, found {}",
            name.len()
        ));
    }
    if name.contains(char::is_control) {
        return Err(format!("expected a name, found {name:?}"));
    }
    Ok(())
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;

    fn names(text: &str) -> std::result::Result<Vec<String>, String> {
        let classes = ClassNames::parse(text)?;
        Ok(classes.iter().map(|class| class.name.clone()).collect())
    }

    #[test]
    fn imagenet_has_its_thousand_classes_in_order() {
        let classes = ClassNames::imagenet();
        assert_eq!(classes.len(), IMAGENET_CLASSES);
        assert!(classes.is_sorted_by(|left, right| left.wnid < right.wnid));
        for (index, wnid, name) in [
            (0, "n01440764", "tench, Tinca tinca"),
            (134, "n02012849", "crane"),
            (517, "n03126707", "crane"),
            (
                999,
                "n15075141",
                "toilet tissue, toilet paper, bathroom tissue",
            ),
        ] {
            assert_eq!(classes[index].wnid.as_deref(), Some(wnid));
            assert_eq!(classes[index].name, name);
        }
    }

    #[test]
    fn lists_with_and_without_ids() {
        assert_eq!(names("cat\ndog\ncat").unwrap(), ["cat", "dog", "cat"]);
        assert_eq!(
            names("cat\r\ngrand piano\r\n").unwrap(),
            ["cat", "grand piano"]
        );
        let rows = "0\tn00000001\tcat\n1\tn00000000\tdog\n";
        for text in [rows.to_owned(), format!("{HEADER}\n{rows}")] {
            assert_eq!(names(&text).unwrap(), ["cat", "dog"]);
        }
    }

    #[test]
    fn other_lists_are_refused_with_the_line() {
        for (text, says) in [
            ("", "found nothing"),
            (HEADER, "found only a header"),
            ("cat\n\ndog", "line 2: expected a name, found none"),
            (
                "cat\nd\u{1b}[2Jog",
                "line 2: expected a name, found \"d\\u{1b}[2Jog\"",
            ),
            (
                "cat\n1\tn00000001\tdog",
                "line 2: expected a name, found \"1\\tn",
            ),
            (
                "0\tn00000001\tcat\ndog",
                "line 2: expected \"index<TAB>wnid<TAB>name\", found \"dog\"",
            ),
            (
                "1\tn00000001\tcat",
                "line 1: expected the index 0, found \"1\"",
            ),
            (
                "0\tn00000001\tcat\n0\tn00000002\tdog",
                "line 2: expected the index 1, found \"0\"",
            ),
            (
                "0\tn1\tcat",
                "class 0: expected a WordNet id as n01440764, found \"n1\"",
            ),
            (
                "0\tn00000001\tcat\n1\tn00000001\tdog",
                "expected each id once, found n00000001 of classes 0 and 1",
            ),
        ] {
            let problem = names(text).unwrap_err();
            assert!(problem.contains(says), "{text:?}: {problem}");
        }
    }

    #[test]
    fn names_are_stored_whole_or_as_imagenets() {
        let stored = |names: &ClassNames| serde_json::to_string(names).unwrap();
        let read = |text: &str| serde_json::from_str::<ClassNames>(text).map_err(|e| e.to_string());
        let imagenet = ClassNames::imagenet();
        assert_eq!(stored(&imagenet), r#""imagenet-1k""#);
        assert_eq!(read(r#""imagenet-1k""#).unwrap(), imagenet);
        let own = ClassNames::parse("0\tn00000001\tcat \"Tom\"\n1\tn00000000\tdog").unwrap();
        let text = stored(&own);
        assert!(
            text.starts_with(r#"[{"wnid":"n00000001","name":"cat \"Tom\""},"#),
            "{text}"
        );
        assert_eq!(read(&text).unwrap(), own);
        // Another order isn't ImageNet's.
        let reversed = ClassNames::new(imagenet.iter().rev().cloned().collect()).unwrap();
        assert_eq!(read(&stored(&reversed)).unwrap(), reversed);

        let long = format!(r#"[{{"name":"{}"}}]"#, "a".repeat(MAX_NAME + 1));
        for (text, says) in [
            (r#""imagenet""#, "expected \"imagenet-1k\", or a list"),
            (r#"[{"name":""}]"#, "class 0: expected a name, found none"),
            (
                r#"[{"name":"a"},{"name":"\u001b[2J"}]"#,
                "class 1: expected a name, found",
            ),
            (r#"[{"wnid":"n1","name":"a"}]"#, "expected a WordNet id"),
            (&long, "at most 1024 bytes, found 1025"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
        let many = vec![
            ClassName {
                wnid: None,
                name: "a".repeat(MAX_NAME)
            };
            (MAX_NAMES >> 10) + 1
        ];
        let problem = ClassNames::new(many).unwrap_err();
        assert!(
            problem.contains("at most 16777216 bytes in all"),
            "{problem}"
        );
    }

    #[test]
    fn the_number_of_names_is_the_models() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.txt");
        std::fs::write(&path, "cat\ndog\n").unwrap();
        assert_eq!(ClassNames::open(&path, 2).unwrap().len(), 2);
        let problem = ClassNames::open(&path, 10).unwrap_err().to_string();
        assert!(
            problem.ends_with("classes.txt: names 2 classes, but the model has 10"),
            "{problem}"
        );
    }
}
