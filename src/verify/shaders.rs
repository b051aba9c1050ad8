//! The shaders by name, each as its file has it.

use crate::error::{Error, Result, Setting};
use crate::format;
use crate::kernels::KERNELS;

macro_rules! pieces {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*]
    };
}

/// Holds the pieces that several kernels share: every file below `shaders/shared` but the formats.
const PIECES: &[(&str, &str)] = pieces! {
    "shared/codes"
    "shared/gelu"
    "shared/gelu_slope"
    "shared/int8_matrices/side_16"
    "shared/int8_matrices/side_8"
    "shared/integer_product"
    "shared/rows"
    "shared/view"
};

/// Returns every file below `shaders` but the device's self-test: its name without the ending, and its text.
fn texts() -> impl Iterator<Item = (&'static str, &'static str)> {
    let kernels = KERNELS.iter().map(|kernel| (kernel.name, kernel.text));
    kernels.chain(PIECES.iter().chain(format::SHADERS).copied())
}

/// Returns the kernels' names.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|kernel| kernel.name)
}

/// Returns the text of a shader that can be replaced on a device.
///
/// # Errors
/// A name that is none.
pub fn text_of(name: &str) -> Result<&'static str> {
    let found = texts().find(|(known, _)| *known == name);
    found.map(|(_, text)| text).ok_or_else(|| {
        let known: Vec<&str> = texts().map(|(name, _)| name).collect();
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
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_shader_can_be_replaced() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut files: BTreeSet<String> = walkdir::WalkDir::new(&folder)
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "wgsl"))
            .map(|path| {
                let name = path.strip_prefix(&folder).unwrap().with_extension("");
                name.to_str().unwrap().replace('\\', "/")
            })
            .collect();
        files.remove("self_test");
        let listed = texts().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(files, listed);
    }
}
