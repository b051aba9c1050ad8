//! The size of a network's input.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Holds height and width of a network's input, in pixels. Files have one number for a square, and `[height, width]`
/// otherwise, as timm has it; messages and the command line have `HEIGHTxWIDTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form", into = "Form")]
pub struct ImageSize {
    /// From above to below.
    pub height: usize,
    /// From the left to the right.
    pub width: usize,
}

/// Holds an [`ImageSize`] as files have it.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of pixels, or height and width"
)]
enum Form {
    Square(usize),
    Sides([usize; 2]),
}

impl ImageSize {
    /// Returns the side of a square.
    pub fn side(self) -> Option<usize> {
        (self.height == self.width).then_some(self.height)
    }

    /// Counts the pixels, in one channel.
    pub fn pixels(self) -> usize {
        self.height.saturating_mul(self.width)
    }

    /// Counts the whole patches of this side that lie below and beside each other: rows and columns. There are none of
    /// no size.
    pub fn grid(self, patch_size: usize) -> [usize; 2] {
        [self.height, self.width].map(|side| side.checked_div(patch_size).unwrap_or(0))
    }

    /// Says whether patches of this side fill the image.
    pub fn is_filled_by(self, patch_size: usize) -> bool {
        let mut sides = [self.height, self.width].into_iter();
        sides.all(|side| side.is_multiple_of(patch_size))
    }
}

impl From<usize> for ImageSize {
    fn from(side: usize) -> Self {
        Self::from([side; 2])
    }
}

impl From<[usize; 2]> for ImageSize {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height, width }
    }
}

impl From<ImageSize> for [usize; 2] {
    fn from(size: ImageSize) -> Self {
        [size.height, size.width]
    }
}

impl From<Form> for ImageSize {
    fn from(form: Form) -> Self {
        match form {
            Form::Square(side) => side.into(),
            Form::Sides(sides) => sides.into(),
        }
    }
}

impl From<ImageSize> for Form {
    fn from(size: ImageSize) -> Self {
        match size.side() {
            Some(side) => Self::Square(side),
            None => Self::Sides(size.into()),
        }
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self.side() {
            Some(side) => write!(formatter, "{side}"),
            None => write!(formatter, "{}x{}", self.height, self.width),
        }
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| {
            text.parse::<usize>().map_err(|error| {
                format!("expected pixels as in 224, or height and width as in 96x64: {error}")
            })
        };
        match text.split_once('x') {
            Some((height, width)) => Ok([side(height)?, side(width)?].into()),
            None => Ok(side(text)?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        let oblong = ImageSize::from([96, 64]);
        for (size, json, text) in [(224.into(), "224", "224"), (oblong, "[96,64]", "96x64")] {
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
            assert_eq!(serde_json::from_str::<ImageSize>(json).unwrap(), size);
            assert_eq!(size.to_string(), text);
            assert_eq!(text.parse(), Ok(size));
        }
        assert_eq!(
            serde_json::from_str::<ImageSize>("[96,96]").unwrap(),
            96.into()
        );
        for wrong in ["[96]", "\"96\"", "[1,2,3]", "-1"] {
            let error = serde_json::from_str::<ImageSize>(wrong).unwrap_err();
            let expected = "expected a number of pixels, or height and width";
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        for wrong in ["", "96x", "x", "1x2x3", "96,64"] {
            let error = wrong.parse::<ImageSize>().unwrap_err();
            assert!(error.starts_with("expected pixels as in 224"), "{error}");
        }
    }

    #[test]
    fn patches_are_counted_down_and_across() {
        let oblong = ImageSize::from([96, 64]);
        assert_eq!((oblong.pixels(), oblong.grid(16)), (96 * 64, [6, 4]));
        assert!(oblong.is_filled_by(32) && !oblong.is_filled_by(48));
        assert_eq!(oblong.grid(0), [0, 0]);
    }
}
