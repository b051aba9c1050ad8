"""Answers about preset `best`, in float64. Of networks: what a written file's integers give, and what the LayerNorm transform
makes of the weights; `best.rs` writes the files, this reads them and writes NAME.best.safetensors. Of its steps: the Fisher
weights, levels, products with a weight; ../data/best has them, where unit tests read them.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python best.py FOLDER"""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from timm.layers import to_2tuple
from timm.models import SwinTransformer, VisionTransformer
from timm.models.vision_transformer import Block, ResPostBlock

import tables
from make_beit import beit
from make_dinov3 import eva
from make_gated import dinov2
from make_swin_v2 import swin_v2
from network import Network, lively, weights

NAMES = [
    "vit_micro", "swin_micro", "ragged_micro", "layer_scale_micro", "clip_micro", "relu_micro", "siglip_micro",
    "dinov3_micro", "beit_micro", "gated_micro", "swin_v2_micro", "grey_micro", "alpha_micro", "oblong_micro",
    "oblong_dinov3_micro", "oblong_beit_micro", "post_norm_micro",
]  # fmt: skip
# Images that are tried, and those of them that are kept.
TRIED, KEPT = 48, 4


def read(path):
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}


def build(config):
    """timm's model of a golden file's `config`."""
    if config.get("rotary"):
        return eva(config)
    if config.get("rel_pos_bias"):
        return beit(config)
    if config.get("gated_mlp"):
        return dinov2(config)
    if config.get("v2"):
        return swin_v2(config)
    common = dict(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        in_chans=config.get("in_chans", 3),
        embed_dim=config["dim"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"] or config.get("projection", 0),
    )
    if config["family"] == "swin":
        heads = dict(depths=config["depths"], num_heads=config["heads"], window_size=config["window"])
        return SwinTransformer(**common, **heads)
    model = VisionTransformer(
        **common,
        depth=config["depth"],
        num_heads=config["heads"],
        init_values=1e-6 if config.get("layer_scale") else None,
        no_embed_class=config.get("no_embed_class", False),
        pre_norm=config.get("pre_norm", False),
        act_layer=config.get("act_layer"),
        class_token=config.get("class_token", True),
        global_pool=config.get("global_pool", "token"),
        qkv_bias=config.get("qkv_bias", True),
        block_fn=ResPostBlock if config.get("post_norm") else Block,
    )
    if "projection" in config:
        model.head.bias = None
    return model


def with_one_bias(model):
    """Gives queries, keys and values one bias where it is in tensors of their own: those of keys are zeros that are no
    parameter, which a quantized file changes."""
    for module in model.modules():
        if getattr(module, "q_bias", None) is not None:
            bias = torch.cat((module.q_bias, module.k_bias, module.v_bias)).detach()
            module.qkv.bias = torch.nn.Parameter(bias)
            module.q_bias = module.v_bias = None
    return model


def noise(numbers, config):
    """The images of these numbers: each pixel is a hash of its place, from -2 to 2."""
    shape = config.get("in_chans", 3), *to_2tuple(config["image_size"])
    length = math.prod(shape)
    places = np.concatenate([np.arange(number * length, (number + 1) * length, dtype=np.uint64) for number in numbers])
    mixed = places * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    pixels = (mixed >> np.uint64(40)).astype(np.float64) / 2**22 - 2
    return torch.from_numpy(pixels).reshape(-1, *shape)


def unpack(packed, count, bits):
    """Two's complement codes of `bits` bits, lowest bit first."""
    flat = np.unpackbits(packed.numpy(), bitorder="little")[: count * bits].reshape(count, bits).astype(np.int64)
    values = flat @ (1 << np.arange(bits))
    return values - (values >> (bits - 1) << bits)


def integers(lanes, is_twin, shift):
    """What lanes are in units of the scale: signed, or magnitudes with a range flag on top."""
    lanes = lanes.numpy().astype(np.int64)
    if is_twin:
        return np.where(lanes < 128, lanes, (lanes & 127) << shift)
    return lanes - (lanes >> 7 << 8)


class Operand:
    """One operand of one site as a file has it: of each group the multiples of a scale that codes stand for, and the offset."""

    def __init__(self, tensors, name, scheme):
        self.scale = tensors[f"{name}.scale"].double()
        groups, bits = len(self.scale), scheme["bits"]
        is_twin = scheme["format"] == "twin_table"
        shifts = tensors[f"{name}.shift"].tolist() if is_twin else [0] * groups
        offsets = tensors.get(f"{name}.offset")
        self.offset = torch.zeros(groups).double() if offsets is None else offsets.double()
        if f"{name}.levels" in tensors:
            levels = tensors[f"{name}.levels"]
            self.multiples = [np.unique(integers(levels[g], is_twin, shifts[g])) for g in range(groups)]
        else:
            assert scheme["format"] == "uniform"
            self.multiples = [np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))] * groups

    def quantize(self, x, per_head, in_proportion):
        """The nearest levels without the offset, and of each image how close a value is to a boundary, in units of what f32
        may be off: the tensor's size, or the value's own."""
        parts, margin = [], torch.full((len(x),), np.inf, dtype=torch.float64)
        for group, part in enumerate(x.unbind(1) if per_head else [x]):
            scale, offset = self.scale[group], self.offset[group]
            multiples = torch.from_numpy(self.multiples[group]).double()
            boundaries = (multiples[1:] + multiples[:-1]) / 2 * scale + offset
            part = part.contiguous()
            parts.append(multiples[torch.bucketize(part, boundaries)] * scale)
            if len(boundaries):
                above = torch.bucketize(part, boundaries).clamp(max=len(boundaries) - 1)
                below = (above - 1).clamp(min=0)
                distance = torch.minimum((part - boundaries[above]).abs(), (part - boundaries[below]).abs())
                size = part.abs() if in_proportion else part.square().mean().sqrt()
                # Padding is exactly zero everywhere.
                distance = torch.where(part == 0, torch.inf, distance / size)
                margin = torch.minimum(margin, distance.flatten(1).amin(1))
        return (torch.stack(parts, 1) if per_head else parts[0]), margin


class Quantized:
    """The network of a written file, in float64."""

    def __init__(self, path, config, images):
        metadata, tensors = read(path)
        model = with_one_bias(build(config))
        if config.get("rotary") or config.get("rel_pos_bias"):
            # `Eva` and `Beit` call it otherwise.
            tensors = {re.sub(r"ls(\d)\.gamma$", r"gamma_\1", name): tensor for name, tensor in tensors.items()}
        self.network = Network(model, images)
        state = {name: value for name, value in tensors.items() if name in dict(model.named_parameters())}
        modules = dict(model.named_modules())
        plan = json.loads(metadata["plan"])
        schemes = plan.get("sites", plan)
        for site in self.network.sites:
            scheme = schemes[site.name]
            a = Operand(tensors, f"{site.name}.a", scheme["a"])
            if site.has_weight:
                weight = modules[site.name].weight
                bits = scheme["b"]["bits"]
                codes = unpack(tensors[f"{site.name}.b.codes"], weight.numel(), bits)
                if f"{site.name}.b.levels" in tensors:
                    levels = integers(tensors[f"{site.name}.b.levels"][0], False, 0)
                    codes = levels[codes + 2 ** (bits - 1)]
                rows = torch.from_numpy(codes).double().reshape(len(weight), -1)
                scales = tensors[f"{site.name}.b.scale"].double()
                rows = rows * scales.repeat_interleave(len(weight) // len(scales))[:, None]
                state[f"{site.name}.weight"] = rows.reshape(weight.shape)
                site.quantize = self._linear(a)
            else:
                b = Operand(tensors, f"{site.name}.b", scheme["b"])
                site.quantize = self._attention(a, b, site.name.endswith(".pv"))
        missing = {name for name, _ in model.named_parameters()} - set(state) - {"attn_pool.q.weight", "attn_pool.q.bias"}
        assert not missing, missing
        if "attn_pool.latent" in state:
            # The file has the query itself.
            model.attn_pool.q = torch.nn.Identity()
        model.load_state_dict({name: value.double() for name, value in state.items()}, strict=False)

    def _note(self, margin):
        of_images = margin.reshape(len(self.margins), -1).amin(1)
        self.margins = torch.minimum(self.margins, of_images)

    def _linear(self, a):
        def quantize(x, weight):
            values, margin = a.quantize(x, False, False)
            self._note(margin)
            return values, weight

        return quantize

    def _attention(self, a, b, is_context):
        def quantize(left, right):
            left, margin = a.quantize(left, len(a.scale) > 1, is_context)
            self._note(margin)
            right, margin = b.quantize(right, len(b.scale) > 1, False)
            self._note(margin)
            return left, right

        return quantize

    def logits(self, images):
        """Logits, and of each image how close a value comes to a boundary between two codes."""
        self.margins = torch.full((len(images),), np.inf, dtype=torch.float64)
        return self.network.logits(images), self.margins


def layer_norms(network, config):
    """The transform: what z and s make of γ, β, the weights' row sums and the biases of each LayerNorm and its readers."""
    modules, sites, found = dict(network.model.named_modules()), {site.name: site for site in network.sites}, {}
    swin = config["family"] == "swin"
    for name, norm in modules.items():
        # What gives one row an image remains as it is, mostly the last LayerNorm, as does that which no product reads.
        pools = config.get("global_pool") == "map"
        remain = ("patch_embed.norm", "norm_pre", "fc_norm", "attn_pool.norm" if pools else "norm")
        if not isinstance(norm, torch.nn.LayerNorm) or name in remain or config.get("v2") or config.get("post_norm"):
            continue
        stem, _, leaf = name.rpartition(".")
        if name == "norm":
            reader = "attn_pool.kv"
        elif stem.endswith("downsample"):
            reader = f"{stem}.reduction"
        else:
            reader = {"norm1": f"{stem}.attn.qkv", "norm2": f"{stem}.mlp.fc1"}[leaf]
        x = sites[reader].a
        linear = modules[reader]
        # Rows of zeros, in windows that the image doesn't fill.
        padded = leaf == "norm1" and swin and any(r % w for r, w in zip(modules[stem].input_resolution, modules[stem].window_size))
        centred = linear.bias is not None and not padded
        x = x.reshape(-1, x.shape[-1])
        low, high = (torch.quantile(x, share, dim=0) for share in (0.001, 0.999))
        z = (low + high) / 2 if centred else torch.zeros_like(low)
        s = ((high - low) / 2 if centred else torch.maximum(low.abs(), high.abs())).clamp(min=1e-4)
        found[f"prepared/{name}.weight"] = norm.weight / s
        found[f"prepared/{name}.bias"] = (norm.bias - z) / s
        found[f"prepared/{reader}.weight"] = linear.weight @ s
        if linear.bias is not None:
            found[f"prepared/{reader}.bias"] = linear.bias + linear.weight @ z
    return found


def half(values):
    """Rounds what a test is given, so that it takes half the bytes."""
    return torch.as_tensor(values).detach().half()


# Networks so small that they lie beside their answers: the configuration, the labels that the program draws of each image,
# and the sites whose Fisher weights are compared, at A or at O.
TINY = {
    "vit": (
        dict(family="vit", image_size=16, patch_size=8, dim=16, depth=2, heads=2, mlp_ratio=2, classes=5),
        [[3, 3, 3], [0, 4, 1]],
        {
            "patch_embed.proj": "out",
            "blocks.0.attn.qkv": "out",
            "blocks.0.attn.pv": "a",
            "blocks.1.attn.proj": "a",
            "blocks.1.mlp.fc2": "a",
            "head": "out",
        },
    ),
    "swin": (
        dict(family="swin", image_size=16, patch_size=4, window=2, dim=8, depths=[2, 2], heads=[1, 2], mlp_ratio=2, classes=5),
        [[3, 3, 3], [0, 3, 1]],
        {
            "patch_embed.proj": "out",
            "layers.0.blocks.1.attn.qkv": "out",
            "layers.0.blocks.1.attn.pv": "a",
            "layers.1.downsample.reduction": "out",
            "layers.1.blocks.1.mlp.fc1": "a",
            "head.fc": "out",
        },
    ),
}


def fisher_weights(config, labels, compared):
    """A tiny network, and the sums over probes of the squared gradients around its products."""
    torch.manual_seed(0)
    model = build(config)
    for parameter in lively(model).parameters():
        parameter.data = half(parameter).float()
    answers = {name: half(value) for name, value in weights(model).items()}
    images = half(noise(range(len(labels)), config))
    network, inputs = Network(model, images), {}

    def keep_input(name):
        def unchanged(a, b):
            inputs[name] = a
            return a, b

        return unchanged

    for site in network.sites:
        site.quantize = keep_input(site.name)
    logits = network.model(images.double())
    losses = [F.cross_entropy(logits, torch.tensor(drawn), reduction="sum") for drawn in zip(*labels)]
    outputs = {site.name: site.out for site in network.sites}
    for site, part in compared.items():
        at = {"a": inputs, "out": outputs}[part][site]
        squares = [torch.autograd.grad(loss, at, retain_graph=True)[0].square() for loss in losses]
        answers[f"fisher/{site}/{part}"] = sum(squares).float()
    answers |= {"fisher/images": images, "fisher/labels": torch.tensor(labels).int()}
    return answers


# Histograms: of which operand, the root that bins are equal in, and their number.
HISTOGRAMS = {
    "gelu": ("vit_micro", "blocks.0.mlp.fc2", 2, 400),
    # More than levels are found on, so that neighbours are merged.
    "softmax": ("swin_micro", "layers.0.blocks.0.attn.pv", 3, 700),
}
# Sites: of which network, with how many rows, inputs and outputs, at how many bits.
SITES = {
    "vit.proj": ("vit_micro", "blocks.0.attn.proj", (34, 48, 16), 4),
    "vit.fc2": ("vit_micro", "blocks.1.mlp.fc2", (68, 48, 12), 4),
    "swin.qkv": ("swin_micro", "layers.0.blocks.1.attn.qkv", (49, 32, 16), 6),
}


# Probabilities: of which network and product those below which value, at which bits.
UNCERTAIN = 0.4
HEADS = {
    "vit.pv": ("vit_micro", "blocks.1.attn.pv", (4, 6, 8)),
    "swin.pv": ("swin_micro", "layers.0.blocks.0.attn.pv", (4, 6, 8)),
}


def levels(folder):
    """Histograms, the best levels of each, by their number, and their errors."""
    answers = {}
    for name, (network, site, root, bins) in HISTOGRAMS.items():
        _, golden = read(folder / f"{network}.golden.safetensors")
        values = golden[f"site/{site}/a"].flatten().numpy()
        counted = tables.histogram(values, np.ones(len(values)), root, bins)
        given = [each.astype(np.float32) for each in counted]
        answers |= {f"{name}.centres": given[0], f"{name}.weights": given[1]}
        counted = [each.astype(float) for each in given]
        for count in (4, 16, 64):
            found = tables.optimal_levels(counted, count)
            answers[f"{name}.{count}.levels"] = found.astype(np.float32)
            answers[f"{name}.{count}.error"] = np.float32([tables.error(counted, found)])
    return {key: torch.from_numpy(value) for key, value in answers.items()}


def sites(folder):
    """What goes through some products, or through a part of them, and what their integers are then."""
    answers = {}
    for name, (network, site, (rows, inputs, outputs), bits) in SITES.items():
        _, weights = read(folder / f"{network}.safetensors")
        _, golden = read(folder / f"{network}.golden.safetensors")
        a, gradient = (golden[f"site/{site}/{part}"].flatten(0, -2)[:rows].double() for part in ("a", "grad"))
        weight = weights[f"{site}.weight"]
        of_a = (gradient @ weight.double())[:, :inputs].square()
        of_out = gradient[:, :outputs].square()
        given = {
            "a": half(a[:, :inputs]),
            "a_fisher": half(of_a / of_a.max()),
            "out_fisher": half(of_out / of_out.max()),
            "weight": half(weight[:outputs, :inputs]),
            "bias": half(weights[f"{site}.bias"][:outputs]),
        }
        found, margins = tables.site(*(value.float().numpy() for value in given.values()), bits, site.endswith("fc2"))
        print(name, "margins", {step: float(margin) for step, margin in margins.items()})
        # f32 decides nothing.
        assert min(margins.values()) > 1e-6
        found = {key: torch.from_numpy(value) for key, value in found.items()}
        answers |= {f"{name}/{key}": value.contiguous() for key, value in (given | found).items()}
    return answers


def heads(folder):
    """Probabilities of one head of each network, and the tables that stand for them."""
    answers = {}
    for name, (network, site, widths) in HEADS.items():
        _, golden = read(folder / f"{network}.golden.safetensors")
        p, gradient, v = (golden[f"site/{site}/{part}"] for part in ("a", "grad", "b"))
        fisher = (gradient.double() @ v.double().transpose(-1, -2)).square()
        # A head that hasn't been certain of anything yet.
        p, fisher = p[:4, 0], fisher[:4, 0]
        p, fisher = (values[p < UNCERTAIN] for values in (p, fisher))
        p, fisher = half(p), half(fisher / fisher.max())
        answers |= {f"{name}/a": p, f"{name}/a_fisher": fisher}
        for bits in widths:
            found, margin = tables.probabilities(p.float().numpy(), fisher.double().numpy(), bits)
            print(name, bits, "bits: margin", margin)
            # f32 decides nothing.
            assert margin > 1e-6
            answers |= {f"{name}/{bits}.{key}": torch.from_numpy(value) for key, value in found.items()}
    return {key: value.contiguous() for key, value in answers.items()}


def steps(folder, to):
    for family, (config, labels, compared) in TINY.items():
        answers = fisher_weights(config, labels, compared)
        save_file(answers, to / f"{family}_tiny.safetensors", metadata={"config": json.dumps(config)})
    save_file(levels(folder), to / "levels.safetensors")
    save_file(sites(folder), to / "sites.safetensors")
    save_file(heads(folder), to / "heads.safetensors")


def networks(folder):
    for name in NAMES:
        metadata, weights = read(folder / f"{name}.safetensors")
        config = json.loads(metadata["config"])
        _, golden = read(folder / f"{name}.golden.safetensors")
        model = build(config)
        model.load_state_dict(weights, strict=False)
        network = Network(with_one_bias(model), golden["input"])
        network.run(golden["input"])
        answers = {key: value.detach().float().contiguous() for key, value in layer_norms(network, config).items()}
        for bits in (4, 6):
            quantized = Quantized(folder / f"{name}.w{bits}a{bits}.safetensors", config, golden["input"])
            logits, margins = zip(*(quantized.logits(noise([n], config)) for n in range(TRIED)))
            logits, margins = torch.cat(logits), torch.cat(margins)
            chosen = margins.argsort(descending=True)[:KEPT].sort().values
            print(name, bits, "bits: margins", margins[chosen].tolist(), "of a median", float(margins.median()))
            answers[f"w{bits}a{bits}/images"] = chosen.int()
            answers[f"w{bits}a{bits}/logits"] = logits[chosen].float()
        save_file(answers, folder / f"{name}.best.safetensors")


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    steps(folder, folder.parent / "data" / "best")
    networks(folder)
