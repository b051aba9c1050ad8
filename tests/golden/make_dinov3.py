"""Writes dinov3_micro, a small random DINOv3 as timm's `Eva` builds it, and dinov3_head_micro, one with biases of queries and
values and a classifier on the mean of the patches, with their answers.
Made with timm 1.0.31 and torch 2.15.0: OMP_NUM_THREADS=1 python make_dinov3.py FOLDER"""

import sys
from functools import partial

import torch
from timm.models.eva import Eva
from torch.nn import LayerNorm

from network import Network, lively, save, weights

NETWORKS = {
    "dinov3_micro": dict(qkv_bias=False, global_pool="token", classes=0),
    "dinov3_head_micro": dict(qkv_bias=True, global_pool="avg", classes=7),
}


def eva(config):
    """timm's model of a golden file's `config`."""
    return Eva(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        num_classes=config["classes"],
        qkv_bias=config["qkv_bias"],
        global_pool=config["global_pool"],
        num_reg_tokens=config["reg_tokens"],
        init_values=1e-5,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        rope_type="dinov3",
        rope_temperature=100,
        rope_rotate_half=True,
        use_fc_norm=False,
        swiglu_mlp=config.get("gated_mlp", False),
        swiglu_align_to=4,
        norm_layer=partial(LayerNorm, eps=config["layer_norm_eps"]),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, told in NETWORKS.items():
        sizes = dict(image_size=24, patch_size=8, dim=24, depth=2, heads=2, mlp_ratio=2, layer_norm_eps=1e-5)
        config = dict(family="vit", **sizes, **told, rotary=True, layer_scale=True, reg_tokens=2)
        model = eva(config)
        stored = weights(lively(model))
        images = torch.randn(3, 3, 24, 24)
        answers = Network(model, images).answers(images, operands=False)
        save(sys.argv[1], name, config, stored, answers)
