//! The losses whose gradients say which errors matter. None of them needs a label.
//!
//! Of logits it is the cross-entropy: against the network's own class, or, several times for each image, against a class that
//! is drawn from its probabilities. Features have no probabilities, and a distance to the network's own features has no
//! gradient there. So they are projected onto random directions, L = r · f with r from N(0, I): E over r of a squared gradient
//! is the diagonal of Jᵀ J, which is what a small error at a value costs in squared error of the features.

use crate::device::Commands;
use crate::error::{Error, Result, Setting};
use crate::kernels::cross_entropy_backward;
use crate::model::config::Answer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::f64::consts::TAU;

/// Seeds the draws.
const SEED: u64 = 0;

/// Computes the loss's gradient at all images' answers, one after the other, times 2^exponent, and returns it with that
/// exponent: against the network's own class, or of one projection.
///
/// # Errors
/// A network that is certain of every image, and the device's errors.
pub(super) async fn gradients(
    commands: &mut Commands,
    answer: Answer,
    answers: &[f32],
) -> Result<(Vec<f32>, i32)> {
    match answer {
        Answer::Logits(classes) => of_own_class(commands, classes, answers).await,
        Answer::Features(features) => {
            let (gradients, exponent) = of_projections(answers.len() / features, features, 1);
            Ok((gradients.concat(), exponent))
        }
    }
}

/// Computes such gradients for `count` probes of each image, one after the other: against classes that are drawn, or of so
/// many projections.
///
/// # Errors
/// A network that is certain of every image.
pub(super) fn probed_gradients(
    answer: Answer,
    answers: &[f32],
    count: usize,
) -> Result<(Vec<Vec<f32>>, i32)> {
    match answer {
        Answer::Logits(classes) => of_drawn_classes(answers, classes, count),
        Answer::Features(features) => Ok(of_projections(answers.len() / features, features, count)),
    }
}

/// Computes the loss of `answers`, a mean over the images: of logits the cross-entropy against the class that `float` are
/// largest at, of features the squared distance from `float`. Both are `[images, answers]`, one of the FP network.
pub(super) fn mean(answer: Answer, float: &[f32], answers: &[f32]) -> f64 {
    let (Answer::Logits(len) | Answer::Features(len)) = answer;
    let of_image = |(float, answers): (&[f32], &[f32])| match answer {
        Answer::Logits(_) => {
            // The first of the largest, as the gradient has it.
            let label = (0..len).fold(0, |best, class| match float[class] > float[best] {
                true => class,
                false => best,
            });
            let (below, log_sum) = below_largest(answers);
            log_sum - below[label]
        }
        Answer::Features(_) => {
            let differences = float.iter().zip(answers);
            let difference = |(float, found): (&f32, &f32)| f64::from(*found) - f64::from(*float);
            differences.map(|both| difference(both).powi(2)).sum()
        }
    };
    let images = float.chunks_exact(len).zip(answers.chunks_exact(len));
    images.map(of_image).sum::<f64>() / (float.len() / len) as f64
}

/// Computes the mean over the images of KL(softmax(`float`) ‖ softmax(`answers`)), in nats. Both are as [`mean`] takes them;
/// `None` where they are features.
pub(super) fn mean_kl(answer: Answer, float: &[f32], answers: &[f32]) -> Option<f64> {
    let Answer::Logits(classes) = answer else {
        return None;
    };
    let of_image = |(float, answers): (&[f32], &[f32])| {
        let [(float, float_sum), (answers, answers_sum)] = [float, answers].map(below_largest);
        let pairs = float.into_iter().zip(answers);
        let of_class = |(float, answer): (f64, f64)| {
            let log_p = float - float_sum;
            libm::exp(log_p) * (log_p - (answer - answers_sum))
        };
        pairs.map(of_class).sum::<f64>()
    };
    let images = float
        .chunks_exact(classes)
        .zip(answers.chunks_exact(classes));
    Some(images.map(of_image).sum::<f64>() / (float.len() / classes) as f64)
}

/// Takes the largest of an image's logits off each, and returns them with the logarithm of the sum of their exponentials.
fn below_largest(logits: &[f32]) -> (Vec<f64>, f64) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let below = logits.iter().map(|&x| f64::from(x) - f64::from(largest));
    let below: Vec<f64> = below.collect();
    let sum: f64 = below.iter().map(|&x| libm::exp(x)).sum();
    (below, libm::log(sum))
}

/// Computes ∂L/∂logits of Σ cross-entropy(logits, their argmax), `[images, classes]`, times 2^exponent, and returns it
/// with that exponent. The factor brings the largest gradient to about 1: confident images have gradients whose squares
/// would leave f32's range, and a common factor doesn't change which candidate is best.
async fn of_own_class(
    commands: &mut Commands,
    classes: usize,
    logits: &[f32],
) -> Result<(Vec<f32>, i32)> {
    let logits_buffer = commands.device().upload(logits);
    let gradients =
        cross_entropy_backward(commands, logits.len() / classes, classes, &logits_buffer);
    let mut gradients = commands.read_async(&gradients).await?;
    let largest = gradients.iter().fold(0.0f32, |max, g| max.max(g.abs()));
    if largest == 0.0 {
        return Err(Error::setting(
            Setting::Metric,
            "hessian needs a loss with a gradient, but the network is certain of every calibration image; pass \
             other images, or choose `mse`",
        ));
    }
    // In two steps, because the factor itself may exceed what an f32 holds.
    let exponent = -largest.log2().floor() as i32;
    for gradient in &mut gradients {
        *gradient = *gradient * 2f32.powi(exponent / 2) * 2f32.powi(exponent - exponent / 2);
    }
    Ok((gradients, exponent))
}

/// Computes the gradients at the logits `[images, classes]` of the cross-entropy against `count` labels an image, drawn
/// from the network's probabilities: p, less one at the label. They are multiplied by a power of two, which is returned
/// with them, so that the largest is about 1.
fn of_drawn_classes(logits: &[f32], classes: usize, count: usize) -> Result<(Vec<Vec<f32>>, i32)> {
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
    Ok(scaled(&gradients, largest))
}

/// Draws directions, and returns them as [`of_drawn_classes`] returns its gradients: the gradient of r · f at f is r.
fn of_projections(images: usize, features: usize, count: usize) -> (Vec<Vec<f32>>, i32) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut directions: Vec<Vec<f64>> = vec![Vec::with_capacity(images * features); count];
    for _ in 0..images {
        for direction in &mut directions {
            // Box and Muller's method.
            direction.extend((0..features).map(|_| {
                let (length, angle) = (1.0 - random.random::<f64>(), random.random::<f64>());
                libm::sqrt(-2.0 * libm::log(length)) * libm::cos(TAU * angle)
            }));
        }
    }
    let all = directions.iter().flatten();
    let largest = all.fold(0.0f64, |largest, x| largest.max(x.abs()));
    scaled(&directions, largest)
}

/// Multiplies gradients of which `largest` is the largest by a power of two, which is returned with them, so that it is about
/// 1.
fn scaled(gradients: &[Vec<f64>], largest: f64) -> (Vec<Vec<f32>>, i32) {
    let exponent = -libm::log2(largest).floor() as i32;
    let unit = libm::exp2(f64::from(exponent));
    let of_probe = |of_probe: &Vec<f64>| of_probe.iter().map(|x| (x * unit) as f32).collect();
    (gradients.iter().map(of_probe).collect(), exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_those_of_a_normal_distribution() {
        let (images, features, count) = (50, 40, 5);
        let (directions, exponent) = of_projections(images, features, count);
        assert_eq!(directions.len(), count);
        let unit = libm::exp2(f64::from(exponent));
        let values: Vec<f64> = directions
            .concat()
            .iter()
            .map(|&x| f64::from(x) / unit)
            .collect();
        assert_eq!(values.len(), images * features * count);
        let mean = |power: i32| {
            let powers = values.iter().map(|x| x.powi(power));
            powers.sum::<f64>() / values.len() as f64
        };
        // Within four standard deviations of 10,000 draws: of x, x² and x⁴ they are 1, √2 and √96.
        for (power, expected, deviation) in
            [(1, 0.0, 1.0), (2, 1.0, 2f64.sqrt()), (4, 3.0, 96f64.sqrt())]
        {
            let off = (mean(power) - expected).abs();
            assert!(off < 4.0 * deviation / 100.0, "x^{power} is {off} off");
        }
        // Images and probes have directions of their own.
        assert_ne!(directions[0], directions[1]);
        assert_ne!(
            directions[0][..features],
            directions[0][features..][..features]
        );
    }

    #[test]
    fn labels_are_drawn_as_the_network_believes() {
        // Probabilities 1/2, 1/4, 1/4; then 1, 0, 0, all but 2e-30.
        let logits = [2f32.ln(), 0.0, 0.0, 69.0, 0.0, 0.0];
        let probes = 4000;
        let (gradients, exponent) = of_drawn_classes(&logits, 3, probes).unwrap();
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
        let (gradients, exponent) = of_drawn_classes(&[60.0, 0.0], 2, 1).unwrap();
        assert!(exponent > 80);
        assert!((0.5..=2.0).contains(&gradients[0][1]));
    }
}
