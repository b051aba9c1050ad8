//! JSON objects in which no name occurs twice.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Reads a JSON object of strings in which no name occurs twice.
pub fn unique_strings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    Unique::deserialize(deserializer).map(|Unique(strings)| strings)
}

/// Holds a JSON object of strings in which no name occurs twice.
pub struct Unique(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = Unique;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of strings by name")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Unique, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if strings.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("`{name}` occurs twice")));
                    }
                }
                Ok(Unique(strings))
            }
        }

        deserializer.deserialize_map(Strings)
    }
}
