"""Small networks of timm, whose matrix products are computed here so that their operands, outputs and gradients can be kept,
and the files that hold them. Everything is computed in float64 and stored as float32."""

import json
import math
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import Attention, AttentionPoolLatent, SwiGLU, apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer import WindowAttention
from timm.models.swin_transformer_v2 import WindowAttention as CosineAttention
from torch import nn


# Layers that are no site by themselves: what they give is computed once, or by one product with others.
PARTS = ("attn_pool.q", "fc1_g", "fc1_x", "attn.q_proj", "attn.k_proj", "attn.v_proj")


class Site:
    """One matrix product: A [..., M, K] times the weight [N, K], or times the activation B [..., K, N]. It keeps what the last
    pass had that goes back too: `a`, `b`, `bias`, `out`, and the gradient as `out.grad`."""

    def __init__(self, name, has_weight):
        self.name, self.has_weight = name, has_weight
        # What A and B are replaced by, if by anything.
        self.quantize = None

    def multiply(self, a, b, bias=None):
        if self.quantize is not None:
            a, b = self.quantize(a, b)
        out = F.linear(a, b, bias) if self.has_weight else a @ b
        if torch.is_grad_enabled():
            self.a, self.b, self.bias, self.out = a.detach(), b.detach(), bias, out
            out.retain_grad()
        return out


class Network:
    """A network of timm in float64, with its sites in order."""

    def __init__(self, model, images):
        """`images`: some with which the logits have to remain what timm computes."""
        self.model, self.sites = model.double().eval(), []
        with torch.no_grad():
            expected = model(images.double())
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                self._replace(module, _convolve, self._site(name, True))
            elif isinstance(module, nn.Linear) and not name.endswith(PARTS) and ".cpb_mlp." not in name:
                self._replace(module, _linear, self._site(name, True))
            elif isinstance(module, SwiGLU):
                self._replace(module, _gate, self._site(f"{name}.fc1", True))
            elif isinstance(module, (Attention, WindowAttention, BeitAttention)):
                products = self._site(f"{name}.qk", False), self._site(f"{name}.pv", False)
                self._replace(module, _attend, *products)
            elif isinstance(module, EvaAttention):
                products = self._site(f"{name}.qk", False), self._site(f"{name}.pv", False)
                whole = [] if module.qkv else [self._site(f"{name}.qkv", True)]
                self._replace(module, _attend_turned, *products, *whole)
            elif isinstance(module, CosineAttention):
                products = self._site(f"{name}.qk", False), self._site(f"{name}.pv", False)
                self._replace(module, _attend_by_cosine, *products)
            elif isinstance(module, AttentionPoolLatent):
                products = self._site(f"{name}.qk", False), self._site(f"{name}.pv", False)
                self._replace(module, _pool, *products)
        torch.testing.assert_close(self.logits(images), expected)

    def _site(self, name, has_weight):
        self.sites.append(Site(name, has_weight))
        return self.sites[-1]

    def _replace(self, module, forward, *sites):
        module.sites, module.forward = sites, MethodType(forward, module)

    @torch.no_grad()
    def logits(self, images):
        return self.model(images.double())

    def run(self, images):
        """The logits, having gone forward and back: the loss is the cross-entropy against the network's own class."""
        logits = self.model(images.double())
        F.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
        return logits

    def answers(self, images, operands):
        """Input, logits, and of each site output and gradient, and the operands too if asked for."""
        answers = {"input": images, "logits": self.run(images)}
        for site in self.sites:
            answers[f"site/{site.name}/out"] = site.out
            answers[f"site/{site.name}/grad"] = site.out.grad
            if operands:
                answers[f"site/{site.name}/a"] = site.a
            if operands and not site.has_weight:
                answers[f"site/{site.name}/b"] = site.b
        return answers


def _linear(self, x):
    return self.sites[0].multiply(x, self.weight, self.bias)


def _convolve(self, x):
    patch = self.kernel_size[0]
    rows = F.unfold(x, patch, stride=patch).transpose(1, 2)
    out = self.sites[0].multiply(rows, self.weight.flatten(1), self.bias)
    return out.transpose(1, 2).unflatten(2, (x.shape[2] // patch, x.shape[3] // patch))


def _qkv(self, x):
    """Queries, keys and values, whose biases may be tensors of their own."""
    if getattr(self, "q_bias", None) is None:
        qkv = self.qkv(x)
    else:
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = self.qkv.sites[0].multiply(x, self.qkv.weight, bias)
    return qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


def _attend(self, x, mask=None, **_):
    scores, context = self.sites
    q, k, v = _qkv(self, x)
    attention = scores.multiply(q, k.transpose(-2, -1)) * self.scale
    if isinstance(self, (WindowAttention, BeitAttention)):
        attention = attention + self._get_rel_pos_bias()
    if mask is not None:
        # The masks of an image's windows, for each of the images.
        attention = attention + mask.repeat(len(x) // len(mask), 1, 1)[:, None]
    return self.proj(context.multiply(attention.softmax(-1), v).transpose(1, 2).flatten(2))


def _attend_turned(self, x, rope, **_):
    scores, context, *whole = self.sites
    if self.qkv is None:
        parts = self.q_proj, self.k_proj, self.v_proj
        weight = torch.cat([part.weight for part in parts])
        biases = self.q_proj.bias, torch.zeros_like(self.v_proj.bias), self.v_proj.bias
    else:
        whole, weight, biases = self.qkv.sites, self.qkv.weight, (self.q_bias, self.k_bias, self.v_bias)
    qkv = whole[0].multiply(x, weight, None if biases[0] is None else torch.cat(biases))
    q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
    before = self.num_prefix_tokens
    q, k = (
        torch.cat([part[:, :, :before], apply_rot_embed_cat(part[:, :, before:], rope, half=self.rotate_half)], 2)
        for part in (q, k)
    )
    attention = scores.multiply(q, k.transpose(-2, -1)) * self.scale
    return self.proj(context.multiply(attention.softmax(-1), v).transpose(1, 2).flatten(2))


def _gate(self, x):
    # Both products are one here.
    weight, bias = (torch.cat([getattr(part, name) for part in (self.fc1_g, self.fc1_x)]) for name in ("weight", "bias"))
    gate, hidden = self.sites[0].multiply(x, weight, bias).chunk(2, -1)
    return self.fc2(self.norm(self.act(gate) * hidden))

def _attend_by_cosine(self, x, mask=None):
    scores, context = self.sites
    q, k, v = _qkv(self, x)
    # The program multiplies queries by what cosines are multiplied by, and by what it divides all scores by.
    scale = self.logit_scale.clamp(max=math.log(100)).exp() * math.sqrt(q.shape[-1])
    q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    attention = scores.multiply(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
    attention = attention + 16 * table[self.relative_position_index].permute(2, 0, 1).sigmoid()
    if mask is not None:
        attention = attention + mask.repeat(len(x) // len(mask), 1, 1)[:, None]
    return self.proj(context.multiply(attention.softmax(-1), v).transpose(1, 2).flatten(2))


def _pool(self, x):
    scores, context = self.sites
    # The same for every image, and no product of the network's: the program computes it once.
    q = self.q(self.latent).detach().expand(len(x), -1, -1).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
    k, v = self.kv(x).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
    attention = scores.multiply(q, k.transpose(-2, -1)) * self.scale
    x = self.proj(context.multiply(attention.softmax(-1), v).transpose(1, 2).flatten(2))
    return (x + self.mlp(self.norm(x)))[:, 0]


def lively(model, generator=None):
    """Gives `model` random weights with which softmax's rows are peaky and GELU's inputs have both signs, as trained
    networks have them."""
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "gamma_1", "gamma_2")):
            # LayerScale: over two orders of magnitude, of either sign.
            magnitudes = 10 ** (torch.rand(parameter.shape, generator=generator) * 2 - 1.5)
            parameter.data = magnitudes * torch.randn(parameter.shape, generator=generator).sign()
            continue
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.data = values * 0.3 + ("norm" in name and name.endswith("weight"))
        elif name.endswith(("table", "pos_embed", "token")):
            parameter.data = values * 0.5
        elif name.endswith("latent"):
            parameter.data = values
        elif name.endswith("logit_scale"):
            # What cosines are multiplied by, by its logarithm: some beyond the limit of 100.
            parameter.data = values * 2 + 2.5
        else:
            parameter.data = values * ((2.2 if "kv" in name else 1.2) / math.sqrt(parameter[0].numel()))
    return model


def weights(model):
    """What a checkpoint holds of `model`."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def save(folder, name, config, weights, answers):
    """Writes `NAME.safetensors` and `NAME.golden.safetensors`."""
    stored = {
        key: value.detach().to(torch.float32 if value.is_floating_point() else torch.int32).contiguous().clone()
        for key, value in answers.items()
    }
    metadata = {"config": json.dumps(config)}
    save_file(weights, Path(folder) / f"{name}.safetensors", metadata=metadata)
    save_file(stored, Path(folder) / f"{name}.golden.safetensors", metadata=metadata)
