//! A golden network, its calibration, and the oracle's answers for it.

use ptq4vit_gpu::device::{Buffer, Commands, Device};
use ptq4vit_gpu::families::graphs;
use ptq4vit_gpu::file::weights::Weights;
use ptq4vit_gpu::graph::{FloatProducts, Network, Record, Site};
use ptq4vit_gpu::kernels::cross_entropy_backward;
use ptq4vit_gpu::model::config::Architecture;
use ptq4vit_gpu::model::open_checkpoint;
use ptq4vit_gpu::model::recipe::resolve;
use ptq4vit_gpu::quant::{
    Calibration, Method, Policy, Preset, Settings, SitePlan, Transform, WeightScales,
};
use std::collections::HashMap;

/// A golden network and the oracle's answers for it.
pub struct Golden {
    pub name: String,
    pub weights: Weights,
    pub answers: Weights,
    pub architecture: Architecture,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        let open = |file: String| Weights::open(format!("{folder}/{file}")).expect("a golden file");
        let weights = open_checkpoint(format!("{folder}/{name}.safetensors"));
        let weights = weights.expect("a golden file");
        let resolved = resolve(&weights, None).expect("the file describes itself");
        Self {
            name: name.to_owned(),
            answers: open(format!("{name}.golden.safetensors")),
            weights,
            architecture: resolved.architecture,
        }
    }

    pub fn answer(&self, name: &str) -> Vec<f32> {
        self.answers.float(name).expect("the oracle's answer")
    }

    /// The oracle's answers about preset `best`.
    pub fn best(&self) -> Weights {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        Weights::open(format!("{folder}/{}.best.safetensors", self.name)).expect("a golden file")
    }

    pub fn network(&self, device: &Device) -> Network {
        Network::load(device, &graphs(&self.architecture), |name| {
            self.weights.float(name)
        })
        .expect("a golden network")
    }

    pub fn images(&self, name: &str) -> Vec<Vec<f32>> {
        let len = self.architecture.input_len();
        self.answer(name)
            .chunks_exact(len)
            .map(<[f32]>::to_vec)
            .collect()
    }

    pub fn float_products(&self, network: &Network) -> FloatProducts {
        FloatProducts::load(network.device(), &self.weights, network.sites())
            .expect("golden weights")
    }

    /// What a calibration on the calibration batch finds.
    pub fn calibrate(&self, device: &Device, method: &Method, budget: Option<u64>) -> Calibration {
        Calibration::builder(device, &self.weights, &self.architecture)
            .method(method)
            .images(&self.images("input"))
            .memory_budget(budget)
            .run()
            .unwrap()
    }

    /// The network with its LayerNorms reparametrised, as a calibration leaves it.
    pub fn reparametrised(&self, network: &Network) -> Self {
        let mut method = six_bits(Preset::BasePtq, network);
        method.settings.candidates = 1;
        method.settings.transforms = vec![Transform::LayerNorm];
        let found = self.calibrate(network.device(), &method, None);
        let prepared = found.prepared.expect("there is a transform");
        Self {
            name: self.name.clone(),
            weights: (*prepared).clone(),
            answers: self.answers.clone(),
            architecture: self.architecture.clone(),
        }
    }

    /// The logits, and A, B, O and ∂L/∂O of every site, for the calibration batch.
    pub fn records(&self, network: &Network) -> (Buffer<f32>, HashMap<String, Record>) {
        let device = network.device();
        let images = self.images("input");
        let commands = &mut Commands::new(device);
        let mut products = self.float_products(network);
        let mut inputs = vec![device.upload(&images.concat())];
        for segment in network.segments() {
            let input = inputs.last().expect("the network's or the last segment's");
            inputs.push(segment.forward(commands, &mut products, images.len(), input));
        }
        let logits = inputs.pop().expect("the last segment's output");
        let mut grad =
            cross_entropy_backward(commands, images.len(), network.answer_len(), &logits);
        let mut records = HashMap::new();
        for (segment, input) in network.segments().iter().zip(&inputs).rev() {
            let mut tape = segment.record(commands, &products, images.len(), input);
            if let Some(before) = tape.backward(commands, grad.clone()) {
                grad = before;
            }
            records.extend(tape.into_records());
        }
        (logits, records)
    }
}

/// The plans of the network's sites, in its order.
pub fn plans(network: &Network, method: &Method) -> Vec<SitePlan> {
    let plans = network.sites().map(|site| method.plan.of(site));
    plans
        .map(|plan| plan.expect("no site stays in floats"))
        .collect()
}

/// ‖found - expected‖ / ‖expected‖.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(
        &mut found
            .iter()
            .zip(expected)
            .map(|(f, e)| f64::from(*f) - f64::from(*e)),
    );
    difference / norm(&mut expected.iter().map(|&e| f64::from(e)))
}

/// Both presets at 6 bits, and that of twins with a scale for each output channel of a weight.
pub fn six_bit_methods(network: &Network) -> [Method; 3] {
    let sites: Vec<Site> = network.sites().cloned().collect();
    let policy = Policy {
        weight_scales: WeightScales::Channel,
        ..Policy::preset(Preset::Ptq4vit, 6, 6)
    };
    let by_channel = Method {
        plan: policy.plan(&sites).unwrap(),
        settings: Settings::preset(Preset::Ptq4vit),
    };
    let [twins, baseline] =
        [Preset::Ptq4vit, Preset::BasePtq].map(|preset| six_bits(preset, network));
    [twins, baseline, by_channel]
}

/// What a preset stands for at 6 bits.
pub fn six_bits(preset: Preset, network: &Network) -> Method {
    let sites: Vec<Site> = network.sites().cloned().collect();
    Method::preset(preset, 6, 6, &sites).unwrap()
}
