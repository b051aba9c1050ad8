//! Class folders: the order that they are taken in, and which of a model's classes each of them is.

use super::class_names::{ClassNames, is_wnid};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;

/// Limits how many names an error spells out before it only counts.
const NAMED: usize = 10;

/// Says what tells which class a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The folders are called as the model calls its classes, or by their WordNet ids. There may be fewer of them.
    Names,
    /// All folders are called by numbers: class 0 is the smallest.
    Numbers,
    /// The folders' place in the order of their names, as torchvision's `ImageFolder` has it.
    Order,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Names => "by the model's names of its classes",
            Self::Numbers => "in the order of their numbers",
            Self::Order => "in the order of their names",
        })
    }
}

/// Brings the names of class folders in order: as numbers where all are, else as text, byte by byte.
///
/// # Errors
/// Two folders of one number.
pub fn sort<T: AsRef<OsStr>>(folders: &mut [T]) -> Result<(), String> {
    folders.sort_by(|left, right| left.as_ref().cmp(right.as_ref()));
    if !folders
        .iter()
        .all(|folder| number(folder.as_ref()).is_some())
    {
        return Ok(());
    }
    // Whatever its digits, a number of fewer of them is smaller.
    let key = |folder: &T| number(folder.as_ref()).map(|digits| (digits.len(), digits.to_owned()));
    folders.sort_by_cached_key(key);
    match folders
        .windows(2)
        .find(|pair| key(&pair[0]) == key(&pair[1]))
    {
        Some(pair) => Err(format!(
            "expected numbers that differ as the names of class folders, found `{}` and `{}`",
            shown(pair[0].as_ref()),
            shown(pair[1].as_ref())
        )),
        None => Ok(()),
    }
}

/// Returns the class of each of `folders`, which are in [order](sort), of a model with so many `classes`, and what told
/// it.
///
/// Where the model calls its classes as the folders are called, that tells, and classes may be missing. Elsewhere there must
/// be a folder of each class.
///
/// # Errors
/// Folders of which some have a model's name and others don't, or one that several classes have; another number of folders
/// than of classes.
pub fn classes_of(
    folders: &[&OsStr],
    classes: usize,
    names: Option<&ClassNames>,
) -> Result<(Vec<usize>, Rule), String> {
    if let Some(names) = names
        && let Some(found) = by_names(folders, names)?
    {
        return Ok((found, Rule::Names));
    }
    if folders.len() != classes {
        return Err(format!(
            "has {} class folders, but the model has {classes} classes{}",
            folders.len(),
            match names {
                Some(_) => ", and none is called like a folder",
                None => " and no names for them",
            }
        ));
    }
    let are_numbers = folders.iter().all(|folder| number(folder).is_some());
    let rule = if are_numbers {
        Rule::Numbers
    } else {
        Rule::Order
    };
    Ok(((0..classes).collect(), rule))
}

/// Finds two neighbours among `folders` in the order of their text that differ in a number, of which the larger comes
/// first, as `class_10` before `class_2`.
pub fn numbers_out_of_order(folders: &[&OsStr]) -> Option<(String, String)> {
    let pair = folders.windows(2).find(|pair| {
        let (left, right) = (shown(pair[0]), shown(pair[1]));
        let (Some(left), Some(right)) = (around_number(&left), around_number(&right)) else {
            return false;
        };
        let size = |digits: &str| (digits.len(), digits.to_owned());
        left.0 == right.0 && size(left.1) > size(right.1)
    })?;
    Some((shown(pair[0]).into_owned(), shown(pair[1]).into_owned()))
}

/// Returns what comes before a name's first number, and that number without its leading zeros.
fn around_number(name: &str) -> Option<(&str, &str)> {
    let is_digit = |character: char| character.is_ascii_digit();
    let (before, from) = name.split_at(name.find(is_digit)?);
    let digits = &from[..from
        .find(|character| !is_digit(character))
        .unwrap_or(from.len())];
    Some((before, digits.trim_start_matches('0')))
}

/// Returns the class of each folder by the model's names of its classes, or `None` where no folder is called like a
/// class.
fn by_names(folders: &[&OsStr], names: &ClassNames) -> Result<Option<Vec<usize>>, String> {
    let mut known: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, class) in names.iter().enumerate() {
        // WordNet's words for one thing are separated by commas, and each of them is its name.
        let words = class.name.split(", ").filter(|_| class.wnid.is_some());
        for name in words
            .chain([class.name.as_str()])
            .chain(class.wnid.as_deref())
        {
            let of_name = known.entry(name).or_default();
            if of_name.last() != Some(&index) {
                of_name.push(index);
            }
        }
    }
    let has_ids = names.iter().any(|class| class.wnid.is_some());
    let mut found: Vec<usize> = Vec::new();
    let mut unknown = Vec::new();
    let mut are_ids = false;
    for folder in folders {
        let name = shown(folder);
        match known.get(&*name).map(Vec::as_slice) {
            Some(&[class]) => found.push(class),
            Some(several) => {
                return Err(format!(
                    "the class folder `{name}` may be any of the model's classes {several:?}, which WordNet ids \
                     would tell apart"
                ));
            }
            None => {
                are_ids |= has_ids && is_wnid(&name);
                unknown.push(name);
            }
        }
    }
    if found.is_empty() && !are_ids {
        return Ok(None);
    }
    if !unknown.is_empty() {
        return Err(format!(
            "{} of {} class folders are none of the model's classes: {}",
            unknown.len(),
            folders.len(),
            some(&unknown)
        ));
    }
    let mut first = HashMap::new();
    for (folder, class) in folders.iter().zip(&found) {
        if let Some(other) = first.insert(class, folder) {
            return Err(format!(
                "the class folders `{}` and `{}` are both the model's class {class}",
                shown(other),
                shown(folder)
            ));
        }
    }
    Ok(Some(found))
}

/// Returns the digits of a number without its leading zeros, if that is the whole name.
fn number(folder: &OsStr) -> Option<&str> {
    let digits = folder.to_str()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.trim_start_matches('0'))
}

fn shown(folder: &OsStr) -> Cow<'_, str> {
    folder.to_string_lossy()
}

/// Words the first few names, and how many more there are.
fn some(names: &[Cow<'_, str>]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::class_names::ClassName;

    fn sorted<'a>(folders: &[&'a str]) -> Vec<&'a str> {
        let mut folders = folders.to_vec();
        sort(&mut folders).unwrap();
        folders
    }

    fn classes(
        folders: &[&str],
        count: usize,
        names: Option<&ClassNames>,
    ) -> Result<(Vec<usize>, Rule), String> {
        let folders: Vec<&OsStr> = folders.iter().map(OsStr::new).collect();
        classes_of(&folders, count, names)
    }

    fn names(names: &[&str]) -> ClassNames {
        ClassNames::parse(&names.join("\n")).unwrap()
    }

    #[test]
    fn numbers_are_sorted_as_numbers_where_all_are() {
        assert_eq!(
            sorted(&["10", "9", "100", "0", "1"]),
            ["0", "1", "9", "10", "100"]
        );
        assert_eq!(sorted(&["010", "002", "1"]), ["1", "002", "010"]);
        // More digits than any integer has.
        let (large, larger) = ("9".repeat(50), format!("1{}", "0".repeat(50)));
        assert_eq!(sorted(&[&larger, &large, "3"]), ["3", &large, &larger]);
        for text in [
            ["10", "9", "x"],
            ["-1", "-10", "-2"],
            ["1.5", "10", "9"],
            ["", "10", "9"],
        ] {
            let mut expected = text;
            expected.sort_unstable();
            assert_eq!(sorted(&text), expected);
        }
        let problem = sort(&mut ["2", "01", "1"]).unwrap_err();
        assert!(problem.ends_with("found `01` and `1`"), "{problem}");
    }

    #[test]
    fn the_order_tells_the_class_where_nothing_else_does() {
        let found = classes(&["2", "10"], 2, None).unwrap();
        assert_eq!(found, (vec![0, 1], Rule::Numbers));
        let found = classes(&["n01", "n02"], 2, None).unwrap();
        assert_eq!(found, (vec![0, 1], Rule::Order));
        let pets = names(&["dog", "cat"]);
        let found = classes(&["a", "b"], 2, Some(&pets)).unwrap();
        assert_eq!(found, (vec![0, 1], Rule::Order));
        for names in [None, Some(&pets)] {
            let problem = classes(&["a"], 2, names).unwrap_err();
            assert!(
                problem.contains("1 class folders, but the model has 2"),
                "{problem}"
            );
        }
    }

    #[test]
    fn numbers_within_names_may_be_out_of_order() {
        let found = |folders: &[&str]| {
            let folders: Vec<&OsStr> = folders.iter().map(OsStr::new).collect();
            numbers_out_of_order(&folders)
        };
        let pair = Some(("class_10".to_owned(), "class_2".to_owned()));
        assert_eq!(found(&["class_1", "class_10", "class_2"]), pair);
        assert_eq!(found(&["class_01", "class_02", "class_10"]), None);
        assert_eq!(found(&["001.albatross", "002.auklet"]), None);
        assert!(found(&["10_brambling", "1_tench"]).is_some());
        assert_eq!(found(&["a9", "b1", "cat"]), None);
    }

    #[test]
    fn the_models_names_tell_the_class() {
        let pets = names(&["dog", "10", "9", "dog and cat"]);
        let found = classes(&["9", "10"], 4, Some(&pets)).unwrap();
        assert_eq!(found, (vec![2, 1], Rule::Names));
        let problem = classes(&["9", "10", "mouse", "rat"], 4, Some(&pets)).unwrap_err();
        assert_eq!(
            problem,
            "2 of 4 class folders are none of the model's classes: mouse, rat"
        );
        let twins = names(&["crane", "dog", "crane"]);
        let problem = classes(&["crane"], 3, Some(&twins)).unwrap_err();
        assert!(
            problem.contains("any of the model's classes [0, 2]"),
            "{problem}"
        );
    }

    #[test]
    fn imagenets_folders_are_ids_or_words() {
        let imagenet = ClassNames::imagenet();
        let found = classes(
            &["n01440764", "n02102040", "n03888257"],
            1000,
            Some(&imagenet),
        );
        assert_eq!(found.unwrap(), (vec![0, 217, 701], Rule::Names));
        let found = classes(&["tench", "white shark"], 1000, Some(&imagenet));
        assert_eq!(found.unwrap(), (vec![0, 2], Rule::Names));
        for (folders, says) in [
            (["crane", "tench"], "any of the model's classes [134, 517]"),
            (
                ["tench", "Tinca tinca"],
                "`tench` and `Tinca tinca` are both",
            ),
            (["n00000001", "n00000002"], "2 of 2 class folders are none"),
        ] {
            let problem = classes(&folders, 1000, Some(&imagenet)).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
        // Ten ids of a model that knows no ids are ten folders for its ten classes.
        let own = names(&["dog", "cat"]);
        assert!(classes(&["n01440764", "n02102040"], 2, Some(&own)).is_ok());
        // A model whose labels are ids, in an order of its own.
        let class = |wnid: &str| ClassName {
            wnid: Some(wnid.to_owned()),
            name: wnid.to_owned(),
        };
        let own = ClassNames::new(vec![class("n03888257"), class("n01440764")]).unwrap();
        let found = classes(&["n01440764", "n03888257"], 2, Some(&own)).unwrap();
        assert_eq!(found.0, [1, 0]);
    }
}
