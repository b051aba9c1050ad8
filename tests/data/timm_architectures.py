"""Writes the architectures that timm builds of six of its classes: `python timm_architectures.py > ../../models/timm/architectures.toml`."""

import functools
import sys

import timm
from timm.models import _registry, list_models, model_entrypoint

CLASSES = ["VisionTransformer", "VisionTransformerDistilled", "Eva", "Beit", "SwinTransformer", "SwinTransformerV2"]
# Arguments of timm's builder and not of the network.
BUILDER = ["pretrained_filter_fn", "pretrained_strict", "feature_cfg", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"]


class Built(Exception):
    """What an entry point wants to be built."""


def catch(model_cls, variant, pretrained, **kwargs):
    raise Built(model_cls, kwargs)


def toml(value):
    """A layer class by its name, one with arguments bound as a call."""
    if isinstance(value, functools.partial):
        plain = {key: bound for key, bound in value.keywords.items() if isinstance(bound, (bool, int, float))}
        value = f"{value.func.__name__}({', '.join(f'{key}={bound}' for key, bound in plain.items())})"
    elif callable(value):
        value = value.__name__
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value)


for module in list(sys.modules.values()):
    if module.__name__.startswith("timm.models.") and hasattr(module, "build_model_with_cfg"):
        module.build_model_with_cfg = catch

architectures = {name: {} for name in CLASSES}
for name in list_models():
    try:
        model_entrypoint(name)()
    except Built as built:
        model_cls, kwargs = built.args
        if getattr(model_cls, "__name__", None) in CLASSES:
            # `create_model` drops what is None.
            architectures[model_cls.__name__][name] = {
                key: value for key, value in kwargs.items() if key not in BUILDER and value is not None
            }

print(f"# What timm {timm.__version__} builds of six of its classes, by name, with the arguments that it gives their constructors.")
print("# Made by tests/data/timm_architectures.py.")
for class_name, named in architectures.items():
    print(f"\n[{class_name}]")
    for name, arguments in named.items():
        print(f"{name} = {{ {', '.join(f'{key} = {toml(value)}' for key, value in arguments.items())} }}")
print("\n# Earlier names.\n[renamed]")
for earlier, name in _registry._deprecated_models.items():
    architecture = (name or "").split(".")[0]
    if any(architecture in named for named in architectures.values()):
        print(f'{earlier} = "{architecture}"')
