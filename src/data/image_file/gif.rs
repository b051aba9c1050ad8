//! GIF: the first frame, without compositing, as Pillow's `convert("RGB")` or `convert("RGBA")` has it.

use super::check_size;
use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::{DynamicImage, RgbaImage};

/// Decodes the picture.
pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    let broken = |problem: DecodingError| format!("can't decode this GIF: {problem}");
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // No limit here: `check_size` names the size it refuses.
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(bytes).map_err(broken)?;
    let screen = (decoder.width(), decoder.height());
    let frame = decoder
        .next_frame_info()
        .map_err(broken)?
        .ok_or("can't decode this GIF: it has no frame")?
        .clone();
    // A frame that is larger than the screen is shown whole.
    let width = u32::from(screen.0).max(u32::from(frame.left) + u32::from(frame.width));
    let height = u32::from(screen.1).max(u32::from(frame.top) + u32::from(frame.height));
    check_size(width, height, 4)?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(broken)?;

    let palette = frame.palette.as_deref().or(decoder.global_palette());
    let colour = |index: u8| {
        let [red, green, blue] = match palette {
            Some(palette) => {
                let start = 3 * usize::from(index);
                let colour = palette.get(start..start + 3);
                colour.map_or([0; 3], |colour| [colour[0], colour[1], colour[2]])
            }
            None => [index; 3],
        };
        let alpha = match frame.transparent == Some(index) {
            true => 0,
            false => 255,
        };
        [red, green, blue, alpha]
    };
    // What the frame leaves free is Pillow's: the transparent colour, or the first.
    let mut image =
        RgbaImage::from_pixel(width, height, colour(frame.transparent.unwrap_or(0)).into());
    for (row, indices) in
        (u32::from(frame.top)..).zip(indices.chunks(usize::from(frame.width).max(1)))
    {
        for (column, &index) in (u32::from(frame.left)..).zip(indices) {
            image.put_pixel(column, row, colour(index).into());
        }
    }
    Ok(image.into())
}
