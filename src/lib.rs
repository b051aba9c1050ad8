//! Post-training quantization of vision transformers (PTQ4ViT), computed in integers on any GPU.
//!
//! From a timm checkpoint and a few images to a quantized model, and to what it sees in a batch of images:
//!
//! ```
//! use ptq4vit_gpu::data::samples::{choose, flat_folder, load};
//! use ptq4vit_gpu::device::open;
//! use ptq4vit_gpu::inference::Model;
//! use ptq4vit_gpu::families::sites;
//! use ptq4vit_gpu::model::open_checkpoint;
//! use ptq4vit_gpu::model::recipe::resolve;
//! use ptq4vit_gpu::quant::{
//!     Calibration, Event, Method, Preset, Provenance, QuantizedModel,
//! };
//! use ptq4vit_gpu::report::guesses;
//! use std::path::Path;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = &folder.path().join("vit_mnist_w6a6.safetensors");
//! // `None` is the best device there is.
//! let device = open(Some("cpu"))?.device;
//!
//! // Load: the weights, and what the config.json beside them tells of the architecture and its images.
//! let weights = open_checkpoint(Path::new("models/demo/vit_mnist/model.safetensors"))?;
//! let resolved = resolve(&weights, None)?;
//! let samples = choose(flat_folder(Path::new("models/demo/calibration"))?, 4, 0)?;
//! let images = load(&samples, &resolved.preprocessing)?;
//!
//! // Calibrate, with fewer candidates than the paper's 100 for each scale.
//! let sites = sites(&resolved.architecture);
//! let mut method = Method::preset(Preset::Ptq4vit, 6, 6, &sites)?;
//! method.settings.candidates = 20;
//! let calibration = Calibration::builder(&device, &weights, &resolved.architecture)
//!     .method(&method)
//!     .images(&images)
//!     .on_event(&mut |event| {
//!         if let Event::Progress(progress) = event {
//!             println!("{:.0}%", 100.0 * progress.done);
//!         }
//!         Ok(())
//!     })
//!     .run()?;
//!
//! // Save: one file with everything that running it takes.
//! let provenance = Provenance::new(&weights, &resolved.name, Preset::Ptq4vit, Some(0), &samples)?;
//! QuantizedModel::new(&weights, &resolved, method, calibration, provenance)?.save(out)?;
//!
//! // Run a batch.
//! let mut model = Model::quantized(&device, &QuantizedModel::open(out)?)?;
//! for (sample, logits) in samples.iter().zip(model.logits(&images)?) {
//!     let best = guesses(&logits, 1)[0];
//!     println!("{}: {} ({:.1}%)", sample.path.display(), best.class, 100.0 * best.probability);
//! #   assert!(best.probability > 0.5);
//! }
//! # Ok::<(), ptq4vit_gpu::error::Error>(())
//! ```
//!
//! # Where things are
//!
//! | to | there is |
//! |---|---|
//! | find and open a device | [`device::open`], [`device::adapters`] |
//! | read a checkpoint, a file or the hub's | [`model::open_checkpoint`], [`hub::fetch`] |
//! | know its architecture and preprocessing | [`model::recipe::resolve`] |
//! | read images, folders and lists | [`data::samples`], [`data::preprocess::Preprocessing`] |
//! | quantize | [`quant::Calibration::builder`], [`quant::Method`], [`quant::QuantizedModel`] |
//! | run a model, in floats or integers | [`inference::Model`] |
//! | know how good it is | [`evaluation::Models`], [`report::Tally`], [`report::guesses`] |
//! | know how fast it is | [`mod@bench`] |
//!
//! What else is public is what these are made of, for tests and for whoever builds on it: [`kernels`] with their CPU
//! versions, the networks in [`model`], the search in [`quant`].
//!
//! Errors ([`error::Error`]) name the file, tensor or setting that they are about. Outside of [`cli`] nothing is printed:
//! notices go to the `log` facade. The same inputs, seed and device give the same bytes.

pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
#[cfg(feature = "files")]
pub mod evaluation;
pub mod families;
pub mod file;
pub mod format;
pub mod graph;
#[cfg(feature = "files")]
pub mod hub;
pub mod inference;
pub mod kernels;
pub mod model;
pub mod quant;
pub mod report;
mod text;
#[cfg(feature = "verify")]
pub mod verify;
