//! A model that is ready to run: a network with its products, in f32, f16 or integers.

use crate::data::preprocess::Preprocessing;
use crate::device::{Buffer, Commands, Device, Recording, Workload};
use crate::error::{Error, Result};
use crate::families::graphs;
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, HalfProducts, Network, Products};
use crate::model::config::{Answer, Architecture};
use crate::quant::QuantizedModel;
use std::path::Path;
use web_time::{Duration, Instant};

/// Limits how many images are run at once: enough to fill a GPU, few enough that they stay in a CPU's cache.
const BATCH: usize = 8;

/// Holds a network on a device, with everything that its products need.
pub struct Model {
    network: Network,
    answer: Answer,
    products: Box<dyn Products>,
    preprocessing: Preprocessing,
    program: Option<Program>,
    /// The number of images of the batch that was timed last.
    timed: Option<usize>,
    /// The most images that [`logits`](Model::logits) runs at once.
    at_once: usize,
}

/// Limits the images that the CPU runs at once: of 16 or 32, what one kernel leaves is out of its caches when the next one comes.
const MOST_ON_CPU: usize = 8;

// Devices and networks are shared between threads, and models move from one to another.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Device>();
    is_shared::<Network>();
    is_shared::<Model>();
};

/// Holds the whole network for one number of images, recorded once: its buffers and bindings serve every batch.
struct Program {
    images: usize,
    /// `[images, 3, S, S]`
    pixels: Buffer<f32>,
    /// `[images, answer_len]`
    logits: Buffer<f32>,
    recording: Recording,
}

impl Model {
    /// Loads the FP network of `weights`.
    ///
    /// # Errors
    /// A weight that holds a NaN or an infinity.
    pub fn float(
        device: &Device,
        weights: &Weights,
        architecture: &Architecture,
        preprocessing: &Preprocessing,
    ) -> Result<Self> {
        let network = build(device, weights, architecture)?;
        let products = FloatProducts::load(device, weights, network.sites())?;
        Ok(Self {
            network,
            answer: architecture.answer(),
            products: Box::new(products),
            preprocessing: preprocessing.clone(),
            program: None,
            timed: None,
            at_once: BATCH,
        })
    }

    /// Loads the FP network of `weights` with its products in f16, on a device that [has it](Device::has_f16).
    ///
    /// # Errors
    /// A weight that holds a NaN or an infinity.
    pub fn half(
        device: &Device,
        weights: &Weights,
        architecture: &Architecture,
        preprocessing: &Preprocessing,
    ) -> Result<Self> {
        let network = build(device, weights, architecture)?;
        let products = HalfProducts::load(device, weights, network.sites())?;
        Ok(Self {
            network,
            answer: architecture.answer(),
            products: Box::new(products),
            preprocessing: preprocessing.clone(),
            program: None,
            timed: None,
            at_once: BATCH,
        })
    }

    /// Loads a quantized network, to be computed in integers.
    ///
    /// # Errors
    /// Those of [`QuantizedModel::load`].
    pub fn quantized(device: &Device, model: &QuantizedModel) -> Result<Self> {
        let (network, products) = model.load(device)?;
        Ok(Self {
            network,
            answer: model.architecture.answer(),
            products: Box::new(products),
            preprocessing: model.preprocessing.clone(),
            program: None,
            timed: None,
            at_once: BATCH,
        })
    }

    /// Returns the device that the model runs on.
    pub fn device(&self) -> &Device {
        self.network.device()
    }

    /// Returns how images are prepared for this model.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Says what the model answers for an image.
    pub fn answer(&self) -> Answer {
        self.answer
    }

    /// Returns the number of logits: 0 of a model that answers with features.
    pub fn classes(&self) -> usize {
        match self.answer {
            Answer::Logits(classes) => classes,
            Answer::Features(_) => 0,
        }
    }

    /// Counts the most images that are run at once.
    fn most_at_once(&self) -> usize {
        let most = self.network.max_images();
        match self.device() {
            Device::Cpu(_) => most.min(MOST_ON_CPU),
            Device::Gpu(_) => most,
        }
    }

    /// Returns the logits of each of `images`, or its features where the model [answers](Self::answer) with these; they are
    /// preprocessed, `[3, S, S]` each. If the device runs out of memory, fewer
    /// images are run at once from then on: an image's logits don't depend on the others.
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        self.device().clone().wait(self.logits_async(images))
    }

    /// Computes [`logits`](Self::logits) without blocking the caller, as a browser demands. On a native target it waits
    /// for the device all the same.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub async fn logits_async(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let mut logits = Vec::with_capacity(images.len());
        while let rest = &images[logits.len()..]
            && !rest.is_empty()
        {
            let at_once = self.at_once.min(self.most_at_once());
            let batch = &rest[..at_once.min(rest.len())];
            match self.logits_by_async(batch.len(), batch).await {
                Ok(values) => logits.extend(values),
                Err(error @ Error::OutOfMemory { .. }) if batch.len() > 1 => {
                    self.at_once = batch.len() / 2;
                    log::warn!("{error}; going on with batches of {}", self.at_once);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(logits)
    }

    /// Returns the logits of `images`, with `batch` images at once and no fewer, unless the device's binding limit
    /// allows only fewer; on the CPU, whose caches hold no more, at most eight.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub fn logits_by(&mut self, batch: usize, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        self.device()
            .clone()
            .wait(self.logits_by_async(batch, images))
    }

    /// Computes [`logits_by`](Self::logits_by) without blocking the caller, as a browser demands. On a native target it
    /// waits for the device all the same.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub async fn logits_by_async(
        &mut self,
        batch: usize,
        images: &[Vec<f32>],
    ) -> Result<Vec<Vec<f32>>> {
        let mut logits = Vec::with_capacity(images.len());
        for batch in images.chunks(self.most_at_once().min(batch)) {
            let mut commands = Commands::new(self.device());
            let values = self.run(&mut commands, batch).await?;
            logits.extend(
                values
                    .chunks_exact(self.network.answer_len())
                    .map(<[f32]>::to_vec),
            );
        }
        Ok(logits)
    }

    /// Returns the logits of `images` as [`logits_by`](Self::logits_by) does, and how long each image took: an equal
    /// share of its batch's time for upload, network and read-back. The first batch of its size is run once before
    /// without a clock, since that compiles and records the network.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub fn timed_logits(
        &mut self,
        batch: usize,
        images: &[Vec<f32>],
    ) -> Result<Vec<(Vec<f32>, Duration)>> {
        self.device()
            .clone()
            .wait(self.timed_logits_async(batch, images))
    }

    /// Computes [`timed_logits`](Self::timed_logits) without blocking the caller, as a browser demands. On a native target
    /// it waits for the device all the same.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub async fn timed_logits_async(
        &mut self,
        batch: usize,
        images: &[Vec<f32>],
    ) -> Result<Vec<(Vec<f32>, Duration)>> {
        let mut timed = Vec::with_capacity(images.len());
        for images in images.chunks(self.most_at_once().min(batch)) {
            let count = images.len();
            if self.timed != Some(count) {
                self.logits_by_async(count, images).await?;
                self.timed = Some(count);
            }
            let start = Instant::now();
            let logits = self.logits_by_async(count, images).await?;
            let share = start.elapsed() / count as u32;
            timed.extend(logits.into_iter().map(|logits| (logits, share)));
        }
        Ok(timed)
    }

    /// Lists the kernels that compute the logits of `images`, in the order in which they run, and the time that each
    /// took by the device's own clock; empty on a device without one.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn kernel_times(&mut self, images: &[Vec<f32>]) -> Result<Vec<(&'static str, Duration)>> {
        self.device().clone().wait(self.kernel_times_async(images))
    }

    /// Finds the [`kernel_times`](Self::kernel_times) without blocking the caller, as a browser demands. On a native target
    /// it waits for the device all the same.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub async fn kernel_times_async(
        &mut self,
        images: &[Vec<f32>],
    ) -> Result<Vec<(&'static str, Duration)>> {
        let device = self.device().clone();
        Commands::profile_async(&device, async |commands: &mut Commands| {
            for batch in images.chunks(self.network.max_images()) {
                self.run(commands, batch).await?;
            }
            Ok(())
        })
        .await
    }

    /// Counts what computing the logits of `images`, with `batch` images at once, asks of the device; `None` on the CPU,
    /// which launches no kernels.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn workload(&mut self, batch: usize, images: &[Vec<f32>]) -> Result<Option<Workload>> {
        self.device()
            .clone()
            .wait(self.workload_async(batch, images))
    }

    /// Counts the [`workload`](Self::workload) without blocking the caller, as a browser demands. On a native target it waits
    /// for the device all the same.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub async fn workload_async(
        &mut self,
        batch: usize,
        images: &[Vec<f32>],
    ) -> Result<Option<Workload>> {
        let mut workload = None;
        for images in images.chunks(self.network.max_images().min(batch)) {
            let mut commands = Commands::new(self.device());
            self.run(&mut commands, images).await?;
            if let Some(program) = &self.program {
                *workload.get_or_insert(Workload::default()) += program.recording.workload();
            }
        }
        Ok(workload)
    }

    /// Computes logits or features `[images, answer_len]` from the pixels of each image, `[3, S, S]`.
    async fn run(&mut self, commands: &mut Commands, pixels: &[Vec<f32>]) -> Result<Vec<f32>> {
        let images = pixels.len();
        let Self {
            network,
            products,
            program,
            ..
        } = self;
        let device = network.device();
        if program
            .as_ref()
            .is_none_or(|program| program.images != images)
        {
            // What the last one holds is free for the new one.
            *program = None;
            let recorded = device.zeros(pixels.iter().map(Vec::len).sum());
            let mut append = |commands: &mut Commands| {
                network.logits(commands, products.as_mut(), images, &recorded)
            };
            *program = match Commands::record(device, &mut append) {
                None => {
                    device.write(&recorded, pixels);
                    // All kernels by one of the pool's threads, which then needn't be woken up for each.
                    let logits = rayon::scope(|_| append(commands));
                    return commands.read_async(&logits).await;
                }
                Some((logits, recording)) => {
                    log::debug!("recorded the network for {images} images at once");
                    Some(Program {
                        images,
                        pixels: recorded,
                        logits,
                        recording,
                    })
                }
            };
        }
        let recorded = program.as_ref().expect("it was recorded above");
        device.write(&recorded.pixels, pixels);
        commands.replay(&recorded.recording);
        let logits = commands.read_async(&recorded.logits).await;
        if logits.is_err() {
            // What couldn't be recorded would be missing from every replay, without a word.
            *program = None;
        }
        logits
    }
}

/// Checks that a model's logits for the image at `path`, computed on `device`, are finite: against a NaN every
/// comparison is false, so it would count as any class.
///
/// # Errors
/// [`Error::Input`] that names the first that is not.
pub fn check_finite(logits: &[f32], path: &Path, device: &Device) -> Result<()> {
    match logits.iter().find(|logit| !logit.is_finite()) {
        Some(logit) => Err(Error::input(
            path,
            format!(
                "the model gives it a logit of {logit} on {}, where finite values are expected: its weights or scales \
                 are too large for f32",
                device.name()
            ),
        )),
        None => Ok(()),
    }
}

/// Loads the network of `weights` without its products.
///
/// # Errors
/// A parameter that holds a NaN or an infinity.
pub fn build(device: &Device, weights: &Weights, architecture: &Architecture) -> Result<Network> {
    Network::load(device, &graphs(architecture), |name| weights.float(name))
}
