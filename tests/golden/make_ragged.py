"""Writes ragged_micro.safetensors and ragged_micro.golden.safetensors: a small random Swin whose windows fill no stage
(11 by 11 tokens, then 6 by 6, in windows of 5) and whose merging meets an odd side, with timm's own `SwinTransformer`; its
logits, and output and gradient of its matrix products, in float64.
Made with timm 1.0.31 and torch 2.15.0: python make_ragged.py FOLDER"""
import json, sys
from pathlib import Path
from types import MethodType
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer, WindowAttention

torch.manual_seed(0)
sizes = dict(image_size=44, patch_size=4, window=5, dim=16, depths=[2, 2], heads=[2, 4], mlp_ratio=2, classes=7)
model = SwinTransformer(img_size=44, patch_size=4, window_size=5, embed_dim=16, depths=(2, 2), num_heads=(2, 4), mlp_ratio=2,
                        num_classes=7).eval()
for name, p in model.named_parameters():
    if p.dim() == 1:
        p.data = torch.randn(p.shape) * 0.3 + ("norm" in name and name.endswith("weight"))
    elif name.endswith("table"):
        p.data = torch.randn(p.shape) * 0.5
    else:
        p.data = torch.randn(p.shape) * (2.2 if "qkv" in name else 1.2) / p[0].numel() ** 0.5
weights = {name: p.detach().clone() for name, p in model.named_parameters()}
model = model.double()
x = torch.randn(3, 3, 44, 44).double()
expected = model(x)

out = {}
def keep(name, y):
    y.retain_grad()
    out[name] = y
    return y

# timm's attention in one step hides its two products.
def attend(self, x, mask=None):
    windows, tokens, _ = x.shape
    q, k, v = self.qkv(x).reshape(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = keep(f"{self.name}.qk", q @ k.transpose(-2, -1)) * self.scale + self._get_rel_pos_bias()
    if mask is not None:
        scores = scores + mask.repeat(windows // len(mask), 1, 1)[:, None]
    context = keep(f"{self.name}.pv", scores.softmax(-1) @ v)
    return self.proj(context.transpose(1, 2).reshape(windows, tokens, -1))

for name, layer in model.named_modules():
    if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
        layer.register_forward_hook(lambda _, __, y, name=name: keep(name, y))
    elif isinstance(layer, WindowAttention):
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
config = json.dumps(dict(family="swin", **sizes))
save_file(weights, folder / "ragged_micro.safetensors", metadata={"config": config})
save_file({k: v.detach().float().contiguous() for k, v in answers.items()}, folder / "ragged_micro.golden.safetensors")
