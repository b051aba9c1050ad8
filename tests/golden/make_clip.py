"""Writes clip_micro, a small random image tower of CLIP's as timm's `VisionTransformer` builds it, with OpenAI's QuickGELU and
a projection, and clip_head_micro, a fine-tuned one with tanh's form of GELU, with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_clip.py FOLDER"""

import sys

import torch
from timm.models.vision_transformer import VisionTransformer

from network import Network, lively, save, weights

SIZES = dict(patch_size=8, depth=2, mlp_ratio=2, pre_norm=True)
NETWORKS = {
    "clip_micro": (dict(act_layer="quick_gelu", classes=0, projection=20), 20),
    "clip_head_micro": (dict(act_layer="gelu_tanh", classes=7), 7),
}

torch.manual_seed(0)
for name, (told, outputs) in NETWORKS.items():
    config = dict(family="vit", image_size=24, dim=24, heads=2, **SIZES, **told)
    model = VisionTransformer(
        img_size=24, embed_dim=24, num_heads=2, num_classes=outputs, act_layer=told["act_layer"], **SIZES
    )
    if "projection" in told:
        # timm gives it a bias of zeros.
        model.head.bias = None
    stored = weights(lively(model))
    images = torch.randn(3, 3, 24, 24)
    answers = Network(model, images).answers(images, operands=False)
    save(sys.argv[1], name, config, stored, answers)
