//! Keeps the two sides of each kernel together: shaders are valid, every `.wgsl` has its `.rs` and the reverse, and the
//! uniform structures of both have one layout.

use super::geometry::View;
use super::loop_variables_test::without_initial_value;
use crate::device::Shader;
use std::collections::BTreeSet;
use std::mem::offset_of;
use std::path::Path;

/// Tests that the kernel's parameters lie where its shader looks for them. One line after the structure:
/// `#[cfg(test)] super::layout_test::uniform!(Parameters { every, member, but, the, unused, ones });`
macro_rules! uniform {
    ($parameters:ident { $($member:ident),* $(,)? }) => {
        #[test]
        fn parameters_lie_where_the_shader_looks_for_them() {
            super::layout_test::compare(
                &SHADER,
                size_of::<$parameters>(),
                &[$((stringify!($member), std::mem::offset_of!($parameters, $member))),*],
            );
        }
    };
}
pub(super) use uniform;

/// Lists the files of this folder that are no kernels.
const OTHERS: [&str; 13] = [
    "apart",
    "exponential",
    "geometry",
    "layout_test",
    "loop_variables_test",
    "mod",
    "row_sums",
    "rows",
    "strategy",
    "tint_test",
    "trial",
    "width",
    "word_order",
];

/// Lists the members of a uniform structure: names and offsets.
type Members<'a> = Vec<(&'a str, usize)>;

/// Panics unless the structure at binding 0 of `shader` has this size and these members.
pub(super) fn compare(shader: &Shader, size: usize, members: &[(&str, usize)]) {
    let (module, info) = parse(shader.name, shader.source);
    let entry_points: Vec<_> = module
        .entry_points
        .iter()
        .map(|entry_point| entry_point.name.as_str())
        .collect();
    assert!(entry_points.contains(&"main"), "{}.wgsl", shader.name);
    // Bind groups are made alike for all entry points, so each must use every binding.
    for (index, entry_point) in entry_points.iter().enumerate() {
        for (variable, global) in module.global_variables.iter() {
            assert!(
                global.binding.is_none() || !info.get_entry_point(index)[variable].is_empty(),
                "{}.wgsl: {entry_point} doesn't use {:?}",
                shader.name,
                global.name
            );
        }
    }
    let uniform = module
        .global_variables
        .iter()
        .map(|(_, variable)| variable)
        .find(|variable| variable.space == naga::AddressSpace::Uniform)
        .unwrap_or_else(|| panic!("{}.wgsl has no uniform", shader.name));
    let binding = uniform.binding.expect("a uniform has a binding");
    assert_eq!((binding.group, binding.binding), (0, 0), "{}", shader.name);
    let (found_size, found) = structure(&module, uniform.ty);
    assert_eq!(found, members, "{}: members and offsets", shader.name);
    assert_eq!(found_size, size, "{}: size", shader.name);
    for (handle, ty) in module.types.iter() {
        if ty.name.as_deref() == Some("View") {
            assert_eq!(structure(&module, handle), view_layout(), "{}", shader.name);
        }
    }
}

fn view_layout() -> (usize, Members<'static>) {
    let members = vec![
        ("offset", offset_of!(View, offset)),
        ("outer", offset_of!(View, outer)),
        ("inner", offset_of!(View, inner)),
        ("row", offset_of!(View, row)),
        ("column", offset_of!(View, column)),
    ];
    (size_of::<View>(), members)
}

/// Returns a structure's size and its members, without those whose names say that nobody uses them.
fn structure(module: &naga::Module, ty: naga::Handle<naga::Type>) -> (usize, Members<'_>) {
    let naga::TypeInner::Struct { members, span } = &module.types[ty].inner else {
        panic!("a uniform that is no structure");
    };
    let members = members
        .iter()
        .map(|member| {
            let name = member.name.as_deref().expect("members have names");
            (name, member.offset as usize)
        })
        .filter(|(name, _)| !name.starts_with("unused"))
        .collect();
    (*span as usize, members)
}

/// Parses a text and checks that it is valid and gives the variables in its loops initial values. Returns its module,
/// and what the module's parts use.
pub(super) fn parse(name: &str, source: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{name}.wgsl: {}", error.emit_to_string(source)));
    // What is beyond the core of WGSL, in shaders that enable it.
    let mut capabilities = Capabilities::SHADER_FLOAT16;
    if source.contains("enable wgpu_cooperative_matrix;") {
        capabilities |= Capabilities::COOPERATIVE_MATRIX
            | Capabilities::SUBGROUP
            | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}.wgsl: {}", error.emit_to_string(source)));
    assert_eq!(
        without_initial_value(&module),
        [""; 0],
        "{name}.wgsl: these are declared in a loop and need an initial value"
    );
    (module, info)
}

/// Lists the names of the files in `folder` that end in `ending`, without it.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder's entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .map(|path| {
            let stem = path.file_stem().expect("a file's name");
            stem.to_string_lossy().into_owned()
        })
        .collect()
}

/// Reads `folder/name.ending`.
pub(super) fn text(folder: &str, name: &str, ending: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(format!("{name}.{ending}"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Joins all pieces to one text, because one may build on another.
#[test]
fn the_shared_pieces_are_valid_together() {
    // What chooses between the formats has no file.
    let pieces = names("shaders/shared", "wgsl").into_iter();
    let pieces = pieces.filter(|name| name != "codes");
    let source: String = pieces
        .map(|name| text("shaders/shared", &name, "wgsl"))
        .chain([crate::format::formats_wgsl!().to_owned()])
        .collect();
    let (module, _) = parse("shared", &source);
    assert!(module.entry_points.is_empty());
}

/// Checks the device's own shader, which is no kernel.
#[test]
fn the_self_test_is_valid() {
    parse("self_test", &text("shaders", "self_test", "wgsl"));
}

#[test]
fn every_shader_has_its_rust_file_and_the_reverse() {
    let mut shaders = names("shaders", "wgsl");
    // The probe that decides whether a driver is fit for use belongs to the device.
    assert!(shaders.remove("self_test"));
    let mut kernels = names("src/kernels", "rs");
    for other in OTHERS {
        assert!(kernels.remove(other), "{other}.rs");
    }
    assert_eq!(shaders, kernels);
    for name in kernels {
        let kernel = text("src/kernels", &name, "rs");
        for part in [
            format!("name: \"{name}\""),
            format!("include_str!(\"../../shaders/{name}.wgsl\")"),
            "layout_test::uniform!(Parameters {".to_owned(),
        ] {
            assert!(kernel.contains(&part), "{name}.rs lacks `{part}`");
        }
    }
}
