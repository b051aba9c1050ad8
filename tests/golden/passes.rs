//! The FP network: what its passes compute.

use crate::common::devices;
use crate::literal::Tensors;
use crate::network::{Golden, relative_error};
use ptq4vit_gpu::device::{Commands, Device};
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use ptq4vit_gpu::model::open_checkpoint;
use ptq4vit_gpu::model::recipe::resolve;

/// Logits, and of every site the operands (where there are answers), the output and its gradient.
pub fn forward_and_backward(golden: &Golden) {
    for device in devices() {
        let network = golden.network(&device);
        let (logits, records) = golden.records(&network);
        let error = relative_error(&device.read(&logits).unwrap(), &golden.answer("logits"));
        assert!(error < 1e-4, "{}: logits off by {error:.1e}", device.name());
        for site in network.sites() {
            let found = Tensors::recorded(golden, &device, site, &records[&site.name]);
            for (part, found) in [
                ("a", &found.a),
                ("b", &found.b),
                ("out", &found.out),
                ("grad", &found.grad),
            ] {
                let Some(expected) = Tensors::answer(golden, site, part) else {
                    assert!(matches!(part, "a" | "b"), "no {part} of {}", site.name);
                    continue;
                };
                let error = relative_error(found, &expected);
                assert!(
                    error < 1e-3,
                    "{}: {part} of {} off by {error:.1e}",
                    device.name(),
                    site.name
                );
            }
        }
    }
}

/// timm's earlier form: the merging in the stage before it, the head without `fc`, index and mask stored.
pub fn an_older_checkpoint_is_the_same_network(golden: &Golden) {
    let mut tensors: Vec<_> = golden
        .weights
        .names()
        .map(|name| {
            let shape = golden.weights.shape(name).unwrap().to_vec();
            let data = golden.weights.float(name).unwrap();
            let name = name
                .replace("layers.1.downsample", "layers.0.downsample")
                .replace("head.fc", "head");
            (name, TensorData::F32 { shape, data })
        })
        .collect();
    let zeros = |shape: Vec<usize>| {
        let data = vec![0; shape.iter().product()];
        TensorData::I32 { shape, data }
    };
    let index = "layers.0.blocks.0.attn.relative_position_index";
    tensors.push((index.to_owned(), zeros(vec![49, 49])));
    tensors.push((
        "layers.0.blocks.1.attn_mask".to_owned(),
        zeros(vec![4, 49, 49]),
    ));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.safetensors");
    save(&path, tensors, golden.weights.metadata().clone()).unwrap();

    let weights = open_checkpoint(&path).unwrap();
    let old = Golden {
        name: golden.name.clone(),
        architecture: resolve(&weights, None).unwrap().architecture,
        answers: Weights::open(golden.answers.path()).unwrap(),
        weights,
    };
    let device = Device::cpu();
    let images = golden.images("input");
    let pixels = device.upload(&images.concat());
    let [new, old] = [golden, &old].map(|golden| {
        let network = golden.network(&device);
        let mut products = golden.float_products(&network);
        let mut commands = Commands::new(&device);
        let logits = network.logits(&mut commands, &mut products, images.len(), &pixels);
        commands.read(&logits).unwrap()
    });
    assert_eq!(new, old);
}
