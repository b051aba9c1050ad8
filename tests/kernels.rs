//! Every kernel of the catalogue, on the CPU and on each adapter of this machine, against its formulas; and what is timed of
//! it, which runs there. A test is a kernel.

mod common;

use libtest_mimic::{Arguments, Failed, Trial};
use ptq4vit_gpu::bench::{self, cases_of, cases_of_shape};
use ptq4vit_gpu::device::{Commands, Device};
use ptq4vit_gpu::error::Result;
use ptq4vit_gpu::kernels::KERNELS;
use ptq4vit_gpu::kernels::catalogue::{Answer, Case, Kernel, Values};
use ptq4vit_gpu::verify::demo;
use std::collections::BTreeSet;

fn main() {
    let trial = |kernel: &'static Kernel| Trial::test(kernel.name, || check(kernel));
    let timed = |kernel: bench::TimedKernel| {
        let name = format!("{}, timed", kernel.name);
        Trial::test(name, move || check_timed(kernel))
    };
    let trials = KERNELS.iter().map(trial);
    let trials = trials.chain(bench::TimedKernel::all().into_iter().map(timed));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// Lists what is timed: at ragged sides, and in a ViT and a Swin.
const TIMED: [&str; 39] = [
    "float_product",
    "fused_attention softmax twin; fused by 16",
    "fused_attention softmax twin; fused by 32",
    "fused_attention softmax twin; fused by 4",
    "fused_attention softmax twin; fused by 8",
    "fused_attention softmax twin; separate kernels",
    "gelu",
    "half_product",
    "integer_product gelu twin; 6 bits; residual",
    "integer_product gelu twin; 8 bits; residual",
    "integer_product gelu twin; 8 bits; values",
    "integer_product softmax twin; 8 bits; codes",
    "integer_product softmax twin; 8 bits; values",
    "integer_product table; 8 bits; values",
    "integer_product twin table; 8 bits; values",
    "integer_product uniform; 6 bits; gelu codes",
    "integer_product uniform; 6 bits; residual",
    "integer_product uniform; 6 bits; values",
    "integer_product uniform; 8 bits; codes",
    "integer_product uniform; 8 bits; gelu codes",
    "integer_product uniform; 8 bits; residual",
    "integer_product uniform; 8 bits; values",
    "layer_norm",
    "layer_norm table",
    "layer_norm uniform",
    "quantize gelu twin",
    "quantize softmax twin",
    "quantize table",
    "quantize twin table",
    "quantize uniform",
    "scan gelu twin",
    "scan softmax twin",
    "scan uniform",
    "softmax",
    "softmax softmax twin",
    "softmax twin table",
    "to_half",
    "window_softmax",
    "window_softmax softmax twin",
];

/// Runs what is timed of a kernel at ragged sides, and at all products of a ViT and of a Swin.
fn check_timed(kernel: bench::TimedKernel) -> std::result::Result<(), Failed> {
    let mut cases = cases_of_shape([5, 7, 13], &[kernel]);
    for model in demo::MODELS {
        let (_, resolved) = demo::open(model)?;
        cases.extend(cases_of(&resolved.architecture, &[kernel]));
    }
    let mut names = BTreeSet::new();
    for device in common::devices() {
        for case in cases.iter().filter(|case| case.runs_on(&device)) {
            let mut commands = Commands::new(&device);
            (case.prepare(&device)?.run)(&mut commands);
            commands.synchronize()?;
            names.insert(case.name());
        }
    }
    let of_kernel = |name: &&str| name.split(' ').next() == Some(kernel.name);
    let expected: Vec<&str> = TIMED.into_iter().filter(of_kernel).collect();
    let found: Vec<&str> = names.iter().map(String::as_str).collect();
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found:?} are timed, not {expected:?}").into()),
    }
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
