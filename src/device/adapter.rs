//! Which adapters there are, what they can do, and which one to use.

use super::gpu::Traits;
use super::int8_matrices;
use super::self_test::self_test;
use super::strategy::CooperativeUnits;
use super::{Device, Gpu};
use crate::error::{Error, Result};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// Stands in a backend's place where the CPU computes.
pub(super) const CPU_BACKEND: &str = "none";
/// Stands in a driver's place where the CPU computes.
pub(super) const CPU_DRIVER: &str = "the kernels' CPU versions";

/// Reports what is known of one adapter.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct AdapterReport {
    /// The number by which [`open`] finds it; absent for `cpu`.
    pub index: Option<usize>,
    /// The adapter's own name.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `none`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software`, `other` or `cpu`.
    pub kind: &'static str,
    /// The driver's name and version, as far as the backend tells them.
    pub driver: String,
    /// Most bytes of one storage binding.
    pub max_binding_bytes: u64,
    /// Most bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Most workgroups in one dimension of a dispatch.
    pub max_workgroups_per_dimension: u32,
    /// Most invocations of one workgroup.
    pub max_invocations_per_workgroup: u32,
    /// Most storage buffers that one kernel can bind.
    pub max_storage_buffers: u32,
    /// Whether shaders can compute in f16.
    pub f16: bool,
    /// Smallest and largest subgroup; absent where shaders can't use subgroups.
    pub subgroup_sizes: Option<[u32; 2]>,
    /// Whether the device's own clock can time a pass.
    pub timestamps: bool,
    /// Whether cooperative matrices are offered.
    pub cooperative_matrix: bool,
    /// `ok`, or what the self-test found wrong and the cure.
    pub self_test: String,
}

/// Holds a device that was opened, and the line that says which and why.
#[non_exhaustive]
pub struct Selection {
    /// The opened device.
    pub device: Device,
    /// One line for the user: what was chosen, and what was passed over because it computes wrong.
    pub notice: String,
}

/// Names the backends whose adapters are listed.
#[cfg(not(target_arch = "wasm32"))]
const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN
    .union(wgpu::Backends::METAL)
    .union(wgpu::Backends::DX12);
/// Names the backends whose adapters are listed.
#[cfg(target_arch = "wasm32")]
const BACKENDS: wgpu::Backends = wgpu::Backends::BROWSER_WEBGPU;

/// Names the backends for messages.
const BACKENDS_IN_WORDS: &str = match cfg!(target_arch = "wasm32") {
    true => "WebGPU",
    false => "Vulkan, Metal or DX12",
};

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    // Loading validation layers where they happen to be installed would make debug builds differ in more than speed.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// Holds an adapter, and what is known of it.
struct Found {
    adapter: wgpu::Adapter,
    info: wgpu::AdapterInfo,
}

#[cfg(not(target_arch = "wasm32"))]
async fn enumerate() -> Vec<Found> {
    let adapters = instance().enumerate_adapters(BACKENDS).await.into_iter();
    let found = adapters.map(|adapter| Found {
        info: adapter.get_info(),
        adapter,
    });
    found.collect()
}

/// Asks the browser for the one adapter that it shows.
#[cfg(target_arch = "wasm32")]
async fn enumerate() -> Vec<Found> {
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let Ok(adapter) = instance().request_adapter(&options).await else {
        return Vec::new();
    };
    let info = wgpu::AdapterInfo {
        name: super::browser::adapter_name().await,
        driver: super::browser::name(),
        ..adapter.get_info()
    };
    vec![Found { adapter, info }]
}

/// Lists the features that kernels need for products of cooperative matrices.
const COOPERATIVE: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SUBGROUP);
/// Sets the workgroup memory that they need, and those of int8, twice what WebGPU gives by default.
const COOPERATIVE_WORKGROUP_BYTES: u32 = 32 << 10;

fn has_workgroup_memory(adapter: &wgpu::Adapter) -> bool {
    adapter.limits().max_compute_workgroup_storage_size >= COOPERATIVE_WORKGROUP_BYTES
}

/// Finds the largest cooperative matrices with f16 operands and f32 sums.
fn cooperative_units(adapter: &wgpu::Adapter) -> Option<CooperativeUnits> {
    let types = (
        wgpu::CooperativeScalarType::F16,
        wgpu::CooperativeScalarType::F32,
    );
    let offered = adapter.cooperative_matrix_properties().into_iter();
    let sides = offered
        .filter(|matrices| (matrices.ab_type, matrices.cr_type) == types)
        .filter(|matrices| [matrices.n_size, matrices.k_size] == [matrices.m_size; 2])
        .map(|matrices| matrices.m_size)
        .filter(|side| [8, 16].contains(side));
    let side = sides.max()?;
    let usable = adapter.features().contains(COOPERATIVE) && has_workgroup_memory(adapter);
    usable.then(|| CooperativeUnits {
        side,
        depth: side,
        subgroup: adapter.get_info().subgroup_min_size,
        workgroup_bytes: COOPERATIVE_WORKGROUP_BYTES,
    })
}

/// Lists the features that kernels need for products of matrices of int8.
const INT8: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::PASSTHROUGH_SHADERS)
    .union(wgpu::Features::SUBGROUP);

/// Finds the largest cooperative matrices with int8 operands and i32 sums.
fn int8_units(adapter: &wgpu::Adapter) -> Option<CooperativeUnits> {
    if !adapter.features().contains(INT8) || !has_workgroup_memory(adapter) {
        return None;
    }
    let [side, depth] = int8_matrices::offered(adapter)?;
    Some(CooperativeUnits {
        side,
        depth,
        subgroup: adapter.get_info().subgroup_min_size,
        workgroup_bytes: COOPERATIVE_WORKGROUP_BYTES,
    })
}

/// Bounds the blocks of memory that buffers share: small beside a GPU's, several tensors of a batch in each.
const BLOCK_BYTES: Range<u64> = 64 << 20..128 << 20;

async fn connect(Found { adapter, info }: &Found) -> Result<Device> {
    let mut traits = Traits {
        driver: driver(info),
        backend: info.backend.to_string(),
        name: info.name.clone(),
        software: info.device_type == wgpu::DeviceType::Cpu,
        cooperative_units: cooperative_units(adapter),
        int8_units: int8_units(adapter),
    };
    let of = |units: Option<_>, features| units.map_or(wgpu::Features::empty(), |_| features);
    let matrices = of(traits.cooperative_units, COOPERATIVE) | of(traits.int8_units, INT8);
    let request = async |matrices: wgpu::Features| {
        // The default limits, and no features that the quantized network could depend on: what runs here runs on every
        // adapter, and is tested as such everywhere. f16 is for comparison (`Device::has_f16`); cooperative matrices give
        // the same results as what runs everywhere.
        let optional = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16;
        let mut descriptor = wgpu::DeviceDescriptor {
            label: Some("ptq4vit-gpu"),
            required_features: adapter.features() & optional,
            // Most tensors fit into blocks that stay: memory of its own for each takes a driver longer than the kernels.
            memory_hints: wgpu::MemoryHints::Manual {
                suballocated_device_memory_block_size: BLOCK_BYTES,
            },
            ..Default::default()
        };
        if !matrices.is_empty() {
            descriptor.required_features |= matrices;
            descriptor
                .required_limits
                .max_compute_workgroup_storage_size = COOPERATIVE_WORKGROUP_BYTES;
            // SAFETY: what is experimental may have faults that reach beyond wgpu's checks. It runs only where the user
            // has tuned this device and a trial showed its results to be right.
            descriptor.experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        adapter.request_device(&descriptor).await
    };
    let mut opened = request(matrices).await;
    if opened.is_err() && !matrices.is_empty() {
        // A driver that offers what it can't give is still good for everything else.
        (traits.cooperative_units, traits.int8_units) = (None, None);
        opened = request(wgpu::Features::empty()).await;
    }
    let (device, queue) = opened.map_err(|error| Error::device(&traits.name, error))?;
    Ok(Device::Gpu(Arc::new(Gpu::new(traits, device, queue))))
}

fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info)
        .trim()
        .to_owned()
}

fn kind(device_type: wgpu::DeviceType) -> &'static str {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

/// Ranks kinds of adapters in the order in which the default choice tries them; 0 is the best.
fn preference(device_type: wgpu::DeviceType) -> u32 {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

fn describe(Found { info, .. }: &Found) -> String {
    format!(
        "{} ({}, {}{}{})",
        info.name,
        kind(info.device_type),
        info.backend,
        if info.driver_info.is_empty() {
            ""
        } else {
            ", "
        },
        info.driver_info
    )
}

/// Opens a device and puts it through the self-test.
async fn tested(found: &Found) -> std::result::Result<Device, String> {
    let device = connect(found).await.map_err(|error| error.to_string())?;
    self_test(&device).await?;
    Ok(device)
}

/// Lists all adapters of this machine, each opened and put through the self-test; in the order in which [`open`]
/// counts.
#[cfg(not(target_arch = "wasm32"))]
pub fn adapters() -> Vec<AdapterReport> {
    pollster::block_on(adapters_async())
}

/// Does what [`adapters`] does, without waiting, as a browser needs it. On a native target it
/// blocks the thread.
pub async fn adapters_async() -> Vec<AdapterReport> {
    let mut reports = Vec::new();
    for (index, found) in enumerate().await.into_iter().enumerate() {
        let verdict = tested(&found).await;
        let Found { adapter, info } = found;
        let (limits, features) = (adapter.limits(), adapter.features());
        reports.push(AdapterReport {
            index: Some(index),
            driver: driver(&info),
            name: info.name,
            backend: info.backend.to_string(),
            kind: kind(info.device_type),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup_sizes: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some([info.subgroup_min_size, info.subgroup_max_size]),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            self_test: verdict.err().unwrap_or_else(|| "ok".to_owned()),
        });
    }
    reports
}

/// Describes the device `cpu` as [`adapters`] does the others.
pub fn cpu_report() -> AdapterReport {
    AdapterReport {
        index: None,
        name: "cpu".to_owned(),
        backend: CPU_BACKEND.to_owned(),
        kind: "cpu",
        driver: CPU_DRIVER.to_owned(),
        max_binding_bytes: u64::MAX,
        max_buffer_bytes: u64::MAX,
        max_workgroups_per_dimension: u32::MAX,
        max_invocations_per_workgroup: u32::MAX,
        max_storage_buffers: u32::MAX,
        f16: false,
        subgroup_sizes: None,
        timestamps: false,
        cooperative_matrix: false,
        self_test: "ok".to_owned(),
    }
}

/// Opens the device that the user asked for: an index of [`adapters`], part of an adapter's name (any case), `cpu`, or,
/// with `None`, the best GPU, else a software adapter, else the CPU.
///
/// # Errors
/// An adapter that isn't there (the message lists those that are), that several names match, that can't be opened, or
/// that fails the self-test. Without a request, an adapter that fails is passed over and the notice says so.
#[cfg(not(target_arch = "wasm32"))]
pub fn open(request: Option<&str>) -> Result<Selection> {
    pollster::block_on(open_async(request))
}

/// Does what [`open`] does, without waiting, as a browser needs it. On a native target it
/// blocks the thread.
///
/// # Errors
/// Those of [`open`].
pub async fn open_async(request: Option<&str>) -> Result<Selection> {
    match request {
        None => Ok(open_best().await),
        Some(name) if name.eq_ignore_ascii_case("cpu") => Ok(Selection {
            device: Device::cpu(),
            notice: "cpu".to_owned(),
        }),
        Some(request) => {
            let all = enumerate().await;
            let adapter = find(request, &all)?;
            let device = connect(adapter).await?;
            let verdict = self_test(&device).await;
            verdict.map_err(|problem| Error::device(device.name(), problem))?;
            Ok(Selection {
                notice: describe(adapter),
                device,
            })
        }
    }
}

fn find<'a>(request: &str, all: &'a [Found]) -> Result<&'a Found> {
    let fail = |problem: &str, listed: Vec<String>| {
        let listed = if listed.is_empty() {
            "cpu only".to_owned()
        } else {
            format!("{}, or cpu", listed.join(", "))
        };
        Err(Error::device(request, format!("{problem}: {listed}")))
    };
    let numbered = |adapters: &mut dyn Iterator<Item = (usize, &Found)>| {
        adapters
            .map(|(index, adapter)| format!("{index}: {}", describe(adapter)))
            .collect::<Vec<_>>()
    };
    let everything = || numbered(&mut all.iter().enumerate());
    if let Ok(index) = request.parse::<usize>() {
        return match all.get(index) {
            Some(adapter) => Ok(adapter),
            None => fail(
                "there is no adapter of this number; there are",
                everything(),
            ),
        };
    }
    let wanted = request.to_lowercase();
    let matching: Vec<_> = all
        .iter()
        .enumerate()
        .filter(|(_, found)| found.info.name.to_lowercase().contains(&wanted))
        .collect();
    match matching[..] {
        [] => fail("no adapter's name contains this; there are", everything()),
        [(_, adapter)] => Ok(adapter),
        _ => fail(
            "several adapters' names contain this; pass a number",
            numbered(&mut matching.into_iter()),
        ),
    }
}

async fn open_best() -> Selection {
    let mut all = enumerate().await;
    all.sort_by_key(|found| preference(found.info.device_type));
    let mut passed_over = String::new();
    for adapter in &all {
        match tested(adapter).await {
            Ok(device) => {
                return Selection {
                    device,
                    notice: describe(adapter) + &passed_over,
                };
            }
            Err(problem) => passed_over += &format!("; not {}: {problem}", describe(adapter)),
        }
    }
    if all.is_empty() {
        passed_over = format!("; no {BACKENDS_IN_WORDS} adapter was found");
    }
    Selection {
        device: Device::cpu(),
        notice: "cpu".to_owned() + &passed_over,
    }
}
