//! timm's evaluation transform: resize, centre crop, normalise.

use image::DynamicImage;
use serde::{Deserialize, Serialize};

use super::image_size::ImageSize;
use super::pixels::Pixels;
pub use super::resample::Interpolation;

/// Limits the network's input, in pixels: keeps a mistyped recipe from exhausting the memory.
const MAX_IMAGE_SIZE: usize = 4096;
/// Bounds the share of the resized image that the crop may keep from below; timm's models have 0.8 to 1.
const MIN_CROP_PCT: f64 = 0.1;
/// Limits the channels of the network's input: red, green, blue and alpha.
pub const MAX_CHANNELS: usize = 4;

/// Describes how an image becomes the network's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the network's input.
    pub image_size: ImageSize,
    /// The share of the resized image's short side that the crop keeps; where the input isn't a square, of the side
    /// that the crop takes more of.
    pub crop_pct: f64,
    /// What the resize before the crop makes of the image's aspect.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop_mode: CropMode,
    /// How pixels are interpolated when the image is resized.
    pub interpolation: Interpolation,
    /// Mean of each channel, for values from 0 to 1. There are as many channels as means: grey, grey and alpha, red,
    /// green and blue, or these and alpha.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, for values from 0 to 1.
    pub std: Vec<f32>,
    /// Whether a photo is turned as its EXIF segment says. timm, torchvision and Pillow don't.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exif_orientation: bool,
}

/// Says what the resize before the crop makes of an image's aspect, by timm's names where it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CropMode {
    /// It is kept: the short side gets the length that is asked for, or, where the input isn't a square, each side at
    /// least what is asked for.
    #[default]
    Center,
    /// The image gets the input's aspect, as in transformers' processors of ViT, DeiT and Swin.
    Squash,
    /// It is kept, and a crop that can't be in the middle begins a pixel before it, as in transformers' processor of DINOv2.
    Floor,
}

/// Says whether a field has its default, which is not written: files from before it stay as they are.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Holds what somebody chooses of a [`Preprocessing`], in place of whatever else would hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    /// As [`Preprocessing::crop_pct`].
    pub crop_pct: Option<f64>,
    /// As [`Preprocessing::crop_mode`].
    pub crop_mode: Option<CropMode>,
    /// As [`Preprocessing::interpolation`].
    pub interpolation: Option<Interpolation>,
    /// As [`Preprocessing::mean`]; a single number is that of every channel, as in timm.
    pub mean: Option<Vec<f32>>,
    /// As [`Preprocessing::std`]; a single number is that of every channel, as in timm.
    pub std: Option<Vec<f32>>,
    /// As [`Preprocessing::exif_orientation`].
    pub exif_orientation: Option<bool>,
}

impl Choices {
    /// Returns `preprocessing` with what was chosen in place of its own.
    pub fn applied_to(&self, preprocessing: &Preprocessing) -> Preprocessing {
        let channels = preprocessing.channels();
        Preprocessing {
            image_size: preprocessing.image_size,
            crop_pct: self.crop_pct.unwrap_or(preprocessing.crop_pct),
            crop_mode: self.crop_mode.unwrap_or(preprocessing.crop_mode),
            interpolation: self.interpolation.unwrap_or(preprocessing.interpolation),
            mean: self.mean_of(channels).unwrap_or(preprocessing.mean.clone()),
            std: self.std_of(channels).unwrap_or(preprocessing.std.clone()),
            exif_orientation: self
                .exif_orientation
                .unwrap_or(preprocessing.exif_orientation),
        }
    }

    /// Returns the mean of each of so many channels, if it is chosen.
    pub fn mean_of(&self, channels: usize) -> Option<Vec<f32>> {
        self.mean.as_ref().map(|mean| of_each(mean, channels))
    }

    /// Returns the standard deviation of each of so many channels, if it is chosen.
    pub fn std_of(&self, channels: usize) -> Option<Vec<f32>> {
        self.std.as_ref().map(|std| of_each(std, channels))
    }
}

/// Returns a number for each channel, where a single one is that of all.
fn of_each(told: &[f32], channels: usize) -> Vec<f32> {
    match told {
        [all] => vec![*all; channels],
        _ => told.to_vec(),
    }
}

impl Preprocessing {
    /// Checks whether the values can be carried out; the message names the first field that can't.
    ///
    /// # Errors
    /// What was expected of the field and what was found.
    pub fn validate(&self) -> Result<(), String> {
        let ImageSize { height, width } = self.image_size;
        let sides = 1..=MAX_IMAGE_SIZE;
        if !sides.contains(&height) || !sides.contains(&width) {
            return Err(format!(
                "image_size: expected 1 to {MAX_IMAGE_SIZE} pixels, found {}",
                self.image_size
            ));
        }
        if !(MIN_CROP_PCT..=1.0).contains(&self.crop_pct) {
            return Err(format!(
                "crop_pct: expected {MIN_CROP_PCT} to 1, found {}",
                self.crop_pct
            ));
        }
        if self.crop_mode == CropMode::Floor && height != width {
            return Err(format!(
                "crop_mode: expected center or squash for images of {} pixels, found floor",
                self.image_size
            ));
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return Err(format!(
                "mean: expected finite numbers, found {:?}",
                self.mean
            ));
        }
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(format!(
                "std: expected finite numbers above 0, found {:?}",
                self.std
            ));
        }
        let channels = self.channels();
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(format!(
                "mean: expected a number for each of 1 to {MAX_CHANNELS} channels, found {channels}"
            ));
        }
        self.check_channels(channels)
    }

    /// Checks that there are so many channels; the message names the first field that says otherwise.
    ///
    /// # Errors
    /// What was expected of the field and what was found.
    pub fn check_channels(&self, channels: usize) -> Result<(), String> {
        let fields = [("mean", &self.mean), ("std", &self.std)];
        match fields.iter().find(|(_, told)| told.len() != channels) {
            Some((name, told)) => Err(format!(
                "{name}: expected as many numbers as channels ({channels}), found {told:?}"
            )),
            None => Ok(()),
        }
    }

    /// Counts the channels of the network's input.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// Returns the network's input for `image`: `[channels, height, width]`, a plane for each channel. One is grey,
    /// two are grey and alpha, three red, green and blue, four these and alpha, as of Pillow's `convert` to `L`, `LA`,
    /// `RGB` and `RGBA`.
    ///
    /// The short side, or both where the image is squashed, are resized to `floor(image_size / crop_pct)`; where the
    /// input isn't a square, both to at least that. Then the centre is cut out, and each value becomes
    /// `(value / 255 - mean) / std`. Resized pixels equal Pillow's.
    ///
    /// # Panics
    /// If `image` has no pixels (no image that [`load`](super::image_file::load) returns is
    /// like that) or if `self` does not pass [`validate`](Self::validate).
    pub fn apply(&self, image: &DynamicImage) -> Vec<f32> {
        let pixels = self.resize_and_crop(image);
        let mut input = Vec::with_capacity(pixels.len());
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            input.extend(
                pixels
                    .iter()
                    .skip(channel)
                    .step_by(self.channels())
                    .map(|&value| (f32::from(value) / 255.0 - mean) / std),
            );
        }
        input
    }

    fn resize_and_crop(&self, image: &DynamicImage) -> Vec<u8> {
        let (width, height) = self.resized(image.width() as usize, image.height() as usize);
        let centre = |length: usize, kept: usize| {
            let margin = (length - kept) as f64 / 2.0;
            let start = match self.crop_mode {
                CropMode::Floor => margin.floor(),
                // torchvision's `int(round((length - crop) / 2.0))`; Python rounds halves to even.
                CropMode::Center | CropMode::Squash => margin.round_ties_even(),
            } as usize;
            start..start + kept
        };
        Pixels::of(image, self.channels()).resized_window(
            (width, height),
            centre(width, self.image_size.width),
            centre(height, self.image_size.height),
            self.interpolation,
        )
    }

    /// Returns width and height after the resize, before the crop.
    fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        let before_crop = |kept: usize| (kept as f64 / self.crop_pct).floor() as usize;
        let tall = before_crop(self.image_size.height);
        let wide = before_crop(self.image_size.width);
        // torchvision's `int(size * long / short)`: the product is exact, one division, truncated.
        let long =
            |long_in: usize, short_in: usize| ((tall * long_in) as f64 / short_in as f64) as usize;
        match self.crop_mode {
            CropMode::Squash => (wide, tall),
            // timm's `ResizeKeepRatio`; Python rounds halves to even.
            _ if wide != tall => {
                let ratio = (height as f64 / tall as f64).min(width as f64 / wide as f64);
                let resized = |length: usize| (length as f64 / ratio).round_ties_even() as usize;
                (resized(width), resized(height))
            }
            _ if width <= height => (tall, long(height, width)),
            _ => (long(width, height), tall),
        }
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::data::image_file::load;
    use crate::file::weights::Weights;
    use image::RgbImage;

    fn fixture(name: &str) -> DynamicImage {
        load(
            &Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(name),
            false,
        )
        .unwrap()
    }

    fn preprocessing(image_size: usize, crop_pct: f64) -> Preprocessing {
        Preprocessing {
            image_size: image_size.into(),
            crop_pct,
            crop_mode: CropMode::Center,
            interpolation: Interpolation::Bicubic,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            exif_orientation: false,
        }
    }

    #[test]
    fn resizing_and_cropping_equals_pillow() {
        for (interpolation, name) in [
            (Interpolation::Bilinear, "bilinear"),
            (Interpolation::Bicubic, "bicubic"),
            (Interpolation::Lanczos, "lanczos"),
        ] {
            for (direction, image_size, crop_pct) in [("down", 16, 0.9), ("up", 32, 0.5)] {
                for shape in ["landscape", "portrait"] {
                    let preprocessing = Preprocessing {
                        interpolation,
                        ..preprocessing(image_size, crop_pct)
                    };
                    let image = fixture(&format!("{shape}.png"));
                    let expected = fixture(&format!("{shape}-{direction}-{name}.png"));
                    assert!(
                        preprocessing.resize_and_crop(&image) == expected.into_bytes(),
                        "{shape} {direction} {name}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_image_of_the_right_size_stays_as_it_is() {
        let image = fixture("landscape.png");
        let square = image.crop_imm(3, 2, 32, 32);
        for interpolation in [
            Interpolation::Bilinear,
            Interpolation::Bicubic,
            Interpolation::Lanczos,
        ] {
            let preprocessing = Preprocessing {
                interpolation,
                ..preprocessing(32, 1.0)
            };
            assert_eq!(preprocessing.resize_and_crop(&square), square.as_bytes());
        }
    }

    #[test]
    fn sizes_are_those_of_timm_and_torchvision() {
        let vit = preprocessing(224, 0.9);
        assert_eq!(vit.resized(256, 256), (248, 248));
        assert_eq!(vit.resized(500, 375), (330, 248));
        assert_eq!(vit.resized(375, 500), (248, 330));
        assert_eq!(vit.resized(37, 91), (248, 609));
        assert_eq!(vit.resized(1, 1), (248, 248));
        assert_eq!(preprocessing(384, 1.0).resized(333, 224), (570, 384));
        let squashed = Preprocessing {
            crop_mode: CropMode::Squash,
            ..vit
        };
        assert_eq!(squashed.resized(37, 91), (248, 248));
    }

    #[test]
    fn values_are_normalised_into_planes() {
        let preprocessing = preprocessing(224, 0.9);
        let image = RgbImage::from_pixel(1, 1, image::Rgb([255, 0, 128]));
        let input = preprocessing.apply(&image.into());
        assert_eq!(input.len(), 3 * 224 * 224);
        for (plane, expected) in input.chunks_exact(224 * 224).zip([
            (1.0 - 0.485) / 0.229,
            (0.0 - 0.456) / 0.224,
            (128.0 / 255.0 - 0.406) / 0.225,
        ]) {
            let (value, expected): (f32, f32) = (plane[0], expected);
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
            assert!(plane.iter().all(|&other| other == value));
        }
    }

    /// What timm makes of an image: `tests/data/timm_inputs.py` asked it.
    #[derive(Deserialize)]
    struct Case {
        image: String,
        preprocessing: Preprocessing,
    }

    #[test]
    fn inputs_of_any_channels_are_timms() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
        let inputs = Weights::open(format!("{folder}/timm_inputs.safetensors")).unwrap();
        let cases: Vec<Case> = serde_json::from_str(&inputs.metadata()["cases"]).unwrap();
        for (number, case) in cases.iter().enumerate() {
            case.preprocessing.validate().unwrap();
            let found = case.preprocessing.apply(&fixture(&case.image));
            let expected = inputs.float(&number.to_string()).unwrap();
            assert_eq!(found.len(), expected.len());
            // A value of a pixel that is off by one is off by more than 1 / 255 here.
            let mut pairs = found.iter().zip(&expected);
            let name = format!("{} {:?}", case.image, case.preprocessing);
            assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
        }
        assert_eq!(cases.len(), 308);
    }

    #[test]
    fn a_number_that_is_chosen_is_of_every_channel() {
        let choices = |mean: &[f32]| Choices {
            mean: Some(mean.to_vec()),
            ..Choices::default()
        };
        let own = preprocessing(224, 0.9);
        assert_eq!(choices(&[0.25]).applied_to(&own).mean, [0.25; 3]);
        assert_eq!(choices(&[1.0, 2.0]).applied_to(&own).mean, [1.0, 2.0]);
    }

    #[test]
    fn an_extreme_aspect_ratio_costs_no_more_than_its_crop() {
        // Resized in full, this would be 4,063,232 pixels wide and take 3 GB.
        let image = RgbImage::from_pixel(16_384, 1, image::Rgb([10, 20, 30]));
        let pixels = preprocessing(224, 0.9).resize_and_crop(&image.into());
        assert_eq!(pixels, [10, 20, 30].repeat(224 * 224));
    }

    #[test]
    fn what_cannot_be_carried_out_is_named() {
        let valid = preprocessing(224, 0.9);
        assert_eq!(valid.validate(), Ok(()));
        let with = |change: fn(&mut Preprocessing)| {
            let mut changed = valid.clone();
            change(&mut changed);
            changed.validate().unwrap_err()
        };
        assert!(with(|p| p.image_size = 0.into()).contains("image_size: expected 1 to 4096"));
        assert!(with(|p| p.crop_pct = 1.1).contains("crop_pct: expected 0.1 to 1, found 1.1"));
        assert!(with(|p| p.crop_pct = f64::NAN).contains("crop_pct"));
        assert!(with(|p| p.mean[1] = f32::INFINITY).contains("mean"));
        assert!(with(|p| p.std[2] = 0.0).contains("std: expected finite numbers above 0"));
        let expected = "mean: expected a number for each of 1 to 4 channels, found 0";
        assert_eq!(with(|p| p.mean.clear()), expected);
        let expected = "std: expected as many numbers as channels (2), found [0.229, 0.224, 0.225]";
        assert_eq!(with(|p| p.mean.truncate(2)), expected);
    }

    #[test]
    fn interpolations_have_timms_names() {
        for (interpolation, name) in [
            (Interpolation::Bilinear, "\"bilinear\""),
            (Interpolation::Bicubic, "\"bicubic\""),
            (Interpolation::Lanczos, "\"lanczos\""),
        ] {
            assert_eq!(serde_json::to_string(&interpolation).unwrap(), name);
            assert_eq!(
                serde_json::from_str::<Interpolation>(name).unwrap(),
                interpolation
            );
        }
    }
}
