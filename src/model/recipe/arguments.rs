//! The arguments of timm's constructors: what each does to a network, and the network that they describe.
//!
//! They come from timm's entry points (`models/timm/architectures.toml`) and from a config.json's `model_args`, where timm
//! writes whatever its `create_model` was called with.

use serde_json::{Map, Value};

use crate::data::image_size::ImageSize;
use crate::data::preprocess::MAX_CHANNELS;
use crate::file::weights::Weights;
use crate::model::config::{
    Architecture, Family, Gelu, GlobalPool, SwinConfig, VitConfig, scaled, square,
};
use serde::Deserialize;

/// Names a class of timm's whose networks can be run here, if its arguments are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    VisionTransformer,
    /// DeiT's, with a second token and head for distillation.
    VisionTransformerDistilled,
    /// DINOv3's and EVA-02's, among others that aren't supported.
    Eva,
    /// BEiT's.
    Beit,
    SwinTransformer,
    SwinTransformerV2,
}

/// Says what an argument does.
#[derive(Clone, Copy)]
enum Effect {
    /// It sizes the network, or gives it a part that is supported.
    Size,
    /// Nothing that shows when the network runs on images of its own size: it matters in training, for images of other
    /// sizes, or says where the weights come from.
    Nothing,
    /// It chooses a kind of network. The first value is the default, and the only kind that is supported; the others mean
    /// the same.
    Kind(&'static [&'static str]),
    /// It chooses one of these kinds of networks; no other is supported.
    Choice(&'static [&'static str]),
}

/// Names the norm that entry points of CLIP's towers give, with its epsilon.
const CLIPS_NORM: &str = "LayerNorm(eps=1e-05)";
const CLIPS_LAYER_NORM_EPS: f32 = 1e-5;
/// Names the MLP with a gate that timm's `VisionTransformer` can have, as entry points give it (`SwiGLUPacked`).
const PACKED_GATE: &str = "GluMlp(gate_last=False)";
/// Names the block whose norms come after attention and MLP.
const POST_NORM_BLOCK: &str = "ResPostBlock";
/// Names the argument that timm's `pretrained_cfg` may give, too.
const GLOBAL_POOL: &str = "global_pool";

/// Lists the arguments of `create_model` and what it calls, and those that all classes have.
const ALL: &[(&str, Effect)] = &[
    ("img_size", Effect::Size),
    ("patch_size", Effect::Size),
    ("in_chans", Effect::Size),
    ("num_classes", Effect::Size),
    ("embed_dim", Effect::Size),
    ("num_heads", Effect::Size),
    ("mlp_ratio", Effect::Size),
    ("embed_layer", Effect::Kind(&["PatchEmbed"])),
    ("dynamic_img_size", Effect::Nothing),
    ("drop_rate", Effect::Nothing),
    ("proj_drop_rate", Effect::Nothing),
    ("attn_drop_rate", Effect::Nothing),
    ("drop_path_rate", Effect::Nothing),
    ("drop_block_rate", Effect::Nothing),
    ("drop_connect_rate", Effect::Nothing),
    ("weight_init", Effect::Nothing),
    ("device", Effect::Nothing),
    ("dtype", Effect::Nothing),
    ("pretrained", Effect::Nothing),
    ("pretrained_strict", Effect::Nothing),
    ("checkpoint_path", Effect::Nothing),
    ("cache_dir", Effect::Nothing),
    ("scriptable", Effect::Nothing),
    ("exportable", Effect::Nothing),
    ("no_jit", Effect::Nothing),
    ("pretrained_cfg", Effect::Kind(&["null"])),
    ("pretrained_cfg_overlay", Effect::Kind(&["null"])),
    ("features_only", Effect::Kind(&["false"])),
    ("pruned", Effect::Kind(&["false"])),
    // Of earlier versions.
    ("qk_scale", Effect::Kind(&["null"])),
];

const VISION_TRANSFORMER: &[(&str, Effect)] = &[
    ("qkv_bias", Effect::Size),
    ("depth", Effect::Size),
    ("global_pool", Effect::Choice(&["token", "avg", "map", ""])),
    ("qk_norm", Effect::Kind(&["false"])),
    ("scale_attn_norm", Effect::Kind(&["false"])),
    ("scale_mlp_norm", Effect::Size),
    ("proj_bias", Effect::Kind(&["true"])),
    ("init_values", Effect::Size),
    ("class_token", Effect::Size),
    ("pos_embed", Effect::Kind(&["learn"])),
    ("no_embed_class", Effect::Size),
    ("reg_tokens", Effect::Size),
    ("pre_norm", Effect::Size),
    ("final_norm", Effect::Kind(&["true"])),
    ("fc_norm", Effect::Size),
    ("pool_include_prefix", Effect::Kind(&["false"])),
    ("dynamic_img_pad", Effect::Nothing),
    ("pos_drop_rate", Effect::Nothing),
    ("patch_drop_rate", Effect::Nothing),
    ("fix_init", Effect::Nothing),
    ("embed_norm_layer", Effect::Kind(&["null", ""])),
    // They differ in the epsilon alone.
    (
        "norm_layer",
        Effect::Kind(&["LayerNorm", "layernorm", "layer_norm", "", CLIPS_NORM]),
    ),
    ("act_layer", Effect::Size),
    ("block_fn", Effect::Choice(&["Block", POST_NORM_BLOCK])),
    ("mlp_layer", Effect::Choice(&["Mlp", PACKED_GATE])),
    ("attn_layer", Effect::Kind(&["Attention", "attn", ""])),
    ("use_naflex", Effect::Kind(&["false"])),
    // Of earlier versions.
    ("representation_size", Effect::Kind(&["null"])),
    ("distilled", Effect::Kind(&["false"])),
];

const EVA: &[(&str, Effect)] = &[
    ("qkv_bias", Effect::Size),
    ("depth", Effect::Size),
    ("global_pool", Effect::Choice(&["token", "avg", ""])),
    ("num_kv_heads", Effect::Kind(&["null"])),
    // It names tensors.
    ("qkv_fused", Effect::Nothing),
    ("qk_norm", Effect::Kind(&["false"])),
    ("swiglu_mlp", Effect::Size),
    ("swiglu_align_to", Effect::Size),
    ("scale_mlp", Effect::Size),
    ("scale_attn_inner", Effect::Kind(&["false"])),
    ("attn_type", Effect::Kind(&["eva"])),
    ("attn_only_layer_scale", Effect::Kind(&["false"])),
    ("norm_layer", Effect::Kind(&["LayerNorm", CLIPS_NORM])),
    ("init_values", Effect::Size),
    ("class_token", Effect::Size),
    ("num_reg_tokens", Effect::Size),
    ("no_embed_class", Effect::Size),
    ("use_abs_pos_emb", Effect::Size),
    ("use_rot_pos_emb", Effect::Size),
    ("rope_type", Effect::Size),
    ("rope_temperature", Effect::Size),
    ("rope_rotate_half", Effect::Size),
    ("rope_grid_offset", Effect::Kind(&["0"])),
    ("rope_grid_indexing", Effect::Kind(&["ij"])),
    ("rope_shift_coords", Effect::Nothing),
    ("rope_jitter_coords", Effect::Nothing),
    ("rope_rescale_coords", Effect::Nothing),
    ("rope_mrope_section", Effect::Kind(&["null"])),
    ("use_post_norm", Effect::Kind(&["false"])),
    ("use_pre_transformer_norm", Effect::Kind(&["false"])),
    ("use_post_transformer_norm", Effect::Kind(&["null"])),
    ("use_fc_norm", Effect::Size),
    ("attn_pool_num_heads", Effect::Kind(&["null"])),
    ("attn_pool_mlp_ratio", Effect::Kind(&["null"])),
    ("ref_feat_shape", Effect::Size),
    ("head_init_scale", Effect::Nothing),
    ("pos_drop_rate", Effect::Nothing),
    ("patch_drop_rate", Effect::Nothing),
    ("dynamic_img_pad", Effect::Nothing),
];

const BEIT: &[(&str, Effect)] = &[
    ("qkv_bias", Effect::Size),
    ("depth", Effect::Size),
    ("global_pool", Effect::Choice(&["token", "avg", ""])),
    ("swiglu_mlp", Effect::Kind(&["false"])),
    ("scale_mlp", Effect::Kind(&["false"])),
    ("norm_layer", Effect::Kind(&["LayerNorm"])),
    ("init_values", Effect::Size),
    ("use_abs_pos_emb", Effect::Size),
    ("use_rel_pos_bias", Effect::Size),
    ("use_shared_rel_pos_bias", Effect::Kind(&["false"])),
    ("use_fc_norm", Effect::Size),
    ("head_init_scale", Effect::Nothing),
    ("pos_drop_rate", Effect::Nothing),
];

/// Names the rotary positions of an `Eva`.
enum Rotation {
    /// There are none.
    None,
    /// DINOv3's, in the place of learned ones.
    Dinov3,
    /// EVA-02's, besides learned ones.
    Eva02,
}

/// Lists what rotary positions have to be given to be DINOv3's.
const DINOV3: [(&str, &str); 4] = [
    ("use_abs_pos_emb", "false"),
    ("rope_temperature", "100"),
    ("rope_rotate_half", "true"),
    ("class_token", "true"),
];

/// Lists what they have to be given to be EVA-02's.
const EVA02: [(&str, &str); 4] = [
    ("rope_type", "cat"),
    ("use_abs_pos_emb", "true"),
    ("rope_temperature", "10000"),
    ("rope_rotate_half", "false"),
];

/// Lists what holds of these where they aren't given.
const UNTOLD: [(&str, &str); 5] = [
    ("rope_type", "cat"),
    ("use_abs_pos_emb", "true"),
    ("rope_temperature", "10000"),
    ("rope_rotate_half", "false"),
    ("class_token", "true"),
];

const SWIN_TRANSFORMER: &[(&str, Effect)] = &[
    ("qkv_bias", Effect::Kind(&["true"])),
    ("depths", Effect::Size),
    ("window_size", Effect::Size),
    ("global_pool", Effect::Kind(&["avg"])),
    ("head_dim", Effect::Kind(&["null"])),
    ("always_partition", Effect::Kind(&["false"])),
    ("strict_img_size", Effect::Nothing),
    ("norm_layer", Effect::Kind(&["LayerNorm"])),
    // Of earlier versions.
    ("ape", Effect::Kind(&["false"])),
    ("patch_norm", Effect::Kind(&["true"])),
    ("use_checkpoint", Effect::Nothing),
];

const SWIN_TRANSFORMER_V2: &[(&str, Effect)] = &[
    ("qkv_bias", Effect::Kind(&["true"])),
    ("depths", Effect::Size),
    ("window_size", Effect::Size),
    ("pretrained_window_sizes", Effect::Size),
    ("global_pool", Effect::Kind(&["avg"])),
    ("always_partition", Effect::Kind(&["false"])),
    ("strict_img_size", Effect::Nothing),
    ("act_layer", Effect::Kind(&["gelu"])),
    ("norm_layer", Effect::Kind(&["LayerNorm"])),
    // Of earlier versions.
    ("ape", Effect::Kind(&["false"])),
    ("patch_norm", Effect::Kind(&["true"])),
    ("use_checkpoint", Effect::Nothing),
];

impl Class {
    /// Finds the class whose tensors `weights` has.
    pub fn of(weights: &Weights) -> Self {
        match Family::of(weights) {
            Family::Swin if SwinConfig::is_v2(weights) => Self::SwinTransformerV2,
            Family::Swin => Self::SwinTransformer,
            Family::Vit if weights.shape("dist_token").is_some() => {
                Self::VisionTransformerDistilled
            }
            Family::Vit if VitConfig::is_rotary(weights) => Self::Eva,
            Family::Vit if VitConfig::is_relative(weights) => Self::Beit,
            Family::Vit => Self::VisionTransformer,
        }
    }

    /// Returns the family of the class's networks.
    pub fn family(self) -> Family {
        match self {
            Self::VisionTransformer | Self::VisionTransformerDistilled | Self::Eva | Self::Beit => {
                Family::Vit
            }
            Self::SwinTransformer | Self::SwinTransformerV2 => Family::Swin,
        }
    }

    /// Returns the class's network where no argument says otherwise.
    pub fn default_sizes(self) -> Architecture {
        match self.family() {
            Family::Vit => Architecture::Vit(VitConfig {
                distilled: self == Self::VisionTransformerDistilled,
                global_pool: self.default_pool(),
                ..VitConfig::default()
            }),
            Family::Swin => Architecture::Swin(SwinConfig {
                v2: self == Self::SwinTransformerV2,
                ..SwinConfig::default()
            }),
        }
    }

    /// Returns how the class's networks pool where no argument says it.
    pub fn default_pool(self) -> GlobalPool {
        match self {
            Self::VisionTransformer | Self::VisionTransformerDistilled => GlobalPool::Token,
            Self::Eva | Self::Beit | Self::SwinTransformer | Self::SwinTransformerV2 => {
                GlobalPool::Avg
            }
        }
    }

    /// Says what the class's argument `name` does, if there is one.
    fn effect(self, name: &str) -> Option<Effect> {
        let own = match self {
            Self::VisionTransformer | Self::VisionTransformerDistilled => VISION_TRANSFORMER,
            Self::Eva => EVA,
            Self::Beit => BEIT,
            Self::SwinTransformer => SWIN_TRANSFORMER,
            Self::SwinTransformerV2 => SWIN_TRANSFORMER_V2,
        };
        let (_, effect) = ALL.iter().chain(own).find(|(known, _)| *known == name)?;
        Some(*effect)
    }

    /// Checks that a network with `value` for `argument` can be run here. `has` says for the error who has it.
    pub fn check(
        self,
        argument: &str,
        value: &Value,
        has: &str,
    ) -> std::result::Result<(), String> {
        let among = |kinds: &[&str]| kinds.iter().any(|kind| is(value, kind));
        let only = |supported: &str| {
            let (value, family) = (shown(value), self.family());
            Err(format!(
                "{has} {value}, where only {supported} is supported for a {family}"
            ))
        };
        match self.effect(argument) {
            Some(Effect::Kind(kinds)) if !among(kinds) => only(kinds[0]),
            Some(Effect::Choice(kinds)) if !among(kinds) => only(&kinds.join(" or ")),
            Some(_) => Ok(()),
            None => Err(format!(
                "{has} {}, which isn't known for a {}",
                shown(value),
                self.family()
            )),
        }
    }
}

/// Says whether an argument's value is the one that is written so. As in Python, 0 is false and 1 is true.
fn is(value: &Value, written: &str) -> bool {
    match value {
        Value::String(text) => text == written,
        Value::Number(number) => match written {
            "false" | "0" => number.as_f64() == Some(0.0),
            "true" => number.as_f64() == Some(1.0),
            _ => number.as_f64() == written.parse().ok(),
        },
        Value::Bool(on) => written == if *on { "true" } else { "false" },
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Words a value for a message: its JSON, cut short if it is long.
pub(super) fn shown(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = match value {
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Holds the arguments that a class is given.
pub(super) struct Arguments<'a> {
    /// The arguments that the entry point gives.
    pub entry_point: Option<&'a Map<String, Value>>,
    /// The arguments of `model_args`, over those. As in `create_model`, what is null isn't given.
    pub model_args: &'a Map<String, Value>,
    /// How `pretrained_cfg` says that the network pools: it holds where neither of those says it.
    pub pretrained_pool: Option<&'a Value>,
}

impl Arguments<'_> {
    /// Returns the value of an argument that is given, and words who has it, for a message.
    pub fn get(&self, name: &str) -> Option<(&Value, String)> {
        let given =
            |map: &'_ Map<String, Value>| map.get(name).is_some_and(|value| !value.is_null());
        if given(self.model_args) {
            return Some((&self.model_args[name], format!("has `model_args.{name}`")));
        }
        if let Some(entry_point) = self.entry_point.filter(|map| given(map)) {
            return Some((
                &entry_point[name],
                format!("names an architecture with `{name}`"),
            ));
        }
        let pool = self.pretrained_pool.filter(|_| name == GLOBAL_POOL)?;
        Some((pool, format!("has pretrained_cfg.{name}")))
    }

    /// Says whether timm's network takes images of other sizes than `img_size` too.
    pub fn any_image_size(&self) -> bool {
        let told =
            |name: &str, written| self.get(name).is_some_and(|(value, _)| is(value, written));
        told("dynamic_img_size", "true") || told("strict_img_size", "false")
    }

    /// Checks that a network of `class` with these arguments can be run here.
    pub fn check(&self, class: Class) -> std::result::Result<(), String> {
        let names = self
            .model_args
            .keys()
            .chain(self.entry_point.into_iter().flat_map(Map::keys));
        for name in names.map(String::as_str).chain([GLOBAL_POOL]) {
            if let Some((value, has)) = self.get(name) {
                class.check(name, value, &has)?;
            }
        }
        Ok(())
    }

    /// Returns `sizes` with what the arguments say instead, for images of another size and other channels where they
    /// are told; arguments say more than these of channels.
    pub fn applied_to(
        &self,
        sizes: Architecture,
        image_size: Option<ImageSize>,
        in_chans: Option<usize>,
    ) -> std::result::Result<Architecture, String> {
        let in_chans = self.number("in_chans")?.or(in_chans);
        if let Some(in_chans) = in_chans.filter(|in_chans| !(1..=MAX_CHANNELS).contains(in_chans)) {
            return Err(format!(
                "has in_chans {in_chans}, where 1 to {MAX_CHANNELS} is expected"
            ));
        }
        match sizes {
            Architecture::Vit(sizes) => {
                let in_chans = in_chans.unwrap_or(sizes.in_chans);
                let sizes = VitConfig { in_chans, ..sizes };
                self.applied_to_vit(sizes, image_size)
                    .map(Architecture::Vit)
            }
            Architecture::Swin(sizes) => {
                let in_chans = in_chans.unwrap_or(sizes.in_chans);
                let sizes = SwinConfig { in_chans, ..sizes };
                self.applied_to_swin(sizes, image_size)
                    .map(Architecture::Swin)
            }
        }
    }

    fn applied_to_vit(
        &self,
        sizes: VitConfig,
        image_size: Option<ImageSize>,
    ) -> std::result::Result<VitConfig, String> {
        let dim = self.number("embed_dim")?.unwrap_or(sizes.dim);
        let (mlp_dim, gated_mlp) = self.mlp(dim, &sizes)?;
        let global_pool = self.pool()?.unwrap_or(sizes.global_pool);
        let image_size = image_size.unwrap_or(sizes.image_size);
        let patch_size = self.side("patch_size")?.unwrap_or(sizes.patch_size);
        let (rotary, ref_feat_shape) = match self.rotation()? {
            None => (sizes.rotary, sizes.ref_feat_shape),
            Some(Rotation::None) => (false, 0),
            Some(Rotation::Dinov3) => (true, 0),
            Some(Rotation::Eva02) => {
                // timm turns by places as they are where it isn't told others.
                let own = || {
                    let [rows, columns] = image_size.grid(patch_size);
                    (rows == columns).then_some(rows).ok_or_else(|| {
                        format!("has no ref_feat_shape, which only with square images is supported, for images of {image_size} pixels")
                    })
                };
                let told = self.side("ref_feat_shape")?;
                (false, told.map_or_else(own, Ok)?)
            }
        };
        let post_norm = match self.get("block_fn") {
            Some((block, _)) => is(block, POST_NORM_BLOCK),
            None => sizes.post_norm,
        };
        // timm refuses what patches don't fill, or pads it. Otherwise it leaves it out.
        for name in ["dynamic_img_size", "dynamic_img_pad"] {
            if let Some((value, has)) = self.get(name)
                && is(value, "true")
                && patch_size > 0
                && !image_size.is_filled_by(patch_size)
            {
                return Err(format!(
                    "{has} true and images of {image_size} pixels, which patches of {patch_size} don't fill"
                ));
            }
        }
        Ok(VitConfig {
            image_size,
            patch_size,
            dim,
            depth: self.number("depth")?.unwrap_or(sizes.depth),
            heads: self.number("num_heads")?.unwrap_or(sizes.heads),
            mlp_dim,
            class_token: self.truth("class_token")?.unwrap_or(sizes.class_token),
            qkv_bias: self.truth("qkv_bias")?.unwrap_or(sizes.qkv_bias),
            rotary,
            ref_feat_shape,
            rel_pos_bias: self.relative()?.unwrap_or(sizes.rel_pos_bias),
            // A block with its norms at the end begins with these values in them.
            layer_scale: !post_norm && self.truth("init_values")?.unwrap_or(sizes.layer_scale),
            no_embed_class: self
                .truth("no_embed_class")?
                .unwrap_or(sizes.no_embed_class),
            // The class `Eva` calls it otherwise, and so it does what follows, as does `Beit`.
            reg_tokens: self
                .number("reg_tokens")?
                .or(self.number("num_reg_tokens")?)
                .unwrap_or(sizes.reg_tokens),
            global_pool,
            // How many there are tells the file, but none can read what isn't pooled.
            classes: match global_pool {
                GlobalPool::Unpooled => 0,
                _ => sizes.classes,
            },
            layer_norm_eps: match self.get("norm_layer") {
                Some((norm, _)) if is(norm, CLIPS_NORM) => CLIPS_LAYER_NORM_EPS,
                _ => sizes.layer_norm_eps,
            },
            pre_norm: self.truth("pre_norm")?.unwrap_or(sizes.pre_norm),
            post_norm,
            gated_mlp,
            // The class `Eva` calls it otherwise.
            scale_mlp: self
                .truth("scale_mlp_norm")?
                .or(self.truth("scale_mlp")?)
                .unwrap_or(sizes.scale_mlp),
            act_layer: match self.truth("swiglu_mlp")? {
                Some(true) => Gelu::Silu,
                _ => self.gelu()?.unwrap_or(sizes.act_layer),
            },
            // timm moves the norm behind a mean, unless it is told otherwise.
            fc_norm: self
                .truth("fc_norm")?
                .or(self.truth("use_fc_norm")?)
                .unwrap_or(global_pool == GlobalPool::Avg),
            ..sizes
        })
    }

    /// Returns the hidden features that fc2 takes of MLPs between `dim` features, and whether a gate makes them.
    fn mlp(&self, dim: usize, sizes: &VitConfig) -> std::result::Result<(usize, bool), String> {
        let hidden = match self.ratio("mlp_ratio")? {
            Some(ratio) => scaled(dim, ratio),
            None => dim.saturating_mul(sizes.mlp_dim) / sizes.dim,
        };
        if let Some((layer, _)) = self.get("mlp_layer")
            && is(layer, PACKED_GATE)
        {
            // The ratio is that of what fc1 gives.
            return Ok((hidden / 2, true));
        }
        match self.truth("swiglu_mlp")? {
            Some(true) => {
                let factor = self.number("swiglu_align_to")?.unwrap_or(0).max(1);
                let aligned = hidden.checked_next_multiple_of(factor);
                Ok((aligned.unwrap_or(usize::MAX), true))
            }
            Some(false) => Ok((hidden, false)),
            None => Ok((hidden, sizes.gated_mlp)),
        }
    }

    fn applied_to_swin(
        &self,
        sizes: SwinConfig,
        image_size: Option<ImageSize>,
    ) -> std::result::Result<SwinConfig, String> {
        let depths = self.numbers("depths")?.unwrap_or(sizes.depths);
        Ok(SwinConfig {
            image_size: image_size.map_or(Ok(sizes.image_size), square)?,
            patch_size: self.side("patch_size")?.unwrap_or(sizes.patch_size),
            window: self.window()?.unwrap_or(sizes.window),
            dim: self.number("embed_dim")?.unwrap_or(sizes.dim),
            pretrained_windows: match self.numbers("pretrained_window_sizes")? {
                Some(windows) => pretrained_windows(windows, &depths),
                None => sizes.pretrained_windows,
            },
            depths,
            heads: self.numbers("num_heads")?.unwrap_or(sizes.heads),
            mlp_ratio: self.ratio("mlp_ratio")?.unwrap_or(sizes.mlp_ratio),
            ..sizes
        })
    }

    /// Reads a whole number, which may be written as a float.
    pub fn number(&self, name: &str) -> std::result::Result<Option<usize>, String> {
        self.read(name, "a whole number", whole)
    }

    /// Reads a whole number for each stage.
    fn numbers(&self, name: &str) -> std::result::Result<Option<Vec<usize>>, String> {
        self.read(name, "a list with a whole number for each stage", |value| {
            value.as_array()?.iter().map(whole).collect()
        })
    }

    /// Reads the side of a square, which timm writes as one number or as height and width.
    pub fn side(&self, name: &str) -> std::result::Result<Option<usize>, String> {
        self.read(name, "a number, or height and width of a square", side)
    }

    /// Reads the size of an image, which timm writes as one number or as height and width.
    pub fn image_size(&self, name: &str) -> std::result::Result<Option<ImageSize>, String> {
        self.read(name, "a number, or height and width", image_size)
    }

    /// Reads the side of the windows. timm may have one for each stage; here it is the same in all.
    fn window(&self) -> std::result::Result<Option<usize>, String> {
        self.read(
            "window_size",
            "one size of square windows in all stages",
            |value| {
                side(value).or_else(|| {
                    let windows: Vec<usize> =
                        value.as_array()?.iter().map(side).collect::<Option<_>>()?;
                    let first = *windows.first()?;
                    windows
                        .iter()
                        .all(|window| *window == first)
                        .then_some(first)
                })
            },
        )
    }

    /// Reads which rotary positions there are, of the two kinds that are supported.
    fn rotation(&self) -> std::result::Result<Option<Rotation>, String> {
        let told = |name: &str, written: &str| match self.get(name) {
            Some((value, _)) => is(value, written),
            None => UNTOLD.contains(&(name, written)),
        };
        match self.truth("use_rot_pos_emb")? {
            Some(true) => {
                let (kind, has) = match told("rope_type", "dinov3") {
                    true => (Rotation::Dinov3, &DINOV3),
                    false => (Rotation::Eva02, &EVA02),
                };
                match has.iter().find(|(name, written)| !told(name, written)) {
                    Some((name, written)) => Err(format!(
                        "has use_rot_pos_emb true, which only with {name} {written} is supported"
                    )),
                    None => Ok(Some(kind)),
                }
            }
            _ if self.truth("use_abs_pos_emb")? == Some(false)
                && self.truth("use_rel_pos_bias")? != Some(true) =>
            {
                Err(
                    "has use_abs_pos_emb false, which only with use_rot_pos_emb or use_rel_pos_bias true is supported"
                        .into(),
                )
            }
            other => Ok(other.map(|_| Rotation::None)),
        }
    }

    /// Reads whether positions are relative, which they are in the place of learned ones.
    fn relative(&self) -> std::result::Result<Option<bool>, String> {
        match self.truth("use_rel_pos_bias")? {
            Some(true) if self.truth("use_abs_pos_emb")? != Some(false) => Err(
                "has use_rel_pos_bias true, which only with use_abs_pos_emb false is supported"
                    .into(),
            ),
            other => Ok(other),
        }
    }

    /// Reads how a ViT pools.
    fn pool(&self) -> std::result::Result<Option<GlobalPool>, String> {
        self.read(GLOBAL_POOL, "`token`, `avg`, `map` or nothing", |value| {
            GlobalPool::deserialize(value).ok()
        })
    }

    /// Reads the form of GELU in a ViT's MLPs, which timm reads in capitals too; empty is the default.
    fn gelu(&self) -> std::result::Result<Option<Gelu>, String> {
        self.read(
            "act_layer",
            "`gelu`, `gelu_tanh`, `quick_gelu`, `silu` or `relu`",
            |value| {
                let name = value.as_str()?.to_lowercase();
                let form = Gelu::ALL.into_iter().find(|form| form.name() == name);
                form.or(name.is_empty().then(Gelu::default))
            },
        )
    }

    /// Says whether Python takes the argument for true, as timm's constructors ask.
    fn truth(&self, name: &str) -> std::result::Result<Option<bool>, String> {
        self.read(name, "a number, or true or false", |value| {
            let number = || value.as_f64().map(|number| number != 0.0);
            value.as_bool().or_else(number)
        })
    }

    fn ratio(&self, name: &str) -> std::result::Result<Option<f64>, String> {
        self.read(name, "a number", Value::as_f64)
    }

    /// Returns what `read` makes of an argument that is given.
    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> std::result::Result<Option<T>, String> {
        let Some((value, has)) = self.get(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(format!(
                "{has} {}, where {expected} is expected",
                shown(value)
            )),
        }
    }
}

/// Returns the windows that a Swin V2 of so many stages was trained with, none where they are its own in all; what is told
/// of more stages isn't read, as in timm.
pub(super) fn pretrained_windows(mut told: Vec<usize>, depths: &[usize]) -> Vec<usize> {
    told.truncate(depths.len());
    match told.iter().all(|&window| window == 0) {
        true => Vec::new(),
        false => told,
    }
}

/// Reads a whole number, which may be written as a float.
pub(super) fn whole(value: &Value) -> Option<usize> {
    let number = value.as_f64()?;
    (number >= 0.0 && number.fract() == 0.0).then_some(number as usize)
}

/// Reads the side of a square: a number, or height and width.
pub(super) fn side(value: &Value) -> Option<usize> {
    image_size(value)?.side()
}

/// Reads the size of an image: the side of a square, or height and width.
pub(super) fn image_size(value: &Value) -> Option<ImageSize> {
    match value.as_array() {
        None => whole(value).map(ImageSize::from),
        Some(sides) => match &sides[..] {
            [height, width] => Some([whole(height)?, whole(width)?].into()),
            _ => None,
        },
    }
}
