//! What a quantized file says of itself: where it comes from, how large it is, and how well each site does.

use crate::data::class_names::ClassNames;
use crate::error::Result;
use crate::families::sites;
use crate::file::weights::Weights;
use crate::model::config::Architecture;
use crate::quant::{
    FORMAT_NAME, OperandScheme, Provenance, QuantizedModel, Scale, Settings, SiteEvidence,
    SitePlan, Table,
};
use serde::Serialize;
#[cfg(feature = "files")]
use std::path::Path;

/// Describes a quantized model in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The file's `format`.
    pub format: String,
    /// The file's `format_version`.
    pub format_version: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the FP model's parameters in f32.
    pub fp32_bytes: u64,
    /// Family and sizes.
    pub architecture: Architecture,
    /// What the classes are called, where the file tells.
    pub class_names: Option<ClassNames>,
    /// Where the model comes from.
    pub provenance: Provenance,
    /// How the scales were chosen.
    pub settings: Settings,
    /// What stays in floats, and how wide the codes of the rest are, in words.
    pub bits: String,
    /// All sites in integers, in the order of the network.
    pub sites: Vec<SiteInspection>,
}

/// Describes a site in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteInspection {
    /// The site's name.
    pub site: String,
    /// How the left operand becomes codes.
    pub a: OperandScheme,
    /// How the right operand becomes codes.
    pub b: OperandScheme,
    /// A's scales; Δ1 of a twin.
    pub a_scales: Vec<f32>,
    /// m of each of A's scales, where A is a twin.
    pub a_shifts: Option<Vec<u32>>,
    /// B's scales.
    pub b_scales: Vec<f32>,
    /// A's tables, where its codes are looked up in any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub a_tables: Vec<Table>,
    /// B's tables, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub b_tables: Vec<Table>,
    /// How well the scales did in the calibration. Absent where the file doesn't tell.
    pub evidence: Option<SiteEvidence>,
    /// The site's share of the Hessian errors of all sites. Absent where they are not known, or all zero.
    pub error_share: Option<f64>,
}

impl Inspection {
    /// Opens a quantized file and describes it.
    ///
    /// # Errors
    /// A file that can't be read, and those of [`QuantizedModel::read`].
    #[cfg(feature = "files")]
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&Weights::open(path)?)
    }

    /// Describes a quantized file that is in memory.
    ///
    /// # Errors
    /// Those of [`QuantizedModel::read`].
    pub fn read(file: &Weights) -> Result<Self> {
        let model = QuantizedModel::read(file)?;
        Ok(Self {
            format: FORMAT_NAME.to_owned(),
            format_version: file.metadata()["format_version"].clone(),
            sha256: file.sha256(),
            bytes: file.file_len() as u64,
            fp32_bytes: model.architecture.parameters() * size_of::<f32>() as u64,
            sites: inspect_sites(&model),
            bits: model.method.plan.in_words(&sites(&model.architecture)),
            architecture: model.architecture,
            class_names: model.class_names,
            provenance: model.provenance,
            settings: model.method.settings,
        })
    }
}

/// Describes the sites in integers of a model, in the order of the network.
pub(super) fn inspect_sites(model: &QuantizedModel) -> Vec<SiteInspection> {
    let evidence = |site: &str| model.evidence.as_ref().map(|evidence| &evidence[site]);
    let sites = sites(&model.architecture);
    let plans: Vec<SitePlan> = model.method.plan.integer(&sites).collect();
    let errors = plans
        .iter()
        .filter_map(|plan| evidence(&plan.site.name)?.hessian_error);
    let total: f64 = errors.sum();
    let values = |scales: &[Scale]| scales.iter().map(|scale| scale.scale).collect();
    let inspect = |plan: SitePlan| {
        let scales = &model.sites[&plan.site.name].scales;
        let evidence = evidence(&plan.site.name);
        let shifts = || scales.a.iter().map(|scale| scale.shift).collect();
        SiteInspection {
            a: plan.a,
            b: plan.b,
            a_scales: values(&scales.a),
            a_shifts: plan.a.format.is_twin().then(shifts),
            b_scales: values(&scales.b),
            a_tables: scales.a_tables.clone(),
            b_tables: scales.b_tables.clone(),
            error_share: evidence
                .and_then(|evidence| evidence.hessian_error)
                .filter(|_| total > 0.0)
                .map(|error| error / total),
            evidence: evidence.cloned(),
            site: plan.site.name,
        }
    };
    plans.into_iter().map(inspect).collect()
}
