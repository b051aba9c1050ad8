//! The figures of an evaluation, as `eval`, `merge` and `sweep --task` print them.

use super::error::Result;
use super::print_json;
use crate::evaluation::Summary;

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
