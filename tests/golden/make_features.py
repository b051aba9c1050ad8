"""Writes small random ViTs and a Swin of timm that answer with features, one of them with every token's, and a ViT whose head
reads the mean of its patches, with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_features.py FOLDER"""

import sys

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from network import Network, lively, save, weights

SIZES = dict(patch_size=8, depth=2, mlp_ratio=2)
VIT = dict(family="vit", image_size=24, dim=24, heads=2, **SIZES)
TIMMS_VIT = dict(img_size=24, embed_dim=24, num_heads=2, **SIZES)


class Unpooled(VisionTransformer):
    """Its tokens one after the other, so that the loss takes them like the logits of other networks."""

    def forward(self, x):
        return super().forward(x).flatten(1)


def vit(told, arguments, model_cls=VisionTransformer):
    return VIT | told, model_cls(**TIMMS_VIT, **arguments)


NETWORKS = {
    # As DINOv2 with registers.
    "class_token_micro": vit(
        dict(classes=0, layer_scale=True, no_embed_class=True, reg_tokens=2),
        dict(num_classes=0, init_values=1e-5, no_embed_class=True, reg_tokens=2),
    ),
    # As fine-tuned masked autoencoders.
    "mean_head_micro": vit(
        dict(classes=7, global_pool="avg", fc_norm=True, reg_tokens=1),
        dict(num_classes=7, global_pool="avg", reg_tokens=1),
    ),
    "mean_micro": vit(
        dict(classes=0, global_pool="avg"), dict(num_classes=0, global_pool="avg", fc_norm=False)
    ),
    "two_tokens_micro": vit(dict(classes=0, distilled=True), dict(num_classes=0), VisionTransformerDistilled),
    "swin_features_micro": (
        dict(
            family="swin", image_size=32, patch_size=4, window=4, dim=16, depths=[2, 1], heads=[2, 4], mlp_ratio=2,
            classes=0,
        ),
        SwinTransformer(
            img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4), mlp_ratio=2,
            num_classes=0,
        ),
    ),
    "tokens_micro": vit(
        dict(classes=0, global_pool="", reg_tokens=2), dict(num_classes=0, global_pool="", reg_tokens=2), Unpooled
    ),
}  # fmt: skip

torch.manual_seed(0)
for name, (config, model) in NETWORKS.items():
    stored = weights(lively(model))
    size = config["image_size"]
    images = torch.randn(3, 3, size, size)
    answers = Network(model, images).answers(images, operands=False)
    save(sys.argv[1], name, config, stored, answers)
