"""Writes swin_v2_micro, a small random Swin V2 as timm's `SwinTransformerV2` builds it, with windows that are shifted and a stage
that is one window, trained with smaller ones, and its answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_swin_v2.py FOLDER"""

import sys

import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2

from network import Network, lively, save, weights


def swin_v2(config):
    """timm's model of a golden file's `config`."""
    return SwinTransformerV2(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        window_size=config["window"],
        embed_dim=config["dim"],
        depths=config["depths"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"],
        pretrained_window_sizes=config["pretrained_windows"],
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=4, window=4, dim=24, depths=[2, 2], heads=[2, 4], mlp_ratio=2, classes=7)
    config = dict(family="swin", **sizes, v2=True, pretrained_windows=[3, 0])
    model = swin_v2(config)
    stored = weights(lively(model))
    images = torch.randn(3, 3, 32, 32)
    answers = Network(model, images).answers(images, operands=False)
    save(sys.argv[1], "swin_v2_micro", config, stored, answers)
