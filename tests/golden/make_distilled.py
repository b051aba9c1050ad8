"""Writes distilled_micro, a small random DeiT of timm's `VisionTransformerDistilled`, with its answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_distilled.py FOLDER"""

import sys

import torch
from timm.models.deit import VisionTransformerDistilled

from network import Network, save, weights

torch.manual_seed(0)
config = dict(
    family="vit", distilled=True, image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=2, classes=7
)
model = VisionTransformerDistilled(
    img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2, num_classes=7
)
for parameter in model.parameters():
    parameter.data = torch.randn(parameter.shape) * 0.3
for name, parameter in model.named_parameters():
    if "norm" in name and name.endswith("weight"):
        parameter.data += 1
stored = weights(model)
images = torch.randn(3, 3, 24, 24)
answers = Network(model, images).answers(images, operands=False)
save(sys.argv[1], "distilled_micro", config, stored, answers)
