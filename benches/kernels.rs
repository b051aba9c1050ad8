//! Products, quantizers, kernels of rows and the search's scan at shapes of DeiT-Small, on the best device that there is and
//! on the CPU. `ptq4vit-gpu bench` shows the same kernels beside the device's ceilings; this compares builds:
//!
//! ```sh
//! cargo bench --bench kernels -- --save-baseline before
//! cargo bench --bench kernels -- --baseline before
//! ```

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptq4vit_gpu::bench::{TimedCase, TimedKernel, cases_of_shape};
use ptq4vit_gpu::device::{Commands, Device, open};
use std::time::{Duration, Instant};

/// Rows of one image's tokens, outputs, inputs.
const SHAPE: [usize; 3] = [197, 384, 384];
/// Runs between two waits for the device: enough that waiting doesn't count.
const TOGETHER: u64 = 8;

fn devices() -> Vec<Device> {
    let best = open(None)
        .expect("without a request there is always the CPU")
        .device;
    match best {
        Device::Cpu(_) => vec![best],
        Device::Gpu(_) => vec![best, Device::cpu()],
    }
}

/// The time of `runs` runs, all carried out at the end.
fn time(device: &Device, runs: u64, run: &dyn Fn(&mut Commands)) -> Duration {
    let mut commands = Commands::new(device);
    let start = Instant::now();
    for at in 0..runs {
        run(&mut commands);
        if at % TOGETHER == TOGETHER - 1 {
            commands.synchronize().expect("the kernels run");
        }
    }
    commands.synchronize().expect("the kernels run");
    start.elapsed()
}

fn kernels(criterion: &mut Criterion, names: &[&str]) {
    let named = |&name: &&str| TimedKernel::named(name).expect("a kernel that is timed");
    let kernels: Vec<TimedKernel> = names.iter().map(named).collect();
    for device in devices() {
        let cases = cases_of_shape(SHAPE, &kernels);
        for case in cases.iter().filter(|case| case.runs_on(&device)) {
            bench(criterion, &device, case);
        }
    }
}

fn bench(criterion: &mut Criterion, device: &Device, case: &TimedCase) {
    let prepared = case.prepare(device).expect("small operands");
    let mut group = criterion.benchmark_group(device.name());
    group.throughput(Throughput::Elements(prepared.jobs as u64));
    group.bench_function(case.name(), |bencher| {
        bencher.iter_custom(|runs| time(device, runs, &prepared.run));
    });
    group.finish();
}

fn products(criterion: &mut Criterion) {
    kernels(
        criterion,
        &["float_product", "half_product", "integer_product"],
    );
}

fn quantizers(criterion: &mut Criterion) {
    kernels(
        criterion,
        &["quantize", "to_half", "layer_norm", "softmax", "gelu"],
    );
}

fn scan(criterion: &mut Criterion) {
    kernels(criterion, &["scan"]);
}

criterion_group!(benches, products, quantizers, scan);
criterion_main!(benches);
