//! What a single operand in few bits costs, the rest of the network being in floats.
//!
//! For small errors, the KL divergence of an image is half the expected square of the change of a loss against labels that
//! are drawn from the network's probabilities (`loss.rs`); of features, it is half the squared error. The change is the sum
//! of gradient times error over all of an image's elements. Squares of single elements, the Fisher matrix's diagonal, won't
//! do: a weight's error is the same for all tokens, so that errors add up.
//!
//! Levels, scales and codes are chosen on some images, and the change is measured on others. On their own images rounded
//! weights look far better than they are, because they are rounded to suit what goes through them: most of all in the last
//! block, where one token an image matters.

use super::fisher::{Probes, SegmentFisher};
use super::{Budget, Event, Memory, Phase, Progress, append, forward};
use crate::device::{Buffer, Commands};
use crate::error::{Error, Result, Setting};
use crate::file::weights::Weights;
use crate::graph::{FloatProducts, Network, Segment, Site};
use crate::model::config::Answer;
use crate::quant::Method;
use crate::quant::plan::{Plan, Side, SitePlan};
use crate::quant::tables::{LinearSite, RoundedActivation, RoundedWeights, SiteValues};
use rayon::prelude::*;
use std::collections::HashMap;

/// Counts the labels that are drawn for each image.
const PROBES: usize = 4;
/// Counts the parts that the images are divided into: each is measured with what was chosen on the others.
const FOLDS: usize = 2;
/// Limits the widths that are measured, among the narrowest ones; each further bit is taken to divide the cost by four.
const MEASURED: usize = 4;
/// Limits the images whose gradients of all probes are on the host at once.
const IMAGES_AT_ONCE: usize = 4;

/// Measures what operands cost.
pub(in crate::quant) struct CostMeter<'a> {
    /// The FP network, prepared.
    pub network: &'a Network,
    /// What it answers for an image.
    pub answer: Answer,
    /// Its matrix weights.
    pub weights: &'a Weights,
    /// How it is calibrated, with the widest plan.
    pub method: &'a Method,
    /// Plans of rising widths, one bit apart.
    pub plans: &'a [Plan],
    /// The preprocessed images, `[3, S, S]` each.
    pub images: &'a [Vec<f32>],
    pub budget: Budget,
}

/// Holds what went into the products of a segment for all images, on the host.
struct Operands {
    buffers: Vec<Vec<f32>>,
    /// Which of them each site's A and B have.
    sites: HashMap<String, [Option<usize>; 2]>,
}

/// Holds the gradients around the products of a segment for some images.
struct Gradients {
    /// For each probe and buffer.
    buffers: Vec<Vec<Vec<f32>>>,
    /// Which of them each site's A, B and O have.
    sites: HashMap<String, [Option<usize>; 3]>,
}

/// Holds an operand that is rounded with a view to all images but those of a fold.
struct Trial<'a> {
    /// The number of the operand among those that are asked for.
    asked: usize,
    site: &'a Site,
    side: Side,
    fold: usize,
    rounded: Rounded,
}

/// Holds what is off in each of the measured widths.
enum Rounded {
    Activation(Vec<RoundedActivation>),
    Weight(RoundedWeights),
}

impl CostMeter<'_> {
    /// Measures what each of the operands `asked` for costs in the plans' widths: the mean KL divergence of an image, or the
    /// mean of half its features' squared error. One that no loss depends on through the image, as a query that is the same for
    /// all, is taken to cost as much as the dearest one.
    ///
    /// # Errors
    /// Fewer images than folds, and those of a calibration.
    pub async fn measure(
        &self,
        asked: &[(Site, Side)],
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Vec<Vec<f64>>> {
        let count = self.images.len();
        if count < FOLDS {
            let problem =
                format!("expected at least {FOLDS} images to allot bits by, found {count}");
            return Err(Error::setting(Setting::Count, problem));
        }
        let segments = self.network.segments();
        let is_asked = |site: &Site| asked.iter().any(|(other, _)| other.name == site.name);
        let has_asked = |segment: &Segment| segment.sites().iter().any(is_asked);
        let Some(first) = segments.iter().position(has_asked) else {
            return Ok(Vec::new());
        };
        let device = self.network.device();
        let (weights, method) = (self.weights, self.method);
        let in_integers = |site: &Site| method.plan.of(site).is_some();
        let memory = Memory::new(
            self.network,
            weights,
            method,
            count,
            self.budget,
            &in_integers,
        )
        .await?;
        let at_once = memory.forward_images();
        let commands = &mut Commands::new(device);
        let images = self.images;
        let checkpoints =
            forward(commands, segments, weights, images, at_once, None, on_event).await?;
        let draws = (PROBES, self.answer);
        let from = (first, at_once);
        let probes = Probes::new(
            commands,
            segments,
            weights,
            &checkpoints,
            draws,
            from,
            on_event,
        )
        .await?;

        // Of each operand and image, in each width; empty where there is no gradient.
        let mut squares: Vec<Vec<Vec<f64>>> = vec![vec![Vec::new(); count]; asked.len()];
        for (index, segment) in segments.iter().enumerate().skip(first) {
            if !has_asked(segment) {
                continue;
            }
            on_event(Event::Progress(Progress {
                phase: Phase::Allotment,
                site: &segment.sites()[0].name,
                done: index as f64 / segments.len() as f64,
            }))?;
            let products = FloatProducts::load(device, weights, segment.sites())?;
            let inputs = &checkpoints.inputs[index];
            let of = (&probes, index - first);
            let fisher =
                SegmentFisher::new(commands, segment, &products, inputs, of, at_once).await?;
            let operands = Operands::new(commands, segment, &products, inputs, at_once).await?;
            let of_segment = asked.iter().enumerate().filter(|(_, (site, _))| {
                segment.sites().iter().any(|other| other.name == site.name)
            });
            let mut trials = Vec::new();
            for (number, (site, side)) in of_segment {
                for fold in 0..FOLDS {
                    let rounded = self.round(site, *side, fold, &operands, &fisher)?;
                    trials.push(Trial {
                        asked: number,
                        site,
                        side: *side,
                        fold,
                        rounded,
                    });
                }
            }
            let step = at_once.min(IMAGES_AT_ONCE);
            for start in (0..count).step_by(step) {
                let chunk = start..(start + step).min(count);
                let len = segment.input_len();
                let input = &inputs[chunk.start * len..chunk.end * len];
                let input = device.upload(input);
                let mut tape = segment.record(commands, &products, chunk.len(), &input);
                let mut gradients = Gradients {
                    buffers: Vec::new(),
                    sites: HashMap::new(),
                };
                for probe in 0..PROBES {
                    let grad = probes.at_output(index - first, probe);
                    let len = segment.output_len();
                    let grad = device.upload(&grad[chunk.start * len..chunk.end * len]);
                    let around = tape.site_gradients(commands, grad);
                    let mut reader = Reader::default();
                    for gradients_of in &around {
                        let buffers = [
                            gradients_of.a.as_ref(),
                            gradients_of.b.as_ref(),
                            Some(&gradients_of.out),
                        ];
                        let places = reader.read(commands, buffers).await?;
                        gradients
                            .sites
                            .insert(gradients_of.site.name.clone(), places);
                    }
                    gradients.buffers.push(reader.buffers);
                }
                let of_chunk = (chunk.start, chunk.len(), count);
                let found: Vec<Vec<(usize, Vec<f64>)>> = trials
                    .par_iter()
                    .map(|trial| trial.squares(&operands, &gradients, of_chunk))
                    .collect();
                for (trial, found) in trials.iter().zip(found) {
                    for (image, of_image) in found {
                        squares[trial.asked][image] = of_image;
                    }
                }
            }
        }
        // In the order of the images, however many there were at once.
        let sums: Vec<Option<Vec<f64>>> = squares.iter().map(|of_images| sum(of_images)).collect();
        let unit = 0.5 * 4f64.powi(-probes.exponent) / (count * PROBES) as f64;
        let is_weight = |(site, side): &(Site, Side)| *side == Side::B && site.has_weight();
        let (weights, activations): (Vec<usize>, Vec<usize>) =
            (0..asked.len()).partition(|&number| is_weight(&asked[number]));
        let mut costs = vec![Vec::new(); asked.len()];
        for kind in [weights, activations] {
            let sums: Vec<Option<&[f64]>> =
                kind.iter().map(|&number| sums[number].as_deref()).collect();
            for (number, of_operand) in kind.into_iter().zip(levelled(&sums, self.plans.len())) {
                costs[number] = of_operand.into_iter().map(|cost| cost * unit).collect();
            }
        }
        Ok(costs)
    }

    /// Rounds an operand in the measured widths with a view to all images but those of a fold.
    fn round(
        &self,
        site: &Site,
        side: Side,
        fold: usize,
        operands: &Operands,
        fisher: &SegmentFisher,
    ) -> Result<Rounded> {
        let count = self.images.len();
        let others = |image: &usize| image % FOLDS != fold;
        let select = |values: &[f32]| -> Vec<f32> {
            let len = values.len() / count;
            let images = (0..count).filter(others);
            images
                .flat_map(|image| values[image * len..][..len].iter().copied())
                .collect()
        };
        let [a, b] = operands.sites[&site.name];
        let a = select(&operands.buffers[a.expect("a product has a left operand")]);
        let b = b.map(|b| select(&operands.buffers[b]));
        let [a_fisher, b_fisher, out_fisher] = fisher.of(&site.name).map(|of| of.map(select));
        let values = SiteValues {
            images: (0..count).filter(others).count(),
            a: &a,
            b: b.as_deref(),
            a_fisher: a_fisher.as_deref(),
            b_fisher: b_fisher.as_deref(),
            out_fisher: out_fisher
                .as_deref()
                .expect("a product's result has a gradient"),
        };
        let plans: Vec<SitePlan> = self
            .plans
            .iter()
            .take(MEASURED)
            .map(|plan| {
                plan.of(site)
                    .expect("an operand with bits is one of integers")
            })
            .collect();
        let corrects = self.method.settings.bias_correction;
        let has_bias = site.weight().is_some_and(|sizes| sizes.has_bias);
        if side == Side::A || !site.has_weight() {
            let fit =
                |plan: &SitePlan| RoundedActivation::fit(plan, side, &values, has_bias, corrects);
            return Ok(Rounded::Activation(plans.par_iter().map(fit).collect()));
        }
        let tensor = |part: &str| self.weights.float(&format!("{}.{part}", site.name));
        let weight = tensor("weight")?;
        let bias = has_bias.then(|| tensor("bias")).transpose()?;
        let linear = LinearSite {
            weight: &weight,
            bias: bias.as_deref(),
        };
        let rounded = RoundedWeights::new(&plans, &values, &linear, corrects);
        Ok(Rounded::Weight(rounded))
    }
}

impl Operands {
    /// Sends all images through a segment and keeps what goes into its products.
    async fn new(
        commands: &mut Commands,
        segment: &Segment,
        products: &FloatProducts,
        inputs: &[f32],
        at_once: usize,
    ) -> Result<Self> {
        let mut operands = Self {
            buffers: Vec::new(),
            sites: HashMap::new(),
        };
        for chunk in inputs.chunks(at_once * segment.input_len()) {
            let images = chunk.len() / segment.input_len();
            let input = commands.device().upload(chunk);
            let records = segment
                .record(commands, products, images, &input)
                .into_records();
            let mut reader = Reader::default();
            for site in segment.sites() {
                let record = &records[&site.name];
                let places = reader
                    .read(commands, [Some(&record.a), record.b.as_ref()])
                    .await?;
                operands.sites.insert(site.name.clone(), places);
            }
            operands.buffers.resize_with(reader.buffers.len(), Vec::new);
            for (all, values) in operands.buffers.iter_mut().zip(reader.buffers) {
                append(all, values);
            }
        }
        Ok(operands)
    }
}

/// Reads buffers, each once.
#[derive(Default)]
struct Reader {
    buffers: Vec<Vec<f32>>,
    /// Where each allocation was put.
    places: HashMap<usize, usize>,
}

impl Reader {
    async fn read<const N: usize>(
        &mut self,
        commands: &mut Commands,
        wanted: [Option<&Buffer<f32>>; N],
    ) -> Result<[Option<usize>; N]> {
        let mut places = [None; N];
        for (place, buffer) in places.iter_mut().zip(wanted) {
            let Some(buffer) = buffer else { continue };
            let next = self.buffers.len();
            let at = *self.places.entry(buffer.allocation().0).or_insert(next);
            if at == next {
                self.buffers.push(commands.read_async(buffer).await?);
            }
            *place = Some(at);
        }
        Ok(places)
    }
}

impl Trial<'_> {
    /// Adds up the squares of the changes of all probes' losses, in each width, for each of those among some images that are
    /// of the trial's fold. There are none where the operand has no gradient.
    fn squares(
        &self,
        operands: &Operands,
        gradients: &Gradients,
        (first, images, count): (usize, usize, usize),
    ) -> Vec<(usize, Vec<f64>)> {
        let [a, b] = operands.sites[&self.site.name];
        let [at_a, at_b, at_out] = gradients.sites[&self.site.name];
        let (values, at) = match (&self.rounded, self.side) {
            (Rounded::Weight(_), _) => (a, at_out),
            (Rounded::Activation(_), Side::A) => (a, at_a),
            (Rounded::Activation(_), Side::B) => (b, at_b),
        };
        let Some((values, at)) = values.zip(at) else {
            return Vec::new();
        };
        let values = &operands.buffers[values];
        let of_fold = (0..images).filter(|image| (first + image) % FOLDS == self.fold);
        let of_image = of_fold.map(|image| {
            let len = values.len() / count;
            let values = &values[(first + image) * len..][..len];
            let of_probes = gradients.buffers.iter().map(|buffers| {
                let len = buffers[at].len() / images;
                &buffers[at][image * len..][..len]
            });
            let of_probes: Vec<&[f32]> = of_probes.collect();
            (first + image, self.rounded.squares(values, &of_probes))
        });
        of_image.collect()
    }
}

impl Rounded {
    /// Adds up the squares of the changes of all probes' losses, in each width, for an image with these `values`.
    fn squares(&self, values: &[f32], gradients: &[&[f32]]) -> Vec<f64> {
        let square = |effect: f64| effect * effect;
        match self {
            Self::Activation(widths) => {
                let effects = widths
                    .iter()
                    .map(|rounded| rounded.effects(values, gradients));
                effects
                    .map(|effects| effects.into_iter().map(square).sum())
                    .collect()
            }
            Self::Weight(rounded) => {
                let effects = gradients.iter().map(|grad| rounded.effects(values, grad));
                let squares: Vec<Vec<f64>> = effects
                    .map(|effects| effects.into_iter().map(square).collect())
                    .collect();
                sum(&squares).unwrap_or_default()
            }
        }
    }
}

/// Takes the measured costs of operands of one kind, and returns what they cost in each of so many `widths`.
///
/// What a few images tell of one width of one operand is off by a third, which an allotment would take for differences. But
/// all operands of a kind lose alike from one width to the next. So each gets its mean level, and the course of them all.
/// Those without a cost are taken to be as dear as the dearest.
fn levelled(measured: &[Option<&[f64]>], widths: usize) -> Vec<Vec<f64>> {
    let log = |cost: f64| libm::log(cost.max(f64::MIN_POSITIVE));
    let logs: Vec<Option<Vec<f64>>> = measured
        .iter()
        .map(|costs| costs.map(|costs| costs.iter().map(|&cost| log(cost)).collect()))
        .collect();
    let known = logs.iter().flatten().count() as f64;
    let Some(total) = sum(&logs.iter().flatten().cloned().collect::<Vec<_>>()) else {
        return vec![vec![0.0; widths]; measured.len()];
    };
    let course: Vec<f64> = total.iter().map(|total| total / known).collect();
    let level = |logs: &Vec<f64>| {
        let pairs = logs.iter().zip(&course);
        pairs.map(|(log, course)| log - course).sum::<f64>() / course.len() as f64
    };
    let levels: Vec<Option<f64>> = logs.iter().map(|logs| logs.as_ref().map(level)).collect();
    let dearest = levels
        .iter()
        .flatten()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    let of_operand = |known: &Option<f64>| {
        let level = known.unwrap_or(dearest);
        let cost = |width: usize| {
            let last = width.min(course.len() - 1);
            libm::exp(level + course[last]) / 4f64.powi((width - last) as i32)
        };
        (0..widths).map(cost).collect()
    };
    levels.iter().map(of_operand).collect()
}

/// Adds up vectors; `None` where all are empty.
fn sum(vectors: &[Vec<f64>]) -> Option<Vec<f64>> {
    let filled = vectors.iter().filter(|vector| !vector.is_empty()).cloned();
    filled.reduce(|mut sum, vector| {
        for (sum, term) in sum.iter_mut().zip(vector) {
            *sum += term;
        }
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_have_the_level_of_the_operand_and_the_course_of_all() {
        let operand = |level: f64, off: [f64; 2]| vec![level * 9.0 * off[0], level * 3.0 * off[1]];
        // Measured three times too high and too low, and the reverse.
        let one = operand(2.0, [3.0, 1.0 / 3.0]);
        let other = operand(5.0, [1.0 / 3.0, 3.0]);
        let found = levelled(&[Some(&one), None, Some(&other)], 4);
        for (found, level) in found.iter().zip([2.0, 5.0, 5.0]) {
            let expected = [9.0, 3.0, 0.75, 0.1875].map(|cost| level * cost);
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found / expected - 1.0).abs() < 1e-12,
                    "{found} for {expected}"
                );
            }
        }
        assert_eq!(levelled(&[None], 2), [[0.0, 0.0]]);
    }
}
