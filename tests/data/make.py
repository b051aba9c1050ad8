"""Makes the fixtures in this folder (see README.md). Needs Pillow 10.4 and NumPy; run it here."""

import math

import numpy as np
from PIL import Image

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
rng = np.random.default_rng(7)


def noise(width, height):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 5 + y / 9), np.cos(x / 7 - y / 4), np.sin((x * y) / 60)]
    values = 127 + 120 * np.stack(waves, 2) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def evaluation_transform(image, size, crop_pct, name):
    """timm's, as torchvision carries it out on Pillow images."""
    scaled = math.floor(size / crop_pct)
    width, height = image.size
    short, long = sorted(image.size)
    long = int(scaled * long / short)
    width, height = (scaled, long) if width <= height else (long, scaled)
    image = image.resize((width, height), FILTERS[name])
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


for shape, image in (("landscape", noise(50, 38)), ("portrait", noise(23, 61))):
    image.save(f"{shape}.png", optimize=True)
    for direction, size, crop_pct in (("down", 16, 0.9), ("up", 32, 0.5)):
        for name in FILTERS:
            result = evaluation_transform(image, size, crop_pct, name)
            result.save(f"{shape}-{direction}-{name}.png", optimize=True)

quarter_turn = Image.Exif()
quarter_turn[0x0112] = 6
smooth(43, 29).crop((0, 0, 16, 8)).save("orientation.jpg", quality=90, exif=quarter_turn)
