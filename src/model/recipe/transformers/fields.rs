//! The fields of a configuration, as transformers reads them: what is missing or null has its class's default.

use serde_json::{Map, Value};

use crate::data::image_size::ImageSize;
use crate::data::preprocess::MAX_CHANNELS;
use crate::model::config::{Gelu, RGB_CHANNELS};
use crate::model::recipe::arguments::{image_size, shown, side, whole};

/// Holds the fields of a configuration.
pub struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn of(fields: &'a Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Returns the value of a field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Returns what `read` makes of a field that is there.
    pub fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(format!(
                "has {name} {}, where {expected} is expected",
                shown(value)
            )),
        }
    }

    /// Reads a whole number.
    pub fn number(&self, name: &str) -> Result<Option<usize>, String> {
        self.read(name, "a whole number", whole)
    }

    /// Reads a whole number for each stage.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<usize>>, String> {
        self.read(name, "a list with a whole number for each stage", |value| {
            value.as_array()?.iter().map(whole).collect()
        })
    }

    /// Reads the side of a square, which may be written as height and width.
    pub fn side(&self, name: &str) -> Result<Option<usize>, String> {
        self.read(name, "a number, or height and width of a square", side)
    }

    /// Reads the size of an image, which may be written as height and width.
    pub fn image_size(&self) -> Result<Option<ImageSize>, String> {
        self.read("image_size", "a number, or height and width", image_size)
    }

    /// Reads a fraction.
    pub fn fraction(&self, name: &str) -> Result<Option<f64>, String> {
        self.read(name, "a number", Value::as_f64)
    }

    /// Reads a decision.
    pub fn truth(&self, name: &str) -> Result<Option<bool>, String> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// Checks that a field has one of the values that are supported, if it is there.
    pub fn only(&self, name: &str, supported: &[Value]) -> Result<(), String> {
        let same = |value: &Value, supported: &Value| match (value.as_f64(), supported.as_f64()) {
            (Some(value), Some(supported)) => value == supported,
            _ => value == supported,
        };
        match self.get(name) {
            Some(value) if !supported.iter().any(|supported| same(value, supported)) => {
                Err(format!(
                    "has {name} {}, where only {} is supported",
                    shown(value),
                    shown(&supported[0])
                ))
            }
            _ => Ok(()),
        }
    }

    /// Reads the fields of the image's tower of a model that has the text's, too. As in transformers, an older file's
    /// `vision_config_dict` comes before `vision_config`.
    pub fn tower(&self) -> Result<Map<String, Value>, String> {
        let [older, today] = ["vision_config_dict", "vision_config"].map(|name| {
            let expected = "the fields of a configuration";
            self.read(name, expected, |value| value.as_object().cloned())
        });
        Ok(older?.or(today?).unwrap_or_default())
    }

    /// Reads the form of GELU in a network's MLPs, by any of the names that transformers has for it.
    pub fn gelu(&self) -> Result<Option<Gelu>, String> {
        let expected = "`gelu`, `gelu_pytorch_tanh`, `quick_gelu`, `silu` or `relu`";
        self.read("hidden_act", expected, |value| match value.as_str()? {
            "gelu" | "gelu_python" => Some(Gelu::Exact),
            "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_new" => Some(Gelu::Tanh),
            "quick_gelu" => Some(Gelu::Quick),
            "silu" | "swish" => Some(Gelu::Silu),
            "relu" => Some(Gelu::Relu),
            _ => None,
        })
    }

    /// Reads the channels of an image, which every class here has by this name.
    pub fn in_chans(&self) -> Result<usize, String> {
        let expected = format!("1 to {MAX_CHANNELS}");
        let told = self.read("num_channels", &expected, |value| {
            whole(value).filter(|channels| (1..=MAX_CHANNELS).contains(channels))
        })?;
        Ok(told.unwrap_or(RGB_CHANNELS))
    }
}
