//! The architectures that timm builds of the classes that are known here: `models/timm/architectures.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::arguments::Class;

/// Holds the table.
const FILE: &str = include_str!("../../../models/timm/architectures.toml");

/// Holds the table as it is written: names and the arguments that timm gives the class for them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Table {
    vision_transformer: BTreeMap<String, Map<String, Value>>,
    vision_transformer_distilled: BTreeMap<String, Map<String, Value>>,
    eva: BTreeMap<String, Map<String, Value>>,
    beit: BTreeMap<String, Map<String, Value>>,
    swin_transformer: BTreeMap<String, Map<String, Value>>,
    #[serde(rename = "SwinTransformerV2")]
    swin_transformer_v2: BTreeMap<String, Map<String, Value>>,
    /// Today's name by an earlier one.
    #[serde(rename = "renamed")]
    renamed: BTreeMap<String, String>,
}

/// Finds the class that timm builds `architecture` of, and the arguments that timm gives it, if it is in the table. A
/// pretrained tag (`NAME.TAG`) and timm's earlier names are understood.
pub(super) fn named(architecture: &str) -> Option<(Class, &'static Map<String, Value>)> {
    let table = table();
    let name = architecture
        .split_once('.')
        .map_or(architecture, |(name, _)| name);
    let name = table.renamed.get(name).map_or(name, String::as_str);
    let classes = [
        (Class::VisionTransformer, &table.vision_transformer),
        (
            Class::VisionTransformerDistilled,
            &table.vision_transformer_distilled,
        ),
        (Class::Eva, &table.eva),
        (Class::Beit, &table.beit),
        (Class::SwinTransformer, &table.swin_transformer),
        (Class::SwinTransformerV2, &table.swin_transformer_v2),
    ];
    classes
        .into_iter()
        .find_map(|(class, named)| Some((class, named.get(name)?)))
}

fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        toml::from_str(FILE).expect("the built-in table parses, as a test checks")
    });
    &TABLE
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::recipe::arguments::Arguments;
    use crate::model::recipe::fixtures::facts;

    #[test]
    fn what_can_be_run_is_as_timm_builds_it() {
        let table = table();
        let classes = [
            &table.vision_transformer,
            &table.vision_transformer_distilled,
            &table.eva,
            &table.beit,
            &table.swin_transformer,
            &table.swin_transformer_v2,
        ];
        let mut facts = facts();
        let empty = Map::new();
        for name in classes.into_iter().flat_map(BTreeMap::keys) {
            let (class, entry_point) = named(name).unwrap();
            let arguments = Arguments {
                entry_point: Some(entry_point),
                model_args: &empty,
                pretrained_pool: None,
            };
            let architecture = arguments.check(class).and_then(|()| {
                let size = facts.get(name).map(|fact| fact.preprocessing.image_size);
                arguments.applied_to(class.default_sizes(), size, None)
            });
            // timm's facts are of all that have nothing but sizes.
            match (architecture, facts.remove(name)) {
                (Ok(architecture), Some(fact)) => {
                    fact.check(name, &fact.headed(architecture));
                }
                (Err(_), None) => {}
                (Ok(_), None) => panic!("{name} can be run, but timm wasn't asked of it"),
                (Err(problem), Some(_)) => panic!("{name}: {problem}"),
            }
        }
        assert!(facts.is_empty(), "not in the table: {:?}", facts.keys());
    }

    #[test]
    fn earlier_names_and_tags_are_todays() {
        for (earlier, name) in &table().renamed {
            assert_eq!(named(earlier), named(name), "{earlier}");
            assert!(named(name).is_some(), "{name}");
        }
        let (class, arguments) = named("vit_small_patch16_224_in21k").unwrap();
        assert_eq!(class, Class::VisionTransformer);
        assert_eq!(arguments["num_heads"], 6);
        assert_eq!(
            named("swin_tiny_patch4_window7_224.ms_in1k"),
            named("swin_tiny_patch4_window7_224")
        );
        assert_eq!(named("resnet50"), None);
    }
}
