"""Compares networks of full size with timm's own: features in FP32, and what 8 bits make of them.

    pip install timm==1.0.31 torch safetensors pillow
    cargo build --release
    python benches/timm_peers.py IMAGES [--networks swin_tiny_patch4_window7_224 ...] [--devices cpu ...] [--count 4]

Weights are random and lively: softmax's rows are peaky and GELU's inputs have both signs. Of each network prints
|difference| / |features| on each device, for the first two images of IMAGES in timm's float64, and the SQNR of the features
that a W8A8 file of preset `best` gives on these devices, calibrated on --count images.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy
import timm
import torch
from PIL import Image
from timm.models._hub import save_for_hf

PROGRAM = Path(__file__).parent.parent / "target/release/ptq4vit-gpu"
NETWORKS = """vit_small_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 vit_small_patch14_reg4_dinov2
vit_small_patch16_dinov3_qkvb eva02_tiny_patch14_224 beit_base_patch16_224 vit_base_patch32_clip_224
vit_base_patch16_siglip_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256""".split()


def lively(model):
    """Gives `model` weights at which every layer does something."""
    for name, values in model.named_parameters():
        if name.endswith("gamma") or "gamma_" in name:
            values.data = 0.1 + 0.3 * torch.rand_like(values)
        elif values.dim() > 1:
            width = values[0].numel()
            values.data = torch.randn_like(values) * (1.2 / width**0.5 if width > 16 else 0.02)
        elif "norm" in name and name.endswith("weight"):
            values.data = 1 + 0.3 * torch.randn_like(values)
        elif "logit_scale" not in name:
            values.data = 0.1 * torch.randn_like(values)


def run(*arguments):
    """Returns what the program prints."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def compare(name, images, devices, count):
    torch.manual_seed(0)
    # DINOv2's images of 518 pixels would take long.
    size, overlay = (dict(img_size=224), dict(input_size=(3, 224, 224))) if "dinov2" in name else ({}, {})
    arguments = dict(num_classes=0) | size
    model = timm.create_model(name, pretrained_cfg_overlay=overlay, **arguments).eval()
    lively(model)
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
        config = timm.data.resolve_model_data_config(model)
        transform = timm.data.create_transform(**config, is_training=False)
        # Decoders of JPEG differ in a digit here and there.
        decoded = [Path(folder) / f"{image.stem}.png" for image in images[:2]]
        for image, png in zip(images, decoded):
            Image.open(image).convert("RGB").save(png)
        pixels = torch.stack([transform(Image.open(png)) for png in decoded])
        with torch.no_grad():
            expected = model.double()(pixels.double()).numpy()
        out, quantized = Path(folder) / "features.npy", Path(folder) / "w8a8.safetensors"
        found = []
        for device in devices:
            run("embed", "--model", folder, "--device", device, "--out", out, *decoded)
            difference = numpy.linalg.norm(numpy.load(out) - expected) / numpy.linalg.norm(expected)
            found.append(f"{difference:.1e}")
        if count:
            source = ["--model", folder, "--images", images[0].parent]
            run("calibrate", *source, "--count", count, "--device", "cpu", "--out", quantized)
            listed = Path(folder) / "images.tsv"
            listed.write_text("".join(f"{image.name}\t0\n" for image in images[:16]))
            for device in devices:
                told = run(
                    "eval", *source, "--labels", listed, "--quantized", quantized, "--device", device, "--json"
                )
                found.append(f"{json.loads(told)['feature_sqnr_db']:.1f} dB")
        print(name, *found, sep=" | ", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--count", type=int, default=4)
    told = parser.parse_args()
    files = sorted(path for path in told.images.iterdir() if path.suffix in {".jpg", ".jpeg", ".png", ".JPEG"})
    for network in told.networks:
        compare(network, files, told.devices, told.count)
