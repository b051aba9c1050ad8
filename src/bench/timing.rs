//! Times, by the best clock that there is.

use crate::device::{Commands, Device};
use crate::error::{Error, Result};
use serde::Serialize;
use web_time::{Duration, Instant};

/// Bounds the repetitions that a median is taken of: the fewest and the most.
const REPETITIONS: [usize; 2] = [3, 100];
/// Says how long repetitions go on between those.
const ENOUGH: Duration = Duration::from_millis(200);
/// Says what the repetitions of one submission should take together: much more than a submission, so that it doesn't
/// count.
const SUBMISSION: Duration = Duration::from_millis(5);
/// Says how long a GPU works before it is timed. On an NVIDIA H100 that had been idle, networks took 3.9 times as long in the
/// first 0.2 s, and then suddenly not: most likely it raises its clock so late.
const WARM_UP: Duration = Duration::from_millis(400);
/// Limits the repetitions in one submission: each holds its results in memory until it has been carried out.
const PER_SUBMISSION: usize = 16;

/// Says what times are measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The device's own clock, read before and after each dispatch. What the host does meanwhile, such as allocating the
    /// result, isn't in it.
    Device,
    /// The host's clock, around repetitions that are submitted together, less what an empty submission takes. A kernel
    /// that allocates its result is timed with the allocation.
    Host,
}

impl Clock {
    /// Returns the best clock for `device`.
    pub fn of(device: &Device) -> Self {
        if device.has_clock() {
            Self::Device
        } else {
            Self::Host
        }
    }
}

/// Says how long something takes.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Half of the repetitions took no longer, in seconds.
    pub median_seconds: f64,
    /// A quarter took no longer than the first, a quarter no less than the second, in seconds.
    pub quartiles_seconds: [f64; 2],
    /// How often it was measured.
    pub repetitions: usize,
}

impl Timing {
    fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        // Between the two neighbours where there is no middle one.
        let quantile = |share: f64| {
            let at = share * (seconds.len() - 1) as f64;
            let (below, above) = (seconds[at.floor() as usize], seconds[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        Self {
            median_seconds: quantile(0.5),
            quartiles_seconds: [quantile(0.25), quantile(0.75)],
            repetitions: seconds.len(),
        }
    }
}

/// Times what `run` appends to commands for `device`. It is called beforehand, because drivers compile late, and on a GPU
/// until that is up to speed.
///
/// # Errors
/// Those of the device; and something that takes no time by its clock.
pub async fn time(device: &Device, run: &dyn Fn(&mut Commands)) -> Result<Timing> {
    let mut commands = Commands::new(device);
    run(&mut commands);
    commands.synchronize_async().await?;
    let once = seconds_of(&mut commands, run).await?.max(1e-9);
    let together = (SUBMISSION.as_secs_f64() / once).ceil() as usize;
    let together = together.clamp(1, PER_SUBMISSION);
    let repeated = |commands: &mut Commands| (0..together).for_each(|_| run(commands));
    warm_up(device, async || {
        repeated(&mut commands);
        commands.synchronize_async().await
    })
    .await?;

    match Clock::of(device) {
        Clock::Device => {
            repeat(device, async || {
                let append = async |commands: &mut Commands| {
                    repeated(commands);
                    Ok(())
                };
                let dispatches = Commands::profile_async(device, append).await?;
                let repetitions = dispatches.chunks(dispatches.len() / together);
                let seconds = |(_, time): &(_, Duration)| time.as_secs_f64();
                Ok(repetitions
                    .map(|dispatches| dispatches.iter().map(seconds).sum())
                    .collect())
            })
            .await
        }
        Clock::Host => {
            repeat(device, async || {
                let empty = seconds_of(&mut commands, &|_| {}).await?;
                let all = seconds_of(&mut commands, &repeated).await?;
                Ok(vec![(all - empty) / together as f64])
            })
            .await
        }
    }
}

/// Measures the seconds until what `append` appends has been carried out, once, by the host's clock.
///
/// # Errors
/// Those of the device.
pub async fn seconds_of(commands: &mut Commands, append: &dyn Fn(&mut Commands)) -> Result<f64> {
    let start = Instant::now();
    append(commands);
    commands.synchronize_async().await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Times `run`, which waits for its result, by the host's clock, without anything taken off.
///
/// # Errors
/// Those of `run`; and something that takes no time.
pub async fn time_whole(
    device: &Device,
    mut run: impl AsyncFnMut() -> Result<()>,
) -> Result<Timing> {
    warm_up(device, &mut run).await?;
    repeat(device, async || {
        let start = Instant::now();
        run().await?;
        Ok(vec![start.elapsed().as_secs_f64()])
    })
    .await
}

/// Runs `run` until a GPU is up to speed; not at all on the host's processor, which has been at work.
///
/// # Errors
/// Those of `run`.
pub async fn warm_up(device: &Device, mut run: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while !device.is_software() && start.elapsed() < WARM_UP {
        run().await?;
    }
    Ok(())
}

async fn repeat(
    device: &Device,
    mut sample: impl AsyncFnMut() -> Result<Vec<f64>>,
) -> Result<Timing> {
    let [fewest, most] = REPETITIONS;
    let start = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < fewest || (seconds.len() < most && start.elapsed() < ENOUGH) {
        seconds.extend(sample().await?);
    }
    let timing = Timing::new(seconds);
    if timing.median_seconds <= 0.0 {
        let problem = "the work is too small to be timed: its median time is not above zero";
        return Err(Error::device(device.name(), problem));
    }
    Ok(timing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_lie_between_neighbours() {
        let timing = Timing::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(timing.median_seconds, 2.5);
        assert_eq!(timing.quartiles_seconds, [1.75, 3.25]);
        assert_eq!(timing.repetitions, 4);
        let timing = Timing::new(vec![7.0]);
        assert_eq!(timing.quartiles_seconds, [7.0, 7.0]);
    }
}
