//! From image files to network input: folders and lists, decoding, preprocessing; and the names of classes.
//!
//! Everything here follows what the checkpoints were evaluated with (timm on torchvision on
//! Pillow), so that a difference in accuracy comes from quantization and not from the pixels.

pub mod choice;
#[cfg(feature = "files")]
pub mod class_folders;
pub mod class_names;
pub mod image_file;
pub mod image_size;
mod pixels;
pub mod preprocess;
pub(crate) mod resample;
#[cfg(feature = "files")]
pub mod samples;
