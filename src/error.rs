//! The library's one error type. It names choices of the caller as the library calls them ([`Setting`]); whoever offers
//! them under other names, as the command line does by its flags, words the message with [`Error::message`].

use crate::text::printable;
use std::fmt;
use std::path::{Path, PathBuf};

/// Describes what went wrong, named so that the reader knows which file, tensor or setting to look at.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A check that was asked for did not hold.
    Check(String),
    /// A choice of the caller's that can't be carried out.
    InvalidSetting {
        /// What was chosen.
        setting: Setting,
        /// What was expected and what was found.
        problem: String,
    },
    /// A file or folder that can't be read, understood or written.
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
        /// What the caller can do about it besides changing the file.
        remedy: Option<Remedy>,
    },
    /// A value that is not finite where a network of finite weights computes on one of the images.
    NotFinite {
        /// Which of the images.
        image: usize,
        /// Where it appears, and on which device.
        problem: String,
    },
    /// A device that is missing or computes wrong.
    Device {
        /// The adapter's name, or what the user asked for.
        device: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A device that went away while it was used. Another one may be opened in its place.
    DeviceLost {
        /// The adapter's name.
        device: String,
        /// What its driver says.
        problem: String,
    },
    /// A device without room for what is computed. Less at once may fit.
    OutOfMemory {
        /// The adapter's name.
        device: String,
        /// What did not fit.
        problem: String,
    },
    /// An output that nobody reads any more.
    BrokenPipe,
}

/// Names a choice that the caller of the library makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// The FP model.
    Model,
    /// The recipe of a checkpoint: [`Request::recipe`](crate::model::recipe::Request::recipe).
    Recipe,
    /// The side of the images that a network takes.
    ImageSize,
    /// Whether a ViT's positions may be resampled: [`interpolate_positions`](crate::model::interpolate_positions).
    InterpolatePositions,
    /// The share of an image that the crop keeps.
    CropPct,
    /// Whether the resize before the crop keeps an image's aspect.
    CropMode,
    /// The filter that images are resized with.
    Interpolation,
    /// The mean of each channel.
    Mean,
    /// The standard deviation of each channel.
    Std,
    /// The file that labels images, in place of their folders.
    Labels,
    /// The number of images.
    Count,
    /// The widths of codes.
    Bits,
    /// The mean width that codes are allotted: [`Allotment`](crate::quant::Allotment).
    MeanBits,
    /// [`Method::plan`](crate::quant::Method::plan).
    Plan,
    /// [`Settings::metric`](crate::quant::Settings::metric).
    Metric,
    /// [`Settings::alpha`](crate::quant::Settings::alpha) and [`Settings::beta`](crate::quant::Settings::beta).
    CandidateRange,
    /// [`Settings::candidates`](crate::quant::Settings::candidates).
    Candidates,
    /// [`Settings::rounds`](crate::quant::Settings::rounds).
    Rounds,
    /// [`Sequence::probes`](crate::quant::Sequence::probes).
    Probes,
    /// [`Settings::transforms`](crate::quant::Settings::transforms).
    Transform,
    /// The most bytes that a calibration may take on its device.
    MemoryBudget,
    /// Whether a journal is discarded.
    Restart,
    /// The parts of an evaluation.
    Parts,
    /// A shader whose text is replaced.
    Shader,
}

impl Setting {
    /// Returns what the library calls the setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Recipe => "recipe",
            Self::ImageSize => "image_size",
            Self::InterpolatePositions => "interpolate_positions",
            Self::CropPct => "crop_pct",
            Self::CropMode => "crop_mode",
            Self::Interpolation => "interpolation",
            Self::Mean => "mean",
            Self::Std => "std",
            Self::Labels => "labels",
            Self::Count => "count",
            Self::Bits => "bits",
            Self::MeanBits => "mean_bits",
            Self::Plan => "plan",
            Self::Metric => "metric",
            Self::CandidateRange => "alpha, beta",
            Self::Candidates => "candidates",
            Self::Rounds => "rounds",
            Self::Probes => "probes",
            Self::Transform => "transforms",
            Self::MemoryBudget => "memory_budget",
            Self::Restart => "restart",
            Self::Parts => "parts",
            Self::Shader => "shader",
        }
    }
}

/// Tells what the caller can do about a file that can't be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Decide by a setting what the file leaves open.
    Decide(Setting),
    /// Decide by settings, or by a recipe where that is possible, what several files contradict each other in.
    AsTrained {
        /// What decides it.
        settings: Vec<Setting>,
        /// Whether a recipe does, too.
        recipe: bool,
    },
    /// Go by a known recipe, whatever the file says.
    GoByRecipe,
    /// Resample the positions of a ViT.
    ResamplePositions,
    /// Tell by a file of labels what the class folders don't.
    LabelImages,
    /// Discard a journal.
    DiscardJournal,
}

impl Remedy {
    /// Words the remedy, with settings called as `name` says.
    fn message(&self, name: &dyn Fn(Setting) -> &'static str) -> String {
        match self {
            Self::Decide(setting) => format!("`{}` decides it", name(*setting)),
            Self::AsTrained { settings, recipe } => {
                let settings: Vec<&str> = settings.iter().map(|setting| name(*setting)).collect();
                let settings = settings.join(" and ");
                let recipe = match recipe {
                    true => format!(
                        ", or `{}` with the recipe that it was trained with",
                        name(Setting::Recipe)
                    ),
                    false => String::new(),
                };
                format!("pass {settings} with what it was trained with{recipe}")
            }
            Self::GoByRecipe => {
                format!("`{}` goes by a known recipe instead", name(Setting::Recipe))
            }
            Self::ResamplePositions => {
                format!("`{}` resamples them", name(Setting::InterpolatePositions))
            }
            Self::LabelImages => format!("name the classes with {}", name(Setting::Labels)),
            Self::DiscardJournal => format!("{} discards it", name(Setting::Restart)),
        }
    }
}

/// Stands for a `Result` with the library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an [`Error::Input`] about `path`.
    pub fn input(path: impl AsRef<Path>, problem: impl fmt::Display) -> Self {
        Self::Input {
            path: path.as_ref().to_owned(),
            problem: problem.to_string(),
            remedy: None,
        }
    }

    /// Makes an [`Error::Input`] about `path` that the caller can do something about.
    pub fn remediable(path: impl AsRef<Path>, problem: impl fmt::Display, remedy: Remedy) -> Self {
        Self::Input {
            path: path.as_ref().to_owned(),
            problem: problem.to_string(),
            remedy: Some(remedy),
        }
    }

    /// Makes an [`Error::InvalidSetting`] about `setting`.
    pub fn setting(setting: Setting, problem: impl fmt::Display) -> Self {
        Self::InvalidSetting {
            setting,
            problem: problem.to_string(),
        }
    }

    /// Makes an [`Error::Device`] about `device`.
    pub fn device(device: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Device {
            device: device.into(),
            problem: problem.to_string(),
        }
    }

    /// Words the error, with settings called as `name` says.
    pub fn message(&self, name: &dyn Fn(Setting) -> &'static str) -> String {
        match self {
            Self::Check(problem) => problem.clone(),
            Self::InvalidSetting { setting, problem } => format!("{}: {problem}", name(*setting)),
            Self::Input {
                path,
                problem,
                remedy,
            } => {
                let path = path.to_string_lossy();
                let path = printable::line(&path);
                match remedy {
                    Some(remedy) => format!("{path}: {problem}; {}", remedy.message(name)),
                    None => format!("{path}: {problem}"),
                }
            }
            Self::NotFinite { image, problem } => format!("image {image}: {problem}"),
            Self::Device { device, problem } => format!("device {device}: {problem}"),
            Self::DeviceLost { device, problem } => {
                format!("device {device}: was lost: {problem}")
            }
            Self::OutOfMemory { device, problem } => {
                format!("device {device}: is out of memory: {problem}")
            }
            Self::BrokenPipe => "nobody reads the output any more".to_owned(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.message(&Setting::name))
    }
}

impl std::error::Error for Error {}
