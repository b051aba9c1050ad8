//! The one error type. Its variants are the documented exit codes of the program; a run that a signal ends has another,
//! [`INTERRUPTED`].

use crate::printable;
use std::path::{Path, PathBuf};

/// The program's exit code after Ctrl-C or SIGTERM: 128 and SIGINT's number, as shells have it.
pub const INTERRUPTED: u8 = 130;
/// The program's exit code where nobody reads its output any more: 128 and SIGPIPE's number.
const UNREAD: u8 = 141;

/// What went wrong, named so that the reader knows which file, tensor or flag to look at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A check that the user asked for did not hold (exit code 1).
    #[error("{0}")]
    Check(String),
    /// A flag, or a combination of flags, that can't be carried out (exit code 2).
    #[error("{flag}: {problem}")]
    Usage {
        /// The flag as the user writes it, for example `--device`.
        flag: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A file or folder that can't be read, understood or written (exit code 3).
    #[error("{}: {problem}", printable::line(&path.to_string_lossy()))]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// A value that is not finite where a network of finite weights computes on one of the images (exit code 3).
    #[error("image {image}: {problem}")]
    NotFinite {
        /// Which of the images.
        image: usize,
        /// Where it appears, and on which device.
        problem: String,
    },
    /// A device that is missing or computes wrong (exit code 4).
    #[error("device {device}: {problem}")]
    Device {
        /// The adapter's name, or what the user asked for.
        device: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A device that went away while it was used (exit code 4). Another one may be opened in its place.
    #[error("device {device}: was lost: {problem}")]
    DeviceLost {
        /// The adapter's name.
        device: String,
        /// What its driver says.
        problem: String,
    },
    /// A device without room for what is computed (exit code 4). Less at once may fit.
    #[error("device {device}: is out of memory: {problem}")]
    OutOfMemory {
        /// The adapter's name.
        device: String,
        /// What did not fit.
        problem: String,
    },
    /// An output that nobody reads any more, as in `models | head -1` (exit code 141, and the program says nothing).
    #[error("nobody reads the output any more")]
    BrokenPipe,
}

/// `Result` with the program's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Input`] about `path`.
    pub fn input(path: impl AsRef<Path>, problem: impl std::fmt::Display) -> Self {
        Self::Input {
            path: path.as_ref().to_owned(),
            problem: problem.to_string(),
        }
    }

    /// An [`Error::Usage`] about `flag`.
    pub fn usage(flag: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Usage {
            flag: flag.into(),
            problem: problem.to_string(),
        }
    }

    /// An [`Error::Device`] about `device`.
    pub fn device(device: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Device {
            device: device.into(),
            problem: problem.to_string(),
        }
    }

    /// The program's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Check(_) => 1,
            Self::Usage { .. } => 2,
            Self::Input { .. } | Self::NotFinite { .. } => 3,
            Self::Device { .. } | Self::DeviceLost { .. } | Self::OutOfMemory { .. } => 4,
            Self::BrokenPipe => UNREAD,
        }
    }
}
