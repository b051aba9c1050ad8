//! The shaders by name, each as its file has it.

use crate::error::{Error, Result, Setting};
use crate::format;

macro_rules! texts {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*]
    };
}

/// Every file below `shaders` but the device's self-test and the formats': its name without the ending, and its text. What
/// lies in `shared` is part of several kernels.
const SHADERS: &[(&str, &str)] = texts! {
    "add"
    "average"
    "cross_entropy_backward"
    "embed"
    "embed_backward"
    "fake_quantize"
    "float_product"
    "gather_rows"
    "gelu"
    "gelu_backward"
    "half_product"
    "integer_product"
    "integer_product_cooperative"
    "layer_norm"
    "layer_norm_backward"
    "mean_tokens"
    "mean_tokens_backward"
    "pack_quads"
    "patches"
    "peak_copy"
    "peak_f32"
    "peak_int8"
    "permute_tokens"
    "quantize"
    "row_error"
    "row_maximum"
    "scale_columns"
    "shared/codes"
    "shared/gelu"
    "shared/integer_product"
    "shared/view"
    "softmax"
    "softmax_backward"
    "sum_rows"
    "to_half"
    "weighted_error"
    "window_softmax"
};

/// All files below `shaders` but the device's self-test.
fn shaders() -> impl Iterator<Item = (&'static str, &'static str)> {
    SHADERS.iter().chain(format::SHADERS).copied()
}

/// The kernels' names, without the pieces that they share.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    let names = shaders().map(|(name, _)| name);
    names.filter(|name| !name.starts_with("shared/"))
}

/// The text of a shader that can be replaced on a device.
///
/// # Errors
/// A name that is none.
pub fn text_of(name: &str) -> Result<&'static str> {
    let found = shaders().find(|(known, _)| *known == name);
    found.map(|(_, text)| text).ok_or_else(|| {
        let known: Vec<&str> = shaders().map(|(name, _)| name).collect();
        let known = known.join(", ");
        Error::setting(
            Setting::Shader,
            format!("there is no shader {name}; there are {known}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_shader_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut files: Vec<String> = walkdir::WalkDir::new(&folder)
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "wgsl"))
            .map(|path| {
                let name = path.strip_prefix(&folder).unwrap().with_extension("");
                name.to_str().unwrap().replace('\\', "/")
            })
            .collect();
        files.retain(|name| name != "self_test");
        files.sort();
        let mut listed: Vec<&str> = shaders().map(|(name, _)| name).collect();
        listed.sort_unstable();
        assert_eq!(listed, files);
    }
}
