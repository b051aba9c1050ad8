//! transformers' `preprocessor_config.json`: what its processors and feature extractors of images do.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::classes::Class;
use super::fields::Fields;
use crate::data::image_size::ImageSize;
use crate::data::preprocess::{CropMode, Interpolation};
use crate::error::{Error, Result};
use crate::model::config::RGB_CHANNELS;
use crate::model::recipe::arguments::{image_size, whole};
use crate::model::recipe::sources::{Said, Source};
use crate::model::recipe::{PREPROCESSOR_FILE, parsed};

/// Holds what a processor does where its file doesn't say it. All of them crop the centre if they crop.
struct Processor {
    name: &'static str,
    /// Whether an image keeps its aspect when one number says its size, which is then that of its short side; otherwise it
    /// becomes a square, or what height and width say.
    keeps_aspect: bool,
    /// The side of the square, or the short side.
    size: usize,
    /// The side of what is cropped, and whether it is.
    crop_size: usize,
    crops: bool,
    /// The number that Pillow has for the filter.
    resample: usize,
    /// The mean of each channel.
    mean: [f32; RGB_CHANNELS],
    /// The deviation of each channel.
    std: [f32; RGB_CHANNELS],
    /// In what its values differ from those that are made here, where they do.
    differs: Option<&'static str>,
}

/// Lists the processors.
static PROCESSORS: [Processor; 7] = [
    Processor {
        name: "ViTImageProcessor",
        keeps_aspect: false,
        size: 224,
        crop_size: 224,
        crops: false,
        resample: 2,
        mean: [0.5; RGB_CHANNELS],
        std: [0.5; RGB_CHANNELS],
        differs: None,
    },
    Processor {
        name: "DeiTImageProcessor",
        keeps_aspect: false,
        size: 256,
        crop_size: 224,
        crops: true,
        resample: 3,
        mean: [0.5; RGB_CHANNELS],
        std: [0.5; RGB_CHANNELS],
        differs: None,
    },
    Processor {
        name: "BeitImageProcessor",
        keeps_aspect: false,
        size: 224,
        crop_size: 224,
        crops: false,
        resample: 3,
        mean: [0.5; RGB_CHANNELS],
        std: [0.5; RGB_CHANNELS],
        differs: None,
    },
    CLIP,
    Processor {
        name: "BitImageProcessor",
        ..CLIP
    },
    Processor {
        name: "DINOv3ViTImageProcessor",
        keeps_aspect: false,
        size: 224,
        crop_size: 224,
        crops: false,
        resample: 2,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        differs: Some("it resizes floats, where pixels are rounded here, as by Pillow"),
    },
    Processor {
        name: "SiglipImageProcessor",
        keeps_aspect: true,
        size: 224,
        crop_size: 224,
        crops: false,
        resample: 3,
        mean: [0.5; RGB_CHANNELS],
        std: [0.5; RGB_CHANNELS],
        differs: None,
    },
];

const CLIP: Processor = Processor {
    name: "CLIPImageProcessor",
    keeps_aspect: true,
    size: 224,
    crop_size: 224,
    crops: true,
    resample: 3,
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    differs: None,
};

/// Says what of an image a processor makes the network's input.
#[derive(Debug, PartialEq)]
struct Crop {
    mode: CropMode,
    /// What the image is resized to; of one that keeps its aspect the short side.
    size: ImageSize,
    /// What is kept, which is all of it or a square.
    kept: ImageSize,
}

/// Adds to a source what `text`, the preprocessor_config.json at `path`, says of the images for a network of `class`.
///
/// # Errors
/// A file that isn't JSON, and a processor that isn't supported.
pub fn read(path: &Path, text: &str, class: &Class, source: Source) -> Result<Source> {
    let problem = |problem: String| Error::input(path, problem);
    let json: Map<String, Value> = parsed(path, text)?;
    let fields = Fields::of(&json);
    let processor = processor(&fields, class).map_err(problem)?;
    if let Some(differs) = processor.differs {
        let (path, name) = (path.display(), processor.name);
        log::info!("{path}: the images are not bit for bit those of `{name}`: {differs}");
    }
    for (name, done) in [("do_resize", true), ("do_rescale", true), ("do_pad", false)] {
        fields.only(name, &[done.into()]).map_err(problem)?;
    }
    let scales = [1.0 / 255.0, f64::from(1.0f32 / 255.0)].map(Value::from);
    fields.only("rescale_factor", &scales).map_err(problem)?;

    let told = source.architecture.image_size();
    let crop = processor.crop(&fields);
    let (image_size, crop_pct, crop_mode) = match crop {
        Ok(Crop { mode, size, kept }) => {
            let image_size = match kept == told || class.any_image_size {
                true => Ok(kept),
                false => Err(format!(
                    "has image_size {told}, but {} makes images of {kept} pixels",
                    path.display()
                )),
            };
            // What isn't a square is kept whole.
            let share = share(kept.height, size.height);
            (image_size, Ok(share), mode)
        }
        Err(problem) => {
            let mode = match processor.keeps_aspect {
                true => CropMode::Floor,
                false => CropMode::Squash,
            };
            (Ok(told), Err(problem), mode)
        }
    };
    let says = |problem: String| format!("has {PREPROCESSOR_FILE} beside it, which {problem}");
    let normalizes = fields
        .truth("do_normalize")
        .map_err(problem)?
        .unwrap_or(true);
    let in_chans = source.architecture.in_chans();
    if in_chans != RGB_CHANNELS {
        let no_rgb = fields.only("do_convert_rgb", &[false.into()]);
        no_rgb.map_err(problem)?;
    }
    let channels = |name: &str, without: f32, untold: [f32; RGB_CHANNELS]| -> Said<Vec<f32>> {
        if !normalizes {
            return Some(Ok(vec![without; in_chans]));
        }
        let expected = format!("a number, or as many as channels ({in_chans}),");
        let read = fields.read(name, &expected, |value| {
            let each = || Vec::<f32>::deserialize(value).ok();
            let all = |all: f64| Some(vec![all as f32; in_chans]);
            let told = value.as_f64().map_or_else(each, all)?;
            (told.len() == in_chans).then_some(told)
        });
        Some(
            match read {
                Ok(None) if in_chans != RGB_CHANNELS => {
                    Err(format!("has no {name}, where {expected} is expected"))
                }
                read => read.map(|read| read.unwrap_or(untold.to_vec())),
            }
            .map_err(says),
        )
    };
    Ok(Source {
        image_size: Some(image_size),
        crop_pct: Some(crop_pct.map_err(says)),
        crop_mode: Some(Ok(crop_mode)),
        interpolation: Some(processor.interpolation(&fields).map_err(says)),
        mean: channels("image_mean", 0.0, processor.mean),
        std: channels("image_std", 1.0, processor.std),
        ..source
    })
}

/// Returns the processor that is named, as any version of transformers names it, or that of the class.
fn processor(fields: &Fields, class: &Class) -> std::result::Result<&'static Processor, String> {
    let text = |name: &str| fields.read(name, "a name", |value| Some(value.as_str()?.to_owned()));
    let named = match text("image_processor_type")? {
        Some(name) => name,
        None => text("feature_extractor_type")?.unwrap_or(class.processor.to_owned()),
    };
    let name = named.replace("FeatureExtractor", "ImageProcessor");
    let name = name
        .strip_suffix("Fast")
        .or(name.strip_suffix("Pil"))
        .unwrap_or(&name);
    PROCESSORS
        .iter()
        .find(|known| known.name == name)
        .ok_or_else(|| {
            format!(
                "is for images that a `{named}` prepares, which is not supported; supported are {}",
                PROCESSORS.each_ref().map(|known| known.name).join(", ")
            )
        })
}

impl Processor {
    /// Returns what an image becomes, and what is kept of it.
    fn crop(&self, fields: &Fields) -> std::result::Result<Crop, String> {
        match self.short_side(fields)? {
            Some(size) => self.crop_of_short_side(fields, size),
            None => self.crop_of_both_sides(fields),
        }
    }

    /// Returns the length of the short side, where the image keeps its aspect.
    fn short_side(&self, fields: &Fields) -> std::result::Result<Option<usize>, String> {
        if !self.keeps_aspect {
            return Ok(None);
        }
        let told = fields.read("size", "a number, or shortest_edge", |value| {
            match value.as_object() {
                Some(sides) if sides.len() == 1 => whole(sides.get("shortest_edge")?).map(Some),
                Some(sides) => sides.contains_key("height").then_some(None),
                None => whole(value).map(Some),
            }
        })?;
        // Without a crop a square is the default.
        Ok(told.unwrap_or(self.crops.then_some(self.size)))
    }

    /// Returns the crop of an image that keeps its aspect.
    fn crop_of_short_side(
        &self,
        fields: &Fields,
        size: usize,
    ) -> std::result::Result<Crop, String> {
        if !fields.truth("do_center_crop")?.unwrap_or(self.crops) {
            return Err(
                "keeps an image's aspect and crops nothing, where a square is expected".into(),
            );
        }
        let kept = square(fields, "crop_size")?.unwrap_or(self.crop_size);
        check_crop(kept, size)?;
        Ok(Crop {
            mode: CropMode::Floor,
            size: size.into(),
            kept: kept.into(),
        })
    }

    /// Returns the crop of an image both of whose sides get a size, which is a square if it is cropped.
    fn crop_of_both_sides(&self, fields: &Fields) -> std::result::Result<Crop, String> {
        let mode = CropMode::Squash;
        let size = sides(fields, "size")?.unwrap_or(self.size.into());
        if !fields.truth("do_center_crop")?.unwrap_or(self.crops) {
            let kept = size;
            return Ok(Crop { mode, size, kept });
        }
        let kept = square(fields, "crop_size")?.unwrap_or(self.crop_size);
        let side = size.side().ok_or_else(|| {
            format!("crops {kept} pixels out of {size}, where only squares are supported")
        })?;
        check_crop(kept, side)?;
        // The halves of what is left over are rounded down there, and to even here, as timm does.
        if (side - kept) % 4 == 3 {
            return Err(format!(
                "crops {kept} pixels out of {size}, whose middle timm has one pixel further on"
            ));
        }
        let kept = kept.into();
        Ok(Crop { mode, size, kept })
    }

    /// Returns the filter, which is written as Pillow numbers it.
    fn interpolation(&self, fields: &Fields) -> std::result::Result<Interpolation, String> {
        let number = |number: usize| match number {
            1 => Some(Interpolation::Lanczos),
            2 => Some(Interpolation::Bilinear),
            3 => Some(Interpolation::Bicubic),
            _ => None,
        };
        let expected = "1 (lanczos), 2 (bilinear) or 3 (bicubic)";
        let told = fields.read("resample", expected, |value| number(whole(value)?))?;
        Ok(told.unwrap_or_else(|| number(self.resample).expect("a filter that is known")))
    }
}

/// Reads the side of a square.
fn square(fields: &Fields, name: &str) -> std::result::Result<Option<usize>, String> {
    let expected = "a number, or height and width of a square";
    fields.read(name, expected, |value| both_sides(value)?.side())
}

/// Reads height and width.
fn sides(fields: &Fields, name: &str) -> std::result::Result<Option<ImageSize>, String> {
    fields.read(name, "a number, or height and width", both_sides)
}

fn both_sides(value: &Value) -> Option<ImageSize> {
    match value.as_object() {
        Some(sides) if sides.len() == 2 => {
            Some([whole(sides.get("height")?)?, whole(sides.get("width")?)?].into())
        }
        Some(_) => None,
        None => image_size(value),
    }
}

fn check_crop(kept: usize, size: usize) -> std::result::Result<(), String> {
    match kept <= size {
        true => Ok(()),
        false => Err(format!(
            "crops {kept} pixels out of {size}, where no more than there are is expected"
        )),
    }
}

/// Returns the share that `kept` is of `size`, so that `kept` divided by it is `size` when it is rounded down.
fn share(kept: usize, size: usize) -> f64 {
    let (kept, size) = (kept as f64, size as f64);
    let share = kept / size;
    match (kept / share).floor() == size {
        true => share,
        false => share.next_down(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a DeiT's processor makes squares of.
    fn squares(told: Value) -> std::result::Result<(usize, usize), String> {
        let crop = PROCESSORS[1].crop(&Fields::of(told.as_object().unwrap()))?;
        assert_eq!(crop.mode, CropMode::Squash);
        Ok((crop.size.side().unwrap(), crop.kept.side().unwrap()))
    }

    #[test]
    fn a_short_side_is_written_in_every_way() {
        let crop = |told: Value| PROCESSORS[3].crop(&Fields::of(told.as_object().unwrap()));
        let (mode, kept) = (CropMode::Floor, 224.into());
        let of = |size: usize| Crop {
            mode,
            size: size.into(),
            kept,
        };
        assert_eq!(crop(json!({})), Ok(of(224)));
        for size in [json!(256), json!({"shortest_edge": 256})] {
            assert_eq!(crop(json!({"size": size})), Ok(of(256)));
        }
        let square = Crop {
            mode: CropMode::Squash,
            size: 256.into(),
            kept: 256.into(),
        };
        let told = json!({"size": {"height": 256, "width": 256}, "do_center_crop": false});
        assert_eq!(crop(told), Ok(square));
        for (told, says) in [
            (json!({"size": {"longest_edge": 256}}), "has size {"),
            (json!({"size": 200}), "crops 224 pixels out of 200"),
            (json!({"do_center_crop": false}), "crops nothing"),
        ] {
            let problem = crop(told).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }

    #[test]
    fn squares_are_written_in_every_way() {
        assert_eq!(squares(json!({})), Ok((256, 224)));
        for size in [
            json!(438),
            json!({"height": 438, "width": 438}),
            json!([438, 438]),
        ] {
            let crop = json!({"size": size, "crop_size": 384});
            assert_eq!(squares(crop), Ok((438, 384)));
            assert_eq!(
                squares(json!({"size": size, "do_center_crop": false})),
                Ok((438, 438))
            );
        }
        for (size, says) in [
            (
                json!({"height": 224, "width": 256}),
                "crops 224 pixels out of 224x256, where only squares",
            ),
            (json!({"shortest_edge": 256}), "has size {"),
            (
                json!({"height": 256, "width": 256, "longest_edge": 300}),
                "has size {",
            ),
            (json!("256"), "has size `256`"),
            (json!(200), "crops 224 pixels out of 200"),
            (json!(227), "timm has one pixel further on"),
        ] {
            let problem = squares(json!({"size": size})).unwrap_err();
            assert!(problem.contains(says), "{problem}\nlacks {says}");
        }
    }

    #[test]
    fn a_share_gives_the_size_back() {
        for kept in 1..=600 {
            for size in kept..=3 * kept {
                assert_eq!((kept as f64 / share(kept, size)).floor() as usize, size);
            }
        }
    }
}
