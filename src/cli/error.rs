//! What a subcommand ends with where it can't go on: the library's errors in the words of the command line, and the exit
//! codes.

use crate::error::{self, Setting};
use std::fmt;
use std::path::Path;

/// Holds the program's exit code after Ctrl-C or SIGTERM: 128 and SIGINT's number, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;
/// Holds the program's exit code where nobody reads its output any more: 128 and SIGPIPE's number.
const UNREAD: u8 = 141;

/// Describes why a subcommand ended.
#[derive(Debug)]
pub(super) enum Error {
    /// A flag, or a combination of flags, that can't be carried out.
    Usage {
        /// The flag as the user writes it, for example `--device`.
        flag: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// What the library found wrong.
    Library(error::Error),
}

/// Stands for a `Result` with the command line's [`Error`].
pub(super) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an [`Error::Usage`] about `flag`.
    pub fn usage(flag: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Usage {
            flag: flag.into(),
            problem: problem.to_string(),
        }
    }

    /// Makes the library's error about a file or folder.
    pub fn input(path: impl AsRef<Path>, problem: impl fmt::Display) -> Self {
        Self::Library(error::Error::input(path, problem))
    }

    /// Makes the library's error about a check that did not hold.
    pub fn check(problem: String) -> Self {
        Self::Library(error::Error::Check(problem))
    }

    /// Returns the program's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        use error::Error::*;
        match self {
            Self::Usage { .. } => 2,
            Self::Library(error) => match error {
                Check(_) => 1,
                InvalidSetting { .. } => 2,
                Input { .. } | NotFinite { .. } => 3,
                Device { .. } | DeviceLost { .. } | OutOfMemory { .. } => 4,
                BrokenPipe => UNREAD,
            },
        }
    }
}

impl From<error::Error> for Error {
    fn from(error: error::Error) -> Self {
        Self::Library(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Usage { flag, problem } => write!(formatter, "{flag}: {problem}"),
            Self::Library(error) => formatter.write_str(&error.message(&flag)),
        }
    }
}

/// Returns what the command line calls a setting.
fn flag(setting: Setting) -> &'static str {
    match setting {
        Setting::Model => "--model",
        Setting::Recipe => "--recipe",
        Setting::ImageSize => "--image-size",
        Setting::InterpolatePositions => "--interpolate-positions",
        Setting::CropPct => "--crop-pct",
        Setting::CropMode => "--crop-mode",
        Setting::Interpolation => "--interpolation",
        Setting::Mean => "--mean",
        Setting::Std => "--std",
        Setting::Labels => "--labels",
        Setting::Count => "--count",
        Setting::Bits => "--bits",
        Setting::MeanBits => "--mixed",
        Setting::Plan => "--plan",
        Setting::Metric => "--metric",
        Setting::CandidateRange => "--alpha, --beta",
        Setting::Candidates => "--candidates",
        Setting::Rounds => "--rounds",
        Setting::Probes => "--probes",
        Setting::Transform => "--transform",
        Setting::MemoryBudget => "--memory-budget",
        Setting::Restart => "--restart",
        Setting::Parts => "PART",
        Setting::Shader => "--shader",
    }
}
