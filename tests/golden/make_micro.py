"""Writes vit_micro and swin_micro, small random networks of timm's classes, with the answers of the whole method.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_micro.py FOLDER"""

import sys

import torch
from timm.models import SwinTransformer, VisionTransformer

import ptq4vit
from network import Network, lively, save, weights

vit = dict(image_size=32, patch_size=8, dim=48, depth=2, heads=3, mlp_ratio=4, classes=10)
swin = dict(
    image_size=56, patch_size=4, window=7, dim=32, depths=[2, 2], heads=[2, 4], mlp_ratio=4, classes=10
)
networks = [
    ("vit", vit, VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10)),
    (
        "swin",
        swin,
        SwinTransformer(
            img_size=56, patch_size=4, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=7, num_classes=10
        ),
    ),
]
for number, (family, sizes, model) in enumerate(networks):
    stored = weights(lively(model, torch.Generator().manual_seed(10 + number)))
    generator = torch.Generator().manual_seed(100 + number)
    calibration, evaluation = (
        torch.randn(images, 3, sizes["image_size"], sizes["image_size"], generator=generator) for images in (4, 8)
    )
    network = Network(model, calibration)
    answers = network.answers(calibration, operands=True) | ptq4vit.answers(network, evaluation)
    save(sys.argv[1], f"{family}_micro", dict(family=family) | sizes, stored, answers)
