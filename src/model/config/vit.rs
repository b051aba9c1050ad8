//! The sizes of ViT and what is made of it: DeiT, BEiT, DINOv2 and DINOv3, EVA-02, the image towers of CLIP and SigLIP.

use serde::{Deserialize, Serialize};

use super::{
    MAX_DEPTH, MAX_FEATURES, MAX_SIZE, PatchEmbedding, RGB_CHANNELS, block_within, check_kind,
    classes_within, divisible, is_absent, is_rgb, patch_within, positive_eps, rgb_channels,
    same_sizes, scaled, sizes, within,
};
use crate::data::image_size::ImageSize;
use crate::error::{Error, Remedy, Result};
use crate::file::weights::Weights;
use crate::format::Gelu;

/// Names a block's table of relative positions, after its attention.
const TABLE: &str = "relative_position_bias_table";
/// Counts the rows of such a table that are the class token's: its scores of the patches, theirs of it, and its own.
const OF_CLASS_TOKEN: usize = 3;

/// Holds the sizes of a ViT as timm's `VisionTransformer` builds it by default: square patches, a class
/// token, learned positions (one for the class token too), blocks that normalise first, qkv with a bias, exact GELU,
/// and a head on the normalised class token. With [`layer_scale`](Self::layer_scale) and
/// [`no_embed_class`](Self::no_embed_class) it is DeiT III's; with [`distilled`](Self::distilled) it is timm's
/// `VisionTransformerDistilled`, which has two such tokens and heads; with [`reg_tokens`](Self::reg_tokens) there are
/// tokens that no head reads. With [`pre_norm`](Self::pre_norm), and mostly another [`act_layer`](Self::act_layer) and
/// a [`projection`](Self::projection), it is CLIP's image tower. Without a [`class_token`](Self::class_token), and
/// pooled by attention, it is SigLIP's; with [`rotary`](Self::rotary) positions it is DINOv3's, with
/// [turns besides learned ones](Self::ref_feat_shape) EVA-02's, with relative ones ([`rel_pos_bias`](Self::rel_pos_bias))
/// BEiT's.
/// [`global_pool`](Self::global_pool) and [`fc_norm`](Self::fc_norm) say what a head reads instead of the class token;
/// without classes there is none, and what it would read is the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "VitForm")]
pub struct VitConfig {
    /// Height and width of the input. What is left over of it at the right and below, where patches don't fill
    /// it, isn't read, as in SigLIP's towers with patches of 14 pixels and images of 384.
    pub image_size: ImageSize,
    /// Width and height of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of the input: grey, grey and alpha, red, green and blue, or these and alpha. timm's argument of this
    /// name.
    #[serde(skip_serializing_if = "is_rgb")]
    pub in_chans: usize,
    /// Features of a token; a multiple of `heads`.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Hidden features of a block's MLP: those that fc2 takes.
    pub mlp_dim: usize,
    /// Number of logits; 0 without a classifier.
    pub classes: usize,
    /// What LayerNorm adds to the variance.
    pub layer_norm_eps: f32,
    /// Whether there is a second token before the patches, with a head of its own: DeiT's distillation token.
    pub distilled: bool,
    /// Whether there is a class token: timm's argument of this name.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub class_token: bool,
    /// Whether qkv has a bias: timm's argument of this name.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub qkv_bias: bool,
    /// Whether queries and keys of patches are turned by where the patches lie, as in DINOv3, instead of learned positions.
    #[serde(skip_serializing_if = "is_absent")]
    pub rotary: bool,
    /// Whether each block adds a learned bias to the score of two tokens, by how far they are apart, instead of learned
    /// positions: `use_rel_pos_bias` of timm's `Beit`.
    #[serde(skip_serializing_if = "is_absent")]
    pub rel_pos_bias: bool,
    /// Patches along one side of the images that EVA-02 was trained with: its queries and keys are turned by where the patches
    /// lie in that grid, besides learned positions. 0 without such turns. timm's argument of this name.
    #[serde(skip_serializing_if = "is_absent")]
    pub ref_feat_shape: usize,
    /// Whether blocks have a LayerScale before each addition: timm's `init_values`.
    #[serde(skip_serializing_if = "is_absent")]
    pub layer_scale: bool,
    /// Whether only patches have positions, not the class token: timm's argument of this name. A distilled network's tokens
    /// always have theirs.
    #[serde(skip_serializing_if = "is_absent")]
    pub no_embed_class: bool,
    /// Counts the register tokens, after the class token: timm's argument of this name. They have positions where the
    /// class token has one. transformers' `DeiTForImageClassification` has one, a distillation token without a head.
    #[serde(skip_serializing_if = "is_absent")]
    pub reg_tokens: usize,
    /// What of the tokens the answer is made of: timm's argument of this name.
    #[serde(skip_serializing_if = "is_absent")]
    pub global_pool: GlobalPool,
    /// Whether what is pooled is normalised, instead of the tokens: timm's argument of this name.
    #[serde(skip_serializing_if = "is_absent")]
    pub fc_norm: bool,
    /// Whether tokens are normalised before the blocks, too, and the patch embedding has no bias: timm's argument of this
    /// name.
    #[serde(skip_serializing_if = "is_absent")]
    pub pre_norm: bool,
    /// Whether the norms of a block come after attention and MLP, before the additions, as in Swin V2: timm's `ResPostBlock`.
    #[serde(skip_serializing_if = "is_absent")]
    pub post_norm: bool,
    /// Whether the MLPs are gated: what fc1 gives is twice `mlp_dim` features, of which one half, through
    /// [`act_layer`](Self::act_layer), is multiplied by the other. timm's `GluMlp` with `gate_last=False` and `SwiGLU`, whose
    /// fc1_g and fc1_x are here one fc1.
    #[serde(skip_serializing_if = "is_absent")]
    pub gated_mlp: bool,
    /// Whether what fc2 takes is normalised: timm's argument of this name.
    #[serde(skip_serializing_if = "is_absent")]
    pub scale_mlp: bool,
    /// The form of GELU in the MLPs: timm's argument of this name.
    #[serde(skip_serializing_if = "is_absent")]
    pub act_layer: Gelu,
    /// Number of features that a head without a bias makes of what is pooled, which are then the answer; 0 without one:
    /// CLIP's projection. timm has it as a classifier whose bias is zero.
    #[serde(skip_serializing_if = "is_absent")]
    pub projection: usize,
}

/// Says what of the last block's tokens an answer is made of, by timm's names but for `token_avg`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalPool {
    /// The class token; of a distilled network also the distillation token.
    #[default]
    Token,
    /// The mean of the patches.
    Avg,
    /// Attention of one query to the patches, and an MLP: timm's `AttentionPoolLatent`, SigLIP's.
    Map,
    /// The class token and the mean of the patches, one after the other: transformers' `Dinov2ForImageClassification`.
    TokenAvg,
    /// Nothing is pooled: every token, those before the patches too. timm's name is empty.
    #[serde(rename = "")]
    Unpooled,
}

/// Holds a [`VitConfig`] as files may write it: with `mlp_ratio` in place of `mlp_dim`, as timm and the golden oracle
/// do, and without the epsilon where it is timm's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VitForm {
    image_size: ImageSize,
    patch_size: usize,
    #[serde(default = "rgb_channels")]
    in_chans: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    mlp_dim: Option<usize>,
    mlp_ratio: Option<f64>,
    classes: usize,
    layer_norm_eps: Option<f32>,
    #[serde(default)]
    distilled: bool,
    #[serde(default = "present")]
    class_token: bool,
    #[serde(default = "present")]
    qkv_bias: bool,
    #[serde(default)]
    rotary: bool,
    #[serde(default)]
    rel_pos_bias: bool,
    #[serde(default)]
    ref_feat_shape: usize,
    #[serde(default)]
    layer_scale: bool,
    #[serde(default)]
    no_embed_class: bool,
    #[serde(default)]
    reg_tokens: usize,
    #[serde(default)]
    global_pool: GlobalPool,
    #[serde(default)]
    fc_norm: bool,
    #[serde(default)]
    pre_norm: bool,
    #[serde(default)]
    post_norm: bool,
    #[serde(default)]
    gated_mlp: bool,
    #[serde(default)]
    scale_mlp: bool,
    #[serde(default)]
    act_layer: Gelu,
    #[serde(default)]
    projection: usize,
}

fn present() -> bool {
    true
}

impl TryFrom<VitForm> for VitConfig {
    type Error = String;

    fn try_from(form: VitForm) -> std::result::Result<Self, String> {
        let mlp_dim = match (form.mlp_dim, form.mlp_ratio) {
            (Some(mlp_dim), None) => mlp_dim,
            (None, Some(ratio)) => scaled(form.dim, ratio),
            (None, None) => return Err("one of `mlp_dim` and `mlp_ratio` is needed".into()),
            (Some(_), Some(_)) => return Err("`mlp_dim` and `mlp_ratio` exclude each other".into()),
        };
        let config = Self {
            image_size: form.image_size,
            patch_size: form.patch_size,
            in_chans: form.in_chans,
            dim: form.dim,
            depth: form.depth,
            heads: form.heads,
            mlp_dim,
            classes: form.classes,
            layer_norm_eps: form.layer_norm_eps.unwrap_or(Self::TIMM_LAYER_NORM_EPS),
            distilled: form.distilled,
            class_token: form.class_token,
            qkv_bias: form.qkv_bias,
            rotary: form.rotary,
            rel_pos_bias: form.rel_pos_bias,
            ref_feat_shape: form.ref_feat_shape,
            layer_scale: form.layer_scale,
            no_embed_class: form.no_embed_class,
            reg_tokens: form.reg_tokens,
            global_pool: form.global_pool,
            fc_norm: form.fc_norm,
            pre_norm: form.pre_norm,
            post_norm: form.post_norm,
            gated_mlp: form.gated_mlp,
            scale_mlp: form.scale_mlp,
            act_layer: form.act_layer,
            projection: form.projection,
        };
        config.validate()?;
        Ok(config)
    }
}

impl Default for VitConfig {
    /// Returns the network that timm's `VisionTransformer` is where no argument says otherwise: a ViT-B/16.
    fn default() -> Self {
        Self {
            image_size: 224.into(),
            patch_size: 16,
            in_chans: RGB_CHANNELS,
            dim: 768,
            depth: 12,
            heads: 12,
            mlp_dim: 4 * 768,
            classes: 1000,
            layer_norm_eps: Self::TIMM_LAYER_NORM_EPS,
            distilled: false,
            class_token: true,
            qkv_bias: true,
            rotary: false,
            rel_pos_bias: false,
            ref_feat_shape: 0,
            layer_scale: false,
            no_embed_class: false,
            reg_tokens: 0,
            global_pool: GlobalPool::Token,
            fc_norm: false,
            pre_norm: false,
            post_norm: false,
            gated_mlp: false,
            scale_mlp: false,
            act_layer: Gelu::Exact,
            projection: 0,
        }
    }
}

impl VitConfig {
    /// Holds the epsilon of timm's ViTs, which a configuration may leave out.
    pub const TIMM_LAYER_NORM_EPS: f32 = 1e-6;
    /// Holds the patches along one side of the images that DINOv3 was trained with in the main: what a file doesn't show.
    pub const ROTARY_GRID: usize = 16;

    /// Counts the rows and columns of an image's patches.
    pub fn grid(&self) -> [usize; 2] {
        self.image_size.grid(self.patch_size)
    }

    /// Counts the patches of an image.
    pub fn patches(&self) -> usize {
        patches_of(self.grid())
    }

    /// Counts the tokens before the patches: the class token, a distilled network's second one, register tokens.
    pub fn prefix(&self) -> usize {
        usize::from(self.class_token) + usize::from(self.distilled) + self.reg_tokens
    }

    /// Counts the tokens of an image: those of the prefix, then the patches row by row.
    pub fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Says whether positions are learned and added to the tokens.
    pub fn has_pos_embed(&self) -> bool {
        !self.rotary && !self.rel_pos_bias
    }

    /// Counts the tokens before the patches that have learned positions.
    pub fn embedded_prefix(&self) -> usize {
        match self.has_pos_embed() && !self.no_embed_class {
            true => self.prefix(),
            false => 0,
        }
    }

    /// Words what sets the network apart from timm's plain ViT, one particular each.
    pub fn particulars(&self) -> Vec<String> {
        let is_turned = self.rotary || self.ref_feat_shape > 0;
        let by_attention = self.global_pool == GlobalPool::Map;
        let channels = format!("{} channels", self.in_chans);
        let particulars = [
            (self.in_chans != RGB_CHANNELS, channels.as_str()),
            (self.distilled, "distilled"),
            (!self.class_token, "no class token"),
            (is_turned, "rotary positions"),
            (self.rel_pos_bias, "relative positions"),
            (self.pre_norm, "a norm before the blocks"),
            (self.post_norm, "norms after attention and MLP"),
            (self.layer_scale, "LayerScale"),
            (self.gated_mlp, "gated MLPs"),
            (self.act_layer != Gelu::Exact, self.act_layer.name()),
            (by_attention, "pooled by attention"),
        ];
        let present = particulars.into_iter().filter(|(holds, _)| *holds);
        present.map(|(_, words)| words.to_owned()).collect()
    }

    /// Counts the features of one attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Counts the features that are pooled of an image: what a head reads, or the answer.
    pub fn pooled_dim(&self) -> usize {
        match self.global_pool {
            GlobalPool::Token | GlobalPool::Avg | GlobalPool::Map => self.dim,
            GlobalPool::TokenAvg => 2 * self.dim,
            GlobalPool::Unpooled => self.tokens() * self.dim,
        }
    }

    /// Returns these sizes without a head, and without anything pooled: the answer is every token, normalised.
    pub(super) fn unpooled(&self) -> Self {
        Self {
            classes: 0,
            projection: 0,
            global_pool: GlobalPool::Unpooled,
            ..self.clone()
        }
    }

    /// Says whether the class token is part of what is pooled.
    fn reads_class_token(&self) -> bool {
        matches!(self.global_pool, GlobalPool::Token | GlobalPool::TokenAvg)
    }

    /// Counts what a block's fc1 gives: the hidden features, and those of the gate.
    fn fc1_outputs(&self) -> usize {
        match self.gated_mlp {
            false => self.mlp_dim,
            true => self.mlp_dim.saturating_mul(2),
        }
    }

    /// Counts what the head gives: logits, or features of a projection.
    pub fn head_outputs(&self) -> usize {
        self.classes.max(self.projection)
    }

    /// Lists every tensor of timm's `state_dict`, with its shape, but for the zeros that are the bias of a projection, and
    /// for the projection of a pooling's query, which is in its latent. Weights are [outputs, inputs].
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self {
            dim,
            mlp_dim,
            patch_size,
            in_chans,
            classes,
            projection,
            ..
        } = *self;
        let mut tensors = Vec::new();
        if self.class_token {
            tensors.push(("cls_token".to_owned(), vec![1, 1, dim]));
        }
        if self.has_pos_embed() {
            let positions = self.embedded_prefix() + self.patches();
            tensors.push(("pos_embed".to_owned(), vec![1, positions, dim]));
        }
        let mut pair = |name: String, weight: Vec<usize>| {
            tensors.push((format!("{name}.bias"), vec![weight[0]]));
            tensors.push((format!("{name}.weight"), weight));
        };
        let kernel = vec![dim, in_chans, patch_size, patch_size];
        match self.pre_norm {
            false => pair("patch_embed.proj".into(), kernel.clone()),
            true => pair("norm_pre".into(), vec![dim]),
        }
        for block in 0..self.depth {
            let name = |layer: &str| format!("blocks.{block}.{layer}");
            pair(name("norm1"), vec![dim]);
            if self.qkv_bias {
                pair(name("attn.qkv"), vec![3 * dim, dim]);
            }
            pair(name("attn.proj"), vec![dim, dim]);
            pair(name("norm2"), vec![dim]);
            pair(name("mlp.fc1"), vec![self.fc1_outputs(), dim]);
            pair(name("mlp.fc2"), vec![dim, mlp_dim]);
            if self.scale_mlp {
                pair(name("mlp.norm"), vec![mlp_dim]);
            }
        }
        match self.fc_norm {
            false => pair("norm".into(), vec![dim]),
            true => pair("fc_norm".into(), vec![dim]),
        }
        if classes > 0 {
            pair("head".into(), vec![classes, self.pooled_dim()]);
        }
        if classes > 0 && self.distilled {
            pair("head_dist".into(), vec![classes, dim]);
        }
        if self.global_pool == GlobalPool::Map {
            let name = |layer: &str| format!("attn_pool.{layer}");
            pair(name("kv"), vec![2 * dim, dim]);
            pair(name("proj"), vec![dim, dim]);
            pair(name("norm"), vec![dim]);
            pair(name("mlp.fc1"), vec![mlp_dim, dim]);
            pair(name("mlp.fc2"), vec![dim, mlp_dim]);
            tensors.push((name("latent"), vec![1, 1, dim]));
        }
        if self.pre_norm {
            tensors.push(("patch_embed.proj.weight".to_owned(), kernel));
        }
        if !self.qkv_bias {
            let name = |block| format!("blocks.{block}.attn.qkv.weight");
            tensors.extend((0..self.depth).map(|block| (name(block), vec![3 * dim, dim])));
        }
        if self.rel_pos_bias {
            let table = |block| format!("blocks.{block}.attn.{TABLE}");
            let distances = distances(self.grid());
            let shape = vec![distances + OF_CLASS_TOKEN, self.heads];
            tensors.extend((0..self.depth).map(|block| (table(block), shape.clone())));
        }
        if projection > 0 {
            let shape = vec![projection, self.pooled_dim()];
            tensors.push(("head.weight".to_owned(), shape));
        }
        if self.distilled {
            tensors.push(("dist_token".to_owned(), vec![1, 1, dim]));
        }
        if self.reg_tokens > 0 {
            tensors.push(("reg_token".to_owned(), vec![1, self.reg_tokens, dim]));
        }
        if self.layer_scale {
            for block in 0..self.depth {
                let scales = ["ls1", "ls2"].map(|scale| format!("blocks.{block}.{scale}.gamma"));
                tensors.extend(scales.map(|name| (name, vec![dim])));
            }
        }
        tensors
    }

    /// Says whether a file has no positions, as DINOv3's: those that are rotary are in no tensor.
    pub fn is_rotary(weights: &Weights) -> bool {
        weights.shape("pos_embed").is_none()
            && weights.shape("cls_token").is_some()
            && !Self::is_relative(weights)
    }

    /// Says whether a file has BEiT's relative positions.
    pub fn is_relative(weights: &Weights) -> bool {
        weights.shape(&format!("blocks.0.attn.{TABLE}")).is_some()
    }

    /// Reads the rows and columns of an image's patches, and the heads, off the first table of relative positions: it
    /// has 2 n - 1 distances down and across, and the class token's rows. One of the `likely` grids that has as many is
    /// it, else a square.
    fn relative_grid(weights: &Weights, likely: &[[usize; 2]]) -> Result<([usize; 2], usize)> {
        let problem = |problem: String| Error::input(weights.path(), problem);
        let name = format!("blocks.0.attn.{TABLE}");
        let [rows, heads] = sizes(weights, &name)?;
        if weights.shape("pos_embed").is_some() {
            let both =
                "is a BEiT with learned positions beside its relative ones, which is not supported";
            return Err(problem(both.to_owned()));
        }
        let between = rows.saturating_sub(OF_CLASS_TOKEN);
        let square = [between.isqrt().div_ceil(2); 2];
        let grids = likely.iter().copied().chain([square]);
        let mut fitting = grids.filter(|grid| !grid.contains(&0) && distances(*grid) == between);
        let grid = fitting.next().ok_or_else(|| {
            problem(format!(
                "`{name}` has {rows} rows, where (2 n - 1)² of the distances between n by n patches and {OF_CLASS_TOKEN} of the class token are expected{}",
                or_of(likely)
            ))
        })?;
        Ok((grid, heads))
    }

    /// Reads the sizes off the tensors' shapes and checks that the file has every tensor and no other but the index of
    /// relative positions, which older files of BEiT store.
    /// The number of heads shows in no shape but that of a table of relative positions, nor do turns beside learned
    /// positions, which are taken not to be there, nor where the norms of a block are, which are taken to come first, nor the form of GELU, which is taken to be the exact one, or SiLU in
    /// gated MLPs. The image size is the grid of positions times the patch size: that of one of the `likely` sizes, the
    /// first that has as many patches, or a square. Where positions are rotary, for images
    /// of any size, [`ROTARY_GRID`](Self::ROTARY_GRID) times that; the epsilon is timm's. Where pooled tokens are normalised, or there is
    /// no class token, they are taken to be averaged, as in timm, and where a head reads twice the features, the class token
    /// and the mean; else the answer is the class token's. Behind blocks with a norm before them, a head without a bias is a
    /// projection.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is of a kind that isn't supported (which is named), if the shapes
    /// contradict each other, or if `heads` doesn't divide the features.
    pub fn from_shapes(weights: &Weights, heads: usize, likely: &[ImageSize]) -> Result<Self> {
        let problem = |problem: String| Error::input(weights.path(), problem);
        check_kind(weights)?;
        let PatchEmbedding {
            in_chans,
            patch_size,
            dim,
        } = PatchEmbedding::of(weights)?;
        let rotary = Self::is_rotary(weights);
        let rel_pos_bias = Self::is_relative(weights);
        let has_pos_embed = !rotary && !rel_pos_bias;
        let likely: Vec<[usize; 2]> = likely.iter().map(|size| size.grid(patch_size)).collect();
        let (grid, heads) = match rel_pos_bias {
            true => Self::relative_grid(weights, &likely)?,
            false => ([Self::ROTARY_GRID; 2], heads),
        };
        let [_, positions, _] = match has_pos_embed {
            true => sizes(weights, "pos_embed")?,
            false => [1, patches_of(grid), dim],
        };
        let distilled = weights.shape("dist_token").is_some();
        let [_, reg_tokens, _] = match weights.shape("reg_token") {
            Some(_) => sizes(weights, "reg_token")?,
            None => [1, 0, dim],
        };
        let class_token = weights.shape("cls_token").is_some();
        let own = usize::from(class_token) + usize::from(distilled);
        let before = reg_tokens.saturating_add(own);
        // A square is never one or two more than another, but for 1; and a network has a patch. Of four register tokens
        // and four patches it would not show.
        let may_embed_none = has_pos_embed && !distilled && before > 0;
        let grid = match has_pos_embed {
            false => grid,
            true => {
                let square = |patches: usize| [patches.isqrt(); 2];
                let squares = [square(positions), square(positions.saturating_sub(before))];
                let fits = |patches: usize| {
                    patches.saturating_add(before) == positions
                        || (may_embed_none && patches == positions)
                };
                let mut grids = likely.iter().copied().chain(squares);
                let fitting = grids.find(|grid| !grid.contains(&0) && fits(patches_of(*grid)));
                fitting.ok_or_else(|| {
                    let or_none = match distilled || before == 0 {
                        true => "",
                        false => ", or none,",
                    };
                    problem(format!(
                        "`pos_embed` has {positions} positions, where {before} before the patches{or_none} and a square grid are expected{}",
                        or_of(&likely)
                    ))
                })?
            }
        };
        let no_embed_class = may_embed_none && patches_of(grid) == positions;
        let [fc1_outputs, _] = sizes(weights, "blocks.0.mlp.fc1.weight")?;
        let (mlp_dim, gated_mlp) = match weights.shape("blocks.0.mlp.fc2.weight") {
            Some([_, taken]) if taken.saturating_mul(2) == fc1_outputs => (*taken, true),
            _ => (fc1_outputs, false),
        };
        let pre_norm = weights.shape("norm_pre.weight").is_some();
        let [outputs, pooled] = match weights.shape("head.weight") {
            Some(_) => sizes(weights, "head.weight")?,
            None => [0, dim],
        };
        let (classes, projection) = match weights.shape("head.bias") {
            None if pre_norm => (0, outputs),
            _ => (outputs, 0),
        };
        let fc_norm = weights.shape("fc_norm.weight").is_some();
        let has_attention = weights.shape("attn_pool.latent").is_some();
        let has_block = |block: &usize| {
            weights
                .shape(&format!("blocks.{block}.norm1.weight"))
                .is_some()
        };
        let config = Self {
            image_size: grid.map(|side| side.saturating_mul(patch_size)).into(),
            patch_size,
            in_chans,
            dim,
            depth: (0..).take_while(has_block).count(),
            heads,
            mlp_dim,
            classes,
            layer_norm_eps: Self::TIMM_LAYER_NORM_EPS,
            distilled,
            class_token,
            qkv_bias: weights.shape("blocks.0.attn.qkv.bias").is_some(),
            rotary,
            rel_pos_bias,
            ref_feat_shape: 0,
            layer_scale: weights.shape("blocks.0.ls1.gamma").is_some(),
            no_embed_class,
            reg_tokens,
            global_pool: match fc_norm || !class_token {
                _ if has_attention => GlobalPool::Map,
                true => GlobalPool::Avg,
                false if pooled == dim.saturating_mul(2) => GlobalPool::TokenAvg,
                false => GlobalPool::Token,
            },
            fc_norm,
            pre_norm,
            post_norm: false,
            gated_mlp,
            scale_mlp: weights.shape("blocks.0.mlp.norm.weight").is_some(),
            act_layer: match gated_mlp {
                false => Gelu::default(),
                true => Gelu::Silu,
            },
            projection,
        };
        config.validate().map_err(problem)?;
        weights.check(&config.expected_tensors(), &[], is_derived)?;
        Ok(config)
    }

    /// Checks the sizes as [`Architecture::validate`](super::Architecture::validate) does, for this family.
    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        within(&[
            ("image_size", self.image_size.height, MAX_SIZE),
            ("image_size", self.image_size.width, MAX_SIZE),
        ])?;
        patch_within(self.in_chans, self.patch_size)?;
        within(&[
            ("dim", self.dim, MAX_FEATURES),
            ("depth", self.depth, MAX_DEPTH),
            ("heads", self.heads, MAX_SIZE),
            ("mlp_dim", self.mlp_dim, MAX_FEATURES),
        ])?;
        classes_within(self.classes)?;
        if self.projection > MAX_FEATURES {
            return Err(format!(
                "projection is {}, where at most {MAX_FEATURES} is expected",
                self.projection
            ));
        }
        if self.grid().contains(&0) {
            return Err(format!(
                "image_size is {}, where at least one patch of {} is expected",
                self.image_size, self.patch_size
            ));
        }
        divisible(&[("dim", self.dim, "heads", self.heads)])?;
        if self.reg_tokens > MAX_SIZE {
            return Err(format!(
                "reg_tokens is {}, where at most {MAX_SIZE} are expected",
                self.reg_tokens
            ));
        }
        if self.projection > 0 && (self.classes > 0 || !self.pre_norm || self.distilled) {
            return Err(
                "projection goes with pre_norm, and without classes and distilled, as in CLIP"
                    .into(),
            );
        }
        if (self.gated_mlp || self.scale_mlp) && self.global_pool == GlobalPool::Map {
            return Err(
                "gated_mlp and scale_mlp go without a global_pool of map, whose MLP has neither gate nor norm"
                    .into(),
            );
        }
        if self.rotary || self.ref_feat_shape > 0 {
            // Each of two coordinates turns half of the pairs.
            divisible(&[("head_dim", self.head_dim(), "a rotation's", 4)])?;
        }
        if self.ref_feat_shape > MAX_SIZE {
            return Err(format!(
                "ref_feat_shape is {}, where at most {MAX_SIZE} is expected",
                self.ref_feat_shape
            ));
        }
        if self.rotary && self.ref_feat_shape > 0 {
            return Err("rotary and ref_feat_shape exclude each other".into());
        }
        if self.rotary && (self.distilled || self.no_embed_class || !self.class_token) {
            return Err(
                "rotary goes with a class token, and without distilled and no_embed_class".into(),
            );
        }
        if self.rel_pos_bias
            && (self.rotary
                || self.ref_feat_shape > 0
                || self.prefix() != 1
                || !self.class_token
                || self.no_embed_class)
        {
            return Err(
                "rel_pos_bias goes with a class token, and without distilled, reg_tokens, no_embed_class, rotary and ref_feat_shape, as in BEiT"
                    .into(),
            );
        }
        if self.distilled && self.reg_tokens > 0 {
            return Err("distilled and reg_tokens exclude each other, as in timm".into());
        }
        if self.distilled && self.no_embed_class {
            return Err("distilled and no_embed_class exclude each other, as in timm".into());
        }
        if !self.class_token && (self.distilled || self.reads_class_token()) {
            return Err(
                "class_token is false, where distilled and a global_pool of token or token_avg need one, as in timm"
                    .into(),
            );
        }
        if self.global_pool == GlobalPool::Unpooled && self.head_outputs() > 0 {
            return Err("a head needs something that is pooled, where global_pool is empty".into());
        }
        let is_pooled = self.global_pool != GlobalPool::Unpooled;
        if self.distilled && (is_pooled && self.global_pool != GlobalPool::Token || self.fc_norm) {
            return Err(
                "distilled goes with the class token's pooling and without fc_norm, as in timm"
                    .into(),
            );
        }
        if self.global_pool == GlobalPool::TokenAvg && self.fc_norm {
            return Err("token_avg goes without fc_norm, as in transformers".into());
        }
        let sizes = [self.heads, self.dim, self.fc1_outputs()];
        block_within("", 1, self.tokens(), sizes)?;
        positive_eps(self.layer_norm_eps)
    }

    /// Returns these sizes for images of another size, which patches have to fill.
    ///
    /// # Errors
    /// A size that no ViT of these sizes has; another number of patches where positions are relative, whose tables wouldn't
    /// fit.
    pub(super) fn with_image_size(
        &self,
        image_size: ImageSize,
    ) -> std::result::Result<Self, String> {
        if !image_size.is_filled_by(self.patch_size) {
            return Err(format!(
                "image_size {image_size} is not divisible by patch_size {}",
                self.patch_size
            ));
        }
        let changed = Self {
            image_size,
            ..self.clone()
        };
        changed.validate()?;
        if self.rel_pos_bias && changed.grid() != self.grid() {
            return Err(format!(
                "images of {image_size} pixels have {} patches along a side, where this ViT has {}, and its tables of relative positions are not resized",
                ImageSize::from(changed.grid()),
                ImageSize::from(self.grid())
            ));
        }
        Ok(changed)
    }

    /// Returns [`Architecture::fitted_from`](super::Architecture::fitted_from) for this family.
    pub(super) fn fitted_from(
        &self,
        weights: &Weights,
        told_by: &str,
        stored: ImageSize,
    ) -> Result<Self> {
        let file = Self::from_shapes(weights, self.heads, &[stored, self.image_size])?;
        same_sizes(
            weights,
            told_by,
            &[
                ("patch_size", file.patch_size, self.patch_size),
                ("in_chans", file.in_chans, self.in_chans),
                ("dim", file.dim, self.dim),
                ("depth", file.depth, self.depth),
                ("heads", file.heads, self.heads),
                ("mlp_dim", file.mlp_dim, self.mlp_dim),
                ("reg_tokens", file.reg_tokens, self.reg_tokens),
            ],
        )?;
        same_sizes(
            weights,
            told_by,
            &[
                ("distilled", file.distilled, self.distilled),
                ("class_token", file.class_token, self.class_token),
                ("qkv_bias", file.qkv_bias, self.qkv_bias),
                ("rotary", file.rotary, self.rotary),
                ("rel_pos_bias", file.rel_pos_bias, self.rel_pos_bias),
                ("layer_scale", file.layer_scale, self.layer_scale),
                (
                    "no_embed_class",
                    file.no_embed_class,
                    self.no_embed_class && self.prefix() > 0,
                ),
                (
                    "pooling by attention",
                    file.global_pool == GlobalPool::Map,
                    self.global_pool == GlobalPool::Map,
                ),
                ("fc_norm", file.fc_norm, self.fc_norm),
                ("pre_norm", file.pre_norm, self.pre_norm),
                ("gated_mlp", file.gated_mlp, self.gated_mlp),
                ("scale_mlp", file.scale_mlp, self.scale_mlp),
            ],
        )?;
        if file.head_outputs() > 0 && self.global_pool == GlobalPool::Unpooled {
            return Err(Error::input(
                weights.path(),
                format!(
                    "doesn't fit {told_by}: it has a head, for which an empty global_pool pools nothing"
                ),
            ));
        }
        if file.head_outputs() > 0 {
            let pooled = [&file, self].map(Self::pooled_dim);
            same_sizes(
                weights,
                told_by,
                &[(
                    "the number of features that a head reads",
                    pooled[0],
                    pooled[1],
                )],
            )?;
        }
        if !self.rotary && file.grid() != self.grid() {
            let problem = format!(
                "doesn't fit {told_by}: its positions are for images of {} pixels, not {}",
                file.image_size, self.image_size
            );
            return Err(match self.rel_pos_bias {
                true => {
                    let problem =
                        format!("{problem}, and tables of relative positions are not resized");
                    Error::input(weights.path(), problem)
                }
                false => Error::remediable(weights.path(), problem, Remedy::ResamplePositions),
            });
        }
        Ok(Self {
            classes: file.classes,
            projection: file.projection,
            ..self.clone()
        })
    }
}

/// Says whether a tensor follows from the sizes: a buffer that timm no longer stores.
fn is_derived(name: &str) -> bool {
    name.ends_with(".attn.relative_position_index")
}

/// Counts the patches of a grid.
fn patches_of(grid: [usize; 2]) -> usize {
    let [rows, columns] = grid;
    rows.saturating_mul(columns)
}

/// Counts the distances, down and across, between the patches of a grid.
fn distances(grid: [usize; 2]) -> usize {
    patches_of(grid.map(|side| side.saturating_mul(2).saturating_sub(1)))
}

/// Words grids of other sizes that would do as well as a square, for a message: those that are told and aren't one.
fn or_of(likely: &[[usize; 2]]) -> String {
    let oblong = likely.iter().filter(|[rows, columns]| rows != columns);
    let words = oblong.map(|[rows, columns]| format!(", or {rows} by {columns} patches"));
    words.collect()
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use crate::model::config::{Answer, Architecture, zeros};
    use std::collections::BTreeMap;

    /// The golden oracle's ViT.
    const MICRO: &str = r#"{"family":"vit","image_size":32,"patch_size":8,"dim":48,"depth":2,"heads":3,"mlp_ratio":4,"classes":10}"#;

    fn micro() -> VitConfig {
        match serde_json::from_str(MICRO).unwrap() {
            Architecture::Vit(config) => config,
            other => panic!("{other:?}"),
        }
    }

    /// The micro ViT's tensors, changed, and why that file is refused.
    fn refusal(change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> String {
        let mut tensors: BTreeMap<_, _> = micro().expected_tensors().into_iter().collect();
        change(&mut tensors);
        let error = VitConfig::from_shapes(&zeros(tensors), 3, &[]).unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        error.to_string()
    }

    #[test]
    fn understands_the_golden_form_and_its_own() {
        let config = micro();
        assert_eq!((config.mlp_dim, config.layer_norm_eps), (192, 1e-6));
        assert_eq!((config.patches(), config.tokens()), (16, 17));
        assert_eq!(config.head_dim(), 16);

        let architecture = Architecture::Vit(config);
        assert_eq!(
            (architecture.image_size(), architecture.classes()),
            (32.into(), 10)
        );
        let json = serde_json::to_string(&architecture).unwrap();
        assert!(json.contains(r#""family":"vit""#) && json.contains(r#""mlp_dim":192"#));
        let back: Architecture = serde_json::from_str(&json).unwrap();
        assert_eq!(back, architecture);
    }

    /// The micro ViT with DeiT III's two parts.
    fn micro_deit_3() -> VitConfig {
        VitConfig {
            layer_scale: true,
            no_embed_class: true,
            ..micro()
        }
    }

    #[test]
    fn a_grid_that_is_no_square_is_told() {
        let sizes = |image_size: [usize; 2]| VitConfig {
            image_size: image_size.into(),
            ..micro()
        };
        let reason = |result: Result<VitConfig>| result.unwrap_err().to_string();
        // As many patches as in the square.
        let (square, oblong) = (micro(), sizes([16, 64]));
        for (told, without_likely) in [(&square, &square), (&oblong, &square)] {
            let weights = zeros(told.expected_tensors());
            let shown = |likely: &[ImageSize]| VitConfig::from_shapes(&weights, 3, likely);
            assert_eq!(shown(&[]).unwrap(), *without_likely);
            for likely in [&square, &oblong] {
                assert_eq!(shown(&[likely.image_size]).unwrap(), *likely);
                assert_eq!(shown(&[40.into(), likely.image_size]).unwrap(), *likely);
            }
            assert_eq!(
                oblong
                    .fitted_from(&weights, "the test", oblong.image_size)
                    .unwrap(),
                oblong
            );
            let problem = reason(oblong.fitted_from(&weights, "the test", square.image_size));
            let expected = "doesn't fit the test: its positions are for images of 32 pixels, not 16x64; `interpolate_positions` resamples them";
            assert!(problem.ends_with(expected), "{problem}");
        }
        // One that isn't a square's.
        let weights = zeros(sizes([16, 72]).expected_tensors());
        for told in [sizes([16, 72]), sizes([72, 16]), sizes([24, 48])] {
            let shown = VitConfig::from_shapes(&weights, 3, &[told.image_size]).unwrap();
            assert_eq!(shown, told);
        }
        let problem = reason(VitConfig::from_shapes(&weights, 3, &[[16, 64].into()]));
        let expected = "`pos_embed` has 19 positions, where 1 before the patches, or none, and a square grid are expected, or 2 by 8 patches";
        assert!(problem.ends_with(expected), "{problem}");
    }

    #[test]
    fn a_grid_of_relative_positions_that_is_no_square_is_told() {
        let sizes = |image_size: [usize; 2]| VitConfig {
            image_size: image_size.into(),
            ..relative()
        };
        let oblong = sizes([16, 40]);
        let weights = zeros(oblong.expected_tensors());
        let shown =
            |likely: [usize; 2]| VitConfig::from_shapes(&weights, 3, &[ImageSize::from(likely)]);
        assert_eq!(shown([40, 16]).unwrap(), sizes([40, 16]));
        assert_eq!(shown([16, 40]).unwrap(), oblong);
        let problem = shown([16, 48]).unwrap_err().to_string();
        let expected = "has 30 rows, where (2 n - 1)² of the distances between n by n patches and 3 of the class token are expected, or 2 by 6 patches";
        assert!(problem.ends_with(expected), "{problem}");
        let problem = oblong.with_image_size([16, 48].into()).unwrap_err();
        assert!(
            problem.starts_with(
                "images of 16x48 pixels have 2x6 patches along a side, where this ViT has 2x5"
            ),
            "{problem}"
        );
    }

    #[test]
    fn patches_fill_both_sides_of_another_size() {
        let other = |image_size: [usize; 2]| micro().with_image_size(image_size.into());
        assert_eq!(other([16, 40]).unwrap().tokens(), 11);
        for (sides, expected) in [
            (
                [16, 42],
                "image_size 16x42 is not divisible by patch_size 8",
            ),
            (
                [42, 16],
                "image_size 42x16 is not divisible by patch_size 8",
            ),
            ([0, 16], "image_size is 0, where 1 to"),
        ] {
            let problem = other(sides).unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    /// That without the part about positions.
    fn deit_3_with_positions() -> VitConfig {
        VitConfig {
            no_embed_class: false,
            ..micro_deit_3()
        }
    }

    fn relative() -> VitConfig {
        VitConfig {
            rel_pos_bias: true,
            ..micro()
        }
    }

    #[test]
    fn tables_of_relative_positions_tell_the_grid_and_the_heads() {
        let mut tensors: BTreeMap<_, _> = relative().expected_tensors().into_iter().collect();
        assert_eq!(
            tensors["blocks.1.attn.relative_position_bias_table"],
            [52, 3]
        );
        // A buffer that older files store.
        let index = "blocks.0.attn.relative_position_index";
        tensors.insert(index.to_owned(), vec![17, 17]);
        let weights = zeros(tensors.clone());
        assert_eq!(
            VitConfig::from_shapes(&weights, 1, &[]).unwrap(),
            relative()
        );
        let told = |config: VitConfig| Architecture::Vit(config).fitted(&weights, "the test");
        assert_eq!(told(relative()).unwrap(), Architecture::Vit(relative()));
        for (other, says) in [
            (
                VitConfig {
                    heads: 6,
                    ..relative()
                },
                "heads is 3, not 6",
            ),
            (micro(), "rel_pos_bias is true, not false"),
            (
                VitConfig {
                    image_size: 40.into(),
                    ..relative()
                },
                "its positions are for images of 32 pixels, not 40, and tables of relative positions are not resized",
            ),
        ] {
            let message = told(other).unwrap_err().to_string();
            assert!(message.ends_with(says), "{message}\nlacks {says}");
        }
        let table = "blocks.0.attn.relative_position_bias_table";
        let mut refused = |name: &str, shape: Vec<usize>, says: &str| {
            let before = tensors.insert(name.to_owned(), shape);
            let error = VitConfig::from_shapes(&zeros(tensors.clone()), 3, &[]).unwrap_err();
            assert!(error.to_string().contains(says), "{error}\nlacks {says}");
            match before {
                Some(shape) => tensors.insert(name.to_owned(), shape),
                None => tensors.remove(name),
            };
        };
        for rows in [2, 51, 67] {
            refused(table, vec![rows, 3], "where (2 n - 1)² of the distances");
        }
        refused("pos_embed", vec![1, 17, 48], "learned positions beside");
    }

    #[test]
    fn relative_positions_are_of_one_size_and_of_beits_tokens() {
        let other = relative().with_image_size(40.into()).unwrap_err();
        let says = "images of 40 pixels have 5 patches along a side, where this ViT has 4";
        assert!(other.starts_with(says), "{other}");
        assert_eq!(relative().with_image_size(32.into()), Ok(relative()));
        for wrong in [
            VitConfig {
                distilled: true,
                ..relative()
            },
            VitConfig {
                reg_tokens: 1,
                ..relative()
            },
            VitConfig {
                rotary: true,
                ..relative()
            },
        ] {
            let problem = wrong.validate().unwrap_err();
            assert!(problem.starts_with("rel_pos_bias goes with"), "{problem}");
        }
    }

    #[test]
    fn parts_that_a_network_lacks_are_not_told() {
        // As builds wrote it that knew of no such parts.
        let told = serde_json::to_string(&Architecture::Vit(micro())).unwrap();
        assert!(told.ends_with(r#""distilled":false}"#), "{told}");
        let told = serde_json::to_string(&Architecture::Vit(micro_deit_3())).unwrap();
        let parts = r#""distilled":false,"layer_scale":true,"no_embed_class":true}"#;
        assert!(told.ends_with(parts), "{told}");
        let back: Architecture = serde_json::from_str(&told).unwrap();
        assert_eq!(back, Architecture::Vit(micro_deit_3()));
    }

    #[test]
    fn parts_show_in_the_tensors() {
        let deit_3 = micro_deit_3();
        let tensors: BTreeMap<_, _> = deit_3.expected_tensors().into_iter().collect();
        assert_eq!(tensors["pos_embed"], [1, 16, 48]);
        assert_eq!(tensors["blocks.1.ls2.gamma"], [48]);
        assert_eq!(
            VitConfig::from_shapes(&zeros(tensors), 3, &[]).unwrap(),
            deit_3
        );
        for one_part in [
            VitConfig {
                layer_scale: false,
                ..deit_3.clone()
            },
            VitConfig {
                no_embed_class: false,
                ..deit_3.clone()
            },
            VitConfig {
                reg_tokens: 4,
                ..deit_3.clone()
            },
            VitConfig {
                reg_tokens: 1,
                ..micro()
            },
            VitConfig {
                global_pool: GlobalPool::Avg,
                fc_norm: true,
                ..micro()
            },
            VitConfig {
                global_pool: GlobalPool::TokenAvg,
                ..micro()
            },
            VitConfig {
                class_token: false,
                global_pool: GlobalPool::Avg,
                ..micro()
            },
            VitConfig {
                class_token: false,
                reg_tokens: 4,
                no_embed_class: true,
                global_pool: GlobalPool::Avg,
                fc_norm: true,
                ..micro()
            },
            VitConfig {
                class_token: false,
                global_pool: GlobalPool::Map,
                classes: 0,
                ..micro()
            },
            VitConfig {
                global_pool: GlobalPool::Map,
                ..micro()
            },
            VitConfig {
                qkv_bias: false,
                ..micro()
            },
            VitConfig {
                rotary: true,
                reg_tokens: 4,
                image_size: 128.into(),
                ..deit_3_with_positions()
            },
            VitConfig {
                rel_pos_bias: true,
                global_pool: GlobalPool::Avg,
                fc_norm: true,
                ..deit_3_with_positions()
            },
            VitConfig {
                gated_mlp: true,
                act_layer: Gelu::Silu,
                ..micro()
            },
            VitConfig {
                scale_mlp: true,
                ..micro()
            },
            VitConfig {
                pre_norm: true,
                ..micro()
            },
            VitConfig {
                pre_norm: true,
                classes: 0,
                projection: 20,
                ..micro()
            },
            VitConfig {
                classes: 0,
                ..deit_3.clone()
            },
            VitConfig {
                classes: 0,
                distilled: true,
                ..micro()
            },
        ] {
            let file = zeros(one_part.expected_tensors());
            assert_eq!(VitConfig::from_shapes(&file, 3, &[]).unwrap(), one_part);
        }
    }

    #[test]
    fn refuses_forms_that_cannot_be() {
        for (from, to, expected) in [
            (
                r#""dim":48"#,
                r#""dim":50"#,
                "dim 50 is not divisible by heads 3",
            ),
            (
                r#"e":32"#,
                r#"e":7"#,
                "image_size is 7, where at least one patch of 8 is expected",
            ),
            (
                r#""heads":3"#,
                r#""heads":0"#,
                "heads is 0, where 1 to 1048576",
            ),
            (
                r#""depth":2"#,
                r#""depth":1000000000000"#,
                "depth is 1000000000000, where",
            ),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":-4"#,
                "mlp_dim is 0, where",
            ),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":1e300"#,
                "mlp_dim is 18446744073709551615,",
            ),
            (
                r#""image_size":32,"patch_size":8"#,
                r#""image_size":296,"patch_size":148"#,
                "patch_size is 148, where 1 to 147",
            ),
            (
                r#""image_size":32,"patch_size":8"#,
                r#""image_size":1048576,"patch_size":1"#,
                "the number of tokens that attend to each other is 1099511627777, where 1 to 65535",
            ),
            (
                r#""image_size":32,"patch_size":8,"dim":48"#,
                r#""image_size":255,"patch_size":1,"dim":48"#,
                "the number of an image's scores is 12685142028, where",
            ),
            (
                r#""dim":48"#,
                r#""dim":65538"#,
                "dim is 65538, where 1 to 65535",
            ),
            (r#""mlp_ratio":4,"#, "", "one of `mlp_dim` and `mlp_ratio`"),
            (
                r#""mlp_ratio":4"#,
                r#""mlp_ratio":4,"mlp_dim":192"#,
                "exclude each other",
            ),
            (
                r#""classes""#,
                r#""patch_norm":false,"classes""#,
                "unknown field `patch_norm`",
            ),
            (r#","classes":10"#, "", "missing field `classes`"),
            (
                r#""classes""#,
                r#""layer_norm_eps":-1,"classes""#,
                "layer_norm_eps is -1",
            ),
            (
                r#""classes""#,
                r#""distilled":true,"no_embed_class":true,"classes""#,
                "distilled and no_embed_class exclude each other",
            ),
            (
                r#""classes""#,
                r#""distilled":true,"global_pool":"avg","classes""#,
                "distilled goes with the class token's pooling",
            ),
            (
                r#""classes""#,
                r#""global_pool":"token_avg","fc_norm":true,"classes""#,
                "token_avg goes without fc_norm",
            ),
            (
                r#""classes""#,
                r#""gated_mlp":true,"global_pool":"map","classes""#,
                "gated_mlp and scale_mlp go without a global_pool of map",
            ),
            (
                r#""classes""#,
                r#""rotary":true,"ref_feat_shape":16,"classes""#,
                "rotary and ref_feat_shape exclude each other",
            ),
            (
                r#""classes""#,
                r#""class_token":false,"classes""#,
                "class_token is false, where distilled and a global_pool of token",
            ),
            (
                r#""classes":10"#,
                r#""projection":20,"classes":0"#,
                "projection goes with pre_norm, and without classes",
            ),
            (
                r#""classes":10"#,
                r#""projection":20,"pre_norm":true,"classes":10"#,
                "projection goes with pre_norm, and without classes",
            ),
            (
                r#""classes":10"#,
                r#""projection":65538,"pre_norm":true,"classes":0"#,
                "projection is 65538, where at most 65535",
            ),
            (
                r#""classes""#,
                r#""act_layer":"mish","classes""#,
                "unknown variant `mish`, expected one of `gelu`, `gelu_tanh`, `quick_gelu`, `silu`, `relu`",
            ),
            (
                r#""classes""#,
                r#""global_pool":"max","classes""#,
                "unknown variant `max`",
            ),
            (r#""vit""#, r#""pit""#, "unknown variant `pit`"),
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
    fn reads_all_but_the_heads_off_the_shapes() {
        let weights = zeros(micro().expected_tensors());
        assert_eq!(VitConfig::from_shapes(&weights, 3, &[]).unwrap(), micro());
        assert_eq!(VitConfig::from_shapes(&weights, 6, &[]).unwrap().heads, 6);
        let error = VitConfig::from_shapes(&weights, 5, &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("dim 48 is not divisible by heads 5"),
            "{error}"
        );
    }

    #[test]
    fn names_the_kinds_that_are_not_supported() {
        for (name, kind) in [
            ("vit.embeddings.cls_token", "Hugging Face"),
            ("visual.attnpool.k_proj.weight", "CLIP"),
            ("blocks.1.attn.q_norm.weight", "normalises queries and keys"),
        ] {
            let message = refusal(|tensors| {
                tensors.insert(name.to_owned(), vec![1]);
            });
            assert!(message.contains(kind), "{message}");
            assert!(message.ends_with("which is not supported"), "{message}");
        }
    }

    #[test]
    fn names_shapes_that_contradict() {
        let with = |name: &str, shape: &[usize]| {
            refusal(|tensors| {
                tensors.insert(name.to_owned(), shape.to_vec());
            })
        };
        for (message, expected) in [
            (
                with("pos_embed", &[1, 15, 48]),
                "`pos_embed` has 15 positions, where 1 before the patches, or none, and",
            ),
            (
                refusal(|tensors| {
                    tensors.remove("cls_token");
                }),
                "`pos_embed` has 17 positions, where 0 before the patches and",
            ),
            (
                with("pos_embed", &[1, 0, 48]),
                "`pos_embed` has 0 positions",
            ),
            (
                with("pos_embed", &[17, 48]),
                "`pos_embed` with 3 dimensions, found shape [17, 48]",
            ),
            (
                with("patch_embed.proj.weight", &[48, 5, 8, 8]),
                "takes 5 channels and patches of 8 by 8 pixels, where 1 to 4 channels",
            ),
            (
                with("patch_embed.proj.weight", &[48, 3, 8, 4]),
                "8 by 4 pixels",
            ),
            (
                with("patch_embed.proj.weight", &[0, 3, 8, 8]),
                "dim is 0, where",
            ),
            (
                with("patch_embed.proj.weight", &[0, 3, 1 << 40, 1 << 40]),
                "image_size is",
            ),
            (
                with("blocks.1.mlp.fc1.bias", &[7]),
                "`blocks.1.mlp.fc1.bias` [7] for [192]",
            ),
            (
                with("blocks.0.ls1.gamma", &[48]),
                "3 missing: `blocks.0.ls2.gamma`, `blocks.1.ls1.gamma`",
            ),
            (
                with("blocks.1.ls1.gamma", &[48]),
                "1 unexpected: `blocks.1.ls1.gamma`",
            ),
            (
                with("blocks.3.norm1.weight", &[48]),
                "1 unexpected: `blocks.3.norm1.weight`",
            ),
            (
                refusal(BTreeMap::clear),
                "expected timm's tensor `patch_embed.proj.weight` with 4 dimensions, there is none",
            ),
            (
                refusal(|tensors| tensors.retain(|name, _| !name.starts_with("blocks.0."))),
                "`blocks.0.mlp.fc1.weight` with 2 dimensions, there is none",
            ),
        ] {
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
    }

    #[test]
    fn a_head_reads_nothing_where_nothing_is_pooled() {
        let unpooled = Architecture::Vit(micro().unpooled());
        let headless = zeros(unpooled.expected_tensors());
        assert_eq!(unpooled.fitted(&headless, "the test").unwrap(), unpooled);
        // 17 tokens of 48 features.
        assert_eq!(unpooled.answer(), Answer::Features(17 * 48));
        assert_eq!(unpooled.patch_features(), Some((48, [16, 48])));
        let with_head = zeros(micro().expected_tensors());
        let error = unpooled.fitted(&with_head, "the test").unwrap_err();
        let expected = "it has a head, for which an empty global_pool pools nothing";
        assert!(error.to_string().ends_with(expected), "{error}");
    }

    #[test]
    fn fits_a_file_of_another_class_count_only() {
        let five = VitConfig {
            classes: 5,
            ..micro()
        };
        let told = Architecture::Vit(VitConfig {
            layer_norm_eps: 1e-5,
            ..micro()
        });
        let fitted = told
            .fitted(&zeros(five.expected_tensors()), "the test")
            .unwrap();
        let expected = VitConfig {
            classes: 5,
            layer_norm_eps: 1e-5,
            ..micro()
        };
        assert_eq!(fitted, Architecture::Vit(expected));

        let other = VitConfig {
            depth: 1,
            ..micro()
        };
        let error = told
            .fitted(&zeros(other.expected_tensors()), "the test")
            .unwrap_err();
        let expected = "doesn't fit the test: depth is 1, not 2";
        assert!(error.to_string().ends_with(expected), "{error}");

        let registers = VitConfig {
            reg_tokens: 1,
            ..micro()
        };
        let error = told
            .fitted(&zeros(registers.expected_tensors()), "the test")
            .unwrap_err();
        let expected = "doesn't fit the test: reg_tokens is 1, not 0";
        assert!(error.to_string().ends_with(expected), "{error}");

        let smaller = told.with_image_size(16.into()).unwrap();
        let error = told
            .fitted(&zeros(smaller.expected_tensors()), "the test")
            .unwrap_err();
        let expected = "doesn't fit the test: its positions are for images of 16 pixels, not 32; `interpolate_positions` resamples them";
        assert!(error.to_string().ends_with(expected), "{error}");

        let headless = VitConfig {
            classes: 0,
            ..micro()
        };
        let fitted = told.fitted(&zeros(headless.expected_tensors()), "the test");
        assert_eq!(fitted.unwrap().answer(), Answer::Features(48));

        // What the head gives is the file's, the form of GELU is what was told.
        let clip = VitConfig {
            pre_norm: true,
            act_layer: Gelu::Quick,
            ..micro()
        };
        let projected = VitConfig {
            classes: 0,
            projection: 20,
            ..clip.clone()
        };
        let file = zeros(projected.expected_tensors());
        let fitted = Architecture::Vit(clip).fitted(&file, "the test").unwrap();
        assert_eq!(fitted.answer(), Answer::Features(20));
        assert_eq!(fitted, Architecture::Vit(projected));
        let error = told.fitted(&file, "the test").unwrap_err().to_string();
        assert!(error.ends_with("pre_norm is true, not false"), "{error}");

        let both = VitConfig {
            global_pool: GlobalPool::TokenAvg,
            ..micro()
        };
        let error = told
            .fitted(&zeros(both.expected_tensors()), "the test")
            .unwrap_err();
        let expected =
            "doesn't fit the test: the number of features that a head reads is 96, not 48";
        assert!(error.to_string().ends_with(expected), "{error}");

        let distilled = VitConfig {
            distilled: true,
            ..micro()
        };
        let error = told
            .fitted(&zeros(distilled.expected_tensors()), "the test")
            .unwrap_err();
        let expected = "doesn't fit the test: distilled is true, not false";
        assert!(error.to_string().ends_with(expected), "{error}");

        let error = told
            .fitted(&zeros(micro_deit_3().expected_tensors()), "the test")
            .unwrap_err();
        let expected = "doesn't fit the test: layer_scale is true, not false; no_embed_class is true, not false";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
