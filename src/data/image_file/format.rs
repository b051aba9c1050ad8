//! Which files are images: by their names in a folder, by their first bytes when they are read.

use image::ImageFormat;
#[cfg(feature = "files")]
use std::path::Path;

/// Words what is expected of a file.
pub(super) const EXPECTED: &str = "expected a JPEG, PNG, WebP, BMP, TIFF, GIF or PNM image";

#[cfg(feature = "files")]
/// Lists the endings of names that make a file in a folder an image, in any case.
pub(crate) const EXTENSIONS: [&str; 14] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pbm",
    "pnm",
];

#[cfg(feature = "files")]
/// Formats that are not read, by what files of theirs are called and by their names.
const NOT_READ: [(&str, &str); 7] = [
    ("avif", "AVIF"),
    ("heic", "HEIC"),
    ("heif", "HEIC"),
    ("hif", "HEIC"),
    ("jxl", "JPEG XL"),
    ("jp2", "JPEG 2000"),
    ("j2k", "JPEG 2000"),
];

#[cfg(feature = "files")]
/// Says whether a file is an image by its name.
pub(crate) fn is_named_as_image(path: &Path) -> bool {
    EXTENSIONS.iter().any(|known| has_extension(path, known))
}

#[cfg(feature = "files")]
/// Names the format of an image that is not read, if a file is one by its name.
pub(crate) fn named_as_not_read(path: &Path) -> Option<&'static str> {
    let mut formats = NOT_READ.iter();
    let found = formats.find(|(extension, _)| has_extension(path, extension));
    found.map(|(_, format)| *format)
}

#[cfg(feature = "files")]
fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Tells the format of a file's content, whatever its name is.
///
/// # Errors
/// What was found instead of an image that is read.
pub(super) fn told_by(bytes: &[u8]) -> Result<ImageFormat, String> {
    if bytes.is_empty() {
        return Err(format!("{EXPECTED}, found an empty file"));
    }
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(format!(
            "{EXPECTED}, found a Git LFS pointer in its place (`git lfs pull` fetches the image)"
        ));
    }
    if let Some(format) = not_read(bytes) {
        return Err(format!("{EXPECTED}, found {format}, which is not read"));
    }
    if bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+") {
        // BigTIFF.
        return Ok(ImageFormat::Tiff);
    }
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
    match image::guess_format(bytes) {
        Ok(format @ (Jpeg | Png | WebP | Bmp | Tiff | Gif | Pnm)) => Ok(format),
        Ok(format) => Err(format!("{EXPECTED}, found {format:?}, which is not read")),
        Err(_) => Err(format!(
            "{EXPECTED}, found bytes that start with {}",
            bytes[..bytes.len().min(8)].escape_ascii()
        )),
    }
}

/// Names a format that is not read and that `image` doesn't tell.
fn not_read(bytes: &[u8]) -> Option<&'static str> {
    let boxed = |kind: &[u8; 4]| bytes.get(4..8) == Some(kind);
    if boxed(b"ftyp") {
        return match bytes.get(8..12)? {
            b"avif" | b"avis" => Some("AVIF"),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                Some("HEIC")
            }
            _ => Some("a video or another file of boxes"),
        };
    }
    if bytes.starts_with(b"\xFF\x0A") || boxed(b"JXL ") {
        return Some("JPEG XL");
    }
    if bytes.starts_with(b"\xFF\x4F\xFF\x51") || boxed(b"jP  ") {
        return Some("JPEG 2000");
    }
    None
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_names() {
        for name in ["a.JPG", "b.jfif", "c.Jpe", "d.x.tif", "e.PGM", "f.gif"] {
            assert!(is_named_as_image(Path::new(name)), "{name}");
        }
        for name in ["jpg", ".jpg", "a.jpg.part", "b.avif", "c.svg", "Thumbs.db"] {
            assert!(!is_named_as_image(Path::new(name)), "{name}");
        }
        assert_eq!(named_as_not_read(Path::new("a.HEIC")), Some("HEIC"));
        assert_eq!(named_as_not_read(Path::new("a.jpg")), None);
    }

    #[test]
    fn formats_that_are_not_read_are_named() {
        let found = |bytes: &[u8]| told_by(bytes).unwrap_err();
        for (bytes, name) in [
            (&b"\0\0\0\x20ftypavif\0\0\0\0"[..], "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
            (
                b"\0\0\0\x18ftypmp42\0\0\0\0",
                "a video or another file of boxes",
            ),
            (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
            (b"\xFF\x0A\xFA\x7F", "JPEG XL"),
            (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
            (b"\0\0\x01\0\x01\0", "Ico"),
        ] {
            let expected = format!("found {name}, which is not read");
            assert!(found(bytes).ends_with(&expected), "{}", found(bytes));
        }
        assert_eq!(told_by(b"MM\0+\0\x08\0\0"), Ok(ImageFormat::Tiff));
        assert!(found(b"").ends_with("found an empty file"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        assert!(found(pointer).contains("Git LFS pointer"));
        assert!(found(b"hello\n").ends_with("found bytes that start with hello\\n"));
    }
}
