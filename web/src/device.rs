//! The device that an engine computes on.

use crate::js::json;
use ptq4vit_gpu::device::{AdapterReport, Device, adapters_async, cpu_report, open_async};
use serde::Serialize;
use std::collections::BTreeMap;
use wasm_bindgen::prelude::*;

/// Holds a device, and what is known of it.
pub struct Opened {
    pub device: Device,
    report: AdapterReport,
}

/// Describes a device for the page.
#[derive(Serialize)]
struct Description<'a> {
    name: &'a str,
    kind: &'a str,
    backend: &'a str,
    driver: &'a str,
    f16: bool,
    limits: BTreeMap<&'static str, u64>,
}

impl Opened {
    /// Opens `webgpu` or `cpu`.
    ///
    /// # Errors
    /// Another name; a browser that offers no WebGPU, or an adapter that fails the self-test.
    pub async fn open(name: &str) -> Result<Self, JsError> {
        let report = match name {
            "cpu" => cpu_report(),
            "webgpu" => adapters_async().await.into_iter().next().ok_or_else(|| {
                JsError::new(
                    "this browser offers no WebGPU adapter: WebGPU may be missing, turned off, or refuse this GPU; the \
                     device `cpu` works everywhere",
                )
            })?,
            _ => {
                let problem = format!("expected the device `webgpu` or `cpu`, found `{name}`");
                return Err(JsError::new(&problem));
            }
        };
        let request = report
            .index
            .map_or("cpu".to_owned(), |index| index.to_string());
        Ok(Self {
            device: open_async(Some(&request)).await?.device,
            report,
        })
    }

    /// Describes the device, with the limits of an adapter.
    pub fn describe(&self) -> JsValue {
        let report = &self.report;
        let limits = [
            ("max_binding_bytes", report.max_binding_bytes),
            ("max_buffer_bytes", report.max_buffer_bytes),
            ("max_storage_buffers", report.max_storage_buffers.into()),
            (
                "max_invocations_per_workgroup",
                report.max_invocations_per_workgroup.into(),
            ),
            (
                "max_workgroups_per_dimension",
                report.max_workgroups_per_dimension.into(),
            ),
        ];
        // The CPU has none.
        let limits = limits.into_iter().filter(|_| report.index.is_some());
        json(&Description {
            name: &report.name,
            kind: report.kind,
            backend: &report.backend,
            driver: &report.driver,
            f16: self.device.has_f16(),
            limits: limits.collect(),
        })
    }
}
