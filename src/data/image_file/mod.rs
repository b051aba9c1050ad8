//! Image files to 8 bits a value, as Pillow reads them and converts them to `RGB` or `RGBA`.

#[cfg(feature = "files")]
mod file;
mod format;
mod gif;
mod jpeg;
mod panics;
mod tiff;

#[cfg(feature = "files")]
pub use file::{load, read};
#[cfg(feature = "files")]
pub(crate) use format::{EXTENSIONS, is_named_as_image, named_as_not_read};

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbaImage};

/// Limits width and height of an image that is decoded.
const MAX_SIDE: u32 = 16_384;
/// Limits the bytes of decoded pixels: a header is refused before they are allocated.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Decodes the `bytes` of an image file to 8 bits a value: grey or RGB, with alpha where the file has it.
///
/// The format is told by the content, not by the name. 16 bits become 8, CMYK and palettes become RGB; of a GIF it is
/// the first frame. With `exif_orientation` the picture is turned as its EXIF segment says. Without it only a TIFF is,
/// because torchvision's image folders, and so the published accuracies, have it like that.
///
/// # Errors
/// What it is if it is no image of these formats, is of a kind
/// that would come out wrong, is truncated or corrupt, makes its decoder panic, or claims more pixels
/// than 16384 on a side or 512 MiB in all.
pub fn decode(bytes: &[u8], exif_orientation: bool) -> std::result::Result<DynamicImage, String> {
    let format = format::told_by(bytes)?;
    panics::caught(|| {
        let (mut image, orientation) = match format {
            ImageFormat::Jpeg => jpeg::decode(bytes)?,
            ImageFormat::Gif => (gif::decode(bytes)?, Orientation::NoTransforms),
            _ => decode_other(bytes, format)?,
        };
        if exif_orientation || format == ImageFormat::Tiff {
            image.apply_orientation(orientation);
        }
        Ok(image)
    })
}

/// Decodes the picture by the decoder that `image` has for its format, and tells how it is to be turned.
fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
) -> std::result::Result<(DynamicImage, Orientation), String> {
    let broken = |problem: ImageError| format!("can't decode this {format:?}: {problem}");
    // Whatever is there besides colours.
    let mut is_alpha = true;
    match format {
        ImageFormat::WebP => check_riff_length(bytes)?,
        ImageFormat::Tiff => is_alpha = tiff::check(bytes)?,
        _ => {}
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let colour = decoder.color_type();
    check_size(width, height, u64::from(colour.bytes_per_pixel()))?;
    let bits = 8 * colour.bytes_per_pixel() / colour.channel_count();
    if bits > 16 {
        return Err(format!(
            "expected an image of at most 16 bits a value, found {bits}"
        ));
    }
    let orientation = match format {
        ImageFormat::Tiff => decoder.orientation().map_err(broken)?,
        _ => orientation(decoder.exif_metadata().map_err(broken)?.as_deref()),
    };
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let image = to_8_bits(image);
    let image = match is_alpha {
        true => image,
        false => image.into_rgb8().into(),
    };
    Ok((image, orientation))
}

/// Tells how a picture is to be turned by its EXIF segment.
fn orientation(exif: Option<&[u8]>) -> Orientation {
    // Some writers of WebP keep the identifier that the segment has in a JPEG.
    let chunk = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    let orientation = chunk.and_then(Orientation::from_exif_chunk);
    orientation.unwrap_or(Orientation::NoTransforms)
}

/// Refuses a WebP whose end is cut off, because the decoder puts up with a few missing bytes.
fn check_riff_length(bytes: &[u8]) -> std::result::Result<(), String> {
    // "RIFF", the length of what follows, "WEBP": the first twelve bytes are how the format was
    // told.
    let Some(length) = bytes.get(4..8).and_then(|length| length.try_into().ok()) else {
        return Err("this WebP is truncated: expected a RIFF header".into());
    };
    let expected = u64::from(u32::from_le_bytes(length)) + 8;
    let found = bytes.len() as u64;
    if found < expected {
        return Err(format!(
            "this WebP is truncated: expected {expected} bytes, found {found}"
        ));
    }
    Ok(())
}

/// Refuses an image that would take too many bytes when decoded, or none.
fn check_size(width: u32, height: u32, bytes_per_pixel: u64) -> std::result::Result<(), String> {
    let size = u64::from(width)
        .saturating_mul(u64::from(height))
        .saturating_mul(bytes_per_pixel);
    let sides = 1..=MAX_SIDE;
    if sides.contains(&width) && sides.contains(&height) && size <= MAX_DECODED_BYTES {
        Ok(())
    } else {
        Err(format!(
            "expected an image of 1 to {MAX_SIDE} pixels on each side and at most {} MiB when decoded, \
             found {width}x{height} pixels",
            MAX_DECODED_BYTES >> 20
        ))
    }
}

/// Returns the image with 8 bits a value.
fn to_8_bits(image: DynamicImage) -> DynamicImage {
    match image {
        // The high byte, as Pillow takes it; `image` would round. (Pillow 13 and before clip 16-bit
        // grey at 255, which turns nearly all of it white: not followed.)
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = image.into_rgba16();
            let narrow = RgbaImage::from_fn(wide.width(), wide.height(), |x, y| {
                wide.get_pixel(x, y)
                    .0
                    .map(|value| (value >> 8) as u8)
                    .into()
            });
            narrow.into()
        }
        image => image,
    }
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::error::{Error, Result};
    use image::{ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba};
    use std::fs;
    use std::path::{Path, PathBuf};

    fn fixture(name: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(name)
    }

    fn load_rgb(path: &Path, exif_orientation: bool) -> Result<RgbImage> {
        Ok(super::load(path, exif_orientation)?.into_rgb8())
    }

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Loads `bytes` from a file, whose name gives nothing away about the format.
    fn load(bytes: &[u8]) -> Result<RgbImage> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.dat");
        fs::write(&path, bytes).unwrap();
        load_rgb(&path, false)
    }

    fn problem(bytes: &[u8]) -> String {
        match load(bytes).unwrap_err() {
            Error::Input { path, problem, .. } => {
                assert_eq!(path.file_name().unwrap(), "image.dat");
                problem
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_a_jpeg_is_no_concern() {
        let mut bytes = fs::read(fixture("jpeg/420/baseline.jpg")).unwrap();
        bytes.extend(b"\xFF\xDA appended by a phone");
        assert!(decode(&bytes, false).is_ok());
    }

    #[test]
    fn an_exif_orientation_is_applied_where_asked_for() {
        let path = fixture("orientation.jpg");
        let unturned = load_rgb(&path, false).unwrap();
        assert_eq!(unturned.dimensions(), (16, 8));
        // A quarter turn to the right.
        let turned = load_rgb(&path, true).unwrap();
        assert_eq!(turned, image::imageops::rotate90(&unturned));
    }

    /// The files in a folder of `tests/data/formats`.
    fn files_of(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with("pillow.png")).collect()
    }

    #[test]
    fn pixels_are_pillows() {
        let mut compared = 0;
        for folder in fs::read_dir(fixture("formats")).unwrap() {
            let folder = folder.unwrap().path();
            if folder.ends_with("refused") {
                continue;
            }
            let pillows = load_rgb(&folder.join("pillow.png"), false).unwrap();
            let turned = folder.ends_with("orientation");
            for path in files_of(&folder) {
                let ours = load_rgb(&path, turned).unwrap();
                assert!(ours == pillows, "{}", path.display());
                compared += 1;
            }
        }
        assert_eq!(compared, 72);
    }

    #[test]
    fn what_would_come_out_wrong_is_refused() {
        let refused = files_of(&fixture("formats/refused"));
        for path in &refused {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let expected = match name {
                "bits-in-reverse" => "has the bits of each byte in reverse, which is not supported",
                "colours-times-alpha" => "has colours that are multiplied with alpha",
                "jpeg" => "is compressed as JPEG, which is not supported",
                "palette" => "RGBPalette",
                "planes-in-tiles" => "its decoder crashed",
                "32-bits" => "expected an image of at most 16 bits a value, found 32",
                _ => panic!("{name}"),
            };
            let found = load_rgb(path, false).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        }
        assert_eq!(refused.len(), 6);
    }

    #[test]
    fn only_a_tiff_is_turned_unasked() {
        let upright = load_rgb(&fixture("formats/orientation/pillow.png"), false).unwrap();
        let load = |name: &str| {
            let path = fixture("formats/orientation").join(name);
            load_rgb(&path, false).unwrap()
        };
        for name in ["2.png", "2.webp", "6.png", "6.webp"] {
            assert!(load(name) != upright, "{name}");
        }
        for name in ["2.tif", "6.tif"] {
            assert!(load(name) == upright, "{name}");
        }
    }

    #[test]
    fn formats_are_told_by_content() {
        let image = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8, y as u8, 200]));
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            assert_eq!(load(&encoded(image.clone(), format)).unwrap(), image);
        }
    }

    #[test]
    fn grey_becomes_rgb_and_alpha_is_left_out() {
        let pixel =
            |image: DynamicImage| load(&encoded(image, ImageFormat::Png)).unwrap()[(0, 0)].0;
        let grey = ImageBuffer::from_pixel(1, 1, Luma([77u8]));
        assert_eq!(pixel(grey.into()), [77; 3]);
        let grey_alpha = ImageBuffer::from_pixel(1, 1, LumaA([77u8, 3]));
        assert_eq!(pixel(grey_alpha.into()), [77; 3]);
        let clear = ImageBuffer::from_pixel(1, 1, Rgba([1u8, 2, 3, 0]));
        assert_eq!(pixel(clear.into()), [1, 2, 3]);
    }

    #[test]
    fn sixteen_bits_become_their_high_byte() {
        let pixel =
            |image: DynamicImage| load(&encoded(image, ImageFormat::Png)).unwrap()[(0, 0)].0;
        let grey = ImageBuffer::from_pixel(1, 1, Luma([0x12FFu16]));
        assert_eq!(pixel(grey.into()), [0x12; 3]);
        let clear = ImageBuffer::from_pixel(1, 1, Rgba([0x01FFu16, 0xFF00, 0x00FF, 0]));
        assert_eq!(pixel(clear.into()), [0x01, 0xFF, 0x00]);
    }

    #[test]
    fn truncated_and_corrupt_files_are_refused() {
        let image = RgbImage::from_fn(40, 30, |x, y| Rgb([(x * y) as u8, x as u8, y as u8]));
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            let bytes = encoded(image.clone(), format);
            // A PNG's last four bytes are a checksum of nothing.
            for length in 0..bytes.len() - 4 {
                assert!(
                    decode(&bytes[..length], false).is_err(),
                    "{format:?} cut to {length}"
                );
            }
        }
        for name in ["lzw.tif", "planes.tif", "p6.ppm", "p6-16-bits.ppm"] {
            let bytes = fs::read(fixture("formats/rgb").join(name)).unwrap();
            for length in 0..bytes.len() {
                assert!(
                    decode(&bytes[..length], false).is_err(),
                    "{name} cut to {length}"
                );
            }
        }
        // What follows the first frame may be missing.
        let bytes = fs::read(fixture("formats/palette/interlaced.gif")).unwrap();
        let whole = decode(&bytes, false).unwrap();
        for length in 0..bytes.len() {
            let cut = decode(&bytes[..length], false);
            assert!(cut.is_err() || cut == Ok(whole.clone()), "cut to {length}");
        }
        let mut png = encoded(image, ImageFormat::Png);
        let middle = png.len() / 2;
        png[middle] ^= 0x55;
        assert!(problem(&png).starts_with("can't decode this Png: "));
        let jpeg = fs::read(fixture("jpeg/420/baseline.jpg")).unwrap();
        let cut = &jpeg[..jpeg.len() - 2];
        assert!(problem(cut).contains("truncated: expected an end-of-image marker"));
    }

    #[test]
    fn enormous_headers_are_refused_before_anything_is_allocated() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0\x27\x30\x9c\x9f\
            \0\0\0\0IDAT\x35\xaf\x06\x1e";
        assert!(problem(png).contains("100000x100000"), "{}", problem(png));

        let mut jpeg = fs::read(fixture("jpeg/420/baseline.jpg")).unwrap();
        let frame = jpeg
            .windows(2)
            .position(|pair| pair == [0xFF, 0xC0])
            .unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
        assert!(problem(&jpeg).contains("65500x65500"), "{}", problem(&jpeg));
        // What it claims would fit, but there is no data for it.
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0x20, 0x00, 0x20, 0x00]);
        let expected = "this JPEG is truncated: 8192x8192 pixels take at least 131072 bytes";
        assert!(problem(&jpeg).starts_with(expected), "{}", problem(&jpeg));
        // Each side is within bounds, the product is not.
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0x40, 0x00, 0x40, 0x00]);
        assert!(problem(&jpeg).contains("16384x16384"), "{}", problem(&jpeg));

        let mut gif = fs::read(fixture("formats/palette/plain.gif")).unwrap();
        gif[6..10].copy_from_slice(&[0xFF; 4]);
        assert!(problem(&gif).contains("65535x65535"), "{}", problem(&gif));
        let pnm = b"P6 16384 16384 255\n";
        assert!(problem(pnm).contains("16384x16384"), "{}", problem(pnm));
        // Width, height and the rows of a strip.
        let mut tiff = fs::read(fixture("formats/rgb/plain.tif")).unwrap();
        for tag in [256u16, 257, 278] {
            let entry = [&tag.to_le_bytes()[..], &[4, 0, 1, 0, 0, 0]].concat();
            let short = [&tag.to_le_bytes()[..], &[3, 0, 1, 0, 0, 0]].concat();
            let place = tiff
                .windows(8)
                .position(|bytes| bytes == entry || bytes == short);
            let value = place.unwrap() + 8;
            tiff[value..value + 4].copy_from_slice(&16_000u32.to_le_bytes());
        }
        assert!(problem(&tiff).contains("16000x16000"), "{}", problem(&tiff));

        let mut bmp = encoded(RgbImage::new(2, 2), ImageFormat::Bmp);
        bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
        bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());
        assert!(problem(&bmp).contains("60000x60000"), "{}", problem(&bmp));
    }

    #[test]
    fn a_decoder_that_panics_costs_its_image() {
        // An animated WebP whose first frame has no pixels.
        let seed = "/fuzz/seeds/image/frame-of-no-size.webp";
        let bytes = fs::read(format!("{}{seed}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let problem = problem(&bytes);
        assert!(problem.contains("its decoder crashed: "), "{problem}");
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert!(problem(b"hello\n").ends_with("found bytes that start with hello\\n"));

        let dir = tempfile::tempdir().unwrap();
        let error = load_rgb(dir.path(), false).unwrap_err().to_string();
        assert!(error.ends_with("found a folder"), "{error}");
        let error = load_rgb(&dir.path().join("none.jpg"), false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("none.jpg: expected a JPEG"), "{error}");
    }
}
