//! A kernel's text, and where in it a dispatch enters.

/// Holds a kernel's WGSL. Its entry point is `main`; a kernel that can divide its work in several ways has one for
/// each, and all of them use the same bindings.
pub struct Shader {
    /// The file's name without its ending; names the kernel in errors.
    pub name: &'static str,
    /// The text of its own file and of the pieces in `shaders/shared` that it uses.
    pub source: &'static str,
}

impl Shader {
    /// Names another entry point than `main`.
    pub const fn entry_point(&'static self, name: &'static str) -> EntryPoint {
        EntryPoint {
            shader: self,
            name,
            has_int8_matrices: false,
        }
    }

    /// Names `main` of a shader whose matrices of floats stand for such of int8, on a device that has them.
    pub const fn on_int8_matrices(&'static self) -> EntryPoint {
        EntryPoint {
            has_int8_matrices: true,
            ..self.entry_point("main")
        }
    }
}

/// Names what a dispatch runs.
#[derive(Clone, Copy)]
pub struct EntryPoint {
    pub(super) shader: &'static Shader,
    pub(super) name: &'static str,
    pub(super) has_int8_matrices: bool,
}

impl From<&'static Shader> for EntryPoint {
    fn from(shader: &'static Shader) -> Self {
        shader.entry_point("main")
    }
}
