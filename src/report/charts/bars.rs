//! A bar for every site, block by block.

use super::theme::KINDS;
use super::{Hover, Ink, PIXEL, ink, letters, line, svg};
use crate::quant::Side;
use crate::report::SiteInspection;
use maud::Markup;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Holds the chart's size, in pixels.
const SIZE: [u32; 2] = [1080, 210];

/// Holds sites that stand together, such as those of a block.
struct Group<'a> {
    /// The number of the block, if they are in one.
    block: Option<String>,
    sites: Vec<&'a SiteInspection>,
    /// Where the first bar begins, in widths of a bar.
    start: f64,
}

/// Holds the space between groups, in widths of a bar.
const GAP: f64 = 1.0;

/// Draws the SQNR of each site.
pub(in crate::report) fn ratios(sites: &[SiteInspection]) -> Markup {
    let value = |site: &SiteInspection| site.evidence.as_ref()?.sqnr_db;
    let text = |value: f64| format!("{value:.1} dB");
    bars("SQNR of each site, in dB", "dB", sites, &value, &text)
}

/// Draws the share of the Hessian error that each site has, in per cent.
pub(in crate::report) fn error_shares(sites: &[SiteInspection]) -> Markup {
    let value = |site: &SiteInspection| site.error_share.map(|share| 100.0 * share);
    let text = |value: f64| format!("{value:.2}% of the error");
    let label = "Share of the Hessian error of each site, in per cent";
    bars(label, "%", sites, &value, &text)
}

/// Draws how wide the codes of one operand of each site are.
pub(in crate::report) fn widths(sites: &[SiteInspection], side: Side) -> Markup {
    let value = |site: &SiteInspection| {
        let operand = match side {
            Side::A => &site.a,
            Side::B => &site.b,
        };
        Some(f64::from(operand.bits))
    };
    let text = |value: f64| format!("{value} bits");
    let label = format!("Bits of {} of each site", side.name());
    bars(&label, "bits", sites, &value, &text)
}

fn bars(
    label: &str,
    unit: &str,
    sites: &[SiteInspection],
    value: &dyn Fn(&SiteInspection) -> Option<f64>,
    text: &dyn Fn(f64) -> String,
) -> Markup {
    let groups = groups(sites);
    let values = || sites.iter().filter_map(value);
    let low = values().fold(0.0, f64::min);
    let high = values().fold(low, f64::max);
    let high = if high > low { high * 1.05 } else { low + 1.0 };
    let width = groups.last().map_or(1.0, |group| group.end() + GAP);
    svg(SIZE, label, |canvas, hovers| {
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(8 * PIXEL)
            .margin_right(2 * PIXEL)
            .x_label_area_size(20 * PIXEL)
            .y_label_area_size(46 * PIXEL)
            .build_cartesian_2d(0.0..width, low..high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .bold_line_style(line(ink::GRID, 3))
            .axis_style(line(ink::AXIS, 3))
            .set_all_tick_mark_size(4 * PIXEL)
            .x_labels(0)
            .y_labels(5)
            .y_label_formatter(&|value| format!("{value} {unit}"))
            .y_label_style(letters(ink::FAINT_TEXT, (HPos::Right, VPos::Center)))
            .draw()?;
        let area = chart.plotting_area();
        let at = |x: f64, y: f64| area.map_coordinate(&(x, y));
        for group in &groups {
            let middle = at((group.start + group.end()) / 2.0, low);
            canvas.draw_text(
                group.label(),
                &letters(ink::FAINT_TEXT, (HPos::Center, VPos::Top)),
                (middle.0, middle.1 + 6 * PIXEL),
            )?;
            for (index, site) in group.sites.iter().enumerate() {
                let Some(value) = value(site) else { continue };
                let x = group.start + index as f64;
                let bar = [(x + 0.08, 0.0), (x + 0.92, value)];
                let color = ink_of(&site.site).color().filled();
                area.draw(&Rectangle::new(bar, color))?;
                let (left, bottom) = at(x, low);
                let (right, top) = at(x + 1.0, high);
                hovers.push(Hover {
                    corners: [left, top, right, bottom],
                    text: format!("{}: {}", site.site, text(value)),
                });
            }
        }
        Ok(())
    })
}

impl Group<'_> {
    /// Returns what is written below the group.
    fn label(&self) -> &str {
        let name = &self.sites[0].site;
        match &self.block {
            Some(number) => number,
            None if name.starts_with("patch_embed") => "patch",
            None if name.ends_with("downsample.reduction") => "merge",
            None => "head",
        }
    }

    fn end(&self) -> f64 {
        self.start + self.sites.len() as f64
    }
}

/// Groups the sites by block. Those outside of blocks stand alone.
fn groups(sites: &[SiteInspection]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for site in sites {
        let block = block(&site.site);
        match groups.last_mut() {
            Some(group) if block.is_some() && group.block == block => group.sites.push(site),
            last => {
                // What stands alone needs space for its name.
                let margin = |block: &Option<String>| if block.is_none() { 1.0 } else { 0.0 };
                let before = last.map_or(0.0, |group| group.end() + margin(&group.block));
                groups.push(Group {
                    start: before + GAP + margin(&block),
                    sites: vec![site],
                    block,
                });
            }
        }
    }
    groups
}

/// Returns the number of the block that a site is in: `3`, or `1.0` for the first of a Swin's second stage.
fn block(site: &str) -> Option<String> {
    let (before, after) = site.split_once("blocks.")?;
    let (number, _) = after.split_once('.')?;
    let stage = before.strip_prefix("layers.").unwrap_or(before);
    Some(format!("{stage}{number}"))
}

fn ink_of(site: &str) -> Ink {
    KINDS
        .iter()
        .find(|(end, _)| site.ends_with(end))
        .map_or(ink::OTHER, |&(_, ink)| ink)
}
