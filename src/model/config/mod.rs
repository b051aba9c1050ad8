//! What a network is: its family and sizes, and the tensors that timm's `state_dict` then has.

mod kinds;
mod swin;
mod vit;

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::data::image_size::ImageSize;
use crate::data::preprocess::MAX_CHANNELS;
use crate::error::{Error, Result};
use crate::file::weights::Weights;
use crate::kernels::MAX_K;
use crate::text::abridged;

pub use crate::format::Gelu;
pub use kinds::check_kind;
pub use swin::{Stage, SwinConfig, square};
pub use vit::{GlobalPool, VitConfig};

/// Limits a size (pixels, heads, classes): products of three of them can't overflow.
const MAX_SIZE: usize = 1 << 20;
/// Limits the number of features: an integer product sums over them.
const MAX_FEATURES: usize = MAX_K;
/// Limits the elements that a block makes of one image, to 4 GiB in f32: a little more than the scores of a ViT-L/16 on
/// images of 1440 pixels.
const MAX_ELEMENTS: usize = 1 << 30;
/// Limits the number of blocks.
const MAX_DEPTH: usize = 1 << 10;
/// Counts the channels of a photo, red, green and blue, which a network takes where nothing else is told.
pub const RGB_CHANNELS: usize = 3;

/// Describes a network of a known family. As JSON or TOML: the family's fields, and its name as `family`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "lowercase")]
pub enum Architecture {
    /// ViT, DeiT, BEiT, DINOv2, DINOv3, EVA-02, and the image towers of CLIP and SigLIP.
    Vit(VitConfig),
    /// Swin and Swin V2.
    Swin(SwinConfig),
}

/// Names the kinds of [`Architecture`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// ViT and DeiT.
    Vit,
    /// Swin.
    Swin,
}

impl Family {
    /// Finds the family that a file's tensors are named like: Swin's blocks lie in layers, a ViT's don't.
    pub fn of(weights: &Weights) -> Self {
        if weights.names().any(|name| name.starts_with("layers.0.")) {
            Self::Swin
        } else {
            Self::Vit
        }
    }
}

/// Says what a network answers for an image, and of how many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A logit for each class.
    Logits(usize),
    /// Features, of a network without a classifier.
    Features(usize),
}

impl Answer {
    /// Counts the values.
    pub fn values(self) -> usize {
        match self {
            Self::Logits(values) | Self::Features(values) => values,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Logits(classes) => write!(formatter, "the logits of {classes} classes"),
            Self::Features(features) => write!(formatter, "{features} features"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Vit => "ViT",
            Self::Swin => "Swin transformer",
        })
    }
}

impl Architecture {
    /// Returns the family that the network is of.
    pub fn family(&self) -> Family {
        match self {
            Self::Vit(_) => Family::Vit,
            Self::Swin(_) => Family::Swin,
        }
    }

    /// Lists every tensor of timm's `state_dict`, with its shape, but for a projection's bias of zeros and a pooling's
    /// projection of its query.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Vit(config) => config.expected_tensors(),
            Self::Swin(config) => config.expected_tensors(),
        }
    }

    /// Counts the parameters, as timm does but for those that [`expected_tensors`](Self::expected_tensors) leaves out.
    /// DINOv3's largest has more than a browser's 32 bits count.
    pub fn parameters(&self) -> u64 {
        let tensors = self.expected_tensors();
        let count = |shape: &Vec<usize>| shape.iter().map(|&extent| extent as u64).product::<u64>();
        tensors.iter().map(|(_, shape)| count(shape)).sum()
    }

    /// Returns height and width of the input.
    pub fn image_size(&self) -> ImageSize {
        match self {
            Self::Vit(config) => config.image_size,
            Self::Swin(config) => config.image_size.into(),
        }
    }

    /// Counts the values of an image, in all channels.
    pub fn input_len(&self) -> usize {
        self.in_chans() * self.image_size().pixels()
    }

    /// Counts the channels of the input.
    pub fn in_chans(&self) -> usize {
        match self {
            Self::Vit(config) => config.in_chans,
            Self::Swin(config) => config.in_chans,
        }
    }

    /// Counts the classes: 0 of a network without a classifier.
    pub fn classes(&self) -> usize {
        match self {
            Self::Vit(config) => config.classes,
            Self::Swin(config) => config.classes,
        }
    }

    /// Counts what the head gives: logits, or features of a projection; 0 without a head.
    pub fn head_outputs(&self) -> usize {
        match self {
            Self::Vit(config) => config.head_outputs(),
            Self::Swin(config) => config.classes,
        }
    }

    /// Says what the network answers for an image.
    pub fn answer(&self) -> Answer {
        match (self.classes(), self) {
            (0, Self::Vit(config)) if config.projection > 0 => Answer::Features(config.projection),
            (0, Self::Vit(config)) => Answer::Features(config.pooled_dim()),
            (0, Self::Swin(config)) => Answer::Features(config.last_dim()),
            (classes, _) => Answer::Logits(classes),
        }
    }

    /// Returns this architecture without its head and its pooling, which answers with every token of the last block,
    /// normalised; that has the tensors that this one has, but for theirs.
    ///
    /// # Errors
    /// A Swin's tokens are not offered.
    pub fn unpooled(&self) -> std::result::Result<Self, String> {
        match self {
            Self::Vit(config) => Ok(Self::Vit(config.unpooled())),
            Self::Swin(_) => Err(format!(
                "is a {}, whose tokens are not offered",
                self.family()
            )),
        }
    }

    /// Says which of the values that an [unpooled](Self::unpooled) network answers with are the patches': after how many,
    /// and of what shape, `[patches, dim]`. `None` where tokens are pooled.
    pub fn patch_features(&self) -> Option<(usize, [usize; 2])> {
        match self {
            Self::Vit(config) if config.global_pool == GlobalPool::Unpooled => {
                let before = config.prefix() * config.dim;
                Some((before, [config.patches(), config.dim]))
            }
            _ => None,
        }
    }

    /// Returns this architecture for images of another size.
    ///
    /// # Errors
    /// What speaks against the size: that patches don't fill it, that it isn't a square, where a Swin takes these only,
    /// or that a Swin's windows or a BEiT's patches would be others, since tables of relative positions are not
    /// resized.
    pub fn with_image_size(&self, image_size: ImageSize) -> std::result::Result<Self, String> {
        match self {
            _ if image_size == self.image_size() => Ok(self.clone()),
            Self::Vit(config) => config.with_image_size(image_size).map(Self::Vit),
            Self::Swin(config) => config.with_image_size(image_size).map(Self::Swin),
        }
    }

    /// Checks the sizes, and says what speaks against them.
    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        match self {
            Self::Vit(config) => config.validate(),
            Self::Swin(config) => config.validate(),
        }
    }

    /// Returns this architecture with as many classes as `weights` has, or its projection, once everything else is found to be the same in
    /// both. `told_by` says for the error where this architecture comes from.
    ///
    /// # Errors
    /// [`Error::Input`] if `weights` is of another family, of an unsupported kind, incomplete, or of another size, or if
    /// no network has these sizes.
    pub fn fitted(&self, weights: &Weights, told_by: &str) -> Result<Self> {
        self.fitted_from(weights, told_by, self.image_size())
    }

    /// Returns what [`fitted`](Self::fitted) does, where the positions in `weights` are for images of size `stored` if
    /// that has as many patches as there are.
    ///
    /// # Errors
    /// Those of [`fitted`](Self::fitted).
    pub fn fitted_from(&self, weights: &Weights, told_by: &str, stored: ImageSize) -> Result<Self> {
        let found = Family::of(weights);
        let same_family = if found == self.family() {
            Ok(())
        } else {
            Err(format!("is a {found}, not a {}", self.family()))
        };
        same_family
            .and_then(|()| self.validate())
            .map_err(|problem| {
                Error::input(weights.path(), format!("doesn't fit {told_by}: {problem}"))
            })?;
        match self {
            Self::Vit(config) => config.fitted_from(weights, told_by, stored).map(Self::Vit),
            Self::Swin(config) => config.fitted(weights, told_by).map(Self::Swin),
        }
    }
}

/// Computes timm's `int(size * ratio)`.
pub fn scaled(size: usize, ratio: f64) -> usize {
    (size as f64 * ratio) as usize
}

/// Says whether a network lacks `part`: such a field isn't written, and older files don't have it.
fn is_absent<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

/// Checks that every size is at least 1 and at most its limit: (what, size, limit).
fn within(sizes: &[(&str, usize, usize)]) -> std::result::Result<(), String> {
    let wrong = |(_, size, limit): &&(&str, usize, usize)| !(1..=*limit).contains(size);
    match sizes.iter().find(wrong) {
        Some((what, size, limit)) => {
            Err(format!("{what} is {size}, where 1 to {limit} is expected"))
        }
        None => Ok(()),
    }
}

/// Checks the channels of an image, and that an integer product can sum over the values of a patch.
fn patch_within(in_chans: usize, patch_size: usize) -> std::result::Result<(), String> {
    within(&[("in_chans", in_chans, MAX_CHANNELS)])?;
    within(&[("patch_size", patch_size, (MAX_K / in_chans).isqrt())])
}

/// Returns the channels that a network takes where a file doesn't tell them.
fn rgb_channels() -> usize {
    RGB_CHANNELS
}

/// Says whether a network takes photos in colour: such a field isn't written, and older files don't have it.
fn is_rgb(in_chans: &usize) -> bool {
    *in_chans == RGB_CHANNELS
}

/// Checks the number of classes, which is 0 of a network without a classifier.
fn classes_within(classes: usize) -> std::result::Result<(), String> {
    match classes {
        0..=MAX_SIZE => Ok(()),
        _ => Err(format!(
            "classes is {classes}, where 0 to {MAX_SIZE} is expected"
        )),
    }
}

/// Checks that what a block makes of one image is within [`MAX_ELEMENTS`]: attention within `windows` of `tokens` each,
/// and an MLP. `part` names the part of the network for the error.
fn block_within(
    part: &str,
    windows: usize,
    tokens: usize,
    [heads, dim, mlp_dim]: [usize; 3],
) -> std::result::Result<(), String> {
    let elements = |per_token: usize| windows.saturating_mul(tokens).saturating_mul(per_token);
    let what = |elements: &str| format!("the number of {elements}{part}");
    within(&[
        (&what("tokens that attend to each other"), tokens, MAX_K),
        (
            &what("an image's scores"),
            elements(tokens.saturating_mul(heads)),
            MAX_ELEMENTS,
        ),
        (
            &what("an image's queries, keys and values"),
            elements(dim.saturating_mul(3)),
            MAX_ELEMENTS,
        ),
        (
            &what("an image's hidden features"),
            elements(mlp_dim),
            MAX_ELEMENTS,
        ),
    ])
}

/// Checks that the parts of something make a whole: (what, size, part, count).
fn divisible(parts: &[(&str, usize, &str, usize)]) -> std::result::Result<(), String> {
    match parts
        .iter()
        .find(|(_, size, _, count)| !size.is_multiple_of(*count))
    {
        Some((what, size, part, count)) => {
            Err(format!("{what} {size} is not divisible by {part} {count}"))
        }
        None => Ok(()),
    }
}

/// Checks that LayerNorm's epsilon is positive and finite.
fn positive_eps(eps: f32) -> std::result::Result<(), String> {
    if eps.is_finite() && eps > 0.0 {
        return Ok(());
    }
    Err(format!(
        "layer_norm_eps is {eps}, where a positive number is expected"
    ))
}

/// Checks that a file's sizes and kind are those that were told: (what, found, expected).
fn same_sizes<T: PartialEq + fmt::Display>(
    weights: &Weights,
    told_by: &str,
    sizes: &[(&str, T, T)],
) -> Result<()> {
    let differences: Vec<String> = sizes
        .iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(what, found, expected)| format!("{what} is {found}, not {expected}"))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let problem = format!("doesn't fit {told_by}: {}", differences.join("; "));
    Err(Error::input(weights.path(), problem))
}

/// Holds what the shape of timm's `patch_embed.proj.weight` tells.
struct PatchEmbedding {
    in_chans: usize,
    /// The side of a square patch.
    patch_size: usize,
    dim: usize,
}

impl PatchEmbedding {
    /// Reads the sizes off the weight's shape.
    fn of(weights: &Weights) -> Result<Self> {
        let [dim, in_chans, patch_size, width] = sizes(weights, "patch_embed.proj.weight")?;
        if !(1..=MAX_CHANNELS).contains(&in_chans) || width != patch_size {
            return Err(Error::input(
                weights.path(),
                format!(
                    "`patch_embed.proj.weight` takes {in_chans} channels and patches of {patch_size} by {width} pixels, where 1 to {MAX_CHANNELS} channels and square patches are expected"
                ),
            ));
        }
        Ok(Self {
            in_chans,
            patch_size,
            dim,
        })
    }
}

/// Returns the sizes of a tensor with `N` dimensions.
fn sizes<const N: usize>(weights: &Weights, name: &str) -> Result<[usize; N]> {
    let shape = weights.shape(name);
    shape
        .and_then(|shape| shape.try_into().ok())
        .ok_or_else(|| {
            let names = || {
                weights
                    .names()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
            };
            let found = match shape {
                Some(shape) => format!("found shape {shape:?}"),
                None => match names() {
                    names if names.is_empty() => "there is none, nor any other tensor".to_owned(),
                    names => format!("there is none among {}: {}", names.len(), abridged(&names)),
                },
            };
            Error::input(
                weights.path(),
                format!("expected timm's tensor `{name}` with {N} dimensions, {found}"),
            )
        })
}

/// Makes a file of zeros in these shapes.
#[cfg(all(test, feature = "files"))]
pub(super) fn zeros(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Weights {
    use crate::file::weights::{TensorData, save};
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = folder.path().join("zeros.safetensors");
    let tensors = tensors
        .into_iter()
        .map(|(name, shape)| {
            let data = vec![0.0; shape.iter().product()];
            (name, TensorData::F32 { shape, data })
        })
        .collect();
    save(&path, tensors, Default::default()).expect("the file is written");
    Weights::open(path).expect("the file is sound")
}
