//! Progress bars, on stderr where that is a terminal.

use crate::evaluation;
use crate::hub::Transfer;
use crate::quant;
use crate::verify::Step;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::LazyLock;

/// Holds all bars, which make way for lines of the log.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Returns where bars are shown.
pub(super) fn bars() -> &'static MultiProgress {
    &BARS
}

/// Shows no bar from now on.
pub(super) fn hide() {
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Makes the bar of a calibration.
pub(super) fn calibration() -> ProgressBar {
    bar(1000, "{bar:30} {percent:>3}%  {elapsed} + {eta}  {msg}")
}

/// Shows what a calibration tells.
pub(super) fn show(bar: &ProgressBar, event: &quant::Event) {
    match event {
        quant::Event::Progress(progress) => {
            bar.set_message(format!("{} {}", progress.phase.name(), progress.site));
            bar.set_position((1000.0 * progress.done) as u64);
        }
        quant::Event::Found(..) => {}
        quant::Event::Recovery(what) => log::warn!("{what}"),
    }
}

/// Makes the bar of an evaluation of so many images.
pub(super) fn evaluation(images: usize) -> ProgressBar {
    bar(images as u64, "{bar:30} {pos}/{len}  {elapsed} + {eta}")
}

/// Shows what an evaluation tells.
pub(super) fn tell(bar: &ProgressBar, event: &evaluation::Event) {
    match event {
        evaluation::Event::Done(images) => bar.inc(*images as u64),
        evaluation::Event::Skipped(error) => log::warn!("skipped: {error}"),
    }
}

/// Makes the bar of a verification of so many kernels and models.
pub(super) fn verification(steps: usize) -> ProgressBar {
    bar(steps as u64, "{bar:30} {pos}/{len}  {elapsed}  {msg}")
}

/// Shows what a verification tells.
pub(super) fn count(bar: &ProgressBar, event: &Step) {
    let (Step::Kernel(name) | Step::Model(name)) = event;
    bar.set_message((*name).to_owned());
    bar.inc(1);
}

/// Makes the bar of files on their way from the hub.
pub(super) fn transfer() -> ProgressBar {
    bar(0, "{bar:30} {bytes}/{total_bytes}  {elapsed} + {eta}")
}

/// Shows how much of a file is there.
pub(super) fn show_transfer(bar: &ProgressBar, transfer: &Transfer) {
    match transfer.size {
        Some(size) => bar.set_length(size),
        None => bar.unset_length(),
    }
    bar.set_position(transfer.bytes);
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    BARS.add(ProgressBar::new(length).with_style(style))
}
