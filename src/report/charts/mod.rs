//! The charts of a calibration's page: SVG by `plotters`, to be put into HTML.

mod allotments;
mod bars;
mod curves;
mod histograms;
mod landscapes;
mod theme;

pub(super) use allotments::allotment_curve;
pub(super) use bars::{error_shares, ratios, widths};
pub(super) use curves::score_curves;
pub(super) use histograms::value_histograms;
pub(super) use landscapes::{landscape_curves, metrics};
pub(super) use theme::{Ink, KINDS, dark_style, ink};

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Holds where a chart is drawn, in units.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Counts the units of a pixel: plotters has whole coordinates.
const PIXEL: i32 = 4;

/// Holds the height of the small letters, in pixels.
const LETTERS: f64 = 11.0;

/// Describes a place that tells something while the pointer is on it.
struct Hover {
    /// Left, top, right, bottom, in units.
    corners: [i32; 4],
    text: String,
}

/// Draws an SVG of so many pixels, which is called `label` where it can't be seen.
fn svg(
    [width, height]: [u32; 2],
    label: &str,
    draw: impl FnOnce(&Canvas, &mut Vec<Hover>) -> Drawn,
) -> Markup {
    let mut drawing = String::new();
    let mut hovers = Vec::new();
    let size = [width, height].map(|pixels| pixels * PIXEL as u32);
    {
        let canvas = SVGBackend::with_string(&mut drawing, size.into()).into_drawing_area();
        draw(&canvas, &mut hovers).expect("a string takes whatever is drawn");
        canvas.present().expect("a string takes whatever is drawn");
    }
    // The element is plotters', but for what it can't say: a name, and what to show under the pointer.
    let (_, inside) = drawing.split_once('>').expect("it is an element");
    let inside = inside.trim_end().trim_end_matches("</svg>");
    let view = format!("0 0 {} {}", size[0], size[1]);
    html! {
        svg role="img" aria-label=(label) viewBox=(view) {
            (PreEscaped(inside))
            @for Hover { corners: [left, top, right, bottom], text } in hovers {
                rect x=(left) y=(top) width=(right - left) height=(bottom - top) fill="transparent" {
                    title { (text) }
                }
            }
        }
    }
}

/// Returns the style of small letters, whose place `anchor` is.
fn letters(ink: Ink, anchor: (HPos, VPos)) -> TextStyle<'static> {
    // plotters takes the height of a line.
    let size = LETTERS * f64::from(PIXEL) * 1.24;
    ("sans-serif", size)
        .into_font()
        .color(&ink.color())
        .pos(Pos::new(anchor.0, anchor.1))
}

/// Returns the style of a line as wide as so many units.
fn line(ink: Ink, width: u32) -> ShapeStyle {
    ink.color().stroke_width(width)
}
