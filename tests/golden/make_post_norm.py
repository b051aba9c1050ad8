"""Writes post_norm_micro, a small random ViT whose norms come after attention and MLP, with its answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_post_norm.py FOLDER"""

import sys

import torch
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from network import Network, lively, save, weights

SIZES = dict(patch_size=8, depth=2, mlp_ratio=2, class_token=False, qkv_bias=False, global_pool="avg")

torch.manual_seed(0)
config = dict(family="vit", image_size=24, dim=24, heads=2, classes=7, fc_norm=True, post_norm=True, **SIZES)
model = VisionTransformer(img_size=24, embed_dim=24, num_heads=2, num_classes=7, block_fn=ResPostBlock, **SIZES)
stored = weights(lively(model))
images = torch.randn(3, 3, 24, 24)
answers = Network(model, images).answers(images, operands=False)
save(sys.argv[1], "post_norm_micro", config, stored, answers)
