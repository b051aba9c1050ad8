//! How a calibration stays within its memory on the device: how many images go through a segment at once, how many of
//! the segment's sites are searched before its tensors are computed anew, and how many candidates are evaluated at
//! once.
//!
//! None of this changes a result: every value of an image is computed from that image alone, and the pieces that a
//! search adds up (`pieces.rs`) don't depend on how the images were divided.

use super::gradient_squares::GradientSquares;
use crate::device::{Buffer, Commands};
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, Network, Record, Segment, Site};
use crate::quant::search::{STEP_BYTES, pieces};
use crate::quant::{Method, Settings, Side, SitePlan};
use std::collections::HashMap;
use std::ops::Range;

/// Sets what a calibration may take where the user doesn't say: what most GPUs can spare. WebGPU doesn't tell how much
/// memory a GPU has.
const DEFAULT_BYTES: u64 = 1 << 30;

/// Allows for small buffers: scales, scores, numbers of rows.
const SMALL_BYTES: u64 = 64 << 10;

/// Says how much of a device's memory a calibration takes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::quant) struct Budget {
    /// The most bytes; by default 1 GiB, or more where that isn't enough.
    pub bytes: Option<u64>,
    /// How often to halve the images and sites at once, after the device had less memory than planned for.
    pub halvings: u32,
}

/// Counts the bytes that one segment takes.
struct Needs {
    /// The weights of its matrix products.
    weights: u64,
    /// One image on its way forward and back, with all records.
    image: u64,
    /// The buffers of each site's record of one image, with their bytes, by the numbers that tell buffers apart.
    records: HashMap<String, HashMap<usize, u64>>,
}

/// Says how a segment is gone through once.
pub(in crate::quant) struct Pass {
    /// The images that go through it at once.
    pub images: usize,
    /// The sites whose records are kept, in the order that they are searched in.
    pub sites: Vec<Site>,
    /// The bytes of candidates that the device holds at once.
    pub step_bytes: usize,
}

/// Divides the work so that the device holds no more than its budget.
pub(in crate::quant) struct Memory<'a> {
    network: &'a Network,
    method: &'a Method,
    images: usize,
    /// What the network's parameters take.
    resident: u64,
    budget: u64,
    halvings: u32,
    /// What each segment needs.
    needs: Vec<Needs>,
}

impl<'a> Memory<'a> {
    /// Measures what the segments need by sending an image of zeros through one of each kind.
    ///
    /// # Errors
    /// A budget that is too small, and those of the device and the weights.
    pub async fn new(
        network: &'a Network,
        weights: &Weights,
        method: &'a Method,
        images: usize,
        budget: Budget,
        wanted: &dyn Fn(&Site) -> bool,
    ) -> Result<Self> {
        let resident = network.device().memory().current();
        let mut needs: Vec<Needs> = Vec::new();
        let segments = network.segments();
        for (index, segment) in segments.iter().enumerate() {
            let alike = (0..index).find(|&other| alike(&segments[other], segment));
            needs.push(match alike {
                Some(other) => needs[other].renamed(segments[other].sites(), segment.sites()),
                None => Needs::measure(network, weights, &method.settings, index).await?,
            });
        }
        let mut memory = Self {
            network,
            method,
            images,
            resident,
            budget: budget.bytes.unwrap_or(DEFAULT_BYTES),
            halvings: budget.halvings,
            needs,
        };
        let (least, site) = (0..segments.len())
            .map(|segment| memory.least(segment, wanted))
            .max_by_key(|&(bytes, _)| bytes)
            .unwrap_or((0, ""));
        if memory.budget < least {
            if budget.bytes.is_some() {
                let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
                let problem = format!(
                    "is {} MiB, but {site} takes {} MiB with {images} image{}",
                    mebibytes(memory.budget),
                    mebibytes(least),
                    if images == 1 { "" } else { "s" }
                );
                return Err(Error::setting(Setting::MemoryBudget, problem));
            }
            memory.budget = least;
        }
        Ok(memory)
    }

    /// Finds the least bytes that the wanted sites of a segment can be searched in, and the site that needs them.
    fn least(&self, segment: usize, wanted: &dyn Fn(&Site) -> bool) -> (u64, &str) {
        let sites = self.network.segments()[segment].sites();
        sites
            .iter()
            .filter(|site| wanted(site))
            .map(|site| {
                let bytes = self.peak(segment, std::slice::from_ref(site), 1, 0);
                (bytes, site.name.as_str())
            })
            .chain([(self.fixed(segment) + self.needs[segment].image, "a segment")])
            .max_by_key(|&(bytes, _)| bytes)
            .unwrap_or((0, ""))
    }

    /// Counts the bytes that are held all the time that a segment is worked at: parameters and weights.
    fn fixed(&self, segment: usize) -> u64 {
        self.resident + self.needs[segment].weights
    }

    /// Counts the most bytes that are held while `sites` of a segment are gone through with `at_once` images, and
    /// searched with candidates of `step` bytes, or one, at once.
    fn peak(&self, segment: usize, sites: &[Site], at_once: usize, step: usize) -> u64 {
        let needs = &self.needs[segment];
        let kept = needs.kept(sites);
        let before = (self.images - at_once) as u64 * kept;
        let recording = before + at_once as u64 * needs.image;
        let searching = sites
            .iter()
            .map(|site| self.search_bytes(site, at_once, step))
            .max()
            .unwrap_or(0);
        self.fixed(segment) + recording.max(self.images as u64 * kept + searching)
    }

    /// Counts the bytes that the search at one site takes besides the records: the pieces, the codes of the operand
    /// that isn't searched, and the candidates; or what it takes to put the pieces in order, for one batch at a time.
    /// The evidence takes no more than that.
    fn search_bytes(&self, site: &Site, at_once: usize, step: usize) -> u64 {
        let Method { plan, settings } = self.method;
        let plan = plan.of(site).expect("a site that is searched has a plan");
        let (images, metric) = (self.images, settings.metric);
        let codes = |side, images| {
            let words = plan.quantizer(side, images, 1).len();
            (words * size_of::<u32>()) as u64
        };
        let fixed = (pieces::copies_of_codes(&plan) as u64 * codes(Side::A, images))
            .max(codes(Side::B, images));
        let step = pieces::candidate_bytes(&plan, images, metric).max(step as u64);
        let searching = pieces::bytes(&plan, images, metric) + fixed + step;
        let ordering =
            pieces::order_bytes(&plan, at_once) + codes(Side::A, at_once) + codes(Side::B, at_once);
        searching.max(ordering) + SMALL_BYTES
    }

    /// Finds the largest step of a search that leaves room for a site of a segment and one image at a time. Smaller
    /// steps wait for the device more often.
    fn step_bytes(&self, segment: usize, site: &Site) -> usize {
        let site = std::slice::from_ref(site);
        let halves = std::iter::successors(Some(STEP_BYTES), |bytes| Some(bytes / 2));
        halves
            .take_while(|&bytes| bytes > 0)
            .find(|&bytes| self.peak(segment, site, 1, bytes) <= self.budget)
            .unwrap_or(0)
    }

    /// Counts the most images that can be sent forward through any segment at once.
    pub fn forward_images(&self) -> usize {
        let most = (0..self.needs.len()).map(|segment| {
            let free = self.budget.saturating_sub(self.fixed(segment));
            (free / self.needs[segment].image.max(1)) as usize
        });
        let most = most.min().unwrap_or(1).clamp(1, self.most_images());
        self.halved(most)
    }

    /// Counts the most images that can be sent forward at once while the weights of all these `segments` are held and one
    /// operand of the site of `plan` is rounded; `None` where the budget has no room for those weights and an image.
    pub fn images_with(&self, segments: Range<usize>, plan: &SitePlan) -> Option<usize> {
        let needs = &self.needs[segments];
        let weights: u64 = needs.iter().map(|needs| needs.weights).sum();
        let image = needs.iter().map(|needs| needs.image).max().unwrap_or(0);
        let floats =
            |side, images| (plan.quantizer(side, images, 1).len() * size_of::<f32>()) as u64;
        // A rounded weight is there once, a rounded activation for each image.
        let (fixed, each) = match plan.site.has_weight() {
            true => (floats(Side::B, 1), floats(Side::A, 1)),
            false => (0, floats(Side::A, 1).max(floats(Side::B, 1))),
        };
        let held = self.resident + weights + fixed + SMALL_BYTES;
        let most = self.budget.checked_sub(held)? / (image + each).max(1);
        (most > 0).then(|| self.halved((most as usize).min(self.most_images())))
    }

    /// Says whether fewer images or sites could be gone through at once than this plans.
    pub fn is_divisible(&self, wanted: &dyn Fn(&Site) -> bool) -> bool {
        let passes = (0..self.needs.len()).flat_map(|segment| self.passes(segment, wanted));
        let largest = passes.map(|pass| pass.images.max(pass.sites.len())).max();
        self.forward_images().max(largest.unwrap_or(1)) > 1
    }

    fn halved(&self, count: usize) -> usize {
        count.checked_shr(self.halvings).unwrap_or(0).max(1)
    }

    fn most_images(&self) -> usize {
        self.network.max_images().min(self.images)
    }

    /// Plans how to go through a segment for its `wanted` sites, last to first: in one pass where the budget allows it.
    pub fn passes(&self, segment: usize, wanted: &dyn Fn(&Site) -> bool) -> Vec<Pass> {
        let sites = self.network.segments()[segment].sites();
        let mut rest: Vec<Site> = sites
            .iter()
            .rev()
            .filter(|site| wanted(site))
            .cloned()
            .collect();
        let mut passes = Vec::new();
        loop {
            let step = rest
                .first()
                .map_or(0, |site| self.step_bytes(segment, site));
            let fits =
                |sites: &[Site], images| self.peak(segment, sites, images, step) <= self.budget;
            let count = (1..=rest.len())
                .take_while(|&count| fits(&rest[..count], 1))
                .last()
                .map_or(rest.len().min(1), |count| self.halved(count));
            let left = rest.split_off(count);
            let images = (1..=self.most_images())
                .take_while(|&images| fits(&rest, images))
                .last()
                .unwrap_or(1);
            log::debug!(
                "segment {segment}: {images} images at once, {} sites searched before it is computed anew",
                rest.len()
            );
            passes.push(Pass {
                images: self.halved(images),
                sites: std::mem::replace(&mut rest, left),
                step_bytes: step,
            });
            if rest.is_empty() {
                return passes;
            }
        }
    }
}

impl Needs {
    async fn measure(
        network: &Network,
        weights: &Weights,
        settings: &Settings,
        index: usize,
    ) -> Result<Self> {
        let device = network.device();
        let segment: &Segment = &network.segments()[index];
        let memory = device.memory();
        let before = memory.current();
        let products = FloatProducts::load(device, weights, segment.sites())?;
        let loaded = memory.current();
        memory.reset_peak();
        let mut commands = Commands::new(device);
        let input: Buffer<f32> = device.zeros(segment.input_len());
        let mut tape = segment.record(&mut commands, &products, 1, &input);
        let grad = || device.zeros(segment.output_len());
        if let Some(sequence) = &settings.sequence {
            let mut squares = GradientSquares::default();
            // Each further probe takes as much as the second one, which comes while the first one's gradients are there.
            for _ in 0..sequence.probes.min(2) {
                let around = tape.site_gradients(&mut commands, grad());
                squares.add(&mut commands, &around);
            }
        } else if settings.metric.needs_gradient() {
            tape.backward(&mut commands, grad());
        }
        commands.synchronize_async().await?;
        let records = tape.into_records().into_iter();
        Ok(Self {
            weights: loaded - before,
            image: memory.peak() - loaded,
            records: records
                .map(|(site, record)| (site, buffers(&record)))
                .collect(),
        })
    }

    /// Returns the same needs for a segment whose sites have other names.
    fn renamed(&self, from: &[Site], to: &[Site]) -> Self {
        let names = from.iter().zip(to);
        Self {
            records: names
                .map(|(from, to)| (to.name.clone(), self.records[&from.name].clone()))
                .collect(),
            ..*self
        }
    }

    /// Counts the bytes of one image's records of some sites, which may share buffers.
    fn kept(&self, sites: &[Site]) -> u64 {
        let buffers: HashMap<usize, u64> = sites
            .iter()
            .flat_map(|site| &self.records[&site.name])
            .map(|(&buffer, &bytes)| (buffer, bytes))
            .collect();
        buffers.values().sum()
    }
}

/// Says whether two segments have the same products, and what follows these: the last block may pool its tokens.
fn alike(one: &Segment, other: &Segment) -> bool {
    let kinds = |segment: &Segment| {
        let sites = segment.sites().iter();
        sites.map(|site| site.kind.clone()).collect::<Vec<_>>()
    };
    kinds(one) == kinds(other) && one.output_len() == other.output_len()
}

fn buffers(record: &Record) -> HashMap<usize, u64> {
    [
        Some(&record.a),
        record.b.as_ref(),
        Some(&record.out),
        record.grad.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(Buffer::allocation)
    .collect()
}

/// Reads a number of bytes as the command line takes it, followed by KiB, MiB, GiB or nothing.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (number, shift) = units
        .iter()
        .find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .unwrap_or((text, 0));
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|_| "expected a size as in 800MiB or 1GiB".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "is more than can be counted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(parse_bytes("1073741824"), Ok(1 << 30));
        assert_eq!(parse_bytes("800MiB"), Ok(800 << 20));
        assert_eq!(parse_bytes("3 GiB"), Ok(3 << 30));
        assert_eq!(parse_bytes("1KiB"), Ok(1 << 10));
        for wrong in ["", "GiB", "1.5GiB", "-1MiB", "1GB", "99999999999999GiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
