//! The device against the CPU versions.

use crate::js::{json, tell};
use js_sys::Function;
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::error::Result;
use ptq4vit_gpu::verify::{Checked, Row, Subject, verify};
use serde::Serialize;

/// Describes a row of the page's table.
#[derive(Serialize)]
struct Line<'a> {
    section: &'a str,
    #[serde(flatten)]
    row: &'a Row,
}

/// Verifies `device`, tells `listener` each row when it is there, and returns the report as JSON.
///
/// # Errors
/// What the listener throws.
pub async fn run(device: &Device, listener: &Function) -> Result<String> {
    let mut told = Ok(());
    let on_checked = &mut |checked: Checked, done| {
        let (section, rows) = match checked {
            Checked::Kernel(kernel) => ("kernels", vec![kernel.row()]),
            Checked::Model(model) => (&*model.name, model.rows()),
        };
        for row in &rows {
            if told.is_ok() {
                told = tell(listener, &json(&Line { section, row }), done);
            }
        }
    };
    let report = verify(device, Subject::demo()?, on_checked).await?;
    told?;
    Ok(report.to_json())
}
