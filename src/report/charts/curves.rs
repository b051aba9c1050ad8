//! What the candidates for a site's scales scored.

use super::{Canvas, Drawn, Hover, PIXEL, ink, letters, line, svg};
use crate::quant::{CandidateScore, Scale, ScoreCurve, Side, SiteReport};
use maud::Markup;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Holds the chart's size, in pixels.
const SIZE: [u32; 2] = [260, 116];

/// Bounds the scores that are shown, as multiples of the chosen candidate's.
const LEAST: f64 = 0.93;
const MOST: f64 = 10.0;

/// Draws the scores of the candidates for A's scales on the left, and for B's on the right.
pub(in crate::report) fn score_curves(report: &SiteReport) -> Markup {
    let label = format!("Scores of the candidates for the scales of {}", report.site);
    svg(SIZE, &label, |canvas, hovers| {
        let left = 30 * PIXEL;
        let half = (SIZE[0] as i32 * PIXEL - left) / 2;
        let (a, b) = canvas.split_horizontally(left + half);
        for (part, left, side) in [(a, left, Side::A), (b, 0, Side::B)] {
            let curves = of_side(report, side);
            draw(canvas, &part, left, &curves)?;
            let (columns, rows) = part.get_pixel_range();
            hovers.push(Hover {
                corners: [columns.start, rows.start, columns.end, rows.end],
                text: chosen(&curves),
            });
        }
        Ok(())
    })
}

fn of_side(report: &SiteReport, side: Side) -> Vec<&ScoreCurve> {
    let curves = report.curves.iter();
    curves.filter(|curve| curve.side == side).collect()
}

/// Words the chosen candidates.
fn chosen(curves: &[&ScoreCurve]) -> String {
    let lines = curves.iter().map(|curve| {
        let Scale { scale, shift } = curve.candidates[curve.chosen].scale;
        let shift = match shift {
            0 => String::new(),
            m => format!(", m = {m}"),
        };
        let (number, count) = (curve.chosen + 1, curve.candidates.len());
        format!("candidate {number} of {count}: Δ = {scale:.4e}{shift}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Draws on `part` of `canvas` the curves of one operand's scales, over the numbers of the candidates, each as a
/// multiple of its chosen score.
fn draw(canvas: &Canvas, part: &Canvas, left: i32, curves: &[&ScoreCurve]) -> Drawn {
    let count = curves.iter().map(|curve| curve.candidates.len()).max();
    let last = count.unwrap_or(1).max(2) as f64;
    let mut chart = ChartBuilder::on(part)
        .margin_top(6 * PIXEL)
        .margin_right(8 * PIXEL)
        .x_label_area_size(15 * PIXEL)
        .y_label_area_size(left.max(4 * PIXEL))
        .build_cartesian_2d(0.0..last + 1.0, (LEAST..MOST).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .bold_line_style(line(ink::GRID, 3))
        .axis_style(line(ink::AXIS, 3))
        .set_all_tick_mark_size(4 * PIXEL)
        .x_labels(0)
        .y_labels(3)
        .y_label_formatter(&|multiple| match left {
            0 => String::new(),
            _ => format!("{multiple}×"),
        })
        .y_label_style(letters(ink::FAINT_TEXT, (HPos::Right, VPos::Center)))
        .draw()?;
    let area = chart.plotting_area();
    for (number, anchor) in [(1.0, HPos::Left), (last, HPos::Right)] {
        let (x, y) = area.map_coordinate(&(number, LEAST));
        let letters = letters(ink::FAINT_TEXT, (anchor, VPos::Top));
        canvas.draw_text(&number.to_string(), &letters, (x, y + 3 * PIXEL))?;
    }
    for curve in curves {
        let all = |_: &CandidateScore| true;
        for run in runs(curve, &all) {
            area.draw(&PathElement::new(run, line(ink::ESTIMATE, 5)))?;
        }
        for run in runs(curve, &|candidate| candidate.complete) {
            area.draw(&PathElement::new(run, line(ink::COMPLETE, 9)))?;
        }
    }
    for curve in curves {
        let chosen = (curve.chosen as f64 + 1.0, 1.0);
        area.draw(&Circle::new(chosen, 11, ink::CHOSEN.color().filled()))?;
    }
    Ok(())
}

/// Returns stretches of neighbouring candidates that are wanted and within the chart, as points. One alone becomes a
/// short line.
fn runs(curve: &ScoreCurve, wanted: &dyn Fn(&CandidateScore) -> bool) -> Vec<Vec<(f64, f64)>> {
    let chosen = curve.candidates[curve.chosen].sum;
    let points = curve
        .candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let multiple = candidate.estimate()? / chosen;
            let shown = wanted(candidate) && (LEAST..=MOST).contains(&multiple);
            shown.then_some((index as f64 + 1.0, multiple))
        });
    let points: Vec<Option<(f64, f64)>> = points.collect();
    points
        .split(Option::is_none)
        .map(|run| run.iter().copied().flatten().collect::<Vec<_>>())
        .filter(|run| !run.is_empty())
        .map(|mut run| {
            if let [(number, multiple)] = run[..] {
                run = vec![(number - 0.3, multiple), (number + 0.3, multiple)];
            }
            run
        })
        .collect()
}
