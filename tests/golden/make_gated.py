"""Writes gated_micro, a small random DINOv2 with gated MLPs as timm's `VisionTransformer` builds the giant one, with gate and
hidden features in one product, and gated_head_micro, a DINOv3 with them as timm's `Eva` builds it, with a product for each and
a classifier on the mean of the patches, with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_gated.py FOLDER"""

import sys

import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer

from make_dinov3 import eva
from network import Network, lively, save, weights


def dinov2(config):
    """timm's model of a golden file's `config`."""
    return VisionTransformer(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        # That of what fc1 gives.
        mlp_ratio=2 * config["mlp_ratio"],
        num_classes=config["classes"],
        init_values=1e-5,
        mlp_layer=SwiGLUPacked,
        act_layer=config["act_layer"],
    )


SIZES = dict(image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=1.5, layer_scale=True)
GATED = dict(gated_mlp=True, act_layer="silu")
DINOV3 = dict(rotary=True, reg_tokens=2, qkv_bias=True, global_pool="avg", layer_norm_eps=1e-5)
NETWORKS = {
    "gated_micro": (dinov2, dict(classes=0)),
    "gated_head_micro": (eva, dict(classes=7, **DINOV3)),
}

if __name__ == "__main__":
    torch.manual_seed(0)
    for name, (build, told) in NETWORKS.items():
        config = dict(family="vit", **SIZES, **told, **GATED)
        model = build(config)
        stored = weights(lively(model))
        images = torch.randn(3, 3, 24, 24)
        answers = Network(model, images).answers(images, operands=False)
        save(sys.argv[1], name, config, stored, answers)
