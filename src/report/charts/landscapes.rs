//! The network's loss and KL divergence beside the metrics, over the candidates for an operand's scales.

use super::{Hover, Ink, PIXEL, ink, letters, line, svg};
use crate::quant::{Landscape, LandscapePoint, Metric};
use maud::Markup;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Holds the chart's size, in pixels.
const SIZE: [u32; 2] = [400, 190];

const _: () = assert!(Metric::ALL.len() <= ink::METRICS.len());

/// Lists the metrics with their inks. The first is drawn last, over the others.
pub(in crate::report) fn metrics() -> impl DoubleEndedIterator<Item = (Metric, Ink)> {
    Metric::ALL.into_iter().zip(ink::METRICS)
}

/// Draws the loss, the KL divergence where there is one, and the scores over the numbers of the candidates, each from its
/// least to its largest, with a dot where it is least.
pub(in crate::report) fn landscape_curves(landscape: &Landscape) -> Markup {
    let side = landscape.side.name();
    let label = format!(
        "The network's loss and the scores of the candidates for the scales of {side} of {}",
        landscape.site
    );
    let last = landscape.candidates.len().max(2) as f64;
    let of_all = |value: &dyn Fn(&LandscapePoint) -> f64| {
        let values: Vec<f64> = landscape.candidates.iter().map(value).collect();
        points(&values)
    };
    let scores = |metric| of_all(&|point| point.scores[&metric]);
    let loss = of_all(&|point| point.loss);
    let kl = landscape.kl().map(|kl| points(&kl));
    svg(SIZE, &label, |canvas, hovers| {
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(6 * PIXEL)
            .margin_right(8 * PIXEL)
            .x_label_area_size(15 * PIXEL)
            .y_label_area_size(8 * PIXEL)
            .build_cartesian_2d(0.0..last + 1.0, -0.03..1.03)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(line(ink::AXIS, 3))
            .set_all_tick_mark_size(4 * PIXEL)
            .x_labels(0)
            .y_labels(0)
            .draw()?;
        let area = chart.plotting_area();
        for (number, anchor) in [(1.0, HPos::Left), (last, HPos::Right)] {
            let (x, y) = area.map_coordinate(&(number, -0.03));
            let letters = letters(ink::FAINT_TEXT, (anchor, VPos::Top));
            canvas.draw_text(&number.to_string(), &letters, (x, y + 3 * PIXEL))?;
        }
        for (metric, ink) in metrics().rev() {
            area.draw(&PathElement::new(scores(metric), line(ink, 6)))?;
        }
        if let Some(kl) = &kl {
            area.draw(&PathElement::new(kl.clone(), line(ink::KL, 10)))?;
        }
        area.draw(&PathElement::new(loss.clone(), line(ink::LOSS, 10)))?;
        for (metric, ink) in metrics().rev() {
            let least = landscape.least(|point| point.scores[&metric]);
            area.draw(&Circle::new(
                scores(metric)[least],
                13,
                ink.color().filled(),
            ))?;
        }
        if let Some((kl, least)) = kl.zip(landscape.least_kl()) {
            area.draw(&Circle::new(kl[least], 17, ink::KL.color().filled()))?;
        }
        let least = landscape.least(|point| point.loss);
        area.draw(&Circle::new(loss[least], 17, ink::LOSS.color().filled()))?;
        let (columns, rows) = canvas.get_pixel_range();
        hovers.push(Hover {
            corners: [columns.start, rows.start, columns.end, rows.end],
            text: minima(landscape),
        });
        Ok(())
    })
}

/// Returns a curve as points: the numbers of the candidates, and the values from 0, the least, to 1, the largest.
fn points(values: &[f64]) -> Vec<(f64, f64)> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let range = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
    // A curve that is flat is least everywhere.
    let share = |value: f64| match range > 0.0 {
        true => (value - least) / range,
        false => 0.0,
    };
    let numbered = values.iter().enumerate();
    numbered
        .map(|(index, &value)| (index as f64 + 1.0, share(value)))
        .collect()
}

/// Words where the curves are least, and the network's loss and KL there.
fn minima(landscape: &Landscape) -> String {
    let at = |what: &str, index: usize| {
        let LandscapePoint { loss, kl, .. } = landscape.candidates[index];
        let kl = kl.map_or(String::new(), |kl| format!(", KL {kl:.2e}"));
        format!(
            "{what} is least at candidate {}: loss {loss:.5}{kl}",
            index + 1
        )
    };
    let metrics = metrics().map(|(metric, _)| {
        let least = landscape.least(|point| point.scores[&metric]);
        at(metric.name(), least)
    });
    let float = format!("loss in floats {:.5}", landscape.float_loss);
    let loss = at("the loss", landscape.least(|point| point.loss));
    let kl = landscape.least_kl().map(|least| at("KL", least));
    let lines = [loss].into_iter().chain(kl).chain(metrics).chain([float]);
    lines.collect::<Vec<String>>().join("\n")
}
