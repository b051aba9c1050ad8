//! Everything that was measured at one time, as it is written in JSON.

use super::ceilings::Ceilings;
use super::kernels::KernelFigure;
use super::networks::NetworkFigure;
use super::timing::Clock;
use serde::Serialize;

/// Names the network whose shapes are measured where none is named: the smallest.
pub const DEFAULT_MODEL: &str = "deit_tiny_patch16_224";

/// Holds everything that was measured.
#[derive(Serialize)]
pub struct Measurements {
    /// The device's name.
    pub device: String,
    /// The driver's name and version.
    pub driver: String,
    /// What kernels were timed by.
    pub timing: Clock,
    /// What the device can do at most.
    pub ceilings: Ceilings,
    /// Kernels, by the networks whose shapes they have.
    pub kernels: Vec<KernelFigures>,
    /// Whole networks.
    pub networks: Vec<NetworkFigures>,
}

/// Holds the kernels at the shapes of one network, or at a given shape.
#[derive(Serialize)]
pub struct KernelFigures {
    /// The network's name, or the shape.
    pub shapes: String,
    /// One for each kernel and shape.
    pub figures: Vec<KernelFigure>,
}

/// Holds the figures of one network.
#[derive(Serialize)]
pub struct NetworkFigures {
    /// The network's name.
    pub model: String,
    /// A file, `random` or `built in`.
    pub weights: String,
    /// One for each precision and number of images at once.
    pub figures: Vec<NetworkFigure>,
}
