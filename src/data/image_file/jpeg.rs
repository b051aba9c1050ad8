//! JPEG: what the headers say is read here and decides what is refused; `jpeg-decoder` decodes.
//!
//! It was chosen by its pixels. Of 2,400 small files (subsampling, progressive or not, scan scripts, restart intervals,
//! colour spaces, odd sizes) it decodes every one within 3 of Pillow, on average 0.08. zune-jpeg 0.5.15, which `image`
//! uses, makes 514 of them garbage and refuses 826; 0.5.16-rc3 makes 340 garbage; libjpeg-turbo-rs 0.9.0 has Pillow's very
//! bytes, but refuses the 810 baseline files that have several scans, and panics on 35. The bindings to C libraries need
//! more than a C compiler. Without its SIMD (`platform_independent`) it gives the same pixels on every machine.
//!
//! What `jpeg-decoder` gets wrong is refused by [`Headers::check`]. It interpolates halved chroma in images of 3 or 4 pixels'
//! width too, which libjpeg doesn't.

use super::check_size;
use super::orientation;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_decoder::{ColorTransform, Decoder};

/// Counts the samples along a side of a block.
const BLOCK: u32 = 8;

/// Decodes the picture, and tells how it is to be turned.
pub(super) fn decode(bytes: &[u8]) -> Result<(DynamicImage, Orientation), String> {
    let headers = Headers::read(bytes)?;
    headers.check(bytes.len())?;
    let (width, height) = (headers.frame.width, headers.frame.height);
    let mut decoder = Decoder::new(bytes);
    decoder.set_color_transform(headers.colours());
    let pixels = decoder
        .decode()
        .map_err(|problem| format!("can't decode this JPEG: {problem}"))?;
    let image = match headers.frame.components.len() {
        1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        3 => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, rgb_of_cmyk(&pixels)).map(DynamicImage::from),
    };
    let image =
        image.ok_or_else(|| format!("can't decode this JPEG: expected {width}x{height} pixels"))?;
    Ok((image, orientation(headers.exif)))
}

/// Converts inks to red, green and blue as Pillow's `convert("RGB")` does.
fn rgb_of_cmyk(pixels: &[u8]) -> Vec<u8> {
    let colour = |inks: &[u8; 4]| {
        let [cyan, magenta, yellow, black] = inks.map(u32::from);
        let white = 255 - black;
        [cyan, magenta, yellow].map(|ink| {
            // ink · white / 255, rounded.
            let product = ink * white + 128;
            (white - ((product + (product >> 8)) >> 8)) as u8
        })
    };
    pixels.as_chunks().0.iter().flat_map(colour).collect()
}

/// Holds what the marker segments say.
struct Headers<'a> {
    frame: Frame,
    /// Each scan's components, by their places in the frame.
    scans: Vec<Vec<usize>>,
    /// Whether there is a JFIF segment, whose colours are Y, Cb and Cr.
    jfif: bool,
    /// The transform that Adobe's segment names: none, Y Cb Cr, or Y Cb Cr K.
    adobe: Option<u8>,
    exif: Option<&'a [u8]>,
}

struct Frame {
    width: u32,
    height: u32,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// Samples across and down for each of the frame's units.
    sampling: (u32, u32),
}

impl<'a> Headers<'a> {
    /// Reads all segments up to the end of the image. What an EXIF thumbnail says lies inside of a segment; what
    /// follows the image is not read.
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut frame = None;
        let (mut jfif, mut adobe, mut exif) = (false, None, None);
        let mut scans: Vec<Vec<usize>> = Vec::new();
        let mut rest = bytes;
        loop {
            let (marker, after) = next_marker(rest).ok_or(
                "this JPEG is truncated: expected an end-of-image marker, found none".to_owned(),
            )?;
            rest = after;
            match marker {
                // Start of image and restarts have no segment.
                0xD8 | 0xD0..=0xD7 | 0x01 => continue,
                0xD9 => break,
                _ => {}
            }
            let (segment, after) = split_segment(rest)
                .ok_or("this JPEG is truncated: a segment is longer than the file".to_owned())?;
            rest = after;
            match marker {
                0xC0..=0xC2 => frame = Some(Frame::parse(segment)?),
                0xC4 | 0xC8 | 0xCC => {}
                0xC3..=0xCF | 0xDE => return Err(format!("this JPEG is {}", process(marker))),
                0xDA => {
                    let frame: &Frame = frame.as_ref().ok_or(
                        "can't decode this JPEG: a scan comes before the frame".to_owned(),
                    )?;
                    scans.push(frame.scan(segment)?);
                }
                // Later ones change nothing in libjpeg either.
                _ if !scans.is_empty() => {}
                0xE0 => jfif |= segment.starts_with(b"JFIF\0") && segment.len() >= 14,
                0xE1 if exif.is_none() => exif = segment.strip_prefix(b"Exif\0\0"),
                0xEE if segment.starts_with(b"Adobe") => adobe = segment.get(11).copied().or(adobe),
                _ => {}
            }
        }
        Ok(Self {
            frame: frame.ok_or("can't decode this JPEG: it has no frame header".to_owned())?,
            scans,
            jfif,
            adobe,
            exif,
        })
    }

    /// Refuses what takes too much memory and what the decoder would get wrong.
    fn check(&self, found: usize) -> Result<(), String> {
        let Frame {
            width,
            height,
            ref components,
        } = self.frame;
        check_size(width, height, components.len().max(3) as u64)?;
        // A block takes a bit at the very least. The decoder makes grey ones where there are none.
        let least = u64::from(width.div_ceil(BLOCK)) * u64::from(height.div_ceil(BLOCK))
            / u64::from(u8::BITS);
        if (found as u64) < least {
            return Err(format!(
                "this JPEG is truncated: {width}x{height} pixels take at least {least} bytes, found {found}"
            ));
        }
        for scan in &self.scans {
            if let [alone] = scan[..]
                && !self.frame.is_read_alone(&components[alone])
            {
                return Err(format!(
                    "this JPEG has a component of a sampling between the others' in a scan of its own, \
                     which is not supported: {} of at most {}",
                    pair(components[alone].sampling),
                    pair(self.frame.most()),
                ));
            }
        }
        Ok(())
    }

    /// Tells how libjpeg, and so Pillow, understands the components. (The decoder itself goes by their ids first.)
    fn colours(&self) -> ColorTransform {
        let ids: Vec<u8> = self.frame.components.iter().map(|one| one.id).collect();
        match (ids.len(), self.adobe) {
            (1, _) => ColorTransform::Grayscale,
            (3, _) if self.jfif => ColorTransform::YCbCr,
            (3, Some(0)) => ColorTransform::RGB,
            (3, None) if ids == *b"RGB" => ColorTransform::RGB,
            (3, _) => ColorTransform::YCbCr,
            (_, None | Some(0)) => ColorTransform::CMYK,
            (_, Some(_)) => ColorTransform::YCCK,
        }
    }
}

impl Frame {
    fn parse(segment: &[u8]) -> Result<Self, String> {
        let broken = || "can't decode this JPEG: its frame header is damaged".to_owned();
        let [precision, height @ .., width_high, width_low, count] =
            segment.first_chunk::<6>().ok_or_else(broken)?;
        if *precision != 8 {
            return Err(format!(
                "expected a JPEG of 8 bits, found one of {precision}"
            ));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(format!(
                "expected a JPEG of 1, 3 or 4 components, found {count}"
            ));
        }
        let components = segment[6..].chunks_exact(3).map(|component| Component {
            id: component[0],
            sampling: (u32::from(component[1] >> 4), u32::from(component[1] & 15)),
        });
        let components: Vec<Component> = components.collect();
        let sampled = |component: &Component| {
            (1..=4).contains(&component.sampling.0) && (1..=4).contains(&component.sampling.1)
        };
        if components.len() != usize::from(*count) || !components.iter().all(sampled) {
            return Err(broken());
        }
        Ok(Self {
            width: u32::from(u16::from_be_bytes([*width_high, *width_low])),
            height: u32::from(u16::from_be_bytes(*height)),
            components,
        })
    }

    /// Returns the places in the frame of the components that a scan names.
    fn scan(&self, segment: &[u8]) -> Result<Vec<usize>, String> {
        let broken = || "can't decode this JPEG: a scan header is damaged".to_owned();
        let (count, rest) = segment.split_first().ok_or_else(broken)?;
        let ids = rest.get(..2 * usize::from(*count)).ok_or_else(broken)?;
        let place = |id: u8| self.components.iter().position(|one| one.id == id);
        let places = ids
            .chunks_exact(2)
            .map(|one| place(one[0]).ok_or_else(broken));
        places.collect()
    }

    /// Returns the components' largest sampling factors, across and down.
    fn most(&self) -> (u32, u32) {
        let samplings = self.components.iter().map(|one| one.sampling);
        samplings.fold((1, 1), |most, one| (most.0.max(one.0), most.1.max(one.1)))
    }

    /// Says whether the decoder reads as many blocks of a component that has a scan to itself as there are. It goes by
    /// the image's blocks, and by those that the component would have together with others, which are filled up to
    /// whole units.
    fn is_read_alone(&self, component: &Component) -> bool {
        let right = |length: u32, sampling: u32, most: u32| {
            let there = (length * sampling).div_ceil(most).div_ceil(BLOCK);
            let filled_up = length.div_ceil(BLOCK * most) * sampling;
            filled_up.min(length.div_ceil(BLOCK)) == there
        };
        let (most, own) = (self.most(), component.sampling);
        right(self.width, own.0, most.0) && right(self.height, own.1, most.1)
    }
}

/// Finds the next marker, and returns it with what follows it. Bytes before it are passed over, whatever they are, as
/// by libjpeg: entropy-coded data, fill bytes, and what some cameras leave between segments.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let start = rest.iter().position(|&byte| byte == 0xFF)?;
        rest = &rest[start..];
        let code = rest.iter().position(|&byte| byte != 0xFF)?;
        let marker = rest[code];
        rest = &rest[code + 1..];
        if marker != 0 {
            return Some((marker, rest));
        }
    }
}

/// Splits a segment without its length from what follows it.
fn split_segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)).checked_sub(2)?)
}

/// Names the process that a frame header which is not supported stands for.
fn process(marker: u8) -> &'static str {
    match marker {
        0xC3 => "lossless, which is not supported",
        0xC9..=0xCB => "arithmetic-coded, which is not supported",
        _ => "hierarchical, which is not supported",
    }
}

fn pair((across, down): (u32, u32)) -> String {
    format!("{across}x{down}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn corpus(name: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jpeg")).join(name)
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn is_jpeg(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "jpg")
    }

    fn rgb(path: &Path) -> RgbImage {
        let decoded = decode(&fs::read(path).unwrap());
        let (image, _) = decoded.unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
        image.into_rgb8()
    }

    #[test]
    fn pixels_are_pillows() {
        // Two inverse DCTs may round a sample apart by 1, and interpolations of Cb and Cr by another. So a colour is off by at
        // most 1 + 2 · 1.772, and 1 for its own rounding. Most colours are equal; nearest neighbours in place of the
        // interpolation, say, would be off by several on average.
        const MOST: u8 = 5;
        const MEAN: f64 = 0.25;
        let mut compared = 0;
        for folder in entries(&corpus("")) {
            let Ok(pillows) = image::open(folder.join("pillow.png")) else {
                assert!(folder.ends_with("refused"), "{}", folder.display());
                continue;
            };
            let pillows = pillows.into_rgb8();
            for path in entries(&folder).into_iter().filter(|path| is_jpeg(path)) {
                let ours = rgb(&path);
                assert_eq!(
                    ours.dimensions(),
                    pillows.dimensions(),
                    "{}",
                    path.display()
                );
                let pairs = ours.as_raw().iter().zip(pillows.as_raw());
                let differences: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
                let sum: u32 = differences.iter().map(|&one| u32::from(one)).sum();
                let mean = f64::from(sum) / differences.len() as f64;
                let most = *differences.iter().max().unwrap();
                assert!(
                    most <= MOST && mean <= MEAN,
                    "{}: at most {most}, on average {mean}",
                    path.display()
                );
                compared += 1;
            }
        }
        assert_eq!(compared, 126);
    }

    #[test]
    fn what_would_come_out_wrong_is_refused() {
        for (name, problem) in [
            (
                "sampling-between",
                "has a component of a sampling between the others' in a scan of its own, which is not supported: 2x1 \
                 of at most 4x1",
            ),
            ("arithmetic", "arithmetic-coded, which is not supported"),
            ("scan-missing", "not all components have data"),
            ("restart-missing", "no marker found where RST0 was expected"),
            (
                "two-components",
                "expected a JPEG of 1, 3 or 4 components, found 2",
            ),
        ] {
            let bytes = fs::read(corpus("refused").join(name).with_extension("jpg")).unwrap();
            let found = decode(&bytes).unwrap_err();
            assert!(found.contains(problem), "{name}: {found}");
        }
        let frame = |marker: u8, precision: u8| {
            let mut bytes = fs::read(corpus("420/baseline.jpg")).unwrap();
            let place = bytes
                .windows(2)
                .position(|pair| pair == [0xFF, 0xC0])
                .unwrap();
            bytes[place + 1] = marker;
            bytes[place + 4] = precision;
            decode(&bytes).unwrap_err()
        };
        assert_eq!(
            frame(0xC1, 12),
            "expected a JPEG of 8 bits, found one of 12"
        );
        assert!(frame(0xC3, 8).contains("lossless"));
        assert!(frame(0xC5, 8).contains("hierarchical"));
    }

    #[test]
    fn every_truncation_is_refused() {
        for name in [
            "420/baseline",
            "422/one-each",
            "444/progressive",
            "cmyk-444/adobe",
        ] {
            let bytes = fs::read(corpus(name).with_extension("jpg")).unwrap();
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length]).is_err(), "{name} cut to {length}");
            }
        }
    }
}
