"""Writes layer_scale_micro, a small random DeiT III: timm's `VisionTransformer` with LayerScale and no position for the class
token, with its answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_layer_scale.py FOLDER"""

import sys

import torch
from timm.models.vision_transformer import VisionTransformer

from network import Network, lively, save, weights

torch.manual_seed(0)
config = dict(
    family="vit",
    layer_scale=True,
    no_embed_class=True,
    image_size=24,
    patch_size=8,
    dim=24,
    depth=2,
    heads=2,
    mlp_ratio=2,
    classes=7,
)
model = VisionTransformer(
    img_size=24,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=2,
    mlp_ratio=2,
    num_classes=7,
    init_values=1e-6,
    no_embed_class=True,
)
stored = weights(lively(model))
images = torch.randn(3, 3, 24, 24)
answers = Network(model, images).answers(images, operands=False)
save(sys.argv[1], "layer_scale_micro", config, stored, answers)
