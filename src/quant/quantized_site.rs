//! What becomes of a site: scales, and the codes of its weight.

use super::plan::SiteScales;

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
