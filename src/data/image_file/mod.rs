//! Image files to 8-bit RGB, as Pillow's `Image.open(path).convert("RGB")` reads them.

mod panics;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::error::{Error, Result};

/// The widest and highest image that is decoded.
const MAX_SIDE: u32 = 16_384;
/// The most bytes of decoded pixels: a header is refused before they are allocated.
const MAX_DECODED_BYTES: u64 = 512 << 20;
/// The most bytes read of one file.
const MAX_FILE_BYTES: u64 = 256 << 20;

const EXPECTED: &str = "expected a JPEG, PNG, WebP or BMP image";

/// The image in `path` as 8-bit RGB.
///
/// The format is told by the content, not by the name. Grey becomes RGB, alpha is dropped without
/// compositing, 16 bits become 8, CMYK becomes RGB. An EXIF orientation is not applied, because
/// torchvision's image folders, and so the published accuracies, don't apply it either.
///
/// # Errors
/// An [`Error::Input`] about `path` when it can't be read, is no image of these formats, is
/// truncated or corrupt, makes its decoder panic, or claims more pixels than 16384 on a side or 512 MiB in all.
pub fn load_rgb(path: &Path) -> Result<RgbImage> {
    let bytes = read(path)?;
    decode(&bytes).map_err(|problem| Error::input(path, problem))
}

/// The bytes of an image file, whatever they are.
///
/// # Errors
/// An [`Error::Input`] about `path` when it can't be read, is no regular file, or is larger than 256 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let cannot_read = |error| Error::input(path, format!("{EXPECTED}, can't read it: {error}"));
    let metadata = fs::metadata(path).map_err(cannot_read)?;
    // A pipe or a device would block or never end.
    if !metadata.is_file() {
        let found = if metadata.is_dir() {
            "a folder"
        } else {
            "neither a file nor a folder"
        };
        return Err(Error::input(path, format!("{EXPECTED}, found {found}")));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(Error::input(
            path,
            format!(
                "{EXPECTED} of at most {MAX_FILE_BYTES} bytes, found {} bytes",
                metadata.len()
            ),
        ));
    }
    fs::read(path).map_err(cannot_read)
}

/// [`load_rgb`] for a file that is in memory.
///
/// # Errors
/// As there, without the file's name.
pub fn decode(bytes: &[u8]) -> std::result::Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err(format!("{EXPECTED}, found an empty file"));
    }
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(format!(
            "{EXPECTED}, found a Git LFS pointer in its place (`git lfs pull` fetches the image)"
        ));
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => panics::caught(|| decode_jpeg(bytes)),
        Ok(format @ (ImageFormat::Png | ImageFormat::WebP | ImageFormat::Bmp)) => {
            panics::caught(|| decode_other(bytes, format))
        }
        Ok(format) => Err(format!("{EXPECTED}, found {format:?}")),
        Err(_) => Err(format!(
            "{EXPECTED}, found bytes that start with {}",
            bytes[..bytes.len().min(8)].escape_ascii()
        )),
    }
}

/// Straight to the decoder that `image` itself uses, because `image` always asks it to be lenient:
/// the missing part of a truncated JPEG would silently come out grey.
fn decode_jpeg(bytes: &[u8]) -> std::result::Result<RgbImage, String> {
    let broken = |problem: DecodeErrors| format!("can't decode this JPEG: {problem}");
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        // No limit here: `check_size` names the size it refuses.
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(broken)?;
    let info = decoder
        .info()
        .ok_or("can't decode this JPEG: it has no frame header")?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    let size = check_size(width, height, 3)?;
    // A block of 8 by 8 pixels takes a bit at the very least. The decoder makes grey ones where there are none.
    let least = u64::from(width.div_ceil(8)) * u64::from(height.div_ceil(8)) / 8;
    let found = bytes.len() as u64;
    if found < least {
        return Err(format!(
            "this JPEG is truncated: {width}x{height} pixels take at least {least} bytes, found {found}"
        ));
    }
    // The decoder puts up with a baseline scan whose last few bytes are cut off.
    if !has_end_of_image(bytes) {
        return Err("this JPEG is truncated: expected an end-of-image marker, found none".into());
    }
    let mut pixels = vec![0; size];
    decoder.decode_into(&mut pixels).map_err(broken)?;
    RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| format!("can't decode this JPEG: expected {width}x{height} pixels"))
}

/// Whether an end-of-image marker follows the first scan. An earlier one would be an EXIF
/// thumbnail's, so the segments before the scan are stepped over; inside a scan the marker's bytes
/// can't occur.
fn has_end_of_image(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];
    // After the start-of-image marker, which has no length.
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match rest {
            [0xFF, START_OF_SCAN, scan @ ..] => {
                return scan.windows(2).any(|pair| pair == END_OF_IMAGE);
            }
            [0xFF, 1..=0xFE, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            // Fill bytes before a marker.
            [_, tail @ ..] => rest = tail,
            [] => return false,
        }
    }
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> std::result::Result<RgbImage, String> {
    let broken = |problem: ImageError| format!("can't decode this {format:?}: {problem}");
    if format == ImageFormat::WebP {
        check_riff_length(bytes)?;
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(
        width,
        height,
        u64::from(decoder.color_type().bytes_per_pixel()),
    )?;
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    Ok(to_rgb(image))
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

/// The bytes that the decoded image takes, refused when there are too many or none.
fn check_size(width: u32, height: u32, bytes_per_pixel: u64) -> std::result::Result<usize, String> {
    let size = u64::from(width)
        .saturating_mul(u64::from(height))
        .saturating_mul(bytes_per_pixel);
    let sides = 1..=MAX_SIDE;
    if sides.contains(&width) && sides.contains(&height) && size <= MAX_DECODED_BYTES {
        Ok(size as usize)
    } else {
        Err(format!(
            "expected an image of 1 to {MAX_SIDE} pixels on each side and at most {} MiB when decoded, \
             found {width}x{height} pixels",
            MAX_DECODED_BYTES >> 20
        ))
    }
}

fn to_rgb(image: DynamicImage) -> RgbImage {
    match image {
        // The high byte, as Pillow takes it; `image` would round. (Pillow 13 and before clip 16-bit
        // grey at 255, which turns nearly all of it white: not followed.)
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = image.into_rgb16();
            RgbImage::from_fn(wide.width(), wide.height(), |x, y| {
                wide.get_pixel(x, y)
                    .0
                    .map(|value| (value >> 8) as u8)
                    .into()
            })
        }
        image => image.into_rgb8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    fn fixture(name: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(name)
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
        load_rgb(&path)
    }

    fn problem(bytes: &[u8]) -> String {
        match load(bytes).unwrap_err() {
            Error::Input { path, problem } => {
                assert_eq!(path.file_name().unwrap(), "image.dat");
                problem
            }
            other => panic!("{other:?}"),
        }
    }

    /// The largest and the mean difference from Pillow's decoding.
    fn difference_from_pillow(name: &str) -> (u8, f64) {
        let ours = load_rgb(&fixture(&format!("{name}.jpg"))).unwrap();
        let pillows = load_rgb(&fixture(&format!("{name}.png"))).unwrap();
        assert_eq!(ours.dimensions(), pillows.dimensions());
        let differences = ours
            .as_raw()
            .iter()
            .zip(pillows.as_raw())
            .map(|(a, b)| a.abs_diff(*b));
        let sum: u32 = differences.clone().map(u32::from).sum();
        (
            differences.max().unwrap(),
            f64::from(sum) / ours.as_raw().len() as f64,
        )
    }

    #[test]
    fn jpegs_decode_as_pillows_do() {
        // The inverse DCT and the colour conversion round otherwise in a few pixels of a hundred;
        // halved chroma adds the rounding between its two upsampling passes, which libjpeg-turbo
        // does in one.
        for (name, most, mean) in [
            ("progressive", 3, 0.05),
            ("cmyk", 1, 0.05),
            ("chroma-420", 4, 0.5),
        ] {
            let found = difference_from_pillow(name);
            assert!(found.0 <= most && found.1 <= mean, "{name}: {found:?}");
        }
    }

    #[test]
    fn every_truncation_of_a_jpeg_is_refused() {
        for name in ["chroma-420.jpg", "progressive.jpg", "cmyk.jpg"] {
            let bytes = fs::read(fixture(name)).unwrap();
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length]).is_err(), "{name} cut to {length}");
            }
        }
    }

    #[test]
    fn what_follows_a_jpeg_is_no_concern() {
        let mut bytes = fs::read(fixture("chroma-420.jpg")).unwrap();
        bytes.extend(b"\xFF\xDA appended by a phone");
        assert!(decode(&bytes).is_ok());
    }

    #[test]
    fn an_exif_orientation_is_not_applied() {
        let image = load_rgb(&fixture("orientation.jpg")).unwrap();
        assert_eq!(image.dimensions(), (16, 8));
    }

    #[test]
    fn formats_are_told_by_content() {
        let image = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8, y as u8, 200]));
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            assert_eq!(load(&encoded(image.clone(), format)).unwrap(), image);
        }
    }

    #[test]
    fn grey_becomes_rgb_and_alpha_is_dropped() {
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
                    decode(&bytes[..length]).is_err(),
                    "{format:?} cut to {length}"
                );
            }
        }
        let mut png = encoded(image, ImageFormat::Png);
        let middle = png.len() / 2;
        png[middle] ^= 0x55;
        assert!(problem(&png).starts_with("can't decode this Png: "));
        let jpeg = fs::read(fixture("chroma-420.jpg")).unwrap();
        let cut = &jpeg[..jpeg.len() - 2];
        assert!(problem(cut).contains("truncated: expected an end-of-image marker"));
    }

    #[test]
    fn enormous_headers_are_refused_before_anything_is_allocated() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0\x27\x30\x9c\x9f\
            \0\0\0\0IDAT\x35\xaf\x06\x1e";
        assert!(problem(png).contains("100000x100000"), "{}", problem(png));

        let mut jpeg = fs::read(fixture("chroma-420.jpg")).unwrap();
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
        assert!(problem.contains("its decoder panicked: "), "{problem}");
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert!(problem(b"").contains("found an empty file"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        assert!(problem(pointer).contains("Git LFS pointer"));
        assert!(problem(b"GIF89a\x01\0\x01\0").ends_with("found Gif"));
        assert!(problem(b"hello\n").ends_with("found bytes that start with hello\\n"));

        let dir = tempfile::tempdir().unwrap();
        let error = load_rgb(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("found a folder"), "{error}");
        let error = load_rgb(&dir.path().join("none.jpg"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none.jpg: expected a JPEG"), "{error}");
    }
}
