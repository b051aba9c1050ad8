//! Progress bars, on stderr.

use crate::evaluation;
use crate::quant::{self, Phase};
use indicatif::{ProgressBar, ProgressStyle};

/// The bar of a calibration.
pub(super) fn calibration() -> ProgressBar {
    bar(1000, "{bar:30} {percent:>3}%  {elapsed} + {eta}  {msg}")
}

/// Shows what a calibration tells.
pub(super) fn show(bar: &ProgressBar, event: &quant::Event) {
    match event {
        quant::Event::Progress(progress) => {
            let doing = match progress.phase {
                Phase::Forward => "forward",
                Phase::Backward => "backward",
                Phase::Search => "search",
            };
            bar.set_message(format!("{doing} {}", progress.site));
            bar.set_position((1000.0 * progress.done) as u64);
        }
        quant::Event::Found(..) => {}
        quant::Event::Recovery(what) => bar.suspend(|| eprintln!("{what}")),
    }
}

/// The bar of an evaluation of so many images.
pub(super) fn evaluation(images: usize) -> ProgressBar {
    bar(images as u64, "{bar:30} {pos}/{len}  {elapsed} + {eta}")
}

/// Shows what an evaluation tells.
pub(super) fn tell(bar: &ProgressBar, event: &evaluation::Event) {
    match event {
        evaluation::Event::Done(images) => bar.inc(*images as u64),
        evaluation::Event::Skipped(error) => bar.suspend(|| eprintln!("skipped: {error}")),
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(length).with_style(style)
}
