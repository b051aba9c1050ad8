//! What bits that are allotted are estimated to cost.

use super::{Hover, PIXEL, ink, letters, line, svg};
use crate::quant::{ALLOTTED_BITS, AllotmentCurve, AllotmentPoint};
use maud::Markup;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Holds the chart's size, in pixels.
const SIZE: [u32; 2] = [400, 190];

/// Draws the estimated cost in `unit` over the mean of bits, with a dot at what was chosen.
pub(in crate::report) fn allotment_curve(curve: &AllotmentCurve, unit: &str) -> Markup {
    let name = curve.kind.name();
    let label = format!("The estimated cost of the bits of {name} over their mean, in {unit}");
    let [least, most] = [ALLOTTED_BITS.start(), ALLOTTED_BITS.end()].map(|&bits| f64::from(bits));
    // What costs nothing has no place on a logarithmic axis.
    let place =
        |point: &AllotmentPoint| (point.cost > 0.0).then_some((point.mean_bits, point.cost));
    let places: Vec<(f64, f64)> = curve.points.iter().filter_map(place).collect();
    let chosen = place(&curve.chosen);
    let costs = || places.iter().chain(&chosen).map(|(_, cost)| *cost);
    let low = 0.8 * costs().reduce(f64::min).unwrap_or(1.0);
    let high = 1.25 * costs().reduce(f64::max).unwrap_or(1.0);
    svg(SIZE, &label, |canvas, hovers| {
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(6 * PIXEL)
            .margin_right(8 * PIXEL)
            .x_label_area_size(15 * PIXEL)
            .y_label_area_size(38 * PIXEL)
            .build_cartesian_2d(least - 0.1..most + 0.1, (low..high).log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .bold_line_style(line(ink::GRID, 3))
            .axis_style(line(ink::AXIS, 3))
            .set_all_tick_mark_size(4 * PIXEL)
            .x_labels(0)
            .y_labels(4)
            .y_label_formatter(&|cost| format!("{cost:.0e}"))
            .y_label_style(letters(ink::FAINT_TEXT, (HPos::Right, VPos::Center)))
            .draw()?;
        let area = chart.plotting_area();
        for bits in ALLOTTED_BITS {
            let (x, y) = area.map_coordinate(&(f64::from(bits), low));
            let letters = letters(ink::FAINT_TEXT, (HPos::Center, VPos::Top));
            canvas.draw_text(&bits.to_string(), &letters, (x, y + 3 * PIXEL))?;
        }
        area.draw(&PathElement::new(places.clone(), line(ink::COMPLETE, 9)))?;
        if let Some(chosen) = chosen {
            area.draw(&Circle::new(chosen, 15, ink::CHOSEN.color().filled()))?;
        }
        let (columns, rows) = canvas.get_pixel_range();
        let words = |what: &str, point: &AllotmentPoint| {
            let AllotmentPoint { mean_bits, cost } = point;
            format!("{what}{mean_bits:.3} bits: {cost:.3e} {unit}")
        };
        let chosen = words("chosen: ", &curve.chosen);
        let points = curve.points.iter().map(|point| words("", point));
        let lines: Vec<String> = [chosen].into_iter().chain(points).collect();
        hovers.push(Hover {
            corners: [columns.start, rows.start, columns.end, rows.end],
            text: lines.join("\n"),
        });
        Ok(())
    })
}
