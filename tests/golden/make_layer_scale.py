"""Writes layer_scale_micro.safetensors and layer_scale_micro.golden.safetensors: a small random DeiT III, timm's own
`VisionTransformer` with LayerScale and no position for the class token; its logits, and output and gradient of its matrix
products, in float64. Made with timm 1.0.31 and torch 2.15.0: python make_layer_scale.py FOLDER"""
import json, sys
from pathlib import Path
from types import MethodType
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer

torch.manual_seed(0)
sizes = dict(image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=2, classes=7)
model = VisionTransformer(img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2, num_classes=7,
                          init_values=1e-6, no_embed_class=True).eval()
for name, p in model.named_parameters():
    if name.endswith("gamma"):
        # Over two orders of magnitude, of either sign.
        p.data = 10 ** (torch.rand(p.shape) * 2 - 1.5) * torch.randn(p.shape).sign()
    elif p.dim() == 1:
        p.data = torch.randn(p.shape) * 0.3 + ("norm" in name and name.endswith("weight"))
    elif name in ("cls_token", "pos_embed"):
        p.data = torch.randn(p.shape) * 0.5
    else:
        p.data = torch.randn(p.shape) * (2.2 if "qkv" in name else 1.2) / p[0].numel() ** 0.5
weights = {name: p.detach().clone() for name, p in model.named_parameters()}
assert weights["pos_embed"].shape == (1, 9, 24) and "blocks.1.ls2.gamma" in weights
model = model.double()
x = torch.randn(3, 3, 24, 24).double()
expected = model(x)

out = {}
def keep(name, y):
    y.retain_grad()
    out[name] = y
    return y

# timm's attention in one step hides its two products.
def attend(self, x, *_, **__):
    images, tokens, _ = x.shape
    q, k, v = self.qkv(x).reshape(images, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = keep(f"{self.name}.qk", q @ k.transpose(-2, -1)) * self.scale
    context = keep(f"{self.name}.pv", scores.softmax(-1) @ v)
    return self.proj(context.transpose(1, 2).reshape(images, tokens, -1))

for name, layer in model.named_modules():
    if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
        layer.register_forward_hook(lambda _, __, y, name=name: keep(name, y))
    elif isinstance(layer, Attention):
        layer.name, layer.forward = name, MethodType(attend, layer)
logits = model(x)
torch.testing.assert_close(logits, expected)
F.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
answers = {"input": x, "logits": logits}
for name, y in out.items():
    # A convolution's channels come first.
    rows = lambda t: t.flatten(2).transpose(1, 2) if name == "patch_embed.proj" else t
    answers[f"site/{name}/out"], answers[f"site/{name}/grad"] = rows(y), rows(y.grad)
folder = Path(sys.argv[1])
config = json.dumps(dict(family="vit", layer_scale=True, no_embed_class=True, **sizes))
save_file(weights, folder / "layer_scale_micro.safetensors", metadata={"config": config})
save_file({k: v.detach().float().contiguous() for k, v in answers.items()}, folder / "layer_scale_micro.golden.safetensors")
