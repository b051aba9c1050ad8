//! `inspect`: what a quantized file says of itself.

use super::error::Result;
use super::print_json;
use crate::data::class_names::ClassNames;
use crate::model::config::Answer;
use crate::report::{Inspection, SiteInspection};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Shows what a quantized file holds, and how well each of its matrix products does.
///
/// It tells where the model comes from and its size, too. SQNR and cosine compare the integers' result with the FP
/// network's on the calibration images. The error is a product's share of the sum over all products of Σ G² (Ô - O)²,
/// with G the gradient of the loss there: which layers hurt. Clipped values lie beyond the largest or smallest code.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # Which products hurt most
  ptq4vit-gpu inspect deit_tiny_w6a6.safetensors --sort error

  # Every scale, for a program
  ptq4vit-gpu inspect deit_tiny_w6a6.safetensors --json")]
pub struct Inspect {
    /// Quantized model: what `calibrate` wrote.
    #[arg(value_name = "FILE")]
    quantized: PathBuf,
    /// The order of the matrix products.
    #[arg(long, value_enum, default_value = "network")]
    sort: Sort,
    /// Print JSON, with every scale.
    #[arg(long)]
    json: bool,
}

/// An order of sites.
#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    /// As the network computes them.
    Network,
    /// Those that contribute most to the Hessian error first.
    Error,
}

impl Inspect {
    pub fn run(&self) -> Result<()> {
        let mut inspection = Inspection::open(&self.quantized)?;
        if let Sort::Error = self.sort {
            let share = |site: &SiteInspection| site.error_share.unwrap_or(0.0);
            inspection
                .sites
                .sort_by(|left, right| share(right).total_cmp(&share(left)));
        }
        if self.json {
            return print_json(&inspection);
        }
        print_header(&inspection)?;
        print_line!("")?;
        print_sites(&inspection.sites)
    }
}

fn print_header(inspection: &Inspection) -> Result<()> {
    let Inspection {
        provenance,
        settings,
        ..
    } = inspection;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    print_line!("model        {}", provenance.name)?;
    print_line!("source       {}", provenance.source_sha256)?;
    print_line!("images       {}", provenance.images_in_words())?;
    print_line!("             {}", provenance.calibration_sha256)?;
    print_line!(
        "format       {} {}, by version {}",
        inspection.format,
        inspection.format_version,
        provenance.tool_version
    )?;
    print_line!(
        "size         {:.2} MiB, FP32 {:.2} MiB: {:.1}%",
        mebibytes(inspection.bytes),
        mebibytes(inspection.fp32_bytes),
        100.0 * inspection.bytes as f64 / inspection.fp32_bytes as f64,
    )?;
    match inspection.architecture.answer() {
        Answer::Features(features) => print_line!("features     {features}")?,
        Answer::Logits(classes) => print_line!(
            "classes      {classes}, {}",
            match &inspection.class_names {
                Some(names) if *names == ClassNames::imagenet() => "ImageNet-1k's",
                Some(_) => "with names",
                None => "without names",
            }
        )?,
    }
    print_line!("bits         {}", inspection.bits)?;
    print_line!(
        "preset       {}: {}",
        provenance.preset.name(),
        settings.choices()
    )
}

fn print_sites(sites: &[SiteInspection]) -> Result<()> {
    let width = sites.iter().map(|site| site.site.len()).max().unwrap_or(0);
    print_line!(
        "{:width$}  {:^17}  {:>4}  {:^17}  {:>6} {:>7} {:>7} {:>6} {:>8} {:>6}",
        "",
        "scale of A",
        "m",
        "scale of B",
        "R2",
        "A clip",
        "B clip",
        "SQNR",
        "cosine",
        "error",
    )?;
    for site in sites {
        let evidence = site.evidence.as_ref();
        let percent = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| {
                format!("{:.digits$}%", 100.0 * value)
            })
        };
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        print_line!(
            "{:width$}  {:17}  {:>4}  {:17}  {:>6} {:>7} {:>7} {:>6} {:>8} {:>6}",
            site.site,
            range(&site.a_scales),
            shifts(site.a_shifts.as_deref()),
            range(&site.b_scales),
            percent(evidence.and_then(|figures| figures.a_in_r2), 1),
            percent(evidence.map(|figures| figures.a_clipped), 3),
            percent(evidence.map(|figures| figures.b_clipped), 3),
            number(evidence.and_then(|figures| figures.sqnr_db), 1),
            number(evidence.and_then(|figures| figures.cosine), 5),
            percent(site.error_share, 1),
        )?;
    }
    if sites.iter().all(|site| site.evidence.is_none()) {
        print_line!("")?;
        print_line!(
            "The file has no figures of its calibration: an earlier version of the program wrote it."
        )?;
    }
    Ok(())
}

/// Words the one scale, or the smallest and the largest of several.
fn range(scales: &[f32]) -> String {
    let least = scales.iter().copied().fold(f32::INFINITY, f32::min);
    let most = scales.iter().copied().fold(0.0, f32::max);
    match scales.len() {
        1 => format!("{most:.2e}"),
        _ => format!("{least:.2e} {most:.2e}"),
    }
}

fn shifts(shifts: Option<&[u32]>) -> String {
    let Some(shifts) = shifts else {
        return String::new();
    };
    let shifts: Vec<String> = shifts.iter().map(u32::to_string).collect();
    shifts.join(",")
}
