"""Writes siglip_micro, a small random image tower of SigLIP's as timm's `VisionTransformer` builds it, whose images patches don't
fill, and siglip_head_micro, one with registers, a classifier and tanh's form of GELU, with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_siglip.py FOLDER"""

import sys

import torch
from timm.models.vision_transformer import VisionTransformer

from network import Network, lively, save, weights

SIZES = dict(patch_size=8, depth=2, mlp_ratio=2, class_token=False, global_pool="map")
NETWORKS = {
    "siglip_micro": (dict(image_size=30, classes=0), dict()),
    "siglip_head_micro": (dict(image_size=24, classes=7), dict(act_layer="gelu_tanh", reg_tokens=2)),
}

torch.manual_seed(0)
for name, (told, others) in NETWORKS.items():
    size, classes = told["image_size"], told["classes"]
    config = dict(family="vit", **told, dim=24, heads=2, **SIZES, **others)
    model = VisionTransformer(img_size=size, embed_dim=24, num_heads=2, num_classes=classes, **SIZES, **others)
    stored = weights(lively(model))
    images = torch.randn(3, 3, size, size)
    answers = Network(model, images).answers(images, operands=False)
    save(sys.argv[1], name, config, stored, answers)
