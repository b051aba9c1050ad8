"""Writes ragged_micro, a small random Swin of timm's `SwinTransformer` whose windows fill no stage (11 by 11 tokens, then 6
by 6, in windows of 5) and whose merging meets an odd side, with its answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_ragged.py FOLDER"""

import sys

import torch
from timm.models import SwinTransformer

from network import Network, lively, save, weights

torch.manual_seed(0)
config = dict(
    family="swin", image_size=44, patch_size=4, window=5, dim=16, depths=[2, 2], heads=[2, 4], mlp_ratio=2, classes=7
)
model = SwinTransformer(
    img_size=44, patch_size=4, window_size=5, embed_dim=16, depths=(2, 2), num_heads=(2, 4), mlp_ratio=2, num_classes=7
)
stored = weights(lively(model))
images = torch.randn(3, 3, 44, 44)
answers = Network(model, images).answers(images, operands=False)
save(sys.argv[1], "ragged_micro", config, stored, answers)
