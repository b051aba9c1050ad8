//! Quantization after training: scales and formats, the search for them, the file of integers, and inference from it.

mod allotment;
mod artifact;
mod calibrate;
mod correction;
mod estimate;
mod evidence;
mod execution;
mod method;
mod packing;
mod plan;
mod quantized_site;
mod rounding;
mod search;
mod settings;
mod tables;
mod transform;

pub use crate::format::{Gelu, Lanes, MAX_SHIFT, Scale, Table};
pub use allotment::{
    ALLOTTED_BITS, Allotment, AllotmentCurve, AllotmentGoal, AllotmentPoint, OperandKind,
};
pub use artifact::{FORMAT_NAME, FORMAT_VERSION, Provenance, QuantizedModel, is_quantized};
pub use calibrate::{
    Calibration, CalibrationBuilder, Event, Finding, Landscape, LandscapePoint, Phase, Progress,
    SiteReport, parse_bytes,
};
#[cfg(feature = "files")]
pub use calibrate::{CalibrationIdentity, Journal, JournalLock, journal_of};
pub use evidence::{Histogram, Histograms, SiteEvidence};
pub use execution::{FakeQuantizedProducts, IntegerProducts, LinearCodes, OperandCodes};
pub use method::Method;
pub use packing::{is_padded_with_zeros, pack, packed_len, unpack};
pub use plan::{
    CodedProduct, Codes, Granularity, OperandGroups, OperandScheme, Plan, Policy, Rule, Side,
    SitePattern, SitePlan, SiteScales, SiteScheme, WeightScales, Widths,
};
pub use quantized_site::{QuantizedSite, QuantizedWeight};
pub use rounding::{nearest_codes, nearest_codes_async};
pub use search::{Batch, CandidateScore, Found, Scan, ScoreCurve, SiteSearch, Work};
pub use settings::{Metric, Preset, Sequence, Settings, Transform};
