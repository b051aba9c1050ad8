//! Files of networks that are as small as they can be and still have everything: a distilled ViT, a Swin with shifted
//! windows and a merging, a DeiT III, a ViT that answers with features, one that pools two ways, the image towers of CLIP
//! and SigLIP, DINOv3, BEiT, a Swin V2, a ViT with gated MLPs, EVA-02, and networks of grey images,
//! of images with alpha and of images that aren't squares.

use ptq4vit_gpu::device::Device;
use ptq4vit_gpu::families::sites;
use ptq4vit_gpu::file::weights::{TensorData, Weights, save};
use ptq4vit_gpu::model::config::Architecture;
use ptq4vit_gpu::model::recipe::{CONFIG_KEY, resolve};
use ptq4vit_gpu::quant::{Calibration, Method, Preset, Provenance, QuantizedModel};
use std::collections::BTreeMap;

/// As files tell them.
pub const ARCHITECTURES: [&str; 15] = [
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":3,"distilled":true}"#,
    r#"{"family":"swin","image_size":8,"patch_size":2,"window":2,"dim":2,"depths":[2,1],"heads":[1,2],"mlp_ratio":1.5,"classes":3}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":3,"layer_scale":true,"no_embed_class":true}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":0,"reg_tokens":1}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":2,"global_pool":"token_avg"}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":0,"pre_norm":true,"act_layer":"quick_gelu","projection":4}"#,
    r#"{"family":"vit","image_size":5,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":0,"class_token":false,"global_pool":"map","act_layer":"gelu_tanh"}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":8,"depth":1,"heads":2,"mlp_dim":5,"classes":0,"qkv_bias":false,"rotary":true,"layer_scale":true,"reg_tokens":1}"#,
    r#"{"family":"swin","image_size":8,"patch_size":2,"window":2,"dim":2,"depths":[2,1],"heads":[1,2],"mlp_ratio":1.5,"classes":3,"v2":true,"pretrained_windows":[3,0]}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":3,"rel_pos_bias":true,"layer_scale":true,"global_pool":"avg","fc_norm":true}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":3,"gated_mlp":true,"act_layer":"silu"}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"dim":8,"depth":1,"heads":2,"mlp_dim":5,"classes":3,"ref_feat_shape":3,"global_pool":"avg","fc_norm":true,"gated_mlp":true,"scale_mlp":true,"act_layer":"silu"}"#,
    r#"{"family":"vit","image_size":4,"patch_size":2,"in_chans":1,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":3}"#,
    r#"{"family":"vit","image_size":[4,6],"patch_size":2,"dim":6,"depth":1,"heads":2,"mlp_dim":5,"classes":3}"#,
    r#"{"family":"swin","image_size":8,"patch_size":2,"in_chans":4,"window":2,"dim":2,"depths":[2,1],"heads":[1,2],"mlp_ratio":1.5,"classes":3}"#,
];

/// An FP checkpoint with random-looking values.
pub fn checkpoint(told: &str) -> Vec<u8> {
    let architecture: Architecture = serde_json::from_str(told).expect("an architecture");
    let tensors = architecture.expected_tensors().into_iter();
    let tensors = tensors.map(|(name, shape)| {
        let data = (0..shape.iter().product())
            .map(|at: usize| ((at * 37 + name.len()) % 101) as f32 / 64.0 - 0.75)
            .collect();
        (name, TensorData::F32 { shape, data })
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let metadata = BTreeMap::from([(CONFIG_KEY.to_owned(), told.to_owned())]);
    save(&path, tensors.collect(), metadata).expect("it is written");
    std::fs::read(path).expect("it is there")
}

/// What `calibrate` makes of [`checkpoint`]: with twins or, by preset `best`, tables, and with weights of 5 bits, so that
/// not every byte is full.
pub fn quantized(told: &str, preset: Preset) -> Vec<u8> {
    let weights = Weights::from_bytes(super::nowhere(), &checkpoint(told)).expect("a sound file");
    let resolved = resolve(&weights, None).expect("it says what it is");
    let sites = sites(&resolved.architecture);
    let mut method = Method::preset(preset, 5, 6, &sites).expect("sound widths");
    method.settings.candidates = 4;
    method.settings.rounds = 1;
    let pixels = resolved.architecture.input_len();
    let images: [Vec<f32>; 1] = [(0..pixels).map(|at| (at as f32).sin()).collect()];
    let calibration = Calibration::builder(&Device::cpu(), &weights, &resolved.architecture)
        .method(&method)
        .images(&images)
        .run()
        .expect("a calibration");
    let provenance = Provenance::new(&weights, "tiny", preset, None, &[]);
    let provenance = provenance.expect("no image has to be read");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("quantized.safetensors");
    QuantizedModel::new(&weights, &resolved, method, calibration, provenance)
        .and_then(|model| model.save(&path))
        .expect("it is written");
    std::fs::read(path).expect("it is there")
}
