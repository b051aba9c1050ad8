//! How much an error at each value matters: the diagonal of the Fisher matrix, E (∂L/∂x)².
//!
//! The loss is the cross-entropy against labels that are drawn from the network's own probabilities, several times for
//! each image; each draw is a probe. E over probes of the squared gradients is what a small error at a value costs in
//! KL divergence. No image needs a label.

use super::gradient_squares::GradientSquares;
use super::{Checkpoints, Event, Phase, Progress, append};
use crate::device::Commands;
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, Segment};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// Seeds the draws of labels.
const SEED: u64 = 0;

/// Holds the loss's gradients at each segment's output, all images' for one probe after the other. Three digits are
/// enough for weights, and there are many.
pub(super) struct Probes {
    outputs: Vec<Vec<Vec<bf16>>>,
    /// The power of two that the gradients were multiplied by.
    pub exponent: i32,
}

/// Holds the sums over probes of the squared gradients around a segment's products.
pub(super) struct SegmentFisher {
    /// One for each buffer, of all images.
    sums: Vec<Vec<f32>>,
    /// Which of them each site's A, B and O have.
    sites: HashMap<String, [Option<usize>; 3]>,
}

impl Probes {
    /// Draws `count` labels for each image whose logits `checkpoints` end with, and back-propagates each loss from the
    /// last of `segments` to the output of segment number `first`.
    ///
    /// # Errors
    /// A network that is certain of every image, and the device's errors.
    pub async fn new(
        commands: &mut Commands,
        segments: &[Segment],
        weights: &Weights,
        checkpoints: &Checkpoints,
        (count, classes): (usize, usize),
        (first, at_once): (usize, usize),
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Self> {
        let (mut gradients, exponent) = sampled_gradients(&checkpoints.outputs, classes, count)?;
        let device = commands.device().clone();
        let mut outputs = Vec::new();
        for index in (first..segments.len()).rev() {
            let narrow =
                |of_probe: &Vec<f32>| of_probe.iter().map(|&x| bf16::from_f32(x)).collect();
            outputs.push(gradients.iter().map(narrow).collect());
            if index == first {
                break;
            }
            let segment = &segments[index];
            on_event(Event::Progress(Progress {
                phase: Phase::Backward,
                site: &segment.sites()[0].name,
                done: 0.0,
            }))?;
            let products = FloatProducts::load(&device, weights, segment.sites())?;
            let inputs = &checkpoints.inputs[index];
            let images = inputs.len() / segment.input_len();
            let mut before: Vec<Vec<f32>> = vec![Vec::new(); count];
            for start in (0..images).step_by(at_once) {
                let chunk = start..(start + at_once).min(images);
                let input =
                    &inputs[chunk.start * segment.input_len()..chunk.end * segment.input_len()];
                let input = device.upload(input);
                let mut tape = segment.record(commands, &products, chunk.len(), &input);
                for (gradients, before) in gradients.iter().zip(&mut before) {
                    let len = segment.output_len();
                    let grad = device.upload(&gradients[chunk.start * len..chunk.end * len]);
                    let at_input = tape.backward(commands, grad);
                    let at_input = at_input.expect("only the first segment takes pixels");
                    append(before, commands.read_async(&at_input).await?);
                }
            }
            gradients = before;
        }
        outputs.reverse();
        Ok(Self { outputs, exponent })
    }

    /// Returns the gradients of one probe at the output of the segment that is number `index` from the first.
    pub fn at_output(&self, index: usize, probe: usize) -> Vec<f32> {
        let gradients = &self.outputs[index][probe];
        gradients.iter().map(|gradient| gradient.to_f32()).collect()
    }

    fn count(&self) -> usize {
        self.outputs.first().map_or(0, Vec::len)
    }
}

impl SegmentFisher {
    /// Back-propagates the gradients of all `probes` through a segment, number `index` from the first one of `probes`.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn new(
        commands: &mut Commands,
        segment: &Segment,
        products: &FloatProducts,
        inputs: &[f32],
        (probes, index): (&Probes, usize),
        at_once: usize,
    ) -> Result<Self> {
        let device = commands.device().clone();
        let images = inputs.len() / segment.input_len();
        let gradients: Vec<Vec<f32>> = (0..probes.count())
            .map(|probe| probes.at_output(index, probe))
            .collect();
        let mut fisher = Self {
            sums: Vec::new(),
            sites: HashMap::new(),
        };
        for start in (0..images).step_by(at_once) {
            let chunk = start..(start + at_once).min(images);
            let input = &inputs[chunk.start * segment.input_len()..chunk.end * segment.input_len()];
            let mut tape = segment.record(commands, products, chunk.len(), &device.upload(input));
            let mut squares = GradientSquares::default();
            for gradients in &gradients {
                let len = segment.output_len();
                let grad = device.upload(&gradients[chunk.start * len..chunk.end * len]);
                let around = tape.site_gradients(commands, grad);
                squares.add(commands, &around);
            }
            fisher.sums.resize_with(squares.sums.len(), Vec::new);
            for (sum, of_chunk) in fisher.sums.iter_mut().zip(&squares.sums) {
                append(sum, commands.read_async(of_chunk).await?);
            }
            fisher.sites = squares.sites;
        }
        Ok(fisher)
    }

    /// Returns the sums at a site's A, B and O, where there are any.
    pub fn of(&self, site: &str) -> [Option<&[f32]>; 3] {
        self.sites[site].map(|slot| slot.map(|slot| &*self.sums[slot]))
    }
}

/// Computes the gradients at the logits `[images, classes]` of the cross-entropy against `count` labels an image, drawn
/// from the network's probabilities: p, less one at the label. They are multiplied by a power of two, which is returned
/// with them, so that the largest is about 1.
fn sampled_gradients(logits: &[f32], classes: usize, count: usize) -> Result<(Vec<Vec<f32>>, i32)> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut gradients: Vec<Vec<f64>> = vec![Vec::with_capacity(logits.len()); count];
    for logits in logits.chunks_exact(classes) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials = logits
            .iter()
            .map(|&x| libm::exp(f64::from(x) - f64::from(largest)));
        let exponentials: Vec<f64> = exponentials.collect();
        let total: f64 = exponentials.iter().sum();
        for gradients in &mut gradients {
            let mut left = random.random::<f64>() * total;
            let drawn = exponentials.iter().position(|x| {
                left -= x;
                left < 0.0
            });
            let label = drawn.unwrap_or(classes - 1);
            // p - 1 would be rounded away where the network is nearly certain.
            let others = [&exponentials[..label], &exponentials[label + 1..]];
            let others: f64 = others.into_iter().flatten().sum();
            gradients.extend(exponentials.iter().enumerate().map(|(class, x)| {
                match class == label {
                    true => -others / total,
                    false => x / total,
                }
            }));
        }
    }
    let largest = gradients
        .iter()
        .flatten()
        .fold(0.0f64, |largest, x| largest.max(x.abs()));
    if largest < f64::from(f32::MIN_POSITIVE) {
        return Err(Error::setting(
            Setting::Count,
            "the network is certain of every calibration image, so that no error matters; pass other images",
        ));
    }
    let exponent = -libm::log2(largest).floor() as i32;
    let unit = libm::exp2(f64::from(exponent));
    let scaled = gradients
        .iter()
        .map(|of_probe| of_probe.iter().map(|x| (x * unit) as f32).collect());
    Ok((scaled.collect(), exponent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::families::graphs;
    use crate::graph::Network;
    use crate::model::recipe::resolve;
    use crate::quant::calibrate::forward;

    /// The label of each image and probe, `[images, probes]`, whose gradient is the only negative one.
    fn labels(gradients: &[Vec<f32>], classes: usize) -> Vec<i32> {
        let images = gradients[0].len() / classes;
        let of_image = |image: usize| {
            gradients.iter().map(move |of_probe| {
                let mut classes = of_probe[image * classes..][..classes].iter();
                classes.position(|&x| x < 0.0).unwrap() as i32
            })
        };
        (0..images).flat_map(of_image).collect()
    }

    /// ‖found · unit - expected‖ / ‖expected‖.
    fn relative_error(found: &[f32], unit: f64, expected: &[f32]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let squares = |(f, e): (&f32, &f32)| {
            let (f, e) = (f64::from(*f) * unit, f64::from(*e));
            [(f - e).powi(2), e.powi(2)]
        };
        let sums = found.iter().zip(expected).map(squares);
        let [off, size] = sums.fold([0.0; 2], |sums, terms| {
            [sums[0] + terms[0], sums[1] + terms[1]]
        });
        (off / size).sqrt()
    }

    /// Of networks of a few thousand weights, `tests/golden/best.py` has the squares of torch's gradients in f64, for the
    /// labels that are drawn here.
    #[test]
    fn fisher_weights_are_the_oracles() {
        let files: [&[u8]; 2] = [
            include_bytes!("../../../tests/data/best/vit_tiny.safetensors"),
            include_bytes!("../../../tests/data/best/swin_tiny.safetensors"),
        ];
        let on_event: &mut dyn FnMut(Event) -> Result<()> = &mut |_| Ok(());
        for bytes in files {
            let answers = Weights::from_bytes("tiny.safetensors", bytes).unwrap();
            let mut weights = answers.clone();
            weights.retain(|name| !name.starts_with("fisher/"));
            let architecture = resolve(&weights, None).unwrap().architecture;
            let device = Device::cpu();
            let float = |name: &str| weights.float(name);
            let network = Network::load(&device, &graphs(&architecture), float).unwrap();
            let (segments, classes) = (network.segments(), network.answer_len());
            let commands = &mut Commands::new(&device);
            let pixels = answers.float("fisher/images").unwrap();
            let images = pixels.chunks(segments[0].input_len());
            let images: Vec<Vec<f32>> = images.map(<[f32]>::to_vec).collect();
            let checkpoints = device
                .wait(forward(
                    commands, segments, &weights, &images, 1, None, on_event,
                ))
                .unwrap();

            let expected = answers.integers("fisher/labels").unwrap();
            let count = expected.len() / images.len();
            let outputs = &checkpoints.outputs;
            let (gradients, exponent) = sampled_gradients(outputs, classes, count).unwrap();
            assert_eq!(labels(&gradients, classes), expected);

            let (draws, all) = ((count, classes), (0, 1));
            let probes = Probes::new(
                commands,
                segments,
                &weights,
                &checkpoints,
                draws,
                all,
                on_event,
            );
            let probes = device.wait(probes).unwrap();
            let mut compared = 0;
            for (index, segment) in segments.iter().enumerate() {
                let products = FloatProducts::load(&device, &weights, segment.sites()).unwrap();
                let (inputs, of) = (&checkpoints.inputs[index], (&probes, index));
                let fisher = SegmentFisher::new(commands, segment, &products, inputs, of, 1);
                let fisher = device.wait(fisher).unwrap();
                for site in segment.sites() {
                    let [a, _, out] = fisher.of(&site.name);
                    for (part, found) in [("a", a), ("out", out)] {
                        let name = format!("fisher/{}/{part}", site.name);
                        let Ok(expected) = answers.float(&name) else {
                            continue;
                        };
                        let error = relative_error(found.unwrap(), 4f64.powi(-exponent), &expected);
                        // At a segment's output gradients are bf16: squares are up to 0.4% off, and so are sums of those
                        // that have one sign.
                        assert!(error < 0.01, "{name} is {error} off");
                        compared += 1;
                    }
                }
            }
            assert_eq!(compared, 6);
        }
    }

    #[test]
    fn labels_are_drawn_as_the_network_believes() {
        // Probabilities 1/2, 1/4, 1/4; then 1, 0, 0, all but 2e-30.
        let logits = [2f32.ln(), 0.0, 0.0, 69.0, 0.0, 0.0];
        let probes = 4000;
        let (gradients, exponent) = sampled_gradients(&logits, 3, probes).unwrap();
        // The largest is 3/4.
        assert_eq!(exponent, 1);
        let drawn = |class: usize| {
            gradients
                .iter()
                .filter(|of_probe| of_probe[class] < 0.0)
                .count()
        };
        // Within four standard deviations.
        assert!(drawn(0).abs_diff(2000) < 127 && drawn(1).abs_diff(1000) < 110);
        assert_eq!(drawn(0) + drawn(1) + drawn(2), probes);
        assert_eq!(drawn(3), probes);
        for of_probe in &gradients {
            assert!((of_probe[..3].iter().sum::<f32>()).abs() < 1e-6);
            assert!(
                (of_probe[3] / -4.32e-30 - 1.0).abs() < 0.01,
                "{}",
                of_probe[3]
            );
        }
    }

    #[test]
    fn small_gradients_are_brought_to_one() {
        let (gradients, exponent) = sampled_gradients(&[60.0, 0.0], 2, 1).unwrap();
        assert!(exponent > 80);
        assert!((0.5..=2.0).contains(&gradients[0][1]));
    }
}
