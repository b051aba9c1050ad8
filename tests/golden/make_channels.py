"""Writes grey_micro, a small random ViT of images with one channel, and alpha_micro, a small random Swin of images with four,
with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_channels.py FOLDER"""

import sys

import torch
from timm.models import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from network import Network, lively, save, weights

torch.manual_seed(0)
config = dict(family="vit", image_size=24, patch_size=8, in_chans=1, dim=24, depth=2, heads=2, mlp_ratio=2, classes=7)
model = VisionTransformer(
    img_size=24, patch_size=8, in_chans=1, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2, num_classes=7
)
stored = weights(lively(model))
images = torch.randn(3, 1, 24, 24)
answers = Network(model, images).answers(images, operands=False)
save(sys.argv[1], "grey_micro", config, stored, answers)

sizes = dict(patch_size=4, in_chans=4, depths=[1, 1], mlp_ratio=2)
config = dict(family="swin", image_size=16, window=2, dim=16, heads=[2, 4], classes=7, **sizes)
model = SwinTransformer(img_size=16, window_size=2, embed_dim=16, num_heads=(2, 4), num_classes=7, **sizes)
stored = weights(lively(model))
images = torch.randn(3, 4, 16, 16)
answers = Network(model, images).answers(images, operands=False)
save(sys.argv[1], "alpha_micro", config, stored, answers)
