//! Options that several subcommands share.

use super::elsewhere::in_child;
use super::error::{Error, Result};
use crate::bench::kept_strategies;
use crate::data::image_size::ImageSize;
use crate::data::preprocess::{Choices, CropMode, Interpolation, MAX_CHANNELS, Preprocessing};
use crate::device::{Device, Strategy, open};
use crate::error;
use crate::file::weights::Weights;
use crate::model::config::Architecture;
use crate::model::interpolate_positions;
use crate::model::recipe::{Request, Resolved, describe};
use clap::Args;

/// Where to compute.
#[derive(Args)]
pub struct DeviceOption {
    /// An adapter's number or part of its name (see `devices`), or `cpu`. Default: the best GPU, else a software
    /// adapter, else `cpu`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

impl DeviceOption {
    /// Opens the device, tuned as `bench --tune` left it or with the strategies that are usually the fastest, and says on
    /// stderr which one it is.
    ///
    /// # Errors
    /// Those of [`open`].
    pub fn open(&self) -> error::Result<Device> {
        open_tuned(self.device.as_deref())
    }

    /// Opens the device as suits adapters of its kind.
    ///
    /// # Errors
    /// Those of [`open`].
    pub fn open_untuned(&self) -> error::Result<Device> {
        Ok(open(self.device.as_deref())?.device)
    }

    /// Has another process try a strategy on this device.
    ///
    /// # Errors
    /// Those of [`in_child`].
    pub fn try_elsewhere(&self, product: &'static str, strategy: Strategy) -> error::Result<()> {
        in_child(self.device.as_deref(), product, strategy)
    }
}

/// Opens the device that `request` names, tuned as `bench --tune` left it or with the strategies that are usually the
/// fastest, and says on stderr which one it is.
///
/// # Errors
/// Those of [`open`].
pub fn open_tuned(request: Option<&str>) -> error::Result<Device> {
    let selection = open(request)?;
    log::info!("device: {}", selection.notice);
    let elsewhere = |product, strategy| in_child(request, product, strategy);
    if let Err(error) = kept_strategies::apply(&selection.device, &elsewhere) {
        // The results are the same without it.
        log::warn!("tuning: not used: {error}; bench --tune makes it anew");
    }
    Ok(selection.device)
}

/// The size of the images that the network takes.
#[derive(Args)]
pub struct ImageSizeOptions {
    /// Height and width of the network's input, if not the model's own: 224, or 96x64 where it isn't a square. A ViT
    /// takes any multiples of its patches' size, with --interpolate-positions; a Swin only its own.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<ImageSize>,
    /// Resample a ViT's positions (bicubic, as timm does) where they are for another image size.
    #[arg(long)]
    interpolate_positions: bool,
}

impl ImageSizeOptions {
    /// [`resolve`](crate::model::recipe::resolve)s a checkpoint for images of this size, prepared as asked for, and makes
    /// its positions fit if that is allowed.
    ///
    /// # Errors
    /// Those of `resolve`, a size that the network can't have, and a choice out of range.
    pub fn resolve(
        &self,
        weights: &mut Weights,
        recipe: Option<&str>,
        preprocessing: &PreprocessingOptions,
    ) -> Result<Resolved> {
        let request = Request {
            recipe,
            image_size: self.image_size,
            preprocessing: preprocessing.choices(),
        };
        let mut told = describe(weights, &request)?;
        if self.interpolate_positions {
            tell_resampled(told.interpolate_positions(weights)?, &told.architecture);
        }
        Ok(told.fitted(weights)?)
    }

    /// Makes a ViT's positions fit `architecture`, if that is allowed, and says so on stderr. They are for the size of
    /// images that is told of `weights`, if one is.
    ///
    /// # Errors
    /// Those of [`interpolate_positions`].
    pub fn fit_positions(&self, weights: &mut Weights, architecture: &Architecture) -> Result<()> {
        if self.interpolate_positions {
            let told = describe(weights, &Request::default()).ok();
            let stored = told.map(|told| told.architecture.image_size());
            let from = interpolate_positions(weights, architecture, stored)?;
            tell_resampled(from, architecture);
        }
        Ok(())
    }

    /// Checks that the image size of a quantized model, which is fixed, is the one asked for.
    ///
    /// # Errors
    /// Another size asked for.
    pub fn check_quantized(&self, architecture: &Architecture) -> Result<()> {
        let fixed = architecture.image_size();
        match self.image_size {
            Some(image_size) if image_size != fixed => Err(Error::usage(
                "--image-size",
                format!("is {image_size}, but the quantized model takes images of {fixed} pixels"),
            )),
            _ => Ok(()),
        }
    }
}

/// Says on stderr from which size of images positions were resampled, if they were.
fn tell_resampled(from: Option<ImageSize>, architecture: &Architecture) {
    if let Some(from) = from {
        let to = architecture.image_size();
        log::info!("positions: resampled from images of {from} pixels to {to}");
    }
}

/// What of the model's own preprocessing to override.
#[derive(Args)]
pub struct PreprocessingOptions {
    /// Share of the resized image that the centre crop keeps.
    #[arg(long, value_name = "FRACTION")]
    crop_pct: Option<f64>,
    /// Whether the resize before the crop keeps an image's aspect (center; floor, where the crop can't be in the middle,
    /// begins before it) or gives it the input's (squash).
    #[arg(long, value_name = "MODE", value_enum)]
    crop_mode: Option<CropMode>,
    /// Mean of each channel, or one of all.
    #[arg(long, value_name = "R,G,B", value_parser = channels, allow_hyphen_values = true)]
    mean: Option<Channels>,
    /// Standard deviation of each channel, or one of all.
    #[arg(long, value_name = "R,G,B", value_parser = channels, allow_hyphen_values = true)]
    std: Option<Channels>,
    /// How images are resized.
    #[arg(long, value_name = "FILTER", value_enum)]
    interpolation: Option<Interpolation>,
    /// Turn photos as their EXIF segment says. By default they are taken as they lie, as timm, torchvision and Pillow do,
    /// unless the model was calibrated with this option; =false then undoes it.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    exif_orientation: Option<bool>,
}

impl PreprocessingOptions {
    /// Returns what is chosen.
    fn choices(&self) -> Choices {
        Choices {
            crop_pct: self.crop_pct,
            crop_mode: self.crop_mode,
            interpolation: self.interpolation,
            mean: self.mean.as_ref().map(|Channels(mean)| mean.clone()),
            std: self.std.as_ref().map(|Channels(std)| std.clone()),
            exif_orientation: self.exif_orientation,
        }
    }

    /// Returns `preprocessing` with the given options in place of its own.
    ///
    /// # Errors
    /// A value out of range.
    pub fn apply(&self, preprocessing: &Preprocessing) -> Result<Preprocessing> {
        let changed = self.choices().applied_to(preprocessing);
        changed
            .check_channels(preprocessing.channels())
            .and_then(|()| changed.validate())
            .map_err(|problem| Error::usage("--crop-pct, --mean, --std", problem))?;
        Ok(changed)
    }
}

/// Holds what is told of each channel, or of all. (clap takes a `Vec` for an option that is given several times.)
#[derive(Clone)]
struct Channels(Vec<f32>);

fn channels(text: &str) -> std::result::Result<Channels, String> {
    let values: Vec<f32> = text
        .split(',')
        .map(|value| value.trim().parse::<f32>())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| {
            format!("expected numbers as in 0.5,0.5,0.5, or one for all channels: {error}")
        })?;
    match values.len() {
        1..=MAX_CHANNELS => Ok(Channels(values)),
        found => Err(format!(
            "expected a number for each of at most {MAX_CHANNELS} channels, found {found}"
        )),
    }
}
