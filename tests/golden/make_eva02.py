"""Writes eva02_micro, a small random EVA-02 as timm's `Eva` builds the larger ones, with queries, keys and values, gate and
hidden features of a product each and a norm in its MLPs, and eva02_head_micro, one as the smaller ones are, with a classifier,
with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_eva02.py FOLDER"""

import sys

import torch
from timm.models.eva import Eva

from network import Network, lively, save, weights

SIZES = dict(image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=1.5)
GATED = dict(gated_mlp=True, act_layer="silu", global_pool="avg", fc_norm=True)
NETWORKS = {
    "eva02_micro": dict(classes=0, ref_feat_shape=4, scale_mlp=True),
    "eva02_head_micro": dict(classes=7, ref_feat_shape=2),
}


def eva02(config):
    """timm's model of a golden file's `config`."""
    is_large = config.get("scale_mlp", False)
    return Eva(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"],
        swiglu_mlp=True,
        scale_mlp=is_large,
        qkv_fused=not is_large,
        use_rot_pos_emb=True,
        ref_feat_shape=config["ref_feat_shape"],
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, told in NETWORKS.items():
        config = dict(family="vit", **SIZES, **told, **GATED)
        model = eva02(config)
        stored = weights(lively(model))
        images = torch.randn(3, 3, 24, 24)
        answers = Network(model, images).answers(images, operands=False)
        save(sys.argv[1], name, config, stored, answers)
