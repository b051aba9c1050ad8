"""Prints config.json files as timm itself saves them, as JSON: `python timm_configs.py > timm_configs.json`."""

import inspect
import json
import re
import tempfile
from pathlib import Path

import timm
import torch
from timm.models._hub import save_config_for_hf
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer

VIT = "vit_tiny_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"
SWIN_V2 = "swinv2_tiny_window8_256"
SMALL = dict(embed_dim=48, depth=1, num_heads=3)
SMALL_SWIN = dict(embed_dim=24, depths=(1, 1), num_heads=(3, 6))
TRAINING = dict(drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.2)


def defaults(model_cls):
    """All arguments of a constructor whose defaults JSON can hold."""
    parameters = inspect.signature(model_cls.__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if isinstance(parameter.default, (bool, int, float, str, tuple))
    }


# Networks that can be run here.
SUPPORTED = [
    ("vit_tiny_patch16_384", dict(depth=1)),
    ("vit_small_patch16_384", dict(depth=1)),
    ("vit_small_patch32_384", dict(depth=1)),
    ("vit_base_patch8_224", SMALL),
    ("vit_giant_patch14_224", dict(depth=1, embed_dim=1408 // 16, num_heads=1)),
    ("test_vit", {}),
    (VIT, SMALL | dict(global_pool="", num_classes=0)),
    (VIT, defaults(VisionTransformer) | SMALL),
    (VIT, SMALL | TRAINING | dict(pos_drop_rate=0.1, patch_drop_rate=0.1, weight_init="jax", fix_init=True)),
    (VIT, SMALL | dict(dynamic_img_size=True, dynamic_img_pad=True)),
    (VIT, SMALL | dict(img_size=(96, 96), patch_size=(8, 8), mlp_ratio=3, num_classes=5)),
    (VIT, SMALL | dict(act_layer="GELU", norm_layer="layernorm", attn_layer="attn", fc_norm=False, scriptable=False)),
    ("flexivit_small", SMALL | dict(no_embed_class=False)),
    ("flexivit_small", SMALL),
    ("deit3_small_patch16_224", SMALL | TRAINING),
    ("deit3_small_patch16_224", SMALL | dict(init_values=0)),
    ("vit_small_patch14_dinov2", SMALL | dict(num_classes=5)),
    (VIT, SMALL | dict(init_values=1e-5, no_embed_class=True)),
    (VIT, SMALL | dict(reg_tokens=4)),
    ("vit_small_patch14_reg4_dinov2", SMALL | dict(num_classes=5)),
    ("deit3_small_patch16_224", SMALL | dict(reg_tokens=1)),
    ("deit_tiny_distilled_patch16_224", SMALL | TRAINING),
    (VIT, SMALL | dict(global_pool="avg")),
    (VIT, SMALL | dict(global_pool="avg", fc_norm=False, reg_tokens=2)),
    (VIT, SMALL | dict(fc_norm=True)),
    ("eva_large_patch14_196", dict(depth=1, embed_dim=64, num_heads=2)),
    (VIT, SMALL | dict(num_classes=0)),
    (VIT, SMALL | dict(num_classes=0, global_pool="avg")),
    (VIT, SMALL | dict(num_classes=0, global_pool="avg", fc_norm=False)),
    ("vit_small_patch14_dinov2", SMALL | dict(num_classes=0, img_size=224)),
    ("vit_small_patch14_reg4_dinov2", SMALL | dict(num_classes=0)),
    ("deit_tiny_distilled_patch16_224", SMALL | dict(num_classes=0)),
    (VIT, SMALL | dict(act_layer="gelu_tanh")),
    (VIT, SMALL | dict(act_layer="silu")),
    (VIT, SMALL | dict(act_layer="relu")),
    (VIT, SMALL | dict(act_layer="quick_gelu", pre_norm=True, num_classes=0)),
    ("vit_base_patch16_clip_224", SMALL | dict(num_classes=0)),
    ("vit_base_patch16_clip_quickgelu_224", SMALL),
    ("vit_base_patch16_siglip_224", SMALL),
    ("vit_base_patch16_siglip_gap_224", SMALL | dict(num_classes=5)),
    ("vit_so400m_patch14_siglip_384", SMALL | dict(mlp_ratio=4.0, act_layer="gelu_tanh")),
    (VIT, SMALL | dict(class_token=False, global_pool="avg")),
    ("vit_base_patch16_rpn_224", SMALL | dict(num_classes=5)),
    (VIT, SMALL | dict(class_token=False, no_embed_class=True, global_pool="map", num_classes=0)),
    (VIT, SMALL | dict(reg_tokens=4, global_pool="map")),
    (VIT, SMALL | dict(img_size=230)),
    (VIT, SMALL | dict(qkv_bias=False)),
    ("vit_small_patch16_dinov3", SMALL),
    ("vit_small_patch16_dinov3_qkvb", SMALL | dict(global_pool="token", num_classes=5)),
    (VIT, SMALL | dict(scale_mlp_norm=True)),
    ("eva02_tiny_patch14_224", SMALL | dict(num_classes=0)),
    ("eva02_small_patch14_336", SMALL | dict(scale_mlp=True, ref_feat_shape=12)),
    ("eva02_base_patch14_448", SMALL | dict(qkv_bias=False, swiglu_mlp=False)),
    ("vit_giant_patch14_dinov2", SMALL | dict(num_classes=0, img_size=224)),
    ("vit_giant_patch14_reg4_dinov2", SMALL | dict(act_layer="gelu_tanh")),
    ("vit_small_plus_patch16_dinov3", SMALL),
    ("vit_7b_patch16_dinov3", SMALL | dict(num_classes=5, swiglu_align_to=0)),
    ("vit_giant_patch16_lingbot", SMALL | dict(swiglu_mlp=False)),
    ("vit_base_patch16_lingbot", SMALL | dict(img_size=256)),
    ("eva_giant_patch14_224", SMALL | dict(mlp_ratio=4.0, qkv_bias=False)),
    ("eva_giant_patch14_336", SMALL | dict(mlp_ratio=4.0, init_values=1e-5, num_reg_tokens=1)),
    ("beit_base_patch16_224", SMALL | TRAINING),
    ("beitv2_base_patch16_224", SMALL | dict(global_pool="token", qkv_bias=False, init_values=0, num_classes=5)),
    ("beit_base_patch16_384", SMALL | dict(use_rel_pos_bias=False, use_abs_pos_emb=True, num_classes=0)),
    (VIT, SMALL | dict(in_chans=1)),
    (VIT, SMALL | dict(img_size=(96, 64), in_chans=4)),
    (VIT, SMALL | dict(img_size=(48, 192), patch_size=8, class_token=False, global_pool="avg")),
    ("vit_small_patch16_dinov3", SMALL | dict(img_size=(64, 96))),
    ("eva02_tiny_patch14_224", SMALL | dict(img_size=(56, 84))),
    ("beit_base_patch16_224", SMALL | dict(img_size=(64, 96))),
    (SWIN, SMALL_SWIN | dict(in_chans=2)),
    (SWIN, SMALL_SWIN | dict(num_classes=0)),
    (SWIN, defaults(SwinTransformer) | SMALL_SWIN),
    (SWIN, SMALL_SWIN | TRAINING | dict(weight_init="moco", strict_img_size=False)),
    (SWIN, SMALL_SWIN | dict(window_size=(4, 4), img_size=64)),
    (SWIN, SMALL_SWIN | dict(dynamic_img_size=True)),
    ("swin_s3_tiny_224", SMALL_SWIN | dict(window_size=((7, 7), (7, 7)))),
    (SWIN_V2, SMALL_SWIN | TRAINING),
    (SWIN_V2, defaults(SwinTransformerV2) | SMALL_SWIN),
    (SWIN_V2, SMALL_SWIN | dict(img_size=192, num_classes=0)),
    ("swinv2_base_window12to16_192to256", SMALL_SWIN | dict(strict_img_size=False)),
]
FORMS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu", "ReLU": "relu"}
# Networks that can't, and what of them the program must name.
REFUSED = [
    (VIT, dict(global_pool="avgmax"), "global_pool"),
    (VIT, dict(global_pool="max"), "global_pool"),
    (VIT, dict(qk_norm=True), "qk_norm"),
    (VIT, dict(scale_attn_norm=True), "scale_attn_norm"),
    (VIT, dict(proj_bias=False), "proj_bias"),
    (VIT, dict(pos_embed="none"), "pos_embed"),
    (VIT, dict(final_norm=False), "final_norm"),
    (VIT, dict(pool_include_prefix=True), "pool_include_prefix"),
    (VIT, dict(norm_layer="rmsnorm"), "norm_layer"),
    (VIT, dict(act_layer="mish"), "act_layer"),
    (VIT, dict(attn_layer="diff", num_heads=2), "attn_layer"),
    (VIT, dict(global_pool="prr"), "global_pool"),
    ("eva02_tiny_patch14_224", dict(scale_attn_inner=True), "scale_attn_inner"),
    ("eva02_tiny_patch14_224", dict(rope_temperature=100), "rope_temperature"),
    ("eva02_tiny_patch14_224", dict(rope_rotate_half=True), "rope_rotate_half"),
    ("vit_medium_patch16_rope_reg1_gap_256", dict(depth=1), "use_abs_pos_emb"),
    ("vit_small_patch16_dinov3", dict(depth=1, global_pool="map"), "global_pool"),
    (VIT, dict(img_size=230, dynamic_img_pad=True), "dynamic_img_pad"),
    ("beit_base_patch16_224", dict(use_shared_rel_pos_bias=True), "use_shared_rel_pos_bias"),
    ("beit_base_patch16_224", dict(use_abs_pos_emb=True), "use_abs_pos_emb"),
    ("beit_base_patch16_224", dict(use_rel_pos_bias=False), "use_abs_pos_emb"),
    ("beit_base_patch16_224", dict(swiglu_mlp=True), "swiglu_mlp"),
    (SWIN, dict(global_pool="max"), "global_pool"),
    (SWIN, dict(img_size=(224, 192)), "image_size is 224x192"),
    (SWIN, dict(head_dim=16), "head_dim"),
    (SWIN, dict(always_partition=True), "always_partition"),
    (SWIN, dict(qkv_bias=False), "qkv_bias"),
    (SWIN, dict(window_size=(7, 14)), "window_size"),
    (SWIN, dict(window_size=((7, 7), (4, 4))), "window_size"),
    (SWIN, dict(mlp_ratio=(4, 3)), "mlp_ratio"),
    (SWIN_V2, dict(qkv_bias=False), "qkv_bias"),
    (SWIN_V2, dict(act_layer="relu"), "act_layer"),
    (SWIN_V2, dict(always_partition=True), "always_partition"),
    (SWIN_V2, dict(global_pool="max"), "global_pool"),
    ("swin_s3_tiny_224", dict(depths=(1, 1, 1, 1), num_heads=(3, 6, 12, 24)), "window_size"),
]


def as_here(tensors):
    """The names that the program gives `Eva`'s, `Beit`'s and `SwinTransformerV2`'s tensors, and one tensor for what has two."""
    for name, tensor in tensors.items():
        if name.endswith("attn.q_bias"):
            yield name.replace("q_bias", "qkv.bias"), torch.cat([tensor] * 3)
        elif name.endswith("attn.q_proj.bias"):
            yield name.replace("q_proj", "qkv"), torch.cat([tensor] * 3)
        elif name.endswith("attn.q_proj.weight"):
            yield name.replace("q_proj", "qkv"), torch.cat([tensors[name.replace("q_", part)] for part in ("q_", "k_", "v_")])
        elif ".fc1_g." in name:
            yield name.replace("fc1_g", "fc1"), torch.cat([tensor, tensors[name.replace("fc1_g", "fc1_x")]])
        elif not re.search(r"\.attn\.(k_proj|v_proj|v_bias)|\.fc1_x\.", name):
            yield re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name), tensor


def case(name, arguments, refused=None):
    model = timm.create_model(name, **arguments)
    stages = model.layers if hasattr(model, "layers") else [model]
    if name.startswith("vit_base_patch16_clip"):
        # CLIP's projection, to which timm gives a bias of zeros.
        model.head.bias = None
    if refused is None and getattr(model, "attn_pool", None):
        # The program projects the latent once, when it opens a file.
        model.attn_pool.q = torch.nn.Identity()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        save_config_for_hf(model, path)
        config = json.loads(path.read_text())
    return dict(
        config=config,
        heads=[stage.blocks[0].attn.num_heads for stage in stages],
        layer_norm_eps=getattr(stages[0].blocks[0].norm1, "eps", None),
        act_layer=FORMS.get(type(stages[0].blocks[0].mlp.act).__name__),
        tensors={key: list(tensor.shape) for key, tensor in as_here(model.state_dict())},
        refused=refused,
    )


def small(name, arguments):
    return (SMALL_SWIN if name.startswith("swin") else SMALL) | arguments


cases = [case(name, arguments) for name, arguments in SUPPORTED]
cases += [case(name, small(name, arguments), refused) for name, arguments, refused in REFUSED]
print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")
