//! `calibrate --report`: the page that shows what a calibration found.

use super::error::Result;
use super::eval::{check_skipped, evaluate};
use super::inputs::Inputs;
use crate::device::Device;
use crate::evaluation::{LabelledImages, Models, Shard, summarize};
use crate::file::output::Output;
use crate::file::weights::Weights;
use crate::model::recipe::Resolved;
use crate::quant::{AllotmentCurve, Landscape, QuantizedModel, SiteReport};
use crate::report::{Accuracy, Page};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to show for people who would rather look.
#[derive(Args)]
pub struct ReportOptions {
    /// Also write a page of HTML: each product's error, the scores of all candidates, the values after softmax and GELU
    /// with the codes, what allotted bits are estimated to cost, the agreement with the FP model.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Folder of labelled images, as `eval` takes them; the page then tells the accuracy before and after.
    #[arg(long, value_name = "DIR", requires = "report")]
    report_images: Option<PathBuf>,
    /// File with a line `file<TAB>class index` per image, relative to --report-images.
    #[arg(long, value_name = "FILE", requires = "report_images")]
    report_labels: Option<PathBuf>,
}

/// Holds a page that is to be written once there is something to tell.
pub struct PlannedPage {
    output: Output,
    labelled: Option<LabelledImages>,
}

/// Holds what a calibration left.
pub struct Outcome<'a> {
    /// Where it ran.
    pub device: &'a Device,
    /// The FP model.
    pub weights: &'a Weights,
    /// What that is.
    pub resolved: &'a Resolved,
    /// The quantized model's file.
    pub quantized: &'a Path,
    /// What was found, in the order of the network.
    pub reports: &'a [SiteReport],
    /// The network's loss under the candidates of chosen products.
    pub landscapes: &'a [Landscape],
    /// What bits are estimated to cost, where some were allotted; empty where an earlier run did that.
    pub allotment: Option<&'a [AllotmentCurve]>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The calibration images, preprocessed.
    pub images: &'a [Vec<f32>],
}

impl ReportOptions {
    /// Finds out before the calibration whether there can be a page, if one is asked for.
    ///
    /// # Errors
    /// A place that can't be written to, and images or labels that can't be used.
    pub fn open(&self) -> Result<Option<PlannedPage>> {
        let Some(path) = &self.report else {
            return Ok(None);
        };
        let open = |folder: &PathBuf| LabelledImages::open(folder, self.report_labels.as_deref());
        Ok(Some(PlannedPage {
            output: Output::open(path)?,
            labelled: self.report_images.as_ref().map(open).transpose()?,
        }))
    }

    /// Adds the files that are read for the page.
    pub fn add_inputs<'a>(&self, inputs: Inputs<'a>) -> Inputs<'a> {
        inputs
            .files("--report-labels", &self.report_labels)
            .images("--report-images", &self.report_images)
    }
}

impl PlannedPage {
    /// Makes the labels those of the model.
    ///
    /// # Errors
    /// Those of [`LabelledImages::label`].
    pub fn label(&mut self, resolved: &Resolved) -> Result<()> {
        match &mut self.labelled {
            Some(images) => {
                let classes = resolved.architecture.classes();
                Ok(images.label(classes, resolved.class_names.as_ref())?)
            }
            None => Ok(()),
        }
    }

    /// Returns where the page goes.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Runs the models and writes the page.
    ///
    /// # Errors
    /// Those of the device and of the models, and a file that can't be written.
    pub fn write(&self, outcome: &Outcome) -> Result<()> {
        let Outcome {
            device, weights, ..
        } = *outcome;
        let file = Weights::open(outcome.quantized)?;
        let model = QuantizedModel::read(&file)?;
        let mut after = Models::quantized(device, &file, &model, Some(weights))?;
        let page = Page {
            model: &model,
            bytes: file.file_len() as u64,
            reports: outcome.reports,
            landscapes: outcome.landscapes,
            allotment: outcome.allotment,
            device: device.name(),
            driver: device.driver(),
            seconds: outcome.seconds,
            calibration: after.agreement(outcome.images)?,
            labelled: match &self.labelled {
                Some(images) => {
                    let mut before = Models::float(device, weights, outcome.resolved)?;
                    Some([
                        accuracy(&mut before, images)?,
                        accuracy(&mut after, images)?,
                    ])
                }
                None => None,
            },
        };
        self.output
            .write(|out| out.write_all(page.html().as_bytes()))?;
        Ok(())
    }
}

fn accuracy(models: &mut Models, images: &LabelledImages) -> Result<Accuracy> {
    let part = evaluate(models, images, Shard::WHOLE)?;
    check_skipped(part.skipped.len(), "--report-images", 0)?;
    Ok(summarize([&part])?.accuracy)
}
