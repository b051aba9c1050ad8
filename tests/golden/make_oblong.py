"""Writes small random networks of images that aren't squares, of each kind of positions, with their answers: oblong_micro, a ViT
(learned positions), oblong_dinov3_micro, oblong_eva02_micro (turns besides learned ones) and oblong_beit_micro.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_oblong.py FOLDER"""

import sys

import torch
from timm.models.vision_transformer import VisionTransformer

from make_beit import beit
from make_dinov3 import eva
from make_eva02 import GATED, eva02
from network import Network, lively, save, weights


def vit(config):
    """timm's model of a golden file's `config`."""
    return VisionTransformer(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"],
    )


SIZES = dict(patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=2)
ROTARY = dict(rotary=True, layer_scale=True, qkv_bias=False, reg_tokens=2, layer_norm_eps=1e-5)
NETWORKS = {
    "oblong_micro": (vit, dict(image_size=[16, 40], classes=7)),
    "oblong_dinov3_micro": (eva, dict(image_size=[32, 16], classes=7, global_pool="avg", **ROTARY)),
    "oblong_eva02_micro": (eva02, dict(image_size=[16, 32], classes=7, ref_feat_shape=3, **GATED)),
    "oblong_beit_micro": (beit, dict(image_size=[16, 32], classes=7, global_pool="avg", fc_norm=True)),
}

torch.manual_seed(0)
for name, (build, told) in NETWORKS.items():
    config = dict(family="vit", **SIZES, **told)
    if build is beit:
        config |= dict(rel_pos_bias=True)
    model = build(config)
    stored = weights(lively(model))
    images = torch.randn(3, 3, *config["image_size"])
    answers = Network(model, images).answers(images, operands=False)
    save(sys.argv[1], name, config, stored, answers)
