//! How the values lie that a twin is for, and where the codes are: the paper's Figures 2 and 3.

use super::{Canvas, Drawn, Ink, PIXEL, ink, letters, line, svg};
use crate::quant::{Histogram, Histograms, SitePlan, SiteScales};
use maud::Markup;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Holds the chart's size, in pixels.
const SIZE: [u32; 2] = [530, 168];

/// Holds the height of the values' part, of a row of codes, and of a code, in pixels.
const VALUES: i32 = 112;
const ROW: i32 = 17;
const TOOTH: i32 = 11;

/// Holds where an axis of counts begins, below 1, so that one value is seen.
const NOTHING: f64 = 0.5;

/// Says what a row of codes stands for.
struct Codes {
    name: &'static str,
    ink: Ink,
    points: Vec<f64>,
}

/// Draws all values on the left, those near zero on the right, and below them the values that have a code.
pub(in crate::report) fn value_histograms(
    plan: &SitePlan,
    scales: &SiteScales,
    histograms: &Histograms,
) -> Markup {
    let label = format!(
        "Values of the left operand of {}, and codes",
        plan.site.name
    );
    let codes = codes(plan, scales);
    svg(SIZE, &label, |canvas, _| {
        let (left, right) = canvas.split_horizontally(SIZE[0] as i32 * PIXEL / 2);
        draw(canvas, &left, &histograms.whole, &codes)?;
        draw(canvas, &right, &histograms.near_zero, &codes)
    })
}

/// Returns the values that codes stand for, those of the first head where heads have scales of their own, range by
/// range.
fn codes(plan: &SitePlan, scales: &SiteScales) -> Vec<Codes> {
    let (format, scale) = (plan.a.format, scales.a[0]);
    let table = scales.a_tables.first();
    let lanes = table.map_or(&[][..], |table| &table.lanes);
    let offset = table.map_or(0.0, |table| f64::from(table.offset));
    let ranges = format.ranges(plan.a.bits, lanes).into_iter();
    let codes = ranges.map(|range| {
        let (ink, unit) = match (format.is_twin(), range.second) {
            (false, _) => (ink::CODES, scale.scale),
            (true, false) => (ink::R1, scale.scale),
            (true, true) => (ink::R2, scale.scale_2()),
        };
        Codes {
            name: range.name,
            ink,
            points: range
                .multiples
                .into_iter()
                .map(|multiple| f64::from(multiple) * f64::from(unit) + offset)
                .collect(),
        }
    });
    codes.collect()
}

/// Draws one histogram on `part` of `canvas`, and its codes.
fn draw(canvas: &Canvas, part: &Canvas, histogram: &Histogram, codes: &[Codes]) -> Drawn {
    let Histogram { low, high, counts } = histogram;
    let most = counts.iter().copied().max().unwrap_or(0).max(10) as f64;
    let mut chart = ChartBuilder::on(part)
        .margin_top(8 * PIXEL)
        .margin_right(16 * PIXEL)
        .x_label_area_size(SIZE[1] as i32 * PIXEL - VALUES * PIXEL)
        .y_label_area_size(40 * PIXEL)
        .build_cartesian_2d(*low..*high, (NOTHING..2.0 * most).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .bold_line_style(line(ink::GRID, 3))
        .axis_style(line(ink::AXIS, 3))
        .set_all_tick_mark_size(4 * PIXEL)
        .x_labels(0)
        .y_labels(4)
        .y_label_formatter(&|count| power(*count))
        .y_label_style(letters(ink::FAINT_TEXT, (HPos::Right, VPos::Center)))
        .draw()?;
    let width = (high - low) / counts.len() as f64;
    let mut outline = vec![(*low, NOTHING)];
    for (bar, &count) in counts.iter().enumerate() {
        let height = if count == 0 { NOTHING } else { count as f64 };
        outline.push((low + bar as f64 * width, height));
        outline.push((low + (bar + 1) as f64 * width, height));
    }
    outline.push((*high, NOTHING));
    let area = chart.plotting_area();
    area.draw(&Polygon::new(outline, ink::VALUES.color().filled()))?;

    let at = |value: f64| area.map_coordinate(&(value, NOTHING));
    let (left, bottom) = at(*low);
    for (index, row) in codes.iter().enumerate() {
        let baseline = bottom + (index as i32 + 1) * ROW * PIXEL;
        let name = letters(row.ink, (HPos::Right, VPos::Bottom));
        canvas.draw_text(row.name, &name, (left - 5 * PIXEL, baseline))?;
        // A comb, in one stroke.
        let shown = row
            .points
            .iter()
            .filter(|point| (low..=high).contains(point));
        let teeth = shown.flat_map(|&point| {
            let (x, _) = at(point);
            [(x, baseline), (x, baseline - TOOTH * PIXEL), (x, baseline)]
        });
        canvas.draw(&PathElement::new(
            teeth.collect::<Vec<_>>(),
            line(row.ink, 3),
        ))?;
    }
    let y = bottom + (codes.len() as i32 * ROW + 5) * PIXEL;
    // Unless it would be written over the smallest value.
    let zero = (at(0.0).0 - left > 45 * PIXEL).then_some((0.0, HPos::Center));
    for (value, anchor) in [(*low, HPos::Left), (*high, HPos::Right)]
        .into_iter()
        .chain(zero)
    {
        let letters = letters(ink::FAINT_TEXT, (anchor, VPos::Top));
        canvas.draw_text(&end(value), &letters, (at(value).0, y))?;
    }
    Ok(())
}

/// Words an end of an axis in few letters.
fn end(value: f64) -> String {
    if value < 1e3 {
        format!("{value:.2}")
    } else {
        format!("{value:.1e}")
    }
}

/// Words a count in few letters, where it is a power of ten.
fn power(count: f64) -> String {
    match count {
        ..1e3 => format!("{count}"),
        ..1e6 => format!("{}k", count / 1e3),
        _ => format!("{}M", count / 1e6),
    }
}
