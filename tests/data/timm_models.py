"""Prints what timm says about the networks that can be run here, as JSON: `python timm_models.py ../../models > timm_models.json`."""

import json
import re
import sys
import tomllib
from pathlib import Path

import timm
import torch
from timm.models import get_arch_pretrained_cfgs


def preprocessing(cfg):
    assert cfg.input_size[0] == 3 and cfg.input_size[1] == cfg.input_size[2]
    # What is the default isn't told.
    mode = {} if cfg.crop_mode == "center" else dict(crop_mode=cfg.crop_mode)
    return dict(
        image_size=cfg.input_size[1], crop_pct=cfg.crop_pct, **mode, interpolation=cfg.interpolation, mean=cfg.mean,
        std=cfg.std,
    )  # fmt: skip


def folded(tensors):
    """`blocks.0-11.norm1.bias` for what blocks 0 to 11 all have in one shape."""
    groups = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"(.*\bblocks)\.(\d+)\.(.*)", name)
        before, number, after = block.groups() if block else (name, None, None)
        groups.setdefault((before, after, tuple(tensor.shape)), []).append(number)
    for (before, after, shape), numbers in groups.items():
        if after is None:
            yield before, shape
        else:
            assert numbers == [str(number) for number in range(len(numbers))]
            yield f"{before}.0-{len(numbers) - 1}.{after}", shape


# Arguments that size a network or give it a part that is supported, or that say how it takes images of another size.
SIZES = {
    "img_size", "patch_size", "embed_dim", "depth", "depths", "num_heads", "mlp_ratio", "window_size", "dynamic_img_size",
    "init_values", "no_embed_class", "reg_tokens", "global_pool", "fc_norm", "pre_norm", "act_layer", "norm_layer",
    "class_token", "qkv_bias", "mlp_layer", "pretrained_window_sizes", "block_fn",
}
# Those of DINOv3's class, whose positions have to be rotary of its kind, or learned, or both as in EVA-02.
ROTARY = dict(use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True)
EVA_SIZES = SIZES | set(ROTARY) | {"num_reg_tokens", "use_fc_norm", "swiglu_mlp", "swiglu_align_to"}
EVA_SIZES |= {"scale_mlp", "qkv_fused", "ref_feat_shape"}
# Those of BEiT's, whose positions are relative or learned.
BEIT_SIZES = SIZES | {"use_rel_pos_bias", "use_abs_pos_emb", "use_fc_norm"}
MLPS = (timm.layers.Mlp, timm.layers.GluMlp, timm.layers.SwiGLU)
FORMS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu", "ReLU": "relu"}


def trained_with(cfg, form):
    """timm notes which weights were trained with another form of GELU than their network has by its name."""
    return form == "quick_gelu" or not any("QuickGELU" in note for note in cfg.notes or ())


def of_eva(arguments):
    rotary = {name: arguments.get(name) for name in ROTARY}
    untold = not any(name.startswith("rope") for name in arguments)
    learned = (not arguments.get("use_rot_pos_emb") or untold) and arguments.get("use_abs_pos_emb", True)
    return set(arguments) <= EVA_SIZES and (learned or rotary == ROTARY)


def of_beit(arguments):
    learned = arguments.get("use_abs_pos_emb", True)
    return set(arguments) <= BEIT_SIZES and arguments.get("use_rel_pos_bias", False) != learned


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


def only_sized(arguments):
    pools = arguments.get("global_pool", "token") in ("token", "avg", "map")
    norms = arguments.get("norm_layer", "LayerNorm") in ("LayerNorm", "LayerNorm(eps=1e-05)")
    acts = arguments.get("act_layer", "gelu").lower() in FORMS.values()
    mlps = arguments.get("mlp_layer", "Mlp") in ("Mlp", "GluMlp(gate_last=False)")
    blocks = arguments.get("block_fn", "Block") in ("Block", "ResPostBlock")
    windows = not isinstance(arguments.get("window_size"), list)
    kinds = set(arguments) <= SIZES or of_eva(arguments) or of_beit(arguments)
    return kinds and pools and norms and acts and mlps and blocks and windows


classes = tomllib.loads((Path(sys.argv[1]) / "timm/architectures.toml").read_text())
del classes["renamed"]
names = [name for named in classes.values() for name, arguments in named.items() if only_sized(arguments)]
facts = []
for name in sorted(names):
    cfgs = get_arch_pretrained_cfgs(name)
    default = timm.get_pretrained_cfg(name)
    # CLIP's own weights have a projection for features in the place of a classifier, which timm gives a bias of zeros.
    projects = "_clip_" in name and "_ft_" not in default.tag and not name.startswith("eva")
    classes = 1000 if default.num_classes and not projects else 0
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=default.num_classes if projects else classes)
        if projects:
            model.head.bias = None
        if getattr(model, "attn_pool", None):
            # The program projects the latent once, when it opens a file.
            model.attn_pool.q = torch.nn.Identity()
    stages = model.layers if hasattr(model, "layers") else [model]
    (eps,) = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    (form,) = {FORMS[type(module.act).__name__] for module in model.modules() if isinstance(module, MLPS)}
    state = dict(as_here(model.state_dict()))
    fact = dict(
        hub_id=default.hf_hub_id,
        # The pretrained tags with a classifier, or without one like the default, and the default's preprocessing.
        tags=[
            cfg.hf_hub_id.split(".")[1]
            for cfg in cfgs.values()
            if cfg.hf_hub_id and bool(cfg.num_classes) == bool(classes or projects)
            and preprocessing(cfg) == preprocessing(default) and trained_with(cfg, form)
        ],
        preprocessing=preprocessing(default),
        classes=classes,
        projection=default.num_classes if projects else 0,
        parameters=sum(tensor.numel() for tensor in state.values()),
        heads=[stage.blocks[0].attn.num_heads for stage in stages],
        layer_norm_eps=eps,
        act_layer=form,
    )
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fact.items()]
    tensors = [f"   {json.dumps(tensor)}: {list(shape)}" for tensor, shape in sorted(folded(state))]
    lines.append('  "tensors": {\n' + ",\n".join(tensors) + "\n  }")
    facts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
print("{\n" + ",\n".join(facts) + "\n}")
