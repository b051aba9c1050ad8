"""Writes distilled_micro.safetensors and distilled_micro.golden.safetensors: a small random DeiT with timm's own
`VisionTransformerDistilled`, its logits, and output and gradient of its linear layers, in float64.
Made with timm 1.0.31 and torch 2.13.0: python make_distilled.py FOLDER"""
import json, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled

torch.manual_seed(0)
sizes = dict(image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=2, classes=7)
model = VisionTransformerDistilled(img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2,
                                   num_classes=7).eval()
for p in model.parameters():
    p.data = torch.randn(p.shape) * 0.3
for name, p in model.named_parameters():
    if "norm" in name and name.endswith("weight"):
        p.data += 1
weights = {name: p.detach().clone() for name, p in model.state_dict().items()}
model = model.double()
out = {}
for name, layer in model.named_modules():
    if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
        def keep(_, __, y, name=name):
            y.retain_grad()
            out[name] = y
        layer.register_forward_hook(keep)
x = torch.randn(3, 3, 24, 24).double()
logits = model(x)
F.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
rows = lambda t: t.flatten(2).transpose(1, 2) if t.dim() == 4 else t
answers = {"input": x, "logits": logits}
for name, y in out.items():
    answers[f"site/{name}/out"], answers[f"site/{name}/grad"] = rows(y), rows(y.grad)
folder = Path(sys.argv[1])
config = json.dumps(dict(family="vit", distilled=True, **sizes))
save_file(weights, folder / "distilled_micro.safetensors", metadata={"config": config})
save_file({k: v.detach().float().contiguous() for k, v in answers.items()}, folder / "distilled_micro.golden.safetensors")
