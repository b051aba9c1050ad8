//! TIFF: what `image` would get wrong is refused before it decodes.

use ::tiff::TiffError;
use ::tiff::decoder::Decoder;
use ::tiff::tags::Tag;
use std::io::Cursor;

/// Refuses kinds of TIFF that would come out wrong, by the tags of the first image. Says whether what it has besides
/// colours is alpha: other things are left out, as by Pillow.
pub(super) fn check(bytes: &[u8]) -> Result<bool, String> {
    let broken = |problem: TiffError| format!("can't decode this Tiff: {problem}");
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(broken)?;
    let mut tag = |tag: Tag| decoder.find_tag_unsigned_vec::<u16>(tag).map_err(broken);
    // The decoder doesn't look at these two.
    if tag(Tag::FillOrder)?.is_some_and(|order| order != [1]) {
        return Err(
            "this TIFF has the bits of each byte in reverse, which is not supported".into(),
        );
    }
    let extra = tag(Tag::ExtraSamples)?.unwrap_or_default();
    if extra.contains(&1) {
        return Err(
            "this TIFF has colours that are multiplied with alpha, which is not supported".into(),
        );
    }
    // It decodes JPEG with a decoder that gets some files wrong (`jpeg.rs`).
    let compression = tag(Tag::Compression)?.unwrap_or_default();
    if compression.iter().any(|kind| matches!(kind, 6 | 7)) {
        return Err("this TIFF is compressed as JPEG, which is not supported".into());
    }
    Ok(extra.contains(&2))
}
