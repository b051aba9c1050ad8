//! The sizes of Swin and Swin V2.

use serde::{Deserialize, Serialize};

use super::{
    MAX_DEPTH, MAX_FEATURES, MAX_SIZE, PatchEmbedding, RGB_CHANNELS, block_within, check_kind,
    classes_within, divisible, is_absent, is_rgb, patch_within, positive_eps, rgb_channels,
    same_sizes, scaled, sizes, within,
};
use crate::data::image_size::ImageSize;
use crate::error::{Error, Result};
use crate::file::weights::Weights;

/// Limits the number of stages; every published Swin has four.
const MAX_STAGES: usize = 8;

/// Holds the sizes of a Swin as timm's `SwinTransformer` builds it by default: square images, patches and windows, a
/// LayerNorm on the embedded patches, learned relative position biases, qkv with a bias, exact GELU, and a head on the
/// mean of the tokens. Each stage but the first merges 2 by 2 tokens into one of twice the features. Where windows or
/// merged tokens don't divide a stage, its tokens are padded to the right and below. With [`v2`](Self::v2) it is timm's
/// `SwinTransformerV2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SwinForm")]
pub struct SwinConfig {
    /// Width and height of the input, in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Width and height of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of the input: grey, grey and alpha, red, green and blue, or these and alpha. timm's argument of this
    /// name.
    #[serde(skip_serializing_if = "is_rgb")]
    pub in_chans: usize,
    /// Width and height of a window, in tokens.
    pub window: usize,
    /// Features of a token in the first stage.
    pub dim: usize,
    /// Number of blocks of each stage.
    pub depths: Vec<usize>,
    /// Attention heads in each stage's blocks.
    pub heads: Vec<usize>,
    /// Hidden features of a block's MLP, as a multiple of its features.
    pub mlp_ratio: f64,
    /// Number of logits; 0 without a classifier, where the mean of the tokens is the answer.
    pub classes: usize,
    /// What LayerNorm adds to the variance.
    pub layer_norm_eps: f32,
    /// Whether the shift of a block's windows moves the padding along with the tokens: transformers pads before it shifts,
    /// timm after it. A Swin V2 of transformers' also adds its mask twice.
    #[serde(skip_serializing_if = "is_absent")]
    pub shifts_padding: bool,
    /// Whether it is a Swin V2: scores are scaled cosines, an MLP makes the relative position biases, keys have no bias, and
    /// norms come after attention, MLP and merging.
    #[serde(skip_serializing_if = "is_absent")]
    pub v2: bool,
    /// Of each stage the side of the windows that a Swin V2 was trained with, in whose units its MLP is given distances,
    /// or 0 where that is its window; none where it is in all: timm's `pretrained_window_sizes`.
    #[serde(skip_serializing_if = "is_absent")]
    pub pretrained_windows: Vec<usize>,
}

/// Holds the sizes of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Tokens along one side of the image.
    pub resolution: usize,
    /// Tokens along one side of a window: the whole image where that is no larger.
    pub window: usize,
    /// Features of a token.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Hidden features of a block's MLP.
    pub mlp_dim: usize,
}

impl Stage {
    /// Counts the tokens of an image.
    pub fn tokens(&self) -> usize {
        self.resolution.pow(2)
    }

    /// Counts the tokens along one side of the image with the padding that its windows need.
    pub fn padded(&self) -> usize {
        self.resolution.next_multiple_of(self.window)
    }

    /// Counts the windows of an image.
    pub fn windows(&self) -> usize {
        (self.padded() / self.window).pow(2)
    }

    /// Counts the tokens that the windows of a block are shifted by, right and down: none in every other block, nor
    /// where one window is the whole image (timm's `_calc_window_shift`).
    pub fn shift(&self, block: usize) -> usize {
        if block.is_multiple_of(2) || self.window == self.resolution {
            0
        } else {
            self.window / 2
        }
    }
}

/// Holds a [`SwinConfig`] as files write it: without the epsilon where it is timm's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SwinForm {
    image_size: usize,
    patch_size: usize,
    #[serde(default = "rgb_channels")]
    in_chans: usize,
    window: usize,
    dim: usize,
    depths: Vec<usize>,
    heads: Vec<usize>,
    mlp_ratio: f64,
    classes: usize,
    layer_norm_eps: Option<f32>,
    #[serde(default)]
    shifts_padding: bool,
    #[serde(default)]
    v2: bool,
    #[serde(default)]
    pretrained_windows: Vec<usize>,
}

impl TryFrom<SwinForm> for SwinConfig {
    type Error = String;

    fn try_from(form: SwinForm) -> std::result::Result<Self, String> {
        let config = Self {
            image_size: form.image_size,
            patch_size: form.patch_size,
            in_chans: form.in_chans,
            window: form.window,
            dim: form.dim,
            depths: form.depths,
            heads: form.heads,
            mlp_ratio: form.mlp_ratio,
            classes: form.classes,
            layer_norm_eps: form.layer_norm_eps.unwrap_or(Self::TIMM_LAYER_NORM_EPS),
            shifts_padding: form.shifts_padding,
            v2: form.v2,
            pretrained_windows: form.pretrained_windows,
        };
        config.validate()?;
        Ok(config)
    }
}

/// Counts the hidden features of the MLP that makes a Swin V2's biases.
const BIAS_FEATURES: usize = 512;

impl Default for SwinConfig {
    /// Returns the network that timm's `SwinTransformer` is where no argument says otherwise: a Swin-T.
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 4,
            in_chans: RGB_CHANNELS,
            window: 7,
            dim: 96,
            depths: vec![2, 2, 6, 2],
            heads: vec![3, 6, 12, 24],
            mlp_ratio: 4.0,
            classes: 1000,
            layer_norm_eps: Self::TIMM_LAYER_NORM_EPS,
            shifts_padding: false,
            v2: false,
            pretrained_windows: Vec::new(),
        }
    }
}

impl SwinConfig {
    /// Holds the epsilon of timm's Swins, torch's own default, which a configuration may leave out.
    pub const TIMM_LAYER_NORM_EPS: f32 = 1e-5;

    /// Returns the side of the window that a stage of a Swin V2 was trained with.
    pub fn pretrained_window(&self, stage: usize) -> usize {
        let told = self.pretrained_windows.get(stage).copied();
        let told = told.filter(|&window| window > 0);
        told.unwrap_or(self.stages()[stage].window)
    }

    /// Returns the sizes of each stage.
    pub fn stages(&self) -> Vec<Stage> {
        let grid = self.image_size / self.patch_size;
        let sizes = self.depths.iter().zip(&self.heads).enumerate();
        sizes
            .map(|(stage, (&depth, &heads))| {
                let (resolution, dim) = (grid.div_ceil(1 << stage), self.dim << stage);
                Stage {
                    resolution,
                    window: self.window.min(resolution),
                    dim,
                    depth,
                    heads,
                    mlp_dim: scaled(dim, self.mlp_ratio),
                }
            })
            .collect()
    }

    /// Returns this network for images of another size, as timm's constructor makes it: windows stay as large, and what
    /// they don't divide is padded.
    ///
    /// # Errors
    /// A size that no Swin of these sizes has; a stage whose windows would become smaller or larger with the image, so that
    /// its tables of relative positions wouldn't fit. A Swin V2's biases are computed for any window.
    pub(super) fn with_image_size(
        &self,
        image_size: ImageSize,
    ) -> std::result::Result<Self, String> {
        let image_size = square(image_size)?;
        let changed = Self {
            image_size,
            ..self.clone()
        };
        changed.validate()?;
        let stages = self.stages().into_iter().zip(changed.stages());
        for (index, (stage, changed)) in stages.enumerate() {
            if stage.window != changed.window && !self.v2 {
                return Err(format!(
                    "images of {image_size} pixels have windows of {} tokens in stage {index}, where this Swin transformer has {}, and its tables of relative positions are not resized",
                    changed.window, stage.window
                ));
            }
        }
        Ok(changed)
    }

    /// Lists every tensor of timm's `state_dict`, with its shape. Weights are [outputs, inputs].
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        for (index, stage) in self.stages().iter().enumerate() {
            let Stage { dim, mlp_dim, .. } = *stage;
            if index > 0 {
                let weight = format!("layers.{index}.downsample.reduction.weight");
                tensors.push((weight, vec![dim, 2 * dim]));
            }
            for block in 0..stage.depth {
                let attention = format!("layers.{index}.blocks.{block}.attn");
                let of_positions = match self.v2 {
                    true => vec![
                        ("logit_scale", vec![stage.heads, 1, 1]),
                        ("cpb_mlp.0.weight", vec![BIAS_FEATURES, 2]),
                        ("cpb_mlp.0.bias", vec![BIAS_FEATURES]),
                        ("cpb_mlp.2.weight", vec![stage.heads, BIAS_FEATURES]),
                    ],
                    false => {
                        let distances = (2 * stage.window - 1).pow(2);
                        vec![("relative_position_bias_table", vec![distances, stage.heads])]
                    }
                };
                let named = |(name, shape)| (format!("{attention}.{name}"), shape);
                tensors.extend(of_positions.into_iter().map(named));
            }
            let mut pair = |name: &str, weight: Vec<usize>| {
                let name = format!("layers.{index}.{name}");
                tensors.push((format!("{name}.bias"), vec![weight[0]]));
                tensors.push((format!("{name}.weight"), weight));
            };
            if index > 0 {
                // Before four times the features of the stage before become twice as many, or after.
                let normed = if self.v2 { dim } else { 2 * dim };
                pair("downsample.norm", vec![normed]);
            }
            for block in 0..stage.depth {
                pair(&format!("blocks.{block}.norm1"), vec![dim]);
                pair(&format!("blocks.{block}.attn.qkv"), vec![3 * dim, dim]);
                pair(&format!("blocks.{block}.attn.proj"), vec![dim, dim]);
                pair(&format!("blocks.{block}.norm2"), vec![dim]);
                pair(&format!("blocks.{block}.mlp.fc1"), vec![mlp_dim, dim]);
                pair(&format!("blocks.{block}.mlp.fc2"), vec![dim, mlp_dim]);
            }
        }
        let (first, last) = (self.dim, self.last_dim());
        let patch = vec![first, self.in_chans, self.patch_size, self.patch_size];
        let mut around = vec![
            ("patch_embed.proj", patch),
            ("patch_embed.norm", vec![first]),
            ("norm", vec![last]),
        ];
        if self.classes > 0 {
            around.push(("head.fc", vec![self.classes, last]));
        }
        for (name, weight) in around {
            tensors.push((format!("{name}.bias"), vec![weight[0]]));
            tensors.push((format!("{name}.weight"), weight));
        }
        tensors
    }

    /// Counts the features of a token in the last stage.
    pub fn last_dim(&self) -> usize {
        self.dim << (self.depths.len() - 1)
    }

    /// Says whether a file has a Swin V2's cosine attention.
    pub fn is_v2(weights: &Weights) -> bool {
        weights
            .shape("layers.0.blocks.0.attn.logit_scale")
            .is_some()
    }

    /// Reads the sizes off the tensors' shapes and checks that the file has every tensor, and no other but the index
    /// and mask buffers that older files store. The image size shows in no shape: without `image_size` it is the smallest
    /// that has these windows. A Swin V2's windows don't show either: they are timm's default. The epsilon is timm's.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is of a kind that isn't supported (which is named), or if the shapes contradict each
    /// other or `image_size`.
    pub fn from_shapes(weights: &Weights, image_size: Option<usize>) -> Result<Self> {
        let problem = |problem: String| Error::input(weights.path(), problem);
        check_kind(weights)?;
        let PatchEmbedding {
            in_chans,
            patch_size,
            dim,
        } = PatchEmbedding::of(weights)?;
        let [classes, _] = match weights.shape("head.fc.weight") {
            Some(_) => sizes(weights, "head.fc.weight")?,
            None => [0, 0],
        };
        let [features] = sizes(weights, "layers.0.blocks.0.norm1.weight")?;
        let [hidden, _] = sizes(weights, "layers.0.blocks.0.mlp.fc1.weight")?;
        let has_block = |stage: usize, block: usize| {
            let name = format!("layers.{stage}.blocks.{block}.norm1.weight");
            weights.shape(&name).is_some()
        };
        let stages = (0..).take_while(|&stage| has_block(stage, 0)).count();
        let v2 = Self::is_v2(weights);
        // Sides of windows, and heads.
        let of_stage = |stage| -> Result<(usize, usize)> {
            let name = |tensor: &str| format!("layers.{stage}.blocks.0.attn.{tensor}");
            if v2 {
                let [heads, ..] = sizes::<3>(weights, &name("logit_scale"))?;
                return Ok((Self::default().window, heads));
            }
            let [biases, heads] = sizes(weights, &name("relative_position_bias_table"))?;
            Ok((biases.isqrt().div_ceil(2), heads))
        };
        let (windows, heads): (Vec<usize>, Vec<usize>) = (0..stages)
            .map(of_stage)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        // The last stage has the fewest tokens along a side: as many as its window, at least.
        let patches = 2usize
            .saturating_pow(stages as u32 - 1)
            .saturating_mul(windows[stages - 1]);
        let config = Self {
            image_size: image_size.unwrap_or(patches.saturating_mul(patch_size)),
            patch_size,
            in_chans,
            window: windows[0],
            dim,
            depths: (0..stages)
                .map(|stage| (0..).take_while(|&block| has_block(stage, block)).count())
                .collect(),
            heads,
            mlp_ratio: hidden as f64 / features as f64,
            classes,
            layer_norm_eps: Self::TIMM_LAYER_NORM_EPS,
            shifts_padding: false,
            v2,
            pretrained_windows: Vec::new(),
        };
        config.validate().map_err(problem)?;
        weights.check(&config.expected_tensors(), &[], is_derived)?;
        Ok(config)
    }

    /// Checks the sizes as [`Architecture::validate`](super::Architecture::validate) does, for this family.
    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        let stages = self.depths.len();
        if self.heads.len() != stages {
            return Err(format!(
                "heads are told for {} stages, depths for {stages}",
                self.heads.len()
            ));
        }
        within(&[("image_size", self.image_size, MAX_SIZE)])?;
        patch_within(self.in_chans, self.patch_size)?;
        within(&[
            ("window", self.window, MAX_SIZE),
            ("dim", self.dim, MAX_SIZE >> MAX_STAGES),
            ("the number of stages", stages, MAX_STAGES),
        ])?;
        classes_within(self.classes)?;
        divisible(&[("image_size", self.image_size, "patch_size", self.patch_size)])?;
        let pretrained = &self.pretrained_windows;
        if !pretrained.is_empty() && (!self.v2 || pretrained.len() != stages) {
            return Err(format!(
                "pretrained_windows are {pretrained:?}, where none are expected, or with v2 one for each of {stages} stages"
            ));
        }
        if let Some(window) = pretrained.iter().find(|&&window| window > MAX_SIZE) {
            return Err(format!(
                "pretrained_windows has {window}, where 0 to {MAX_SIZE} is expected"
            ));
        }
        for (index, stage) in self.stages().iter().enumerate() {
            let what = |size: &str| format!("{size} of stage {index}");
            within(&[
                (&what("depth"), stage.depth, MAX_DEPTH),
                (&what("heads"), stage.heads, MAX_SIZE),
                // A merging sums over twice as many.
                (&what("dim"), stage.dim, MAX_FEATURES / 2),
                (&what("mlp_dim"), stage.mlp_dim, MAX_FEATURES),
                (&what("the resolution"), stage.resolution, MAX_SIZE),
            ])?;
            divisible(&[(&what("dim"), stage.dim, "heads", stage.heads)])?;
            block_within(
                &format!(" in stage {index}"),
                stage.windows(),
                stage.window.saturating_mul(stage.window),
                [stage.heads, stage.dim, stage.mlp_dim],
            )?;
        }
        positive_eps(self.layer_norm_eps)
    }

    /// Returns [`Architecture::fitted`](super::Architecture::fitted) for this family.
    pub(super) fn fitted(&self, weights: &Weights, told_by: &str) -> Result<Self> {
        let file = Self::from_shapes(weights, Some(self.image_size))?;
        same_sizes(weights, told_by, &[("v2", file.v2, self.v2)])?;
        let window = self.stages()[0].window;
        same_sizes(
            weights,
            told_by,
            &[
                ("patch_size", file.patch_size, self.patch_size),
                ("in_chans", file.in_chans, self.in_chans),
                // A Swin V2's shows in no tensor.
                ("window", if self.v2 { window } else { file.window }, window),
                ("dim", file.dim, self.dim),
                ("the number of stages", file.depths.len(), self.depths.len()),
            ],
        )?;
        for (index, (found, told)) in file.stages().iter().zip(self.stages()).enumerate() {
            let what = |size: &str| format!("{size} of stage {index}");
            same_sizes(
                weights,
                told_by,
                &[
                    (&what("depth"), found.depth, told.depth),
                    (&what("heads"), found.heads, told.heads),
                    (&what("mlp_dim"), found.mlp_dim, told.mlp_dim),
                ],
            )?;
        }
        Ok(Self {
            classes: file.classes,
            ..self.clone()
        })
    }
}

/// Returns the side of a Swin's images.
///
/// # Errors
/// Sides of two lengths, which are not supported.
pub fn square(image_size: ImageSize) -> std::result::Result<usize, String> {
    image_size.side().ok_or_else(|| {
        format!(
            "image_size is {image_size}, where only squares are supported for a Swin transformer"
        )
    })
}

/// Says whether a tensor follows from the sizes: buffers that timm no longer stores.
fn is_derived(name: &str) -> bool {
    [
        ".attn.relative_position_index",
        ".attn.relative_coords_table",
        ".attn_mask",
    ]
    .iter()
    .any(|buffer| name.ends_with(buffer))
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::config::{Architecture, zeros};
    use std::collections::BTreeMap;

    /// The golden oracle's Swin.
    const MICRO: &str = r#"{"family":"swin","image_size":56,"patch_size":4,"window":7,"dim":32,"depths":[2,2],"heads":[2,4],"mlp_ratio":4,"classes":10}"#;

    fn micro() -> SwinConfig {
        match serde_json::from_str(MICRO).unwrap() {
            Architecture::Swin(config) => config,
            other => panic!("{other:?}"),
        }
    }

    /// The micro Swin's tensors, changed, and why that file is refused.
    fn refusal(change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> String {
        let mut tensors = micro().expected_tensors().into_iter().collect();
        change(&mut tensors);
        let error = SwinConfig::from_shapes(&zeros(tensors), Some(56)).unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        error.to_string()
    }

    #[test]
    fn understands_the_golden_form_and_its_own() {
        let config = micro();
        assert_eq!((config.layer_norm_eps, config.last_dim()), (1e-5, 64));
        let [first, second] = config.stages()[..] else {
            panic!("two stages");
        };
        assert_eq!(
            first,
            Stage {
                resolution: 14,
                window: 7,
                dim: 32,
                depth: 2,
                heads: 2,
                mlp_dim: 128
            }
        );
        assert_eq!((first.tokens(), first.windows()), (196, 4));
        assert_eq!([first.shift(0), first.shift(1)], [0, 3]);
        // One window is the whole image here, so there is nothing to shift.
        assert_eq!(
            (second.resolution, second.windows(), second.shift(1)),
            (7, 1, 0)
        );

        let architecture = Architecture::Swin(config);
        let json = serde_json::to_string(&architecture).unwrap();
        let back: Architecture = serde_json::from_str(&json).unwrap();
        assert_eq!(back, architecture);
    }

    #[test]
    fn a_window_is_never_larger_than_the_image() {
        let config = SwinConfig {
            window: 12,
            ..micro()
        };
        let windows: Vec<usize> = config.stages().iter().map(|stage| stage.window).collect();
        assert_eq!(windows, [12, 7]);
    }

    #[test]
    fn refuses_forms_that_cannot_be() {
        for (from, to, expected) in [
            (
                r#""image_size":56"#,
                r#""image_size":58"#,
                "image_size 58 is not divisible by patch_size 4",
            ),
            (
                r#""heads":[2,4]"#,
                r#""heads":[2]"#,
                "heads are told for 1 stages, depths for 2",
            ),
            (
                r#""heads":[2,4]"#,
                r#""heads":[2,5]"#,
                "dim of stage 1 64 is not divisible by heads 5",
            ),
            (
                r#""heads":[2,4]"#,
                r#""heads":[2,0]"#,
                "heads of stage 1 is 0, where",
            ),
            (
                r#""depths":[2,2]"#,
                r#""depths":[0,2]"#,
                "depth of stage 0 is 0, where",
            ),
            (
                r#""depths":[2,2],"heads":[2,4]"#,
                r#""depths":[],"heads":[]"#,
                "the number of stages is 0, where 1 to 8",
            ),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":-1"#,
                "mlp_dim of stage 0 is 0, where",
            ),
            (
                r#""dim":32"#,
                r#""dim":1000000000000"#,
                "dim is 1000000000000, where 1 to 4096",
            ),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":1025"#,
                "mlp_dim of stage 1 is 65600, where 1 to 65535",
            ),
            (
                r#""image_size":56,"patch_size":4,"window":7"#,
                r#""image_size":4096,"patch_size":1,"window":4096"#,
                "the number of tokens that attend to each other in stage 0 is 16777216, where 1 to 65535",
            ),
            (
                r#""image_size":56,"patch_size":4,"window":7"#,
                r#""image_size":4096,"patch_size":1,"window":64"#,
                "the number of an image's scores in stage 0 is 137438953472, where",
            ),
            (
                r#""classes""#,
                r#""layer_norm_eps":0,"classes""#,
                "layer_norm_eps is 0, where",
            ),
            (
                r#""classes""#,
                r#""ape":true,"classes""#,
                "unknown field `ape`",
            ),
        ] {
            assert!(MICRO.contains(from), "{from}");
            let error = serde_json::from_str::<Architecture>(&MICRO.replace(from, to)).unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{error}\nlacks {expected}"
            );
        }
    }

    #[test]
    fn reads_all_but_the_image_off_the_shapes() {
        let weights = zeros(micro().expected_tensors());
        assert_eq!(
            SwinConfig::from_shapes(&weights, Some(56)).unwrap(),
            micro()
        );
        // Twice the image has more windows of the same size, so its shapes are the same.
        let larger = SwinConfig::from_shapes(&weights, Some(112)).unwrap();
        assert_eq!(larger.stages()[0].windows(), 16);
        // These are padded; a smaller image has other windows in its last stage.
        let padded = SwinConfig::from_shapes(&weights, Some(60)).unwrap();
        assert_eq!(padded.stages()[1].windows(), 4);
        let other = SwinConfig::from_shapes(&weights, Some(48)).unwrap_err();
        let table = "`layers.1.blocks.0.attn.relative_position_bias_table` [169, 4] for [121, 4]";
        assert!(other.to_string().contains(table), "{other}");
        // One window, which is no larger than the image, in the last stage.
        assert_eq!(SwinConfig::from_shapes(&weights, None).unwrap(), micro());
        let clipped = SwinConfig {
            window: 14,
            ..micro()
        };
        let weights = zeros(clipped.expected_tensors());
        assert_eq!(SwinConfig::from_shapes(&weights, None).unwrap(), clipped);
    }

    #[test]
    fn a_swin_v2_shows_in_its_tensors_but_for_its_windows() {
        let v2 = SwinConfig {
            v2: true,
            pretrained_windows: vec![6, 0],
            ..micro()
        };
        let of_stages = [0, 1].map(|stage| v2.pretrained_window(stage));
        assert_eq!(of_stages, [6, 7]);
        let mut tensors: BTreeMap<_, _> = v2.expected_tensors().into_iter().collect();
        let shapes = [
            ("layers.1.blocks.0.attn.logit_scale", vec![4, 1, 1]),
            ("layers.1.blocks.0.attn.cpb_mlp.2.weight", vec![4, 512]),
            // Before the features become twice as many it would be 128.
            ("layers.1.downsample.norm.weight", vec![64]),
        ];
        for (name, shape) in shapes {
            assert_eq!(tensors[name], shape);
        }
        let table = "layers.0.blocks.0.attn.relative_coords_table";
        tensors.insert(table.to_owned(), vec![1, 13, 13, 2]);
        let weights = zeros(tensors);
        let shown = SwinConfig {
            pretrained_windows: vec![],
            ..v2.clone()
        };
        assert_eq!(SwinConfig::from_shapes(&weights, None).unwrap(), shown);
        // Windows of any size, and with them images of any size.
        let other = SwinConfig {
            window: 4,
            ..v2.clone()
        };
        for told in [&v2, &other, &v2.with_image_size(48.into()).unwrap()] {
            let told = Architecture::Swin(told.clone());
            assert_eq!(told.fitted(&weights, "the test").unwrap(), told);
        }
        let told = Architecture::Swin(micro());
        let message = told.fitted(&weights, "the test").unwrap_err().to_string();
        assert!(message.ends_with("v2 is true, not false"), "{message}");
        for (v2, windows) in [
            (false, vec![7, 7]),
            (true, vec![7]),
            (true, vec![7, 1 << 21]),
        ] {
            let wrong = SwinConfig {
                v2,
                pretrained_windows: windows,
                ..micro()
            };
            let problem = wrong.validate().unwrap_err();
            assert!(problem.starts_with("pretrained_windows"), "{problem}");
        }
    }

    #[test]
    fn stored_indices_and_masks_are_tolerated() {
        let mut tensors = micro().expected_tensors();
        tensors.push(("layers.0.blocks.1.attn_mask".into(), vec![4, 49, 49]));
        tensors.push((
            "layers.0.blocks.0.attn.relative_position_index".into(),
            vec![49, 49],
        ));
        assert_eq!(
            SwinConfig::from_shapes(&zeros(tensors), Some(56)).unwrap(),
            micro()
        );
    }

    #[test]
    fn names_what_is_not_supported() {
        let message = refusal(|tensors| {
            tensors.insert("absolute_pos_embed".to_owned(), vec![1]);
        });
        assert!(message.contains("absolute positions"), "{message}");
        for (name, kind) in [
            ("patch_embed.norm.weight", "without norm after"),
            ("head.fc.weight", "1 unexpected: `head.fc.bias`"),
            ("layers.0.blocks.0.attn.qkv.bias", "without qkv bias"),
            (
                "layers.0.blocks.0.norm1.weight",
                "`layers.0.blocks.0.norm1.weight` with 1 dimensions, there is none",
            ),
        ] {
            let message = refusal(|tensors| {
                tensors.remove(name);
            });
            assert!(message.contains(kind), "{message}");
        }
        let table = "layers.1.blocks.1.attn.relative_position_bias_table";
        let message = refusal(|tensors| {
            tensors.insert(table.to_owned(), vec![81, 4]);
        });
        assert!(
            message.contains(&format!("`{table}` [81, 4] for [169, 4]")),
            "{message}"
        );
    }

    #[test]
    fn fits_a_file_of_another_class_count_only() {
        let five = SwinConfig {
            classes: 5,
            ..micro()
        };
        let told = Architecture::Swin(SwinConfig {
            layer_norm_eps: 1e-6,
            ..micro()
        });
        let fitted = told
            .fitted(&zeros(five.expected_tensors()), "the test")
            .unwrap();
        assert_eq!(
            fitted,
            Architecture::Swin(SwinConfig {
                layer_norm_eps: 1e-6,
                ..five
            })
        );

        let other = SwinConfig {
            depths: vec![2, 4],
            heads: vec![2, 8],
            ..micro()
        };
        let error = told
            .fitted(&zeros(other.expected_tensors()), "the test")
            .unwrap_err();
        let expected =
            "doesn't fit the test: depth of stage 1 is 4, not 2; heads of stage 1 is 8, not 4";
        assert!(error.to_string().ends_with(expected), "{error}");
    }

    #[test]
    fn another_image_size_must_have_the_same_windows() {
        let swin = Architecture::Swin(micro());
        assert_eq!(swin.with_image_size(56.into()).unwrap(), swin);
        let larger = |image_size| match swin.with_image_size(ImageSize::from(image_size)).unwrap() {
            Architecture::Swin(config) => config.stages(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [larger(112)[0].windows(), larger(112)[1].windows()],
            [16, 4]
        );
        // 15 tokens along a side, then 8: three windows, then two, which are shifted now that there are several.
        let [first, second] = larger(60)[..] else {
            panic!("two stages");
        };
        assert_eq!([first.resolution, first.padded()], [15, 21]);
        assert_eq!([second.resolution, second.padded()], [8, 14]);
        assert_eq!([first.windows(), second.windows()], [9, 4]);
        assert_eq!([first.tokens(), second.tokens()], [225, 64]);
        assert_eq!([second.shift(0), second.shift(1)], [0, 3]);

        let problem = swin.with_image_size(48.into()).unwrap_err();
        assert!(
            problem.starts_with(
                "images of 48 pixels have windows of 6 tokens in stage 1, where this Swin transformer has 7,"
            ),
            "{problem}"
        );
        let problem = swin.with_image_size(58.into()).unwrap_err();
        assert!(
            problem.contains("58 is not divisible by patch_size 4"),
            "{problem}"
        );
    }

    #[test]
    fn another_family_is_named() {
        let vit = r#"{"family":"vit","image_size":32,"patch_size":8,"dim":48,"depth":2,"heads":3,"mlp_ratio":4,"classes":10}"#;
        let vit: Architecture = serde_json::from_str(vit).unwrap();
        let swin = Architecture::Swin(micro());
        let error = swin
            .fitted(&zeros(vit.expected_tensors()), "the test")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is a ViT, not a Swin transformer"),
            "{error}"
        );
        let error = vit
            .fitted(&zeros(swin.expected_tensors()), "the test")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is a Swin transformer, not a ViT"),
            "{error}"
        );
    }
}
