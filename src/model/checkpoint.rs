//! Checkpoints of timm, of every age and wrapping, and of transformers: opened, with the names that timm gives their tensors
//! today.

use std::collections::BTreeSet;
#[cfg(feature = "files")]
use std::path::Path;

use crate::error::{Error, Result};
#[cfg(feature = "files")]
use crate::file::shards::shards_by_name;
use crate::file::weights::Weights;
use crate::model::config::Family;
use crate::model::names;
use crate::text::abridged;

/// Names the tensor that every network here begins with. What comes before its name is what the network is wrapped in.
const FIRST_LAYER: &str = "patch_embed.proj.weight";
/// Lists words that PyTorch's wrappers of single modules put into names: compiled, sharded, and recomputed ones.
const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];
/// Lists words in the names of tensors that only training needs: averages' counters, optimizers, their schedules,
/// losses, and the token that stands for hidden patches.
const TRAINING: [&str; 12] = [
    "n_averaged",
    "optimizer",
    "optimizer_states",
    "optimizer_state_dict",
    "lr_scheduler",
    "lr_schedulers",
    "scaler",
    "epoch",
    "global_step",
    "criterion",
    "loss_fn",
    "mask_token",
];

#[cfg(feature = "files")]
/// Opens a checkpoint, with the names that its tensors have in timm today: what a wrapper put before or into them is left
/// out, and so are tensors that only training needs, with a notice each. timm has moved some of Swin's layers over the years, and
/// DeiT III's own files name LayerScale otherwise. Hugging Face transformers has names of its own.
///
/// # Errors
/// Those of [`Weights::open`]; one shard of several; a file of several networks, or with other parts around its network;
/// a tensor under both its older and its newer name.
pub fn open_checkpoint(path: impl AsRef<Path>) -> Result<Weights> {
    let path = path.as_ref();
    if let Some(count) = shards_by_name(path).filter(|count| *count > 1) {
        let problem = format!(
            "is one of {count} shards, where a whole checkpoint is expected: the folder that they are in, or their index"
        );
        return Err(Error::input(path, problem));
    }
    with_todays_names(Weights::open(path)?)
}

/// Gives a checkpoint's tensors the names that they have in timm today, as `open_checkpoint` does.
///
/// # Errors
/// A file of several networks, or with other parts around its network; a tensor under both its older and its newer
/// name.
pub fn with_todays_names(weights: Weights) -> Result<Weights> {
    let mut weights = without_wrappers(weights)?;
    names::to_timms(&mut weights)?;
    let mut weights = unwrapped(weights)?;
    if Family::of(&weights) == Family::Vit {
        weights.rename(|name| {
            let (block, scale) = name.strip_prefix("blocks.")?.split_once(".gamma_")?;
            Some(format!("blocks.{block}.ls{scale}.gamma"))
        })?;
        registers_without_positions(&mut weights)?;
        gates_beside_hidden(&mut weights)?;
        queries_beside_keys_and_values(&mut weights)?;
        projection_without_bias(&mut weights)?;
        query_of_latent(&mut weights)?;
    } else {
        // A merging belonged to the stage before it, as in the paper's code, and so the first stage had one.
        let merges_after = weights
            .names()
            .any(|name| name.starts_with("layers.0.downsample."));
        weights.rename(|name| {
            if let Some(part) = name
                .strip_prefix("head.")
                .filter(|part| !part.contains('.'))
            {
                return Some(format!("head.fc.{part}"));
            }
            let (stage, part) = name.strip_prefix("layers.")?.split_once(".downsample.")?;
            let stage: usize = stage.parse().ok().filter(|_| merges_after)?;
            Some(format!("layers.{}.downsample.{part}", stage + 1))
        })?;
    }
    biases_without_keys(&mut weights)?;
    Ok(weights)
}

/// Makes register tokens timm's, which have no positions where the class token has none. In DINOv2's files and transformers'
/// it has one, and they have none: it is added to the class token, once and for all, as timm does it.
fn registers_without_positions(weights: &mut Weights) -> Result<()> {
    const REGISTERS: &str = "register_tokens";
    const CLASS: &str = "cls_token";
    const POSITIONS: &str = "pos_embed";
    let shapes = [REGISTERS, CLASS, POSITIONS].map(|name| weights.shape(name));
    let [Some(_), Some([1, 1, dim]), Some([1, positions, width])] = shapes else {
        return Ok(());
    };
    let (dim, positions) = (*dim, *positions);
    if dim != *width || positions == 0 {
        return Ok(());
    }
    let mut class = weights.float(CLASS)?;
    let mut of_class = weights.float(POSITIONS)?;
    let of_patches = of_class.split_off(dim);
    for (value, position) in class.iter_mut().zip(of_class) {
        *value += position;
    }
    weights.replace(CLASS, vec![1, 1, dim], &class);
    weights.replace(POSITIONS, vec![1, positions - 1, dim], &of_patches);
    log::info!(
        "tensors: the class token has its position in it, as timm has it with register tokens"
    );
    weights.rename(|name| (name == REGISTERS).then(|| "reg_token".to_owned()))
}

/// Makes one fc1 of the two products that timm's `SwiGLU` has for the gate and for what it lets through; timm's `GluMlp` has
/// both in one. DINOv2's own files call that one w12, and fc2 w3.
fn gates_beside_hidden(weights: &mut Weights) -> Result<()> {
    const GATE: &str = ".mlp.fc1_g.";
    weights.rename(|name| {
        let (block, layer) = name.strip_prefix("blocks.")?.split_once(".mlp.")?;
        let (layer, parameter) = layer.split_once('.')?;
        let timms = match layer {
            "w12" => "fc1",
            "w3" => "fc2",
            _ => return None,
        };
        Some(format!("blocks.{block}.mlp.{timms}.{parameter}"))
    })?;
    let apart = |name: &str| {
        let hidden = name.replace(GATE, ".mlp.fc1_x.");
        (name.contains(GATE) && weights.shape(&hidden).is_some()).then(|| (name.to_owned(), hidden))
    };
    let apart: Vec<(String, String)> = weights.names().filter_map(apart).collect();
    for (gate, hidden) in apart {
        weights.join(&gate.replace(GATE, ".mlp.fc1."), &[&gate, &hidden])?;
    }
    Ok(())
}

/// Leaves out the bias of CLIP's projection, which has none: timm has it as a classifier, whose bias it sets to zero. That of
/// a classifier that was trained isn't.
fn projection_without_bias(weights: &mut Weights) -> Result<()> {
    const BIAS: &str = "head.bias";
    let is_clip = ["norm_pre.weight", BIAS].map(|name| weights.shape(name).is_some());
    if is_clip != [true; 2] || weights.float(BIAS)?.iter().any(|&bias| bias != 0.0) {
        return Ok(());
    }
    log::info!(
        "tensors: `{BIAS}` is zero, so the head is a projection, and what it gives are features"
    );
    weights.retain(|name| name != BIAS);
    Ok(())
}

/// Joins queries, keys and values, where timm's `Eva` has a product for each (`qkv_fused=False`).
fn queries_beside_keys_and_values(weights: &mut Weights) -> Result<()> {
    weights.rename(|name| {
        let (block, layer) = name.split_once(".attn.")?;
        let (part, parameter) = layer.split_once("_proj.")?;
        let is_part = names::QKV.contains(&part);
        is_part.then(|| format!("{block}.attn.{part}.{parameter}"))
    })?;
    names::join_qkv(weights)
}

/// Gives queries, keys and values one bias, where those of queries and values are tensors of their own and keys have none,
/// as in timm's `Eva`, `Beit` and `SwinTransformerV2`: that of keys is zero.
fn biases_without_keys(weights: &mut Weights) -> Result<()> {
    const OF_QUERIES: &str = ".attn.q_bias";
    let blocks: Vec<String> = weights
        .names()
        .filter_map(|name| Some(name.strip_suffix(OF_QUERIES)?.to_owned()))
        .collect();
    for block in blocks {
        let [queries, values, whole] =
            ["q_bias", "v_bias", "qkv.bias"].map(|part| format!("{block}.attn.{part}"));
        let sizes = [&queries, &values].map(|name| weights.shape(name).map(<[usize]>::to_vec));
        let [Some(of_queries), Some(of_values)] = sizes else {
            continue;
        };
        if of_queries.len() != 1 || of_queries != of_values || weights.shape(&whole).is_some() {
            continue;
        }
        let zeros = vec![0.0; of_queries[0]];
        let bias = [weights.float(&queries)?, zeros, weights.float(&values)?].concat();
        weights.rename(|name| (name == queries).then(|| whole.clone()))?;
        weights.retain(|name| name != values);
        weights.replace(&whole, vec![bias.len()], &bias);
    }
    Ok(())
}

/// Projects the latent of a pooling to its query, once and for all: it is the same for every image. In timm it is then the
/// query as it is (`q_proj=False`). Sums in f64, rounds once.
fn query_of_latent(weights: &mut Weights) -> Result<()> {
    const LATENT: &str = "attn_pool.latent";
    const WEIGHT: &str = "attn_pool.q.weight";
    const BIAS: &str = "attn_pool.q.bias";
    let shapes = [LATENT, WEIGHT, BIAS].map(|name| weights.shape(name));
    let [
        Some([1, 1, inputs]),
        Some([outputs, columns]),
        Some([biases]),
    ] = shapes
    else {
        return Ok(());
    };
    let (inputs, outputs) = (*inputs, *outputs);
    if inputs != *columns || outputs != *biases || inputs == 0 {
        return Ok(());
    }
    let latent = weights.float(LATENT)?;
    let (weight, bias) = (weights.float(WEIGHT)?, weights.float(BIAS)?);
    let rows = weight.chunks_exact(inputs).zip(bias);
    let query: Vec<f32> = rows
        .map(|(row, bias)| {
            let terms = row.iter().zip(&latent);
            let product: f64 = terms.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            (product + f64::from(bias)) as f32
        })
        .collect();
    weights.replace(LATENT, vec![1, 1, outputs], &query);
    weights.retain(|name| ![WEIGHT, BIAS].contains(&name));
    log::info!(
        "tensors: the pooling's query is computed once, from `{LATENT}` and `{WEIGHT}`, for it is the same for every image"
    );
    Ok(())
}

/// Leaves out the words that PyTorch's wrappers put into names.
fn without_wrappers(mut weights: Weights) -> Result<Weights> {
    let has = |word: &str| {
        let mut names = weights.names();
        names.any(|name| name.split('.').any(|found| found == word))
    };
    for word in WRAPPERS.into_iter().filter(|word| has(word)) {
        log::info!("tensors: names have `{word}` in them, which is left out");
    }
    weights.rename(|name| {
        let words = name.split('.').filter(|word| !WRAPPERS.contains(word));
        let inner = words.collect::<Vec<_>>().join(".");
        (inner != name).then_some(inner)
    })?;
    Ok(weights)
}

/// Takes a network out of what it is wrapped in, and leaves out what only training needs. A file of no such network
/// stays as it is.
fn unwrapped(mut weights: Weights) -> Result<Weights> {
    let is_first_layer = |name: &str| {
        let prefix = name.strip_suffix(FIRST_LAYER)?;
        let is_network = !prefix.split('.').any(is_training_word);
        (is_network && (prefix.is_empty() || prefix.ends_with('.'))).then(|| prefix.to_owned())
    };
    let prefixes: BTreeSet<String> = weights.names().filter_map(is_first_layer).collect();
    let mut prefixes = prefixes.into_iter();
    let Some(prefix) = prefixes.next() else {
        return Ok(weights);
    };
    if let Some(other) = prefixes.next() {
        return Err(several_networks(&weights, [&prefix, &other]));
    }

    // A word of a network's own layer is none of these, and what lies around it has them anywhere in its name.
    let is_trainings = |name: &str| match name.strip_prefix(&prefix) {
        Some(inner) => inner.split('.').next().is_some_and(is_training_word),
        None => name.split('.').any(is_training_word),
    };
    let quoted = |names: Vec<&str>| -> Vec<String> {
        names.iter().map(|name| format!("`{name}`")).collect()
    };
    let passed_over = quoted(weights.names().filter(|name| is_trainings(name)).collect());
    let is_around = |name: &&str| !name.starts_with(&prefix) && !is_trainings(name);
    let around = quoted(weights.names().filter(is_around).collect());
    if !around.is_empty() {
        let problem = format!(
            "has its network under `{prefix}` and other tensors around it, which is not supported: {}",
            abridged(&around)
        );
        return Err(Error::input(weights.path(), problem));
    }
    if !passed_over.is_empty() {
        let (count, names) = (passed_over.len(), abridged(&passed_over));
        log::info!("tensors: {count} that only training needs are left out: {names}");
        weights.retain(|name| !is_trainings(name));
    }
    if !prefix.is_empty() {
        log::info!("tensors: all names begin with `{prefix}`, which is left out");
        weights.rename(|name| name.strip_prefix(&prefix).map(str::to_owned))?;
    }
    Ok(weights)
}

fn is_training_word(word: &str) -> bool {
    TRAINING.contains(&word)
}

/// Makes the error that a file holds more than one network, which says how to keep one of them.
fn several_networks(weights: &Weights, prefixes: [&str; 2]) -> Error {
    let [first, second] = prefixes.map(|prefix| match prefix {
        "" => "no prefix".to_owned(),
        _ => format!("`{prefix}`"),
    });
    let kept = prefixes[1];
    Error::input(
        weights.path(),
        format!(
            "holds several networks, under {first} and {second}, where one is expected; keep one with Python: \
             `safetensors.torch.save_file({{name: tensor for name, tensor in safetensors.torch.load_file(IN).items() if \
             name.startswith(\"{kept}\")}}, OUT)`"
        ),
    )
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::file::weights::{TensorData, save};

    /// The names of a file with these tensors, each of one element that is its place in the list.
    fn opened(names: &[&str]) -> Result<Vec<(String, f32)>> {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("m.safetensors");
        let tensor = |(place, name): (usize, &&str)| {
            let data = vec![place as f32];
            (
                (*name).to_owned(),
                TensorData::F32 {
                    shape: vec![1],
                    data,
                },
            )
        };
        let tensors = names.iter().enumerate().map(tensor).collect();
        save(&path, tensors, Default::default()).unwrap();
        let weights = open_checkpoint(&path)?;
        let names = weights.names();
        Ok(names
            .map(|name| (name.to_owned(), weights.float(name).unwrap()[0]))
            .collect())
    }

    #[test]
    fn older_swins_get_todays_names() {
        let old = [
            "layers.0.blocks.0.norm1.weight",
            "layers.0.downsample.reduction.weight",
            "layers.1.downsample.reduction.weight",
            "head.weight",
            "head.bias",
        ];
        let expected = [
            ("head.fc.bias", 4.0),
            ("head.fc.weight", 3.0),
            ("layers.0.blocks.0.norm1.weight", 0.0),
            ("layers.1.downsample.reduction.weight", 1.0),
            ("layers.2.downsample.reduction.weight", 2.0),
        ];
        assert_eq!(
            opened(&old).unwrap(),
            expected.map(|(name, at)| (name.to_owned(), at))
        );
    }

    /// A ViT's tensors, as far as they matter here.
    const VIT: [&str; 3] = [
        "blocks.0.attn.qkv.weight",
        "head.weight",
        "patch_embed.proj.weight",
    ];

    /// The names that are left of a ViT's under this prefix, with these others.
    fn left(prefix: &str, others: &[&str]) -> Result<Vec<String>> {
        let wrapped = VIT.map(|name| format!("{prefix}{name}"));
        let names = wrapped
            .iter()
            .map(String::as_str)
            .chain(others.iter().copied());
        let opened = opened(&names.collect::<Vec<_>>())?;
        Ok(opened.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn what_a_network_is_wrapped_in_is_left_out() {
        for prefix in [
            "module.",
            "model.",
            "_orig_mod.",
            "timm_model.",
            "backbone.",
            "net.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model._orig_mod.module.",
            "state_dict.model.",
            "teacher.backbone.",
            "visual.trunk.",
            "_fsdp_wrapped_module.module.",
        ] {
            assert_eq!(left(prefix, &[]).unwrap(), VIT, "{prefix}");
        }
        // Each block was compiled, or computed anew on the way back.
        let inner = [
            "blocks.0._orig_mod.attn.qkv.weight",
            "blocks.1._checkpoint_wrapped_module.attn.qkv.weight",
            "patch_embed.proj.weight",
        ];
        let names = opened(&inner).unwrap();
        assert_eq!(names[0], ("blocks.0.attn.qkv.weight".to_owned(), 0.0));
        assert_eq!(names[1], ("blocks.1.attn.qkv.weight".to_owned(), 1.0));
        // A Swin of an older timm, too.
        let swin = [
            "module.layers.0.blocks.0.norm1.weight",
            "module.patch_embed.proj.weight",
            "module.head.weight",
        ];
        assert_eq!(
            opened(&swin).unwrap()[0],
            ("head.fc.weight".to_owned(), 2.0)
        );
    }

    #[test]
    fn what_only_training_needs_is_left_out() {
        for (prefix, others) in [
            ("module.", &["n_averaged"][..]),
            ("module.module.", &["module.n_averaged"]),
            ("", &["mask_token", "n_averaged"]),
            ("", &["optimizer.exp_avg.patch_embed.proj.weight"]),
            ("model.", &["model.mask_token", "criterion.weight"]),
            (
                "state_dict.model.",
                &["epoch", "global_step", "optimizer_states.0.state.5.exp_avg"],
            ),
        ] {
            assert_eq!(left(prefix, others).unwrap(), VIT, "{prefix}");
        }
        // Without a network nothing is known to be training's.
        assert_eq!(opened(&["n_averaged"]).unwrap().len(), 1);
    }

    #[test]
    fn what_lies_around_a_network_is_refused() {
        for (prefix, others, says) in [
            (
                "backbone.",
                &["head.bias", "neck.0.weight"][..],
                "under `backbone.` and other tensors around it, which is not supported: `head.bias`, `neck.0.weight`",
            ),
            (
                "encoder.",
                &["decoder.blocks.0.attn.qkv.weight"],
                "around it, which is not supported: `decoder.blocks.0.attn.qkv.weight`",
            ),
            (
                "model.",
                &["model_ema.blocks0attnqkvweight"],
                "`model_ema.blocks0attnqkvweight`",
            ),
            (
                "model.",
                &["model_ema.patch_embed.proj.weight"],
                "several networks, under `model.` and `model_ema.`",
            ),
            (
                "",
                &["teacher.patch_embed.proj.weight"],
                "several networks, under no prefix and `teacher.`",
            ),
            (
                "_orig_mod.",
                &["patch_embed.proj.weight"],
                "tensors `_orig_mod.patch_embed.proj.weight` and `patch_embed.proj.weight` would both be named",
            ),
        ] {
            let message = left(prefix, others).unwrap_err().to_string();
            assert!(message.contains(says), "{message}\nlacks {says}");
        }
        // No word of its own, and so a part of the network, which it doesn't fit.
        assert_eq!(left("", &["neck.weight"]).unwrap().len(), 4);
    }

    #[test]
    fn layer_scales_get_timms_names() {
        let old = [
            "blocks.0.gamma_1",
            "blocks.11.gamma_2",
            "blocks.0.norm1.weight",
        ];
        let expected = [
            ("blocks.0.ls1.gamma", 0.0),
            ("blocks.0.norm1.weight", 2.0),
            ("blocks.11.ls2.gamma", 1.0),
        ];
        assert_eq!(
            opened(&old).unwrap(),
            expected.map(|(name, at)| (name.to_owned(), at))
        );
    }

    #[test]
    fn queries_keys_and_values_are_one_product() {
        let apart = [
            "blocks.0.attn.k_proj.weight",
            "blocks.0.attn.q_proj.bias",
            "blocks.0.attn.q_proj.weight",
            "blocks.0.attn.v_proj.bias",
            "blocks.0.attn.v_proj.weight",
        ];
        let expected = [
            ("blocks.0.attn.qkv.bias", 1.0),
            ("blocks.0.attn.qkv.weight", 2.0),
        ];
        assert_eq!(
            opened(&apart).unwrap(),
            expected.map(|(name, at)| (name.to_owned(), at))
        );
    }

    #[test]
    fn gated_mlps_have_one_fc1_with_the_gate_first() {
        let apart = [
            "blocks.3.mlp.fc1_x.bias",
            "blocks.3.mlp.fc1_g.bias",
            "blocks.3.mlp.fc2.bias",
        ];
        let expected = [
            ("blocks.3.mlp.fc1.bias", 1.0),
            ("blocks.3.mlp.fc2.bias", 2.0),
        ];
        assert_eq!(
            opened(&apart).unwrap(),
            expected.map(|(name, at)| (name.to_owned(), at))
        );
        let dinov2s_own = ["blocks.3.mlp.w12.bias", "blocks.3.mlp.w3.bias"];
        let expected = ["blocks.3.mlp.fc1.bias", "blocks.3.mlp.fc2.bias"];
        let found = opened(&dinov2s_own).unwrap();
        assert!(found.iter().map(|(name, _)| name).eq(expected), "{found:?}");
        // A gate by itself keeps its name, of which the comparison with the expected tensors tells.
        let alone = ["blocks.0.mlp.fc1_g.weight"];
        assert_eq!(opened(&alone).unwrap(), [(alone[0].to_owned(), 0.0)]);
    }

    #[test]
    fn todays_names_stay() {
        for names in [
            [
                "head.fc.weight",
                "layers.0.blocks.0.norm1.weight",
                "layers.1.downsample.norm.weight",
            ],
            ["blocks.0.norm1.weight", "head.bias", "head.weight"],
        ] {
            let found: Vec<String> = opened(&names)
                .unwrap()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert_eq!(found, names);
        }
    }

    #[test]
    fn a_tensor_under_both_names_is_refused() {
        let names = [
            "layers.0.blocks.0.norm1.weight",
            "head.weight",
            "head.fc.weight",
        ];
        let message = opened(&names).unwrap_err().to_string();
        assert!(
            message.ends_with(
                "tensors `head.fc.weight` and `head.weight` would both be named `head.fc.weight`"
            ),
            "{message}"
        );
    }
}
