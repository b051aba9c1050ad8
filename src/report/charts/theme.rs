//! The colours of the charts, which a style sheet exchanges where a reader prefers dark.

use plotters::style::RGBColor;
use std::fmt::Write;

/// Says what something is drawn in. Each ink has a light colour that no other has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::report) struct Ink {
    light: u32,
    dark: u32,
}

const fn colors(light: u32, dark: u32) -> Ink {
    Ink { light, dark }
}

/// Holds the inks.
pub(in crate::report) mod ink {
    use super::{Ink, colors};

    pub const TEXT: Ink = colors(0x24292F, 0xD6DCE3);
    pub const FAINT_TEXT: Ink = colors(0x68707A, 0x98A2AD);
    pub const GRID: Ink = colors(0xE3E6EA, 0x2C333B);
    pub const AXIS: Ink = colors(0xA4ABB4, 0x59636E);
    pub const VALUES: Ink = colors(0xA9B8CC, 0x51647D);
    pub const R1: Ink = colors(0xC2500F, 0xFB9A4B);
    pub const R2: Ink = colors(0x0B7A70, 0x3CCDBD);
    pub const CODES: Ink = colors(0x5B4BB5, 0xA99CF5);
    pub const COMPLETE: Ink = colors(0x2B63AE, 0x7FB2F5);
    pub const ESTIMATE: Ink = colors(0x9DB6D6, 0x56759F);
    pub const CHOSEN: Ink = colors(0xD1242F, 0xFF7B72);
    pub const QKV: Ink = colors(0x3B6FB6, 0x7AA6E8);
    pub const QK: Ink = colors(0x4FB0DE, 0x8CCBF0);
    pub const PV: Ink = colors(0x2E8B57, 0x5CC389);
    pub const PROJ: Ink = colors(0x8A63B0, 0xB795DB);
    pub const FC1: Ink = colors(0xD9822B, 0xF0A85C);
    pub const FC2: Ink = colors(0xB9413C, 0xE77B75);
    pub const OTHER: Ink = colors(0x7A828C, 0xA3ABB5);
    pub const LOSS: Ink = colors(0x1F2328, 0xE6EDF3);
    pub const KL: Ink = colors(0x8250DF, 0xD2A8FF);
    /// Those of the metrics, in their order, and some for metrics to come.
    pub const METRICS: [Ink; 6] = [
        colors(0xCF222E, 0xFF8078),
        colors(0x1A7F37, 0x4AC26B),
        colors(0x0969DA, 0x6CB6FF),
        colors(0x9A6700, 0xD4A72C),
        colors(0xBF3989, 0xF778BA),
        colors(0x1B7C83, 0x56D4DD),
    ];

    /// Lists the inks that are no metric's.
    const OTHERS: [Ink; 20] = [
        TEXT, FAINT_TEXT, GRID, AXIS, VALUES, R1, R2, CODES, COMPLETE, ESTIMATE, CHOSEN, QKV, QK,
        PV, PROJ, FC1, FC2, OTHER, LOSS, KL,
    ];

    /// Lists all inks.
    pub(super) fn all() -> impl Iterator<Item = Ink> {
        OTHERS.into_iter().chain(METRICS)
    }
}

/// Lists the kinds of sites in a block, by the ends of their names.
pub(in crate::report) const KINDS: [(&str, Ink); 6] = [
    ("attn.qkv", ink::QKV),
    ("attn.qk", ink::QK),
    ("attn.pv", ink::PV),
    ("attn.proj", ink::PROJ),
    ("mlp.fc1", ink::FC1),
    ("mlp.fc2", ink::FC2),
];

impl Ink {
    /// Returns the ink's light colour, which stands for it in a chart.
    pub(super) fn color(self) -> RGBColor {
        let [_, red, green, blue] = self.light.to_be_bytes();
        RGBColor(red, green, blue)
    }

    /// Returns the style of a text that has the ink's light colour.
    pub(in crate::report) fn style(self) -> String {
        format!("color:#{:06X}", self.light)
    }
}

/// Returns rules that exchange the light colours for the dark ones.
pub(in crate::report) fn dark_style() -> String {
    let mut rules = String::new();
    for Ink { light, dark } in ink::all() {
        write!(
            rules,
            "[fill=\"#{light:06X}\"]{{fill:#{dark:06X}}}[stroke=\"#{light:06X}\"]{{stroke:#{dark:06X}}}\
             [style=\"color:#{light:06X}\"]{{color:#{dark:06X}!important}}"
        )
        .expect("a string takes whatever is written");
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_inks_have_a_light_colour() {
        let light: HashSet<u32> = ink::all().map(|ink| ink.light).collect();
        assert_eq!(light.len(), ink::all().count());
    }
}
