"""Writes beit_micro, a small random BEiT as timm's `Beit` builds it, and beit_features_micro, one without a classifier,
LayerScale and biases of queries and values, which answers with the class token, with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_beit.py FOLDER"""

import sys
from functools import partial

import torch
from timm.models.beit import Beit
from torch.nn import LayerNorm

from network import Network, lively, save, weights

NETWORKS = {
    "beit_micro": dict(classes=7, layer_scale=True, global_pool="avg", fc_norm=True),
    "beit_features_micro": dict(classes=0, qkv_bias=False),
}


def beit(config):
    """timm's model of a golden file's `config`."""
    return Beit(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"],
        qkv_bias=config.get("qkv_bias", True),
        global_pool=config.get("global_pool", "token"),
        init_values=0.1 if config.get("layer_scale") else None,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
        norm_layer=partial(LayerNorm, eps=1e-6),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, told in NETWORKS.items():
        sizes = dict(image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=2)
        config = dict(family="vit", **sizes, rel_pos_bias=True, **told)
        model = beit(config)
        stored = weights(lively(model))
        images = torch.randn(3, 3, 24, 24)
        answers = Network(model, images).answers(images, operands=False)
        save(sys.argv[1], name, config, stored, answers)
