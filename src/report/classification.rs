//! What a model sees in an image, as people and programs are told it.

use super::guess::{Guess, guesses};
use crate::data::class_names::ClassName;
use serde::Serialize;
use std::time::Duration;

/// Counts the classes that are named where nobody says how many.
pub const TOP: usize = 5;

/// Says what was found in one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Classified {
    /// The image's file.
    pub image: String,
    /// What is in it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Says what is in an image, or why that isn't known.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// The likeliest classes.
    Classified {
        /// Milliseconds of upload, network and read-back.
        ms: f64,
        /// The likeliest first.
        classes: Vec<Class>,
    },
    /// The file can't be read.
    Unreadable {
        /// Which, and what is wrong with it.
        error: String,
    },
}

/// Names a class that an image may be of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    /// The class by its index, and its probability.
    #[serde(flatten)]
    pub guess: Guess,
    /// What it is called, where that is known.
    #[serde(flatten)]
    pub name: Option<ClassName>,
}

impl Outcome {
    /// Names the `top` likeliest classes of an image's `logits`, which took so long, by the `names` of all classes.
    pub fn of(logits: &[f32], time: Duration, top: usize, names: Option<&[ClassName]>) -> Self {
        let class = |guess: Guess| Class {
            guess,
            name: names.map(|names| names[guess.class].clone()),
        };
        Self::Classified {
            ms: 1e3 * time.as_secs_f64(),
            classes: guesses(logits, top).into_iter().map(class).collect(),
        }
    }
}
