//! What the largest networks need: time and device memory of one image in FP32 and in W6A6 integers, and of a calibration
//! with some images, as rows of a Markdown table. The weights are random, in the shapes of the recipes, so nothing need be
//! downloaded. The command that makes the table of `PERFORMANCE.md`:
//!
//! ```sh
//! cargo bench --bench sizes -- --calibrate swin_tiny_patch4_window7_224
//! cargo bench --bench sizes -- --model vit_base_patch16_384 --calibrate vit_base_patch16_384 --candidates 20 --rounds 1
//! cargo bench --bench sizes -- --model vit_base_patch16_224 --calibrate vit_base_patch16_224 --preset best --images 32
//! ```

use clap::Parser;
use ptq4vit_gpu::bench::{covering, random_checkpoint, random_images};
use ptq4vit_gpu::device::{Device, open};
use ptq4vit_gpu::error::{Error, Result, Setting};
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::recipe::{Recipe, recipes};
use ptq4vit_gpu::quant::{Calibration, Method, Preset, Provenance, QuantizedModel, parse_bytes};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Arguments {
    /// A recipe's name; may be repeated.
    #[arg(long, default_values = [
        "swin_tiny_patch4_window7_224",
        "swin_base_patch4_window12_384",
        "vit_base_patch16_384",
        "vit_large_patch16_224",
    ])]
    model: Vec<String>,
    /// Of these, calibrate this one in full; may be repeated.
    #[arg(long)]
    calibrate: Vec<String>,
    /// Preset, images, candidates and rounds of these calibrations; preset `best` has no candidates.
    #[arg(long, value_enum, default_value = "ptq4vit")]
    preset: Preset,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..))]
    images: u64,
    #[arg(long, default_value_t = 100)]
    candidates: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// As for `ptq4vit-gpu`.
    #[arg(long, value_parser = parse_bytes)]
    memory_budget: Option<u64>,
    #[arg(long)]
    device: Option<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let selection = open(arguments.device.as_deref())?;
    eprintln!("device: {}", selection.notice);
    println!(
        "| model | parameters | FP32, one image | W6A6, one image | calibration, {} images |",
        arguments.images
    );
    println!("|---|---|---|---|---|");
    for name in &arguments.model {
        let recipe = recipes()
            .iter()
            .find(|recipe| recipe.name == *name)
            .ok_or_else(|| {
                Error::setting(Setting::Model, format!("there is no recipe `{name}`"))
            })?;
        row(&selection.device, recipe, &arguments)?;
    }
    Ok(())
}

fn row(device: &Device, recipe: &Recipe, arguments: &Arguments) -> Result<()> {
    let in_full = arguments.calibrate.contains(&recipe.name);
    let (weights, resolved) = random_checkpoint(recipe)?;
    let images = random_images(&resolved.architecture, arguments.images as usize);

    device.memory().reset_peak();
    let mut float = Model::float(
        device,
        &weights,
        &resolved.architecture,
        &resolved.preprocessing,
    )?;
    let float_figures = one_image(device, &mut float, &images)?;
    drop(float);

    let (method, images_used) = if in_full {
        let sites = sites(&resolved.architecture);
        let mut method = Method::preset(arguments.preset, 6, 6, &sites)?;
        method.settings.candidates = arguments.candidates;
        method.settings.rounds = arguments.rounds;
        (method, &images[..])
    } else {
        (covering(6, &resolved.architecture)?, &images[..1])
    };
    let calibration = Calibration::builder(device, &weights, &resolved.architecture)
        .method(&method)
        .images(images_used)
        .memory_budget(arguments.memory_budget)
        .run()?;
    let calibration_figures = in_full.then(|| {
        let Calibration {
            forward,
            backward,
            search,
            evidence,
            ..
        } = calibration;
        let time = forward + backward + search + evidence;
        figures(time, calibration.peak_device_bytes)
    });
    let provenance = Provenance::new(&weights, &resolved.name, arguments.preset, None, &[])?;
    let model = QuantizedModel::new(&weights, &resolved, method, calibration, provenance)?;
    device.memory().reset_peak();
    let integer_figures = one_image(device, &mut Model::quantized(device, &model)?, &images)?;
    println!(
        "| {} | {:.1} M | {float_figures} | {integer_figures} | {} |",
        recipe.name,
        recipe.parameters as f64 / 1e6,
        calibration_figures.unwrap_or_default()
    );
    Ok(())
}

/// Time and memory of one image, once the kernels have been compiled.
fn one_image(device: &Device, model: &mut Model, images: &[Vec<f32>]) -> Result<String> {
    model.logits(&images[..1])?;
    let start = Instant::now();
    let logits = model.logits(&images[1..2])?;
    let elapsed = start.elapsed();
    if logits[0].iter().any(|logit| !logit.is_finite()) {
        return Err(Error::Check("the logits are not finite".into()));
    }
    Ok(figures(elapsed, device.memory().peak()))
}

fn figures(time: Duration, bytes: u64) -> String {
    format!("{:.2} s, {} MiB", time.as_secs_f64(), bytes >> 20)
}
