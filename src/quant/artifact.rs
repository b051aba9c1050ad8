//! The quantized file: one self-contained safetensors of integers, scales, and what stays float.
//!
//! `ARCHITECTURE.md` documents the layout for someone who writes a reader of their own.

use super::calibrate::Calibration;
use super::evidence::SiteEvidence;
use super::execution::{IntegerProducts, LinearCodes};
use super::method::Method;
use super::packing::{is_padded_with_zeros, pack, packed_len, unpack};
use super::plan::{Plan, Policy, Side, SitePlan, SiteScales, WeightScales};
use super::quantized_site::{QuantizedSite, QuantizedWeight};
use super::settings::{Preset, Settings, Transform};
use crate::data::class_names::ClassNames;
#[cfg(feature = "files")]
use crate::data::image_file::read;
use crate::data::preprocess::Preprocessing;
#[cfg(feature = "files")]
use crate::data::samples::Sample;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::families::{graphs, sites};
use crate::file::weights::{self, TensorData, Weights};
use crate::format::{Scale, Table};
use crate::graph::{Linear, LinearWeights, Network, Site};
use crate::model::config::{Architecture, GlobalPool};
use crate::model::recipe::Resolved;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
#[cfg(feature = "files")]
use std::path::Path;

/// Names the format in the metadata key `format`, which tells a quantized file from any other.
pub const FORMAT_NAME: &str = "ptq4vit-gpu";
/// Numbers the version that this program writes, in the metadata key `format_version`, where no codes are looked up in
/// tables. It reads version 1, too.
pub const FORMAT_VERSION: &str = "2";
/// Numbers the version whose files have tables.
pub const FORMAT_VERSION_TABLES: &str = "3";
/// Numbers the version whose files tell widths and twins for all sites at once, among the settings.
const FORMAT_VERSION_1: &str = "1";

/// Says whether a checked safetensors file claims to be a quantized model.
pub fn is_quantized(weights: &Weights) -> bool {
    weights.metadata().get("format").map(String::as_str) == Some(FORMAT_NAME)
}

/// Tells where a quantized model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The architecture's name.
    pub name: String,
    /// The preset that the settings started from.
    pub preset: Preset,
    /// The seed that the calibration images were drawn with; absent where a list named them.
    pub seed: Option<u64>,
    /// The number of calibration images.
    pub images: usize,
    /// SHA-256 of the FP weights' file, or of their shards one after the other.
    pub source_sha256: String,
    /// SHA-256 over the calibration images' files, in order: of their SHA-256 digests, one after the other.
    pub calibration_sha256: String,
    /// The version of this program that calibrated.
    pub tool_version: String,
}

impl Provenance {
    #[cfg(feature = "files")]
    /// Describes a calibration by this program: of the FP model in `weights`, which goes by `name`, on `samples`, which
    /// were drawn with `seed` unless a list named them.
    ///
    /// # Errors
    /// An image that can't be read.
    pub fn new(
        weights: &Weights,
        name: &str,
        preset: Preset,
        seed: Option<u64>,
        samples: &[Sample],
    ) -> Result<Self> {
        let mut images = ImagesHash::default();
        for sample in samples {
            images.add(&read(&sample.path)?);
        }
        Ok(Self::of_images(weights, name, preset, seed, images))
    }

    /// Describes a calibration, as `new` does, on images whose files are in memory.
    pub fn of_files(
        weights: &Weights,
        name: &str,
        preset: Preset,
        seed: Option<u64>,
        files: &[Vec<u8>],
    ) -> Self {
        let mut images = ImagesHash::default();
        for file in files {
            images.add(file);
        }
        Self::of_images(weights, name, preset, seed, images)
    }

    fn of_images(
        weights: &Weights,
        name: &str,
        preset: Preset,
        seed: Option<u64>,
        images: ImagesHash,
    ) -> Self {
        Self {
            name: name.to_owned(),
            preset,
            seed,
            images: images.count,
            source_sha256: weights.sha256(),
            calibration_sha256: format!("{:x}", images.digests.finalize()),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Tells in words how many calibration images there were, and who chose them.
    pub fn images_in_words(&self) -> String {
        let drawn = match self.seed {
            Some(seed) => format!("drawn with seed {seed}"),
            None => "named by a list".to_owned(),
        };
        format!("{} {drawn}", self.images)
    }
}

/// Hashes image files: over their SHA-256 digests, one after the other.
#[derive(Default)]
struct ImagesHash {
    count: usize,
    digests: Sha256,
}

impl ImagesHash {
    fn add(&mut self, file: &[u8]) {
        self.count += 1;
        self.digests.update(Sha256::digest(file));
    }
}

/// Holds a quantized model on the host: everything that its file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedModel {
    /// Where the model comes from.
    pub provenance: Provenance,
    /// The family and sizes of the network.
    pub architecture: Architecture,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// What became of each product, and how the scales were chosen.
    pub method: Method,
    /// What the classes are called. Absent where the FP model didn't say it.
    pub class_names: Option<ClassNames>,
    /// Every site in integers, by name.
    pub sites: HashMap<String, QuantizedSite>,
    /// How well each site's scales did in the calibration, by name. Absent where the file doesn't say it.
    pub evidence: Option<BTreeMap<String, SiteEvidence>>,
    /// The tensors that stay float, by timm's names: norms, class token, positions, the weights of products in floats.
    pub floats: BTreeMap<String, Vec<f32>>,
}

/// Names the keys of the file's metadata.
mod key {
    pub const FORMAT: &str = "format";
    pub const FORMAT_VERSION: &str = "format_version";
    pub const ARCHITECTURE: &str = "architecture";
    pub const PREPROCESSING: &str = "preprocessing";
    pub const PLAN: &str = "plan";
    pub const SETTINGS: &str = "settings";
    pub const PROVENANCE: &str = "provenance";
    pub const EVIDENCE: &str = "evidence";
    pub const CLASS_NAMES: &str = "class_names";
}

/// Holds the `settings` of a file of version 1.
#[derive(Deserialize)]
struct SettingsOfVersion1 {
    weight_bits: u32,
    activation_bits: u32,
    softmax_twin: bool,
    gelu_twin: bool,
    #[serde(flatten)]
    settings: Settings,
}

/// Says whether codes of any site are looked up in tables.
fn has_tables(plan: &Plan, sites: &[Site]) -> bool {
    plan.integer(sites)
        .any(|plan| plan.a.format.lanes().is_some() || plan.b.format.lanes().is_some())
}

/// Returns the lanes of each table's levels, 2^bits of each: where there are fewer, the last is repeated.
fn stored_levels(tables: &[Table], bits: u32) -> TensorData {
    let most = 1 << bits;
    let lanes = tables.iter().flat_map(|table| {
        let last = table.lanes.last().copied().into_iter();
        let all = table.lanes.iter().copied().chain(last.cycle());
        all.take(most)
    });
    TensorData::U8 {
        shape: vec![tables.len(), most],
        data: lanes.collect(),
    }
}

/// Returns the numbers of the levels whose lanes a weight's `codes` are, less 2^(bits - 1), so that they are codes of
/// `bits` bits.
fn indices(table: &Table, codes: &[i8], bits: u32) -> Vec<i8> {
    let mut index_of = [0; 256];
    for (index, &lane) in table.lanes.iter().enumerate() {
        index_of[usize::from(lane)] = (index as i32 - (1 << (bits - 1))) as i8;
    }
    let indices = codes.iter().map(|&code| index_of[usize::from(code as u8)]);
    indices.collect()
}

/// Lists the tensors that stay float, with their shapes: those that belong to no site in integers.
fn float_tensors(architecture: &Architecture, plan: &Plan) -> Vec<(String, Vec<usize>)> {
    let sites: HashSet<String> = plan
        .integer(&sites(architecture))
        .map(|plan| plan.site.name)
        .collect();
    let mut tensors = architecture.expected_tensors();
    tensors.retain(|(name, _)| {
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        !sites.contains(layer)
    });
    tensors
}

fn scale_values(scales: &[Scale]) -> TensorData {
    TensorData::F32 {
        shape: vec![scales.len()],
        data: scales.iter().map(|scale| scale.scale).collect(),
    }
}

impl QuantizedModel {
    /// Puts together what `calibration` made of the FP model `resolved` in `weights`.
    ///
    /// # Errors
    /// A tensor that holds a NaN or an infinity, and values so large or small that their scales leave f32's range.
    pub fn new(
        weights: &Weights,
        resolved: &Resolved,
        method: Method,
        calibration: Calibration,
        provenance: Provenance,
    ) -> Result<Self> {
        let prepared = calibration.prepared.as_deref().unwrap_or(weights);
        let floats = float_tensors(&resolved.architecture, &method.plan)
            .into_iter()
            .map(|(name, _)| Ok((name.clone(), prepared.float(&name)?)))
            .collect::<Result<_>>()?;
        for plan in method.plan.integer(&sites(&resolved.architecture)) {
            check_scales(weights, &plan, &calibration.sites[&plan.site.name].scales)?;
        }
        let reports = calibration.reports.into_iter();
        let evidence = reports.map(|report| (report.site, report.evidence));
        Ok(Self {
            provenance,
            architecture: resolved.architecture.clone(),
            preprocessing: resolved.preprocessing.clone(),
            method,
            class_names: resolved.class_names.clone(),
            sites: calibration.sites,
            evidence: Some(evidence.collect()),
            floats,
        })
    }

    /// Counts the most bytes that the file of a model can have whose calibration by `method` is still to come: figures of
    /// its evidence are text of unknown length.
    pub fn most_bytes(resolved: &Resolved, method: &Method, provenance: &Provenance) -> u64 {
        let architecture = &resolved.architecture;
        let zeros = |(name, shape): (String, Vec<usize>)| (name, vec![0.0; shape.iter().product()]);
        let plans: Vec<SitePlan> = method.plan.integer(&sites(architecture)).collect();
        let blank = |plan: &SitePlan| (plan.site.name.clone(), QuantizedSite::blank(plan));
        let evidence = |plan: &SitePlan| (plan.site.name.clone(), SiteEvidence::LONGEST);
        let model = Self {
            provenance: provenance.clone(),
            architecture: architecture.clone(),
            preprocessing: resolved.preprocessing.clone(),
            method: method.clone(),
            class_names: resolved.class_names.clone(),
            sites: plans.iter().map(blank).collect(),
            evidence: Some(plans.iter().map(evidence).collect()),
            floats: float_tensors(architecture, &method.plan)
                .into_iter()
                .map(zeros)
                .collect(),
        };
        model.to_bytes().len() as u64
    }

    /// Writes the file; it appears under its name only when complete.
    ///
    /// # Errors
    /// A folder that can't be written to.
    #[cfg(feature = "files")]
    pub fn save(&self, path: &Path) -> Result<()> {
        let (tensors, metadata) = self.contents();
        weights::save(path, tensors, metadata)
    }

    /// Returns the bytes of the file that `save` writes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (tensors, metadata) = self.contents();
        weights::to_bytes(tensors, metadata).expect("the tensors of a checked model can be written")
    }

    /// Returns the version of the format that the file is of.
    fn format_version(&self) -> &'static str {
        match has_tables(&self.method.plan, &sites(&self.architecture)) {
            false => FORMAT_VERSION,
            true => FORMAT_VERSION_TABLES,
        }
    }

    /// Returns the tensors and the metadata of the file.
    fn contents(&self) -> (Vec<(String, TensorData)>, BTreeMap<String, String>) {
        let mut tensors = Vec::new();
        for (name, shape) in float_tensors(&self.architecture, &self.method.plan) {
            let data = self.floats[&name].clone();
            tensors.push((name, TensorData::F32 { shape, data }));
        }
        for plan in self.method.plan.integer(&sites(&self.architecture)) {
            let site = &plan.site.name;
            let QuantizedSite { scales, weight } = &self.sites[site];
            let name = |part: &str| format!("{site}.{part}");
            tensors.push((name("a.scale"), scale_values(&scales.a)));
            tensors.push((name("b.scale"), scale_values(&scales.b)));
            if plan.a.format.is_twin() {
                tensors.push((
                    name("a.shift"),
                    TensorData::I32 {
                        shape: vec![scales.a.len()],
                        data: scales.a.iter().map(|scale| scale.shift as i32).collect(),
                    },
                ));
            }
            for (side, part) in [(Side::A, "a"), (Side::B, "b")] {
                let (_, tables) = scales.operand(side);
                if !tables.is_empty() {
                    let levels = stored_levels(tables, plan.operand(side).bits);
                    tensors.push((name(&format!("{part}.levels")), levels));
                }
            }
            if !scales.a_tables.is_empty() {
                let offsets = scales.a_tables.iter().map(|table| table.offset);
                tensors.push((
                    name("a.offset"),
                    TensorData::F32 {
                        shape: vec![scales.a_tables.len()],
                        data: offsets.collect(),
                    },
                ));
            }
            if let Some(weight) = weight {
                let packed = match scales.b_tables.first() {
                    None => pack(&weight.codes, plan.b.bits),
                    Some(table) => pack(&indices(table, &weight.codes, plan.b.bits), plan.b.bits),
                };
                tensors.push((
                    name("b.codes"),
                    TensorData::U8 {
                        shape: vec![packed.len()],
                        data: packed,
                    },
                ));
                if let Some(bias) = &weight.bias {
                    tensors.push((
                        name("bias"),
                        TensorData::F32 {
                            shape: vec![bias.len()],
                            data: bias.clone(),
                        },
                    ));
                }
            }
        }
        let mut metadata: BTreeMap<String, String> = [
            (key::FORMAT, FORMAT_NAME.to_owned()),
            (key::FORMAT_VERSION, self.format_version().to_owned()),
            (key::ARCHITECTURE, to_json(&self.architecture)),
            (key::PREPROCESSING, to_json(&self.preprocessing)),
            (key::PLAN, to_json(&self.method.plan)),
            (key::SETTINGS, to_json(&self.method.settings)),
            (key::PROVENANCE, to_json(&self.provenance)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        if let Some(evidence) = &self.evidence {
            metadata.insert(key::EVIDENCE.to_owned(), to_json(evidence));
        }
        if let Some(names) = &self.class_names {
            metadata.insert(key::CLASS_NAMES.to_owned(), to_json(names));
        }
        (tensors, metadata)
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// A file that can't be read, and those of [`read`](Self::read).
    #[cfg(feature = "files")]
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&Weights::open(path)?)
    }

    /// Checks a file that is in memory. Everything that reaches a kernel later is checked here: shapes, code lengths,
    /// scales finite and positive, shifts within range.
    ///
    /// # Errors
    /// A file that is no quantized model, of another version, or inconsistent; the message names the tensor.
    pub fn read(file: &Weights) -> Result<Self> {
        let path = file.path();
        if !is_quantized(file) {
            return Err(Error::input(
                path,
                format!(
                    "is no quantized model, as `calibrate` writes it: metadata `format` is not `{FORMAT_NAME}`"
                ),
            ));
        }
        let version = metadata(file, key::FORMAT_VERSION)?;
        if ![FORMAT_VERSION_1, FORMAT_VERSION, FORMAT_VERSION_TABLES].contains(&version) {
            return Err(Error::input(
                path,
                format!(
                    "is of format version {version}, where {FORMAT_VERSION_1}, {FORMAT_VERSION} or \
                     {FORMAT_VERSION_TABLES} is expected"
                ),
            ));
        }
        let architecture: Architecture = from_json(file, key::ARCHITECTURE)?;
        let preprocessing: Preprocessing = from_json(file, key::PREPROCESSING)?;
        let channels = architecture.in_chans();
        let sound = preprocessing.check_channels(channels);
        let sound = sound.and_then(|()| preprocessing.validate());
        let consistent = sound.and_then(|()| {
            if preprocessing.image_size == architecture.image_size() {
                Ok(())
            } else {
                Err(format!(
                    "preprocessing gives images of {} pixels, the architecture takes {}",
                    preprocessing.image_size,
                    architecture.image_size()
                ))
            }
        });
        consistent.map_err(|problem| Error::input(path, problem))?;

        let sites = sites(&architecture);
        let method = read_method(file, version, &sites)?;
        if version != FORMAT_VERSION_TABLES && has_tables(&method.plan, &sites) {
            let problem = format!(
                "is of format version {version}, but plans tables, which are in version {FORMAT_VERSION_TABLES}"
            );
            return Err(Error::input(path, problem));
        }
        let plans: Vec<SitePlan> = method.plan.integer(&sites).collect();
        let mut float_names = float_tensors(&architecture, &method.plan);
        let mut code_names = Vec::new();
        for plan in &plans {
            site_tensors(plan, &mut float_names, &mut code_names);
        }
        file.check(&float_names, &code_names, |_| false)?;

        let floats = float_tensors(&architecture, &method.plan)
            .into_iter()
            .map(|(name, _)| Ok((name.clone(), file.float(&name)?)))
            .collect::<Result<_>>()?;
        let sites = plans
            .iter()
            .map(|plan| Ok((plan.site.name.clone(), read_site(file, plan)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            provenance: from_json(file, key::PROVENANCE)?,
            evidence: read_evidence(file, &plans, &method.settings)?,
            class_names: read_class_names(file, architecture.classes())?,
            architecture,
            preprocessing,
            method,
            sites,
            floats,
        })
    }

    /// Returns this model without its head and its pooling, as [`Architecture::unpooled`] has it.
    ///
    /// # Errors
    /// An architecture whose tokens are not offered, or whose pooling has taken over a part of the last LayerNorm.
    pub fn unpooled(self) -> std::result::Result<Self, String> {
        let is_folded = self
            .method
            .settings
            .transforms
            .contains(&Transform::LayerNorm);
        let pools_by_products = matches!(
            &self.architecture,
            Architecture::Vit(config) if config.global_pool == GlobalPool::Map
        );
        if is_folded && pools_by_products {
            return Err(
                "was calibrated with the transform `layer-norm`, by which its attention pooling has taken over a part of the last LayerNorm: the tokens without it are no longer the model's"
                    .into(),
            );
        }
        Ok(Self {
            architecture: self.architecture.unpooled()?,
            ..self
        })
    }

    /// Loads the network onto `device`, and its products in integers.
    ///
    /// # Errors
    /// None; what goes wrong on the device is an error of the first read.
    pub fn load(&self, device: &Device) -> Result<(Network, IntegerProducts)> {
        let network = Network::load(device, &graphs(&self.architecture), |name| {
            Ok(self.floats[name].clone())
        })?;
        let mut products = IntegerProducts::new(device);
        for site in network.sites() {
            let Some(plan) = self.method.plan.of(site) else {
                let float = |part: &str| {
                    let values = self.floats.get(&format!("{}.{part}", site.name));
                    values.map(Vec::as_slice)
                };
                let linear = float("weight")
                    .map(|weight| LinearWeights::new(device.upload(weight), device, float("bias")));
                products.insert_float(site, linear);
                continue;
            };
            let QuantizedSite { scales, weight } = &self.sites[&site.name];
            let linear = site.weight().zip(weight.as_ref()).map(|(sizes, weight)| {
                let bias = weight.bias.as_deref();
                LinearCodes::upload(device, &sizes, &plan.b, &weight.codes, bias)
            });
            products.insert(plan, scales.clone(), linear);
        }
        Ok((network, products))
    }
}

/// Reads what a file of the format's `version` says of the method, for a network with these `sites`.
fn read_method(file: &Weights, version: &str, sites: &[Site]) -> Result<Method> {
    let method = if version == FORMAT_VERSION_1 {
        let all: SettingsOfVersion1 = from_json(file, key::SETTINGS)?;
        let policy = Policy {
            weight_bits: all.weight_bits,
            activation_bits: all.activation_bits,
            softmax_twin: all.softmax_twin,
            gelu_twin: all.gelu_twin,
            tables: false,
            weight_scales: WeightScales::Tensor,
            wide_ends: false,
            rules: Vec::new(),
        };
        let plan = policy.plan(sites).map_err(|problem| {
            Error::input(
                file.path(),
                format!("metadata `{}`: {problem}", key::SETTINGS),
            )
        })?;
        Method {
            plan,
            settings: all.settings,
        }
    } else {
        let plan: Plan = from_json(file, key::PLAN)?;
        plan.check(sites).map_err(|problem| {
            Error::input(file.path(), format!("metadata `{}`: {problem}", key::PLAN))
        })?;
        Method {
            plan,
            settings: from_json(file, key::SETTINGS)?,
        }
    };
    let valid = method.settings.validate();
    valid.map_err(|problem| Error::input(file.path(), problem.to_string()))?;
    Ok(method)
}

/// Adds the tensors of one site in the file: those of floats, and those of codes and shifts.
fn site_tensors(
    plan: &SitePlan,
    floats: &mut Vec<(String, Vec<usize>)>,
    codes: &mut Vec<(String, Vec<usize>)>,
) {
    let name = |part: &str| format!("{}.{part}", plan.site.name);
    floats.push((name("a.scale"), vec![plan.groups(Side::A)]));
    floats.push((name("b.scale"), vec![plan.groups(Side::B)]));
    if plan.a.format.is_twin() {
        codes.push((name("a.shift"), vec![plan.groups(Side::A)]));
    }
    for (side, part) in [(Side::A, "a"), (Side::B, "b")] {
        let tables = plan.tables(side);
        if tables > 0 {
            let most = 1 << plan.operand(side).bits;
            codes.push((name(&format!("{part}.levels")), vec![tables, most]));
        }
    }
    if plan.tables(Side::A) > 0 {
        floats.push((name("a.offset"), vec![plan.tables(Side::A)]));
    }
    if let Some(Linear {
        inputs,
        outputs,
        has_bias,
        ..
    }) = plan.site.weight()
    {
        if has_bias {
            floats.push((name("bias"), vec![outputs]));
        }
        let bytes = packed_len(outputs * inputs, plan.b.bits);
        codes.push((name("b.codes"), vec![bytes]));
    }
}

/// Reads one site of a file whose tensors have the right shapes.
fn read_site(file: &Weights, plan: &SitePlan) -> Result<QuantizedSite> {
    let name = |part: &str| format!("{}.{part}", plan.site.name);
    let scales = |side: &str, shifts: Vec<i32>| {
        let name = name(&format!("{side}.scale"));
        let values = file.float(&name)?;
        if let Some(scale) = values
            .iter()
            .find(|scale| !scale.is_normal() || **scale < 0.0)
        {
            return Err(Error::input(
                file.path(),
                format!("tensor `{name}`: expected positive scales, found {scale}"),
            ));
        }
        Ok(values
            .into_iter()
            .enumerate()
            .map(|(group, scale)| Scale {
                scale,
                shift: shifts.get(group).map_or(0, |&shift| shift as u32),
            })
            .collect::<Vec<_>>())
    };
    let shifts = if plan.a.format.is_twin() {
        let name = name("a.shift");
        let shifts = file.integers(&name)?;
        let most = plan.a.format.max_shift();
        let range = 0..=most as i32;
        if let Some(shift) = shifts.iter().find(|shift| !range.contains(shift)) {
            return Err(Error::input(
                file.path(),
                format!("tensor `{name}`: expected shifts of 0 to {most}, found {shift}"),
            ));
        }
        shifts
    } else {
        Vec::new()
    };
    let tables = |side: Side, part: &str| {
        let count = plan.tables(side);
        if count == 0 {
            return Ok(Vec::new());
        }
        let offsets = match side {
            Side::A => file.float(&name("a.offset"))?,
            Side::B => vec![0.0; count],
        };
        let stored = file.bytes(&name(&format!("{part}.levels")))?;
        let stored = stored.chunks_exact(1 << plan.operand(side).bits);
        let table = |(lanes, offset): (&[u8], f32)| {
            let mut lanes = lanes.to_vec();
            while let [.., before, last] = lanes[..]
                && before == last
            {
                lanes.pop();
            }
            Table { offset, lanes }
        };
        Ok(stored.zip(offsets).map(table).collect())
    };
    let scales = SiteScales {
        a: scales("a", shifts)?,
        b: scales("b", Vec::new())?,
        a_tables: tables(Side::A, "a")?,
        b_tables: tables(Side::B, "b")?,
    };
    check_scales(file, plan, &scales)?;
    let weight = match plan.site.weight() {
        Some(sizes) => {
            let name = name("b.codes");
            let (packed, count) = (file.bytes(&name)?, sizes.outputs * sizes.inputs);
            if !is_padded_with_zeros(packed, count, plan.b.bits) {
                let problem = format!("tensor `{name}`: expected zeros behind the last code");
                return Err(Error::input(file.path(), problem));
            }
            let mut codes = unpack(packed, count, plan.b.bits);
            if plan.tables(Side::B) > 0 {
                // With the last one repeated, every number has a level.
                let levels = file.bytes(&format!("{}.b.levels", plan.site.name))?;
                let first = 1 << (plan.b.bits - 1);
                for code in &mut codes {
                    *code = levels[(i32::from(*code) + first) as usize] as i8;
                }
            }
            Some(QuantizedWeight {
                codes,
                bias: sizes
                    .has_bias
                    .then(|| file.float(&format!("{}.bias", plan.site.name)))
                    .transpose()?,
            })
        }
        None => None,
    };
    Ok(QuantizedSite { scales, weight })
}

fn check_scales(file: &Weights, plan: &SitePlan, scales: &SiteScales) -> Result<()> {
    let check = plan
        .check_scales(scales)
        .and_then(|()| plan.check_formats(scales));
    check.map_err(|problem| {
        let problem = format!("site `{}`: {problem}", plan.site.name);
        Error::input(file.path(), problem)
    })
}

/// Reads what the file says of how well the scales did, if it says that. It must say it of every site, with figures
/// that can be true.
fn read_evidence(
    file: &Weights,
    plans: &[SitePlan],
    settings: &Settings,
) -> Result<Option<BTreeMap<String, SiteEvidence>>> {
    if !file.metadata().contains_key(key::EVIDENCE) {
        return Ok(None);
    }
    let evidence: BTreeMap<String, SiteEvidence> = from_json(file, key::EVIDENCE)?;
    let refuse = |problem: String| {
        let problem = format!("metadata `{}`: {problem}", key::EVIDENCE);
        Err(Error::input(file.path(), problem))
    };
    for plan in plans {
        let site = &plan.site.name;
        let Some(figures) = evidence.get(site) else {
            return refuse(format!("{site} is missing"));
        };
        if let Err(problem) = figures.validate(plan, settings.metric) {
            return refuse(format!("{site}: {problem}"));
        }
    }
    let is_site = |name: &&String| plans.iter().any(|plan| plan.site.name == **name);
    match evidence.keys().find(|name| !is_site(name)) {
        Some(name) => refuse(format!("{name} is no site of the model")),
        None => Ok(Some(evidence)),
    }
}

/// Reads what the file calls its classes, if it does. It must name each of them.
fn read_class_names(file: &Weights, classes: usize) -> Result<Option<ClassNames>> {
    if !file.metadata().contains_key(key::CLASS_NAMES) {
        return Ok(None);
    }
    let names: ClassNames = from_json(file, key::CLASS_NAMES)?;
    if names.len() != classes {
        let problem = format!(
            "metadata `{}` names {} classes, but the model has {classes}",
            key::CLASS_NAMES,
            names.len()
        );
        return Err(Error::input(file.path(), problem));
    }
    Ok(Some(names))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data is always JSON")
}

fn metadata<'a>(file: &'a Weights, key: &str) -> Result<&'a str> {
    file.metadata()
        .get(key)
        .map(String::as_str)
        .ok_or_else(|| Error::input(file.path(), format!("metadata `{key}` is missing")))
}

fn from_json<T: DeserializeOwned>(file: &Weights, key: &str) -> Result<T> {
    serde_json::from_str(metadata(file, key)?)
        .map_err(|error| Error::input(file.path(), format!("metadata `{key}`: {error}")))
}
