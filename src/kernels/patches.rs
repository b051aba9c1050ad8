//! Images to the rows that the patch embedding multiplies.

use super::WORKGROUP;
use super::catalogue::{Case, Mistake, case};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "patches",
    source: include_str!("../../shaders/patches.wgsl"),
};

/// Describes the shape of a batch of images and their square patches.
#[derive(Clone, Copy, Debug)]
pub struct Patches {
    /// Images.
    pub batch: usize,
    /// Colour channels.
    pub channels: usize,
    /// Height and width of an image, in pixels; what the patches leave over at the right and below is not used.
    pub image_size: [usize; 2],
    /// Pixels along one side of a patch.
    pub patch_size: usize,
}

impl Patches {
    /// Counts the rows and columns of an image's patches.
    pub fn grid(&self) -> [usize; 2] {
        self.image_size.map(|side| side / self.patch_size)
    }

    /// Counts the rows of the result: the patches of all images.
    pub fn rows(&self) -> usize {
        let [rows, columns] = self.grid();
        self.batch * rows * columns
    }

    /// Counts the columns of the result: the pixels of one patch, in all channels.
    pub fn width(&self) -> usize {
        self.channels * self.patch_size * self.patch_size
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    channels: u32,
    height: u32,
    width: u32,
    patch_size: u32,
    rows: u32,
    columns: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    count,
    channels,
    height,
    width,
    patch_size,
    rows,
    columns
});

/// Rearranges `[batch, channels, height, width]` to `[batch · patches, channels · patch_size²]`. Patches go
/// row by row over the image; a patch's pixels are in the order of timm's flattened `patch_embed.proj.weight`.
pub fn patches(commands: &mut Commands, shape: &Patches, images: &Buffer<f32>) -> Buffer<f32> {
    let out = commands.uninitialized(shape.rows() * shape.width());
    match commands.device() {
        Device::Cpu(_) => cpu(shape, &images.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let [[height, width], [rows, columns]] = [shape.image_size, shape.grid()];
            let parameters = Parameters {
                count: out.len() as u32,
                channels: shape.channels as u32,
                height: height as u32,
                width: width as u32,
                patch_size: shape.patch_size as u32,
                rows: rows as u32,
                columns: columns as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(images), Binding::F32(&out)],
                out.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(shape: &Patches, images: &[f32], out: &mut [f32]) {
    let [[height, width], [rows, columns]] = [shape.image_size, shape.grid()];
    let patch = shape.patch_size;
    out.par_chunks_mut(shape.width())
        .enumerate()
        .for_each(|(row, out)| {
            let image = row / (rows * columns);
            let (down, across) = (row / columns % rows, row % columns);
            for (line, out) in out.chunks_exact_mut(patch).enumerate() {
                let channel = image * shape.channels + line / patch;
                let start =
                    (channel * height + down * patch + line % patch) * width + across * patch;
                out.copy_from_slice(&images[start..][..patch]);
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "% (p.rows * p.columns)",
    wrong: "% (p.rows * p.columns + 1u)",
});

/// Lists cases with patches in the order of a convolution's weight. The last sizes leave a margin over.
pub(super) fn cases() -> Vec<Case> {
    let sizes = [
        (1, 1, [1, 1], 1),
        (3, 3, [12, 12], 4),
        (2, 3, [15, 15], 3),
        (2, 4, [9, 15], 3),
        (2, 2, [17, 17], 5),
        (3, 1, [17, 12], 5),
    ];
    let cases = sizes.map(|(batch, channels, [height, width], patch)| {
        let shape = Patches {
            batch,
            channels,
            image_size: [height, width],
            patch_size: patch,
        };
        case(
            format!("{batch}x{channels}x{height}x{width} by {patch}"),
            move || {
                let pixels = 0..batch * channels * height * width;
                pixels.map(|pixel| pixel as f32).collect::<Vec<_>>()
            },
            move |commands, device, images| patches(commands, &shape, &device.upload(images)),
        )
        .exact(move |images| {
            let mut expected = Vec::new();
            let [rows, columns] = [height / patch, width / patch];
            for place in 0..batch * rows * columns {
                let image = place / (rows * columns);
                let (down, across) = (place / columns % rows, place % columns);
                for channel in 0..channels {
                    for within in 0..patch * patch {
                        let y = down * patch + within / patch;
                        let x = across * patch + within % patch;
                        expected
                            .push(images[((image * channels + channel) * height + y) * width + x]);
                    }
                }
            }
            expected
        })
    });
    cases.into()
}
