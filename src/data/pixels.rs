//! The pixels of a picture in as many channels as a network takes, as Pillow converts and resizes them.

use super::resample::{Interpolation, resize_window};
use image::DynamicImage;
use std::borrow::Cow;
use std::ops::Range;

/// Holds interleaved pixels of 8 bits a value.
pub(super) struct Pixels<'a> {
    width: usize,
    height: usize,
    channels: usize,
    values: Cow<'a, [u8]>,
}

impl<'a> Pixels<'a> {
    /// Returns the pixels of `image`, which has 8 bits a value, as Pillow's `convert` gives them: `L`, `LA`, `RGB` or
    /// `RGBA`, by the number of channels.
    pub fn of(image: &'a DynamicImage, channels: usize) -> Self {
        let values = match (channels, image) {
            (3, DynamicImage::ImageRgb8(image)) => Cow::Borrowed(&image.as_raw()[..]),
            (3, image) => Cow::Owned(image.to_rgb8().into_raw()),
            (1, image) => {
                let image = image.to_rgb8();
                image.pixels().map(|pixel| grey(pixel.0)).collect()
            }
            (2, image) => {
                let image = image.to_rgba8();
                let pixels = image.pixels().map(|pixel| pixel.0);
                let greys =
                    pixels.map(|[red, green, blue, alpha]| [grey([red, green, blue]), alpha]);
                greys.flatten().collect()
            }
            (_, image) => Cow::Owned(image.to_rgba8().into_raw()),
        };
        Self {
            width: image.width() as usize,
            height: image.height() as usize,
            channels,
            values,
        }
    }

    /// Computes the pixels `columns` x `rows` of the picture resized to `width` x `height`. Colours are resized by how
    /// opaque they are, as in Pillow, unless the picture has this size already.
    pub fn resized_window(
        self,
        (width, height): (usize, usize),
        columns: Range<usize>,
        rows: Range<usize>,
        interpolation: Interpolation,
    ) -> Vec<u8> {
        let from = (self.width, self.height);
        let window = |values: &[u8]| {
            let resize = match self.channels {
                1 => resize_window::<1>,
                2 => resize_window::<2>,
                3 => resize_window::<3>,
                _ => resize_window::<4>,
            };
            let to = (width, height);
            resize(
                values,
                from,
                to,
                columns.clone(),
                rows.clone(),
                interpolation,
            )
        };
        let has_alpha = self.channels.is_multiple_of(2);
        if !has_alpha || from == (width, height) {
            return window(&self.values);
        }
        let mut values = self.values.into_owned();
        for pixel in values.chunks_exact_mut(self.channels) {
            let (alpha, colours) = pixel.split_last_mut().expect("there is a channel");
            for colour in colours {
                *colour = times_alpha(*colour, *alpha);
            }
        }
        let mut resized = window(&values);
        for pixel in resized.chunks_exact_mut(self.channels) {
            let (alpha, colours) = pixel.split_last_mut().expect("there is a channel");
            for colour in colours {
                *colour = by_alpha(*colour, *alpha);
            }
        }
        resized
    }
}

/// Computes the luma of red, green and blue as Pillow does: ITU-R 601-2, rounded. Grey stays as it is.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}

/// Computes colour · alpha / 255, rounded.
fn times_alpha(colour: u8, alpha: u8) -> u8 {
    let product = u32::from(colour) * u32::from(alpha) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// Computes colour · 255 / alpha, rounded down; where nothing is to be seen, or all, a colour stays as it is.
fn by_alpha(colour: u8, alpha: u8) -> u8 {
    match alpha {
        0 | 255 => colour,
        _ => (u32::from(colour) * 255 / u32::from(alpha)).min(255) as u8,
    }
}
