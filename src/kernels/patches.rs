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

/// Describes the shape of a batch of square images and their patches.
#[derive(Clone, Copy, Debug)]
pub struct Patches {
    /// Images.
    pub batch: usize,
    /// Colour channels.
    pub channels: usize,
    /// Pixels along one side of an image; what the patches leave over at the right and below is not used.
    pub image_size: usize,
    /// Pixels along one side of a patch.
    pub patch_size: usize,
}

impl Patches {
    /// Counts the patches along one side of an image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Counts the rows of the result: the patches of all images.
    pub fn rows(&self) -> usize {
        self.batch * self.grid() * self.grid()
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
    image_size: u32,
    patch_size: u32,
    grid: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    count,
    channels,
    image_size,
    patch_size,
    grid
});

/// Rearranges `[batch, channels, image_size, image_size]` to `[batch · patches, channels · patch_size²]`. Patches go
/// row by row over the image; a patch's pixels are in the order of timm's flattened `patch_embed.proj.weight`.
pub fn patches(commands: &mut Commands, shape: &Patches, images: &Buffer<f32>) -> Buffer<f32> {
    let out = commands.uninitialized(shape.rows() * shape.width());
    match commands.device() {
        Device::Cpu(_) => cpu(shape, &images.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: out.len() as u32,
                channels: shape.channels as u32,
                image_size: shape.image_size as u32,
                patch_size: shape.patch_size as u32,
                grid: shape.grid() as u32,
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
    let (size, patch, grid) = (shape.image_size, shape.patch_size, shape.grid());
    out.par_chunks_mut(shape.width())
        .enumerate()
        .for_each(|(row, out)| {
            let image = row / (grid * grid);
            let (down, across) = (row / grid % grid, row % grid);
            for (line, out) in out.chunks_exact_mut(patch).enumerate() {
                let channel = image * shape.channels + line / patch;
                let start = (channel * size + down * patch + line % patch) * size + across * patch;
                out.copy_from_slice(&images[start..][..patch]);
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "% (p.grid * p.grid)",
    wrong: "% (p.grid * p.grid + 1u)",
});

/// Lists cases with patches in the order of a convolution's weight. The last size leaves a margin over.
pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1, 1, 1), (3, 3, 12, 4), (2, 3, 15, 3), (2, 2, 17, 5)];
    let cases = sizes.map(|(batch, channels, side, patch)| {
        let shape = Patches {
            batch,
            channels,
            image_size: side,
            patch_size: patch,
        };
        case(
            format!("{batch}x{channels}x{side}x{side} by {patch}"),
            move || {
                let pixels = 0..batch * channels * side * side;
                pixels.map(|pixel| pixel as f32).collect::<Vec<_>>()
            },
            move |commands, device, images| patches(commands, &shape, &device.upload(images)),
        )
        .exact(move |images| {
            let mut expected = Vec::new();
            let grid = side / patch;
            for place in 0..batch * grid * grid {
                let (image, down, across) =
                    (place / (grid * grid), place / grid % grid, place % grid);
                for channel in 0..channels {
                    for within in 0..patch * patch {
                        let y = down * patch + within / patch;
                        let x = across * patch + within % patch;
                        expected.push(images[((image * channels + channel) * side + y) * side + x]);
                    }
                }
            }
            expected
        })
    });
    cases.into()
}
