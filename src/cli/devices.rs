//! `devices`: what there is to compute on.

use super::error::Result;
use super::print_json;
use crate::device::{adapters, cpu_report};
use clap::Args;

/// Lists the adapters, their limits and features, and the self-test's verdict on each.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # What there is to compute on, as text and for programs
  ptq4vit-gpu devices
  ptq4vit-gpu devices --json")]
pub struct Devices {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub fn run(&self) -> Result<()> {
        let mut all = adapters();
        all.push(cpu_report());
        if self.json {
            return print_json(&all);
        }
        for device in &all {
            let number = device
                .index
                .map_or("cpu".to_owned(), |index| index.to_string());
            print_line!("{number:>3}  {} ({})", device.name, device.kind)?;
            print_line!("     {}, {}", device.backend, device.driver)?;
            if device.index.is_some() {
                let yes_no = |offered: bool| if offered { "yes" } else { "no" };
                print_line!(
                    "     bindings to {} MiB, buffers to {} MiB, {} storage buffers, {} invocations, {} workgroups",
                    device.max_binding_bytes >> 20,
                    device.max_buffer_bytes >> 20,
                    device.max_storage_buffers,
                    device.max_invocations_per_workgroup,
                    device.max_workgroups_per_dimension,
                )?;
                let subgroups = device
                    .subgroup_sizes
                    .map_or("no".to_owned(), |[min, max]| format!("{min} to {max}"));
                print_line!(
                    "     f16 {}, subgroups {subgroups}, timestamps {}, cooperative matrix {}",
                    yes_no(device.f16),
                    yes_no(device.timestamps),
                    yes_no(device.cooperative_matrix),
                )?;
            }
            print_line!("     self-test: {}", device.self_test)?;
        }
        Ok(())
    }
}
