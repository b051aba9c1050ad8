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
    assert cfg.input_size[0] == 3 and cfg.input_size[1] == cfg.input_size[2] and cfg.crop_mode == "center"
    return dict(
        image_size=cfg.input_size[1], crop_pct=cfg.crop_pct, interpolation=cfg.interpolation, mean=cfg.mean, std=cfg.std
    )


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
    "init_values", "no_embed_class", "reg_tokens",
}


def only_sized(arguments):
    return set(arguments) <= SIZES and not isinstance(arguments.get("window_size"), list)


classes = tomllib.loads((Path(sys.argv[1]) / "timm/architectures.toml").read_text())
del classes["renamed"]
names = [name for named in classes.values() for name, arguments in named.items() if only_sized(arguments)]
facts = []
for name in sorted(names):
    cfgs = get_arch_pretrained_cfgs(name)
    default = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000)
    stages = model.layers if hasattr(model, "layers") else [model]
    (eps,) = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    fact = dict(
        hub_id=default.hf_hub_id,
        # The pretrained tags with a classifier and the default's preprocessing.
        tags=[
            cfg.hf_hub_id.split(".")[1]
            for cfg in cfgs.values()
            if cfg.hf_hub_id and cfg.num_classes and preprocessing(cfg) == preprocessing(default)
        ],
        preprocessing=preprocessing(default),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        heads=[stage.blocks[0].attn.num_heads for stage in stages],
        layer_norm_eps=eps,
    )
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fact.items()]
    tensors = [f"   {json.dumps(tensor)}: {list(shape)}" for tensor, shape in sorted(folded(model.state_dict()))]
    lines.append('  "tensors": {\n' + ",\n".join(tensors) + "\n  }")
    facts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
print("{\n" + ",\n".join(facts) + "\n}")
