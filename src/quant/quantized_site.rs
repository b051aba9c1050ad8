//! What becomes of a site: scales, and the codes of its weight.

use super::plan::{Side, SitePlan, SiteScales};
use crate::format::{Scale, Table};

/// Holds a weight in integers, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeight {
    /// `[outputs, inputs]`.
    pub codes: Vec<i8>,
    /// `[outputs]`, where the site has one.
    pub bias: Option<Vec<f32>>,
}

/// Holds a site's scales, and its weight unless B is an activation.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedSite {
    /// The scales of A and B.
    pub scales: SiteScales,
    /// The weight and bias of a linear site.
    pub weight: Option<QuantizedWeight>,
}

impl QuantizedSite {
    /// Makes a site of zeros with all that the site of `plan` has, to know what it takes.
    pub(super) fn blank(plan: &SitePlan) -> Self {
        let scales = |side| vec![Scale::uniform(1.0); plan.groups(side)];
        let tables = |side| {
            let table = Table {
                offset: 0.0,
                lanes: vec![0],
            };
            vec![table; plan.tables(side)]
        };
        Self {
            scales: SiteScales {
                a_tables: tables(Side::A),
                b_tables: tables(Side::B),
                ..SiteScales::new(scales(Side::A), scales(Side::B))
            },
            weight: plan.site.weight().map(|sizes| QuantizedWeight {
                codes: vec![0; sizes.outputs * sizes.inputs],
                bias: sizes.has_bias.then(|| vec![0.0; sizes.outputs]),
            }),
        }
    }
}
