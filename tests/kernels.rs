//! Every kernel of the catalogue, on the CPU and on each adapter of this machine, against its formulas. A test is a kernel.

mod common;

use libtest_mimic::{Arguments, Failed, Trial};
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::error::Result;
use ptq4vit_gpu::kernels::KERNELS;
use ptq4vit_gpu::kernels::catalogue::{Answer, Case, Kernel, Values};

fn main() {
    let trial = |kernel: &'static Kernel| Trial::test(kernel.name, || check(kernel));
    let trials = KERNELS.iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn check(kernel: &Kernel) -> std::result::Result<(), Failed> {
    let devices = common::devices();
    let mut wrong = Vec::new();
    for case in kernel.cases() {
        let (answer, cpu) = (case.answer(), case.cpu());
        for device in &devices {
            check_on(device, &case, &answer, &cpu, &mut |what| {
                wrong.push(format!("{} on {}: {what}", case.name(), device.name()));
            });
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("\n").into())
}

fn check_on(
    device: &Device,
    case: &Case,
    answer: &Answer,
    cpu: &Result<Values>,
    wrong: &mut dyn FnMut(String),
) {
    let mut first = None;
    case.run(device, &mut |strategy, found| {
        let strategy = strategy.map_or(String::new(), |strategy| format!(" by {strategy}"));
        let found = match found {
            Ok(found) if found.len() == answer.len() => found,
            Ok(found) => {
                return wrong(format!(
                    "{} values{strategy} of {}",
                    found.len(),
                    answer.len()
                ));
            }
            Err(error) => return wrong(format!("{error}{strategy}")),
        };
        if let Some(difference) = answer.difference(&found) {
            wrong(format!("{difference}{strategy}"));
        }
        if case.is_bit_for_bit() && !cpu.as_ref().is_ok_and(|cpu| *cpu == found) {
            wrong(format!("other bits than on the CPU{strategy}"));
        }
        // All strategies add up in the same order, so results don't depend on what a device was tuned to.
        if *first.get_or_insert_with(|| found.clone()) != found {
            wrong(format!("other bits{strategy}"));
        }
    });
    // Nothing ran where the device lacks what the case needs.
    let Some(first) = first else { return };
    match case.unfused(device) {
        Some(Ok(unfused)) if unfused != first => wrong("other codes than of its floats".into()),
        Some(Err(error)) => wrong(error.to_string()),
        _ => {}
    }
}
