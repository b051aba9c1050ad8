//! The names that Hugging Face transformers, and OpenCLIP, give tensors, and timm's for them: a file with tables for each
//! kind of network.

mod beit;
mod clip;
mod dinov2;
mod dinov3;
mod open_clip;
mod siglip;
mod swin;
mod swin_v2;
mod table;
mod vit;

use std::collections::BTreeSet;

use self::table::{Names, looked_up, matched};
use crate::error::Result;
use crate::file::weights::Weights;
use crate::text::abridged;

/// Lists the parts of timm's `attn.qkv`, in its order, which are tensors of their own in transformers' files.
pub(super) const QKV: [&str; 3] = ["q", "k", "v"];

/// Lists all kinds. Which one a network is of is decided in this order.
static KINDS: [Names; 10] = [
    dinov2::NAMES,
    beit::NAMES,
    vit::NAMES,
    swin_v2::NAMES,
    swin::NAMES,
    dinov3::NAMES,
    clip::NAMES,
    siglip::NAMES,
    open_clip::NAMES,
    open_clip::TRUNK,
];

/// Says where in a file a network is.
struct Network {
    /// What all of the model's names begin with.
    prefix: String,
    /// What the network's names begin with: the prefix and its own word, if it has one.
    inner: String,
    /// Whether one of its heads is there.
    has_head: bool,
    names: &'static Names,
}

impl Network {
    /// Returns the network whose first layer has this name among those of `weights`, if its kind is known.
    fn of(first_layer: &str, weights: &Weights) -> Option<Self> {
        let mut kinds = KINDS.iter();
        kinds.find_map(|names| Self::of_kind(names, first_layer, weights))
    }

    /// Returns that network if it is of this kind: by its word, or by the tensors that tell it.
    fn of_kind(names: &'static Names, first_layer: &str, weights: &Weights) -> Option<Self> {
        let inner = first_layer.strip_suffix(names.first_layer)?;
        let before = inner.strip_suffix('.').unwrap_or(inner);
        let (prefix, word) = match before.rsplit_once('.') {
            Some((prefix, word)) => (format!("{prefix}."), word),
            None => (String::new(), before),
        };
        let has_word = names.networks.contains(&word);
        let is_there = |name: &&str| weights.shape(&format!("{inner}{name}")).is_some();
        let is_told = !names.telling.is_empty() && names.telling.iter().all(is_there);
        (is_told || (has_word && !names.shares_words)).then(|| {
            let prefix = if has_word { prefix } else { inner.to_owned() };
            let is_head = |(theirs, _): &(&str, &str)| {
                let head = format!("{prefix}{theirs}.weight");
                weights.shape(&head).is_some()
            };
            Self {
                has_head: names.heads.iter().any(is_head),
                prefix,
                inner: inner.to_owned(),
                names,
            }
        })
    }

    /// Returns timm's name of a tensor.
    fn timms(&self, name: &str) -> Option<String> {
        let Names {
            around,
            blocks,
            block,
            heads,
            ..
        } = self.names;
        let timms = match name.strip_prefix(&self.inner) {
            Some(name) => looked_up(around, name).or_else(|| {
                blocks.iter().find_map(|(theirs, timms)| {
                    let (timms, part) = matched(theirs, timms, name)?;
                    Some(format!("{timms}.{}", looked_up(block, &part)?))
                })
            }),
            None => looked_up(heads, name.strip_prefix(&self.prefix)?),
        };
        Some(format!("{}{}", self.prefix, timms?))
    }

    /// Says whether a tensor is one that the answer isn't computed from.
    fn leaves_out(&self, name: &str) -> bool {
        let begins = |name: &str, parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
        match (
            name.strip_prefix(&self.inner),
            name.strip_prefix(&self.prefix),
        ) {
            (Some(within), _) => {
                begins(within, self.names.unread)
                    || (self.has_head && begins(within, self.names.unread_with_head))
            }
            (None, Some(beside)) => begins(beside, self.names.beside),
            (None, None) => false,
        }
    }

    /// Gives tensors that timm has in other shapes theirs, once all have its names: tokens and positions have a dimension
    /// for the image, and matrices may be transposed.
    fn reshape(&self, weights: &mut Weights) -> Result<()> {
        for name in ["cls_token", "pos_embed"] {
            let name = format!("{}{name}", self.prefix);
            let Some(shape) = weights.shape(&name).filter(|shape| shape.len() < 3) else {
                continue;
            };
            let whole = [&vec![1; 3 - shape.len()], shape].concat();
            let values = weights.float(&name)?;
            weights.replace(&name, whole, &values);
        }
        for name in self.names.transposed {
            let name = format!("{}{name}", self.prefix);
            let Some(&[rows, columns]) = weights.shape(&name) else {
                continue;
            };
            let values = weights.float(&name)?;
            let places = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
            let transposed: Vec<f32> = places
                .map(|(row, column)| values[row * columns + column])
                .collect();
            weights.replace(&name, vec![columns, rows], &transposed);
        }
        Ok(())
    }
}

/// Gives the tensors of a file of transformers', or of OpenCLIP's, timm's names and shapes, and joins queries, keys and values
/// as timm has them. Any other file stays as it is.
///
/// # Errors
/// Two tensors for one of timm's; queries, keys and values that don't fit together; positions that are no floats.
pub(super) fn to_timms(weights: &mut Weights) -> Result<()> {
    let network = |name| Network::of(name, weights);
    let networks: Vec<Network> = weights.names().filter_map(network).collect();
    for network in &networks {
        let unread = |name: &str| network.leaves_out(name);
        let left_out: Vec<String> = weights
            .names()
            .filter(|name| unread(name))
            .map(|name| format!("`{name}`"))
            .collect();
        if !left_out.is_empty() {
            let (count, names) = (left_out.len(), abridged(&left_out));
            log::info!(
                "tensors: {count} that the image's answer isn't computed from are left out: {names}"
            );
            weights.retain(|name| !unread(name));
        }
        let origin = network.names.origin;
        match &*network.inner {
            "" => log::info!("tensors: named as in {origin}, here as in timm"),
            inner => log::info!("tensors: named as in {origin} (`{inner}`), here as in timm"),
        }
        weights.rename(|name| network.timms(name))?;
        network.reshape(weights)?;
        split_pooling(weights, &network.prefix)?;
        distillation_without_head(weights, &network.prefix)?;
    }
    hidden_beside_gates(weights)?;
    match networks.is_empty() {
        true => Ok(()),
        false => join_qkv(weights),
    }
}

/// Renames the distillation token of a network that has no head on it, as transformers' `DeiTForImageClassification`: it is
/// attended to, and nothing else. In timm that is a register token.
fn distillation_without_head(weights: &mut Weights, prefix: &str) -> Result<()> {
    let [token, head] = ["dist_token", "head_dist.weight"].map(|name| format!("{prefix}{name}"));
    if weights.shape(&head).is_some() {
        return Ok(());
    }
    weights.rename(|name| (name == token).then(|| format!("{prefix}reg_token")))
}

/// Renames the half of fc1 that a gate lets through, where the gate is a product of its own, as timm does: DINOv3's files call
/// it what they call fc1 without a gate.
fn hidden_beside_gates(weights: &mut Weights) -> Result<()> {
    const HIDDEN: &str = ".mlp.fc1.";
    let has_gate = |name: &str| {
        weights
            .shape(&name.replace(HIDDEN, ".mlp.fc1_g."))
            .is_some()
    };
    let beside: BTreeSet<String> = weights
        .names()
        .filter(|name| name.contains(HIDDEN) && has_gate(name))
        .map(str::to_owned)
        .collect();
    weights.rename(|name| {
        let hidden = beside.get(name)?;
        Some(hidden.replace(HIDDEN, ".mlp.fc1_x."))
    })
}

/// Splits the queries of a pooling off its keys and values, as timm has them.
fn split_pooling(weights: &mut Weights, prefix: &str) -> Result<()> {
    for parameter in ["weight", "bias"] {
        let named = |part: &str| format!("{prefix}attn_pool.{part}.{parameter}");
        if weights.shape(&named("qkv")).is_some() {
            let [q, k, v] = QKV.map(named);
            weights.split(&named("qkv"), &[&q, &k, &v])?;
            weights.join(&named("kv"), &[&k, &v])?;
        }
    }
    Ok(())
}

/// Joins the parts of each `qkv`, where all three are there. Biases of queries and values without one of keys get the names
/// that timm has for them.
pub(super) fn join_qkv(weights: &mut Weights) -> Result<()> {
    let whole = |name: &str| {
        let (block, parameter) = name.split_once(".attn.q.")?;
        Some((block.to_owned(), parameter.to_owned()))
    };
    let wholes: BTreeSet<(String, String)> = weights.names().filter_map(whole).collect();
    for (block, parameter) in wholes {
        let parts = QKV.map(|part| format!("{block}.attn.{part}.{parameter}"));
        if parts.iter().all(|part| weights.shape(part).is_some()) {
            let parts = [&*parts[0], &parts[1], &parts[2]];
            weights.join(&format!("{block}.attn.qkv.{parameter}"), &parts)?;
        } else if parameter == "bias"
            && weights.shape(&parts[1]).is_none()
            && weights.shape(&parts[2]).is_some()
        {
            weights.rename(|name| {
                let part = QKV.iter().zip(&parts).find(|(_, part)| *part == name)?.0;
                Some(format!("{block}.attn.{part}_bias"))
            })?;
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::config::zeros;

    /// What a file's tensors are called here.
    fn renamed(names: &[&str]) -> Result<Vec<String>> {
        let tensors = names.iter().map(|name| ((*name).to_owned(), vec![2]));
        let mut weights = zeros(tensors);
        to_timms(&mut weights)?;
        Ok(weights.names().map(str::to_owned).collect())
    }

    /// A block of a ViT in both spellings, and timm's.
    const BLOCK: [(&str, &str, &str); 3] = [
        (
            "attention.attention.query.bias",
            "attention.q_proj.bias",
            "attn.q.bias",
        ),
        (
            "attention.output.dense.weight",
            "attention.o_proj.weight",
            "attn.proj.weight",
        ),
        ("output.dense.bias", "mlp.fc2.bias", "mlp.fc2.bias"),
    ];

    #[test]
    fn a_network_is_found_under_any_prefix() {
        for prefix in ["", "module.", "state_dict.model."] {
            let [first, cls, query, head] = [
                "vit.embeddings.patch_embeddings.projection.weight",
                "vit.embeddings.cls_token",
                "vit.encoder.layer.11.attention.attention.query.bias",
                "classifier.weight",
            ]
            .map(|name| format!("{prefix}{name}"));
            let expected = [
                "blocks.11.attn.q.bias",
                "cls_token",
                "head.weight",
                "patch_embed.proj.weight",
            ];
            let expected = expected.map(|name| format!("{prefix}{name}"));
            assert_eq!(renamed(&[&first, &cls, &query, &head]).unwrap(), expected);
        }
    }

    #[test]
    fn a_network_without_a_word_is_told_by_a_tensor() {
        for prefix in ["", "module.", "backbone."] {
            let names = [
                "embeddings.patch_embeddings.projection.weight",
                "encoder.layer.0.layer_scale1.lambda1",
                "encoder.layer.0.attention.attention.query.bias",
                "embeddings.register_tokens",
            ]
            .map(|name| format!("{prefix}{name}"));
            let expected = [
                "blocks.0.attn.q.bias",
                "blocks.0.ls1.gamma",
                "patch_embed.proj.weight",
                "register_tokens",
            ]
            .map(|name| format!("{prefix}{name}"));
            let names = names.each_ref().map(String::as_str);
            assert_eq!(renamed(&names).unwrap(), expected);
        }
    }

    #[test]
    fn a_network_is_of_the_first_kind_that_its_tensors_tell() {
        let first = "embeddings.patch_embeddings.projection.weight";
        let [token, positions, norm] = ["cls_token", "position_embeddings", "layernorm"];
        let [token, positions] = [token, positions].map(|name| format!("embeddings.{name}"));
        let norm = format!("{norm}.weight");
        let vit = [&*norm, &positions, &token, first];
        assert_eq!(
            renamed(&vit).unwrap(),
            [
                "cls_token",
                "norm.weight",
                "patch_embed.proj.weight",
                "pos_embed"
            ]
        );
        // DINOv2 has these, too, and calls its norms otherwise.
        let dinov2 = [
            "encoder.layer.0.layer_scale1.lambda1",
            "encoder.layer.0.norm1.weight",
        ];
        let names = renamed(&[&vit[..], &dinov2].concat()).unwrap();
        assert!(
            names.contains(&"blocks.0.norm1.weight".to_owned()),
            "{names:?}"
        );
    }

    #[test]
    fn both_spellings_are_read() {
        let first = "deit.embeddings.patch_embeddings.projection.weight";
        for (file, module, timms) in BLOCK {
            for name in [
                format!("deit.encoder.layer.3.{file}"),
                format!("deit.encoder.layer.3.{module}"),
                format!("deit.layers.3.{module}"),
            ] {
                assert_eq!(
                    renamed(&[first, &name]).unwrap()[0],
                    format!("blocks.3.{timms}")
                );
            }
        }
        let names = [
            first,
            "deit.layers.0.mlp.fc1.bias",
            "deit.encoder.layer.0.intermediate.dense.bias",
        ];
        let message = renamed(&names).unwrap_err().to_string();
        assert!(
            message.contains("would both be named `blocks.0.mlp.fc1.bias`"),
            "{message}"
        );
    }

    #[test]
    fn queries_keys_and_values_are_joined_in_timms_order() {
        let name =
            |part: &str| format!("swin.encoder.layers.1.blocks.0.attention.self.{part}.bias");
        let first = "swin.embeddings.patch_embeddings.projection.weight";
        let [query, key, value] = ["query", "key", "value"].map(name);
        let mut weights =
            zeros([first, &value, &key, &query].map(|name| (name.to_owned(), vec![1])));
        for (place, part) in [&query, &key, &value].into_iter().enumerate() {
            weights.replace(part, vec![1], &[place as f32]);
        }
        to_timms(&mut weights).unwrap();
        let joined = weights.float("layers.1.blocks.0.attn.qkv.bias").unwrap();
        assert_eq!(joined, [0.0, 1.0, 2.0]);
        // Without one of them there is nothing to join, which the comparison with the expected tensors says.
        assert_eq!(renamed(&[first, &query, &key]).unwrap().len(), 3);
    }

    #[test]
    fn what_no_class_is_computed_from_is_left_out() {
        let first = "vit.embeddings.patch_embeddings.projection.weight";
        let names = [first, "vit.pooler.dense.weight", "vit.pooler.dense.bias"];
        assert_eq!(renamed(&names).unwrap(), ["patch_embed.proj.weight"]);
    }

    #[test]
    fn other_files_stay_as_they_are() {
        for names in [
            &[
                "embeddings.cls_token",
                "embeddings.patch_embeddings.projection.weight",
            ][..],
            &[
                "classifier.weight",
                "ijepa.embeddings.patch_embeddings.projection.weight",
            ],
            &["blocks.0.attn.q.weight", "patch_embed.proj.weight"],
        ] {
            assert_eq!(renamed(names).unwrap(), names);
        }
        // What isn't known keeps its name within a network, too.
        let first = "vit.embeddings.patch_embeddings.projection.weight";
        for name in [
            "vit.encoder.layer.x.output.dense.bias",
            "vit.layernorm.gamma",
            "neck.weight",
        ] {
            assert!(renamed(&[first, name]).unwrap().contains(&name.to_owned()));
        }
    }
}
