//! What a model's classes are called: a list from a file, or ImageNet's.

use crate::error::{Error, Result};
use crate::input;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;

/// The 1000 classes of ILSVRC 2012 in the order of their WordNet ids, which is the order of every ImageNet-1k model's
/// logits. Ids and words are WordNet 3.0's.
const IMAGENET: &str = include_str!("../../models/imagenet_classes.tsv");
/// How many classes ImageNet has.
pub const IMAGENET_CLASSES: usize = 1000;
/// The first line of a list with ids, if it is there.
const HEADER: &str = "index\twnid\tname";

/// What a class is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassName {
    /// Its WordNet id, as in `n01440764`, where the list has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wnid: Option<String>,
    /// Its name. Several classes may have the same: ImageNet has two kinds of crane.
    pub name: String,
}

/// ImageNet's [`IMAGENET_CLASSES`].
pub fn imagenet() -> Vec<ClassName> {
    parse(IMAGENET).expect("a test parses it")
}

/// The names in a file, of a model with so many classes.
///
/// # Errors
/// A file that can't be read, one of another form than [`parse`] takes, or another number of names.
pub fn open(path: &Path, classes: usize) -> Result<Vec<ClassName>> {
    let text = input::text(path)?;
    let names = parse(&text).map_err(|problem| Error::input(path, problem))?;
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
/// What was expected and what was found, with the line.
pub fn parse(text: &str) -> std::result::Result<Vec<ClassName>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..).zip(text.lines()).peekable();
    let Some(&(_, first)) = lines.peek() else {
        return Err("expected a class on each line, found nothing".to_owned());
    };
    let has_ids = first.contains('\t');
    if first == HEADER {
        lines.next();
    }
    let mut names: Vec<ClassName> = Vec::new();
    let mut known = HashMap::new();
    for (line, content) in lines {
        let class = match has_ids {
            true => row(content, names.len()),
            false => name(content).map(|name| ClassName { wnid: None, name }),
        };
        let class = class.map_err(|problem| format!("line {line}: {problem}"))?;
        if let Some(wnid) = &class.wnid
            && let Some(earlier) = known.insert(wnid.clone(), line)
        {
            return Err(format!(
                "line {line}: expected each id once, found {wnid} on line {earlier} too"
            ));
        }
        names.push(class);
    }
    if names.is_empty() {
        return Err("expected a class on each line, found only a header".to_owned());
    }
    Ok(names)
}

/// The class of a line with an index, which has to be this one.
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
    let digits = wnid.strip_prefix('n').unwrap_or_default();
    if digits.len() != 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!(
            "expected a WordNet id as n01440764, found {wnid:?}"
        ));
    }
    Ok(ClassName {
        wnid: Some(wnid.to_owned()),
        name: name(text)?,
    })
}

/// A name that can be shown on a terminal.
fn name(text: &str) -> std::result::Result<String, String> {
    let name = text.trim();
    if name.is_empty() {
        return Err("expected a name, found none".to_owned());
    }
    if name.contains(char::is_control) {
        return Err(format!("expected a name, found {name:?}"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> std::result::Result<Vec<String>, String> {
        let classes = parse(text)?;
        Ok(classes.into_iter().map(|class| class.name).collect())
    }

    #[test]
    fn imagenet_has_its_thousand_classes_in_order() {
        let classes = imagenet();
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
            names("\u{feff}cat\r\ngrand piano\r\n").unwrap(),
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
                "line 1: expected a WordNet id as n01440764, found \"n1\"",
            ),
            (
                "0\tn00000001\tcat\n1\tn00000001\tdog",
                "expected each id once, found n00000001 on line 1 too",
            ),
        ] {
            let problem = names(text).unwrap_err();
            assert!(problem.contains(says), "{text:?}: {problem}");
        }
    }

    #[test]
    fn the_number_of_names_is_the_models() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.txt");
        std::fs::write(&path, "cat\ndog\n").unwrap();
        assert_eq!(open(&path, 2).unwrap().len(), 2);
        let problem = open(&path, 10).unwrap_err().to_string();
        assert!(
            problem.ends_with("classes.txt: names 2 classes, but the model has 10"),
            "{problem}"
        );
    }
}
