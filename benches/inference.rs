//! Whole networks: DeiT-Tiny's shapes with random weights, in every precision, on the best device that there is and on the
//! CPU.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptq4vit_gpu::bench::{BenchNetwork, Precision, random_images};
use ptq4vit_gpu::device::{Device, open};
use ptq4vit_gpu::model::recipe::recipe_named;

/// Images at once.
const BATCH: usize = 4;

fn inference(criterion: &mut Criterion) {
    let best = open(None)
        .expect("without a request there is always the CPU")
        .device;
    let mut devices = vec![Device::cpu()];
    devices.extend(matches!(best, Device::Gpu(_)).then_some(best));
    let recipe = recipe_named("deit_tiny_patch16_224").expect("it is among the recipes");
    let subject = BenchNetwork::of_recipe(recipe).expect("a temporary file for the weights");
    let images = random_images(&recipe.architecture, BATCH);
    for device in devices {
        let mut group = criterion.benchmark_group(device.name());
        group.sample_size(10);
        group.throughput(Throughput::Elements(BATCH as u64));
        for precision in Precision::ALL {
            if !precision.runs_on(&device) {
                continue;
            }
            let mut model = subject
                .model(&device, precision)
                .expect("a network of finite values");
            group.bench_function(precision.name(), |bencher| {
                bencher.iter(|| model.logits_by(BATCH, &images).expect("logits"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, inference);
criterion_main!(benches);
