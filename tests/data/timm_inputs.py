"""Writes what timm's evaluation transform makes of images in this folder, in as many channels as networks take:
`python timm_inputs.py`."""

import json

import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
IMAGES = [
    "portrait.png",
    "landscape.png",
    "formats/alpha/plain.png",
    "formats/alpha/plain.tif",
    "formats/alpha/lossless.webp",
    "formats/grey/plain.tif",
    "formats/bilevel/plain.png",
    "formats/inks/plain.tif",
    "formats/palette/plain.png",
    "formats/palette/transparent.gif",
    "formats/frame-in-transparent-screen/plain.gif",
]
# The size of the input, the share that the crop keeps, and whether the aspect is kept.
SIZES = [((8, 8), 0.9, "center"), ((8, 8), 0.9, "squash")]
SIZES += [((8, 12), 0.9, "center"), ((12, 8), 0.8, "center"), ((5, 16), 1.0, "center"), ((12, 8), 0.9, "squash")]
# No resize at all, where a colour isn't multiplied with alpha.
SIZES += [((13, 13), 1.0, "center")]

tensors, cases = {}, []
for path in IMAGES:
    for (height, width), crop_pct, crop_mode in SIZES:
        for channels, mode in MODES.items():
            told = dict(
                mean=[0.1 * (channel + 1) for channel in range(channels)],
                std=[0.5 - 0.1 * channel for channel in range(channels)],
                interpolation="bicubic",
                crop_pct=crop_pct,
                crop_mode=crop_mode,
            )
            transform = create_transform((channels, height, width), **told)
            image = Image.open(path).convert(mode)
            image_size = height if height == width else [height, width]
            cases.append(dict(image=path, preprocessing=dict(told, image_size=image_size)))
            tensors[str(len(cases) - 1)] = transform(image).to(torch.float32)
save_file(tensors, "timm_inputs.safetensors", metadata=dict(cases=json.dumps(cases)))
