//! Quantization after training: scales and formats, the search for them, the file of integers, and inference from it.

mod artifact;
mod builder;
mod calibrate;
mod candidates;
mod curve;
mod evidence;
mod execution;
#[cfg(feature = "files")]
mod journal;
mod memory;
mod method;
mod packing;
mod pieces;
mod plan;
mod quantized_site;
mod recovery;
mod scan;
mod search;
mod settings;

pub use artifact::{FORMAT_NAME, FORMAT_VERSION, Provenance, QuantizedModel, is_quantized};
pub use builder::CalibrationBuilder;
pub use calibrate::{Calibration, Event, Phase, Progress, SiteReport, weight_codes};
pub use candidates::{GELU_MINIMUM, MAX_SHIFT, Scale};
pub use curve::{CandidateScore, ScoreCurve};
pub use evidence::{Histogram, Histograms, SiteEvidence};
pub use execution::{FakeQuantizedProducts, IntegerProducts, LinearCodes, OperandCodes};
#[cfg(feature = "files")]
pub use journal::{Journal, JournalLock, Subject, journal_of};
pub use memory::parse_bytes;
pub use method::Method;
pub use packing::{is_padded_with_zeros, pack, packed_len, unpack};
pub use pieces::Batch;
pub use plan::{
    Codes, Granularity, OperandScheme, Plan, Policy, Rule, Side, SitePlan, SiteScales, SiteScheme,
    Widths,
};
pub use quantized_site::{QuantizedSite, QuantizedWeight};
pub use recovery::Finding;
pub use scan::Scan;
pub use search::{Found, SiteSearch, Work};
pub use settings::{Metric, Preset, Settings};
