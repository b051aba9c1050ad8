//! How much an error at each value matters: the diagonal of the Fisher matrix, E (∂L/∂x)².
//!
//! The loss is the cross-entropy against labels that are drawn from the network's own probabilities, or a random projection of
//! its features (`loss.rs`), several times for each image; each draw is a probe. E over probes of the squared gradients is what
//! a small error at a value costs in KL divergence, or in squared error of the features.

use super::gradient_squares::GradientSquares;
use super::loss::probed_gradients;
use super::{Checkpoints, Event, Phase, Progress, append};
use crate::device::Commands;
use crate::error::Result;
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, Segment};
use crate::model::config::Answer;
use half::bf16;
use std::collections::HashMap;

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
    /// Draws `count` probes for each image whose answer, a network's of this kind, `checkpoints` end with, and back-propagates
    /// each loss from the last of `segments` to the output of segment number `first`.
    ///
    /// # Errors
    /// A network that is certain of every image, and the device's errors.
    pub async fn new(
        commands: &mut Commands,
        segments: &[Segment],
        weights: &Weights,
        checkpoints: &Checkpoints,
        (count, answer): (usize, Answer),
        (first, at_once): (usize, usize),
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Self> {
        let (mut gradients, exponent) = probed_gradients(answer, &checkpoints.outputs, count)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::families::graphs;
    use crate::graph::Network;
    use crate::model::config::Architecture;
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
            let (segments, answer) = (network.segments(), architecture.answer());
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
            let (gradients, exponent) = probed_gradients(answer, outputs, count).unwrap();
            assert_eq!(labels(&gradients, architecture.classes()), expected);

            let (draws, all) = ((count, answer), (0, 1));
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
    /// The mean of the squared gradients of projections is the diagonal of Jᵀ J, which follows from the gradients of the
    /// features one by one.
    #[test]
    fn projections_find_the_jacobians_squares() {
        const PROBES: usize = 400;
        let bytes = include_bytes!("../../../tests/data/best/vit_tiny.safetensors");
        let answers = Weights::from_bytes("tiny.safetensors", bytes).unwrap();
        let mut weights = answers.clone();
        weights.retain(|name| !name.starts_with("fisher/"));
        let mut architecture = resolve(&weights, None).unwrap().architecture;
        match &mut architecture {
            Architecture::Vit(sizes) => sizes.classes = 0,
            Architecture::Swin(_) => panic!("a ViT"),
        }
        let answer = architecture.answer();
        let device = Device::cpu();
        let float = |name: &str| weights.float(name);
        let network = Network::load(&device, &graphs(&architecture), float).unwrap();
        let segments = network.segments();
        let commands = &mut Commands::new(&device);
        let pixels = answers.float("fisher/images").unwrap();
        let image = vec![pixels[..segments[0].input_len()].to_vec()];
        let on_event: &mut dyn FnMut(Event) -> Result<()> = &mut |_| Ok(());
        let checkpoints = forward(commands, segments, &weights, &image, 1, None, on_event);
        let checkpoints = device.wait(checkpoints).unwrap();

        let last = segments.len() - 1;
        let (draws, from) = ((PROBES, answer), (last, 1));
        let probes = Probes::new(
            commands,
            segments,
            &weights,
            &checkpoints,
            draws,
            from,
            on_event,
        );
        let probes = device.wait(probes).unwrap();
        let (segment, inputs) = (&segments[last], &checkpoints.inputs[last]);
        let products = FloatProducts::load(&device, &weights, segment.sites()).unwrap();
        let fisher = SegmentFisher::new(commands, segment, &products, inputs, (&probes, 0), 1);
        let fisher = device.wait(fisher).unwrap();

        let mut tape = segment.record(commands, &products, 1, &device.upload(inputs));
        let mut squares = GradientSquares::default();
        for feature in 0..answer.values() {
            let mut grad = vec![0.0; answer.values()];
            grad[feature] = 1.0;
            let around = tape.site_gradients(commands, device.upload(&grad));
            squares.add(commands, &around);
        }
        let unit = 4f64.powi(-probes.exponent) / PROBES as f64;
        for site in segment.sites() {
            for (part, slot) in squares.sites[&site.name].into_iter().enumerate() {
                let Some(slot) = slot else { continue };
                let expected = device.read(&squares.sums[slot]).unwrap();
                let found = fisher.of(&site.name)[part].unwrap();
                let error = relative_error(found, unit, &expected);
                // The square of a normal number has twice the variance of its mean, so that each element is off by
                // √(2 / probes) of itself, 7%, one deviation; elements share directions, so the sum may be as much.
                let deviation = (2.0 / PROBES as f64).sqrt();
                let what = format!("{}, operand {part}", site.name);
                assert!(error < 4.0 * deviation, "{what} is {error} off");
            }
        }
    }
}
