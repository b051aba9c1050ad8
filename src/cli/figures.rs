//! The figures of an evaluation, as `eval`, `merge` and `sweep --task` print them.

use super::error::Result;
use super::print_json;
use crate::evaluation::{FeatureSummary, Summary};

/// Prints an evaluation's figures as lines of text, or as JSON.
pub(super) fn print(report: &Summary, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(report);
    }
    let accuracy = &report.accuracy;
    print_line!("images        {}", accuracy.images)?;
    print_line!("top-1         {:.2}%", 100.0 * accuracy.top1)?;
    print_line!("top-5         {:.2}%", 100.0 * accuracy.top5)?;
    if let (Some(agreement), Some(kl)) = (accuracy.agreement, accuracy.kl) {
        print_line!("agreement     {:.2}%", 100.0 * agreement)?;
        print_line!("KL            {kl:.4}")?;
        match accuracy.logit_sqnr_db {
            Some(sqnr) => print_line!("logit SQNR    {sqnr:.1} dB")?,
            None => print_line!("logit SQNR    the logits are equal")?,
        }
    }
    print_line!("images/s      {:.1}", report.images_per_second)?;
    print_line!("device        {}", report.device)?;
    print_line!("skipped       {}", report.skipped)
}

/// Prints the figures of features as lines of text, or as JSON.
pub(super) fn print_features(report: &FeatureSummary, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(report);
    }
    print_line!("images            {}", report.images)?;
    if let Some(closeness) = &report.closeness {
        print_line!("cosine            {:.5}", closeness.cosine)?;
        print_line!("least cosine      {:.5}", closeness.cosine_min)?;
        print_line!("relative error    {:.2}%", 100.0 * closeness.relative_error)?;
        match closeness.feature_sqnr_db {
            Some(sqnr) => print_line!("feature SQNR      {sqnr:.1} dB")?,
            None => print_line!("feature SQNR      the features are equal")?,
        }
    }
    if let Some(neighbours) = &report.neighbours {
        print_line!("gallery           {}", neighbours.gallery)?;
        let shares = [
            ("nearest agree", neighbours.nearest_agreement),
            ("k-NN accuracy", neighbours.knn_accuracy),
            ("… of FP32", neighbours.fp_knn_accuracy),
        ];
        for (name, share) in shares {
            if let Some(share) = share {
                print_line!("{name:<16}  {:.2}%", 100.0 * share)?;
            }
        }
    }
    print_line!("images/s          {:.1}", report.images_per_second)?;
    print_line!("device            {}", report.device)?;
    print_line!("skipped           {}", report.skipped)
}
