//! What a model calls its classes: the labels in the config.json beside it, or ImageNet's where its tag says so.

use crate::data::class_names::{ClassName, ClassNames, IMAGENET_CLASSES, is_wnid};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Returns the names of a model's `classes` classes by its `config`.json, a path and a text, if it has any. Where there is no
/// config.json, `tag` decides, under which timm knows such weights.
///
/// Labels that can't be used are named in a warning: a network is the same without them.
pub(super) fn class_names(
    config: Option<(PathBuf, String)>,
    classes: usize,
    tag: Option<&str>,
) -> Option<ClassNames> {
    if classes == 0 {
        return None;
    }
    let Some((path, text)) = config else {
        return tag.and_then(|tag| names_by_tag(tag, classes));
    };
    told_labels(&text, classes).unwrap_or_else(|problem| {
        log::warn!(
            "{}: its names of classes are not used: {problem}",
            path.display()
        );
        None
    })
}

/// Reads the names of a model's classes in `text`, its config.json: timm's `label_names`, transformers' `id2label`, or
/// timm's tag.
///
/// # Errors
/// Labels of another form or number.
pub fn told_labels(text: &str, classes: usize) -> Result<Option<ClassNames>, String> {
    let config: Config = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let cfg = config.pretrained_cfg.unwrap_or_default();
    let descriptions = config.label_descriptions.or(cfg.label_descriptions);
    for (key, labels) in [
        ("label_names", config.label_names.or(cfg.label_names)),
        ("labels", config.labels),
        ("id2label", config.id2label),
    ] {
        let Some(labels) = labels else { continue };
        let in_key = |problem: String| format!("`{key}`: {problem}");
        let labels = labels.in_order().map_err(in_key)?;
        // transformers numbers what nobody has named.
        if labels
            .iter()
            .enumerate()
            .all(|(index, label)| *label == format!("LABEL_{index}"))
        {
            continue;
        }
        if labels.len() != classes {
            return Err(in_key(format!(
                "names {} classes, but the model has {classes}",
                labels.len()
            )));
        }
        return named(labels, &descriptions.unwrap_or_default())
            .map(Some)
            .map_err(in_key);
    }
    let tag = cfg.tag.or(config.tag);
    Ok(tag.and_then(|tag| names_by_tag(&tag, classes)))
}

/// Returns ImageNet's names for a model of its classes, by timm's tag of the weights.
fn names_by_tag(tag: &str, classes: usize) -> Option<ClassNames> {
    (classes == IMAGENET_CLASSES && is_imagenets(tag)).then(ClassNames::imagenet)
}

/// Says whether weights of this tag were trained on ImageNet-1k last, as those of `augreg_in21k_ft_in1k` were.
fn is_imagenets(tag: &str) -> bool {
    let mut parts = tag.rsplit('_').take_while(|part| *part != "ft");
    parts.any(|part| part == "in1k")
}

/// Returns the classes of these labels: a WordNet id stands for what is described, else for ImageNet's word; any other
/// label is the class's name itself, because folders and lists go by it.
fn named(
    labels: Vec<String>,
    descriptions: &HashMap<String, String>,
) -> Result<ClassNames, String> {
    let words = match labels.iter().any(|label| is_wnid(label)) {
        true => ClassNames::imagenet().to_vec(),
        false => Vec::new(),
    };
    let word = |label: &str| {
        let known = words
            .iter()
            .find(|class| class.wnid.as_deref() == Some(label));
        known.map(|class| class.name.clone())
    };
    let class = |label: String| {
        if !is_wnid(&label) {
            let name = label.trim().to_owned();
            return ClassName { wnid: None, name };
        }
        let described = descriptions.get(&label).cloned();
        ClassName {
            name: described
                .or_else(|| word(&label))
                .unwrap_or_else(|| label.clone()),
            wnid: Some(label),
        }
    };
    ClassNames::new(labels.into_iter().map(class).collect())
}

/// Holds a config.json, as far as it tells what the classes are called. Older files of timm's have the fields of
/// `pretrained_cfg` at the top level, and `labels` in place of `label_names`.
#[derive(Deserialize)]
struct Config {
    label_names: Option<Labels>,
    labels: Option<Labels>,
    id2label: Option<Labels>,
    label_descriptions: Option<HashMap<String, String>>,
    tag: Option<String>,
    pretrained_cfg: Option<PretrainedCfg>,
}

#[derive(Default, Deserialize)]
struct PretrainedCfg {
    label_names: Option<Labels>,
    label_descriptions: Option<HashMap<String, String>>,
    tag: Option<String>,
}

/// Holds labels of all classes: in order, or by their indices.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a list of labels, or an object of labels by index"
)]
enum Labels {
    List(Vec<String>),
    ByIndex(BTreeMap<String, String>),
}

impl Labels {
    /// Returns the labels of classes 0, 1, 2 …
    fn in_order(self) -> Result<Vec<String>, String> {
        let by_index = match self {
            Self::List(labels) => return Ok(labels),
            Self::ByIndex(labels) => labels,
        };
        let count = by_index.len();
        let mut labels = vec![None; count];
        for (index, label) in by_index {
            let place = index.parse().ok().and_then(|index: usize| {
                // Not for another index that was written otherwise, as in `1` and `01`.
                labels.get_mut(index).filter(|place| place.is_none())
            });
            *place.ok_or_else(|| {
                format!(
                    "expected the indices 0 to {} once each, found {index:?}",
                    count - 1
                )
            })? = Some(label);
        }
        Ok(labels.into_iter().flatten().collect())
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(config: Value, classes: usize) -> Result<Option<ClassNames>, String> {
        told_labels(&config.to_string(), classes)
    }

    fn shown(config: Value, classes: usize) -> Vec<String> {
        let names = told(config, classes).unwrap().expect("names");
        let shown = |class: &ClassName| match &class.wnid {
            Some(wnid) => format!("{wnid} {}", class.name),
            None => class.name.clone(),
        };
        names.iter().map(shown).collect()
    }

    #[test]
    fn labels_are_the_models_own() {
        let pets = ["cat", "dog"];
        for config in [
            json!({"label_names": pets}),
            json!({"label_names": {"0": "cat", "1": "dog"}}),
            json!({"labels": pets}),
            json!({"id2label": {"1": "dog", "0": "cat"}}),
            json!({"pretrained_cfg": {"label_names": pets, "tag": "augreg_in1k"}}),
            json!({"label_names": null, "id2label": {"0": "cat", "1": "dog"}}),
        ] {
            assert_eq!(shown(config, 2), pets);
        }
        // More than there are indices: the tag is what the network was trained on before.
        let own: Vec<String> = (0..1000).map(|index| format!("part {index}")).collect();
        let config = json!({"label_names": own, "pretrained_cfg": {"tag": "fb_in1k"}});
        assert_eq!(shown(config, 1000), own);
    }

    #[test]
    fn wordnet_ids_are_described() {
        let ids = ["n03888257", "n01440764"];
        assert_eq!(
            shown(json!({"label_names": ids}), 2),
            ["n03888257 parachute, chute", "n01440764 tench, Tinca tinca"]
        );
        let config = json!({"label_names": ids, "label_descriptions": {"n03888257": "a chute"}});
        assert_eq!(shown(config, 2)[0], "n03888257 a chute");
        let unknown = json!({"label_names": ["n00000001"]});
        assert_eq!(shown(unknown, 1), ["n00000001 n00000001"]);
    }

    #[test]
    fn imagenets_are_those_of_a_tag() {
        for tag in [
            "in1k",
            "fb_in1k",
            "augreg_in21k_ft_in1k",
            "ms_in22k_ft_in1k",
            "fb_in22k_ft_in1k_384",
        ] {
            let config = json!({"pretrained_cfg": {"tag": tag}});
            assert_eq!(told(config, 1000).unwrap(), Some(ClassNames::imagenet()));
            assert_eq!(told(json!({"tag": tag}), 10).unwrap(), None);
        }
        for tag in ["augreg_in21k", "in1k_ft_food1k", "", "in12k", "laion2b"] {
            assert_eq!(told(json!({"tag": tag}), 1000).unwrap(), None, "{tag}");
        }
        for config in [json!({}), json!({"label_names": []})] {
            assert_eq!(told(config, 1000).unwrap(), None);
        }
        let unnamed = json!({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}});
        assert_eq!(told(unnamed, 2).unwrap(), None);
    }

    #[test]
    fn labels_that_are_none_are_refused() {
        for (config, says) in [
            (
                json!({"label_names": ["cat"]}),
                "`label_names`: names 1 classes, but the model has 2",
            ),
            (json!({"label_names": [0, 1]}), "expected a list of labels"),
            (
                json!({"label_names": ["cat", "d\u{1b}[2Jog"]}),
                "class 1: expected a name",
            ),
            (
                json!({"label_names": ["n01440764", "n01440764"]}),
                "of classes 0 and 1",
            ),
            (
                json!({"id2label": {"0": "cat", "2": "dog"}}),
                "the indices 0 to 1 once each, found \"2\"",
            ),
            (
                json!({"id2label": {"0": "cat", "00": "dog"}}),
                "once each, found \"00\"",
            ),
            (
                json!({"id2label": {"cat": "0", "dog": "1"}}),
                "found \"cat\"",
            ),
        ] {
            let problem = told(config, 2).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }
}
