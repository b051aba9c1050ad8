//! Threads that share a device don't meddle with each other's work.

mod common;

use ptq4vit_gpu::data::samples::{flat_folder, load_all};
use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::inference::Model;
use ptq4vit_gpu::model::recipe::{Resolved, resolve};
use ptq4vit_gpu::quant::{Calibration, Method, Preset, Provenance, QuantizedModel};
use std::path::Path;
use std::thread;

/// One of the demo's models with its calibration images.
struct Demo {
    weights: Weights,
    resolved: Resolved,
    images: Vec<Vec<f32>>,
}

impl Demo {
    fn open(name: &str) -> Self {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        let path = demo.join(name).join("model.safetensors");
        let weights = Weights::open(path).unwrap();
        let resolved = resolve(&weights, None).unwrap();
        let samples = flat_folder(&demo.join("calibration")).unwrap();
        let images = load_all(&samples[..7], &resolved.preprocessing);
        Self {
            images: images.into_iter().map(|image| image.unwrap()).collect(),
            weights,
            resolved,
        }
    }

    fn method(&self) -> Method {
        let sites = sites(&self.resolved.architecture);
        let mut method = Method::preset(Preset::Ptq4vit, 6, 6, &sites).unwrap();
        method.settings.candidates = 6;
        method.settings.rounds = 1;
        method
    }

    fn calibrate(&self, device: &Device) -> Calibration {
        Calibration::builder(device, &self.weights, &self.resolved.architecture)
            .method(&self.method())
            .images(&self.images[..2])
            .run()
            .unwrap()
    }

    fn float(&self, device: &Device) -> Model {
        let Resolved {
            architecture,
            preprocessing,
            ..
        } = &self.resolved;
        Model::float(device, &self.weights, architecture, preprocessing).unwrap()
    }

    fn quantized(&self, device: &Device, calibration: &Calibration) -> Model {
        let preset = Preset::Ptq4vit;
        let provenance = Provenance::new(&self.weights, "demo", preset, None, &[]).unwrap();
        let (method, calibration) = (self.method(), calibration.clone());
        let model = QuantizedModel::new(
            &self.weights,
            &self.resolved,
            method,
            calibration,
            provenance,
        );
        Model::quantized(device, &model.unwrap()).unwrap()
    }
}

/// The bits of the logits in batches of 3 and of 2, which are recorded anew each time.
fn bits(model: &mut Model, images: &[Vec<f32>]) -> Vec<u32> {
    let logits = [3, 2].map(|batch| model.logits_by(batch, images).unwrap().concat());
    logits.concat().into_iter().map(f32::to_bits).collect()
}

#[test]
fn four_threads_on_one_device_compute_what_one_does() {
    let (vit, swin) = (Demo::open("vit_mnist"), Demo::open("swin_mnist"));
    for device in common::devices() {
        let calibration = swin.calibrate(&device);
        let float = || vit.float(&device);
        let integer = || swin.quantized(&device, &calibration);
        let expected = (
            bits(&mut float(), &vit.images),
            bits(&mut integer(), &swin.images),
        );
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    let mut model = float();
                    for _ in 0..5 {
                        assert!(bits(&mut model, &vit.images) == expected.0);
                    }
                });
                threads.spawn(|| {
                    let mut model = integer();
                    for _ in 0..5 {
                        assert!(bits(&mut model, &swin.images) == expected.1);
                    }
                });
            }
            let found = swin.calibrate(&device);
            assert_eq!(found.sites, calibration.sites, "{}", device.name());
        });
    }
}
